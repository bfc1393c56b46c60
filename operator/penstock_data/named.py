"""Named queries: statements that a file gives names to, so that who asks sends no SQL at all.

The file is read again when it changes, off the path of any request. A version that is wrong is told in the
log, once, and the last good one stays.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from penstock_data import statements
from penstock_data.errors import BadRequest, InvalidSettings, NotAllowed

logger = logging.getLogger("penstock_data")

INTERVAL = 2.0
"""Seconds between two looks at the file."""
LARGEST = 4 * 1024**2
"""Bytes of the file."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_KEYS = ("sql", "params", "read")


@dataclass(frozen=True, slots=True)
class NamedQuery:
    """A statement that the service knows by name."""

    name: str
    sql: str
    params: tuple[str, ...] | None
    """The names of its parameters, in their order; None: they have none."""
    count: int
    """Its parameters."""
    read: bool
    """Whether it is sent as what only reads."""

    def bound(self, params: Any) -> Sequence[Any]:
        """Parameters in their order, of a list or by their names. Raises `BadRequest`."""
        if isinstance(params, dict):
            return self._by_name(params)
        if not isinstance(params, list | tuple):
            raise BadRequest(f"params of {self.name} is to be a list, or an object with their names")
        if len(params) != self.count:
            raise BadRequest(f"params of {self.name} is to have {self._told()}, and has {len(params)}")
        return params

    def _by_name(self, params: dict[str, Any]) -> list[Any]:
        if self.params is None and self.count:
            raise BadRequest(f"params of {self.name} have no names: send a list")
        names = self.params or ()
        if params.keys() != set(names):
            unknown = sorted(params.keys() - set(names))
            missing = [name for name in names if name not in params]
            wrong = f"{missing[0]} is missing" if missing else f"{unknown[0][:64]} is not one of them"
            raise BadRequest(f"params of {self.name} is to have {self._told()}: {wrong}")
        return [params[name] for name in names]

    def _told(self) -> str:
        return f"{self.count} ({', '.join(self.params)})" if self.params else str(self.count)


class _Version(NamedTuple):
    """What tells one version of a file from another. A ConfigMap's is exchanged by a link: another inode."""

    device: int
    inode: int
    changed: int
    size: int

    @classmethod
    def of(cls, told: os.stat_result) -> _Version:
        return cls(told.st_dev, told.st_ino, told.st_ctime_ns, told.st_size)


class Queries:
    """The named queries of a file; `async with` follows its changes."""

    def __init__(
        self,
        file: Path,
        queries: dict[str, NamedQuery],
        version: _Version | None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._file, self._queries, self._version = file, queries, version
        self._clock, self._looked = clock, clock()
        self._following: asyncio.Task[None] | None = None

    @classmethod
    def load(cls, file: Path, *, clock: Callable[[], float] = time.monotonic) -> Queries:
        """`clock`: seconds. Raises `InvalidSettings`, with the line."""
        text, version = _read(file)
        return cls(file, parse(text, str(file)), version, clock=clock)

    def get(self, name: str) -> NamedQuery | None:
        return self._queries.get(name)

    def told(self) -> list[dict[str, Any]]:
        """What there is, without the SQL: names, the names of the parameters or how many there are."""
        return [
            {
                "name": each.name,
                "params": each.count if each.params is None else each.params,
                "read": each.read,
            }
            for each in self._queries.values()
        ]

    async def refresh(self) -> bool:
        """Looks, at most once in `INTERVAL`, whether the file is another one, and reads it then; whether that
        is in force now."""
        if self._clock() - self._looked < INTERVAL:
            return False
        self._looked = self._clock()
        try:
            found = await asyncio.to_thread(self._newer)
        except InvalidSettings as error:
            logger.error("the named queries stay as they were: %s", error)
            return False
        if found is not None:
            self._queries = found
            logger.info("%d named queries from %s", len(found), self._file)
        return found is not None

    def _newer(self) -> dict[str, NamedQuery] | None:
        """In a thread. None: nothing is new. Raises `InvalidSettings` once for each version."""
        try:
            version = _Version.of(self._file.stat())
        except OSError as error:
            known, self._version = self._version, None
            if known is None:
                return None
            raise InvalidSettings(f"{self._file}: {error.strerror}") from error
        if version == self._version:
            return None
        self._version = version
        text, self._version = _read(self._file)
        return parse(text, str(self._file))

    async def __aenter__(self) -> Self:
        self._following = asyncio.create_task(self._follow(), name="penstock-data follows the named queries")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._following is not None
        self._following.cancel()
        await asyncio.wait((self._following,))

    async def _follow(self) -> None:
        """For ever."""
        while True:
            await asyncio.sleep(INTERVAL)
            try:
                await self.refresh()
            except Exception:  # the next version may be better
                logger.exception("the named queries stay as they were")


def _read(file: Path) -> tuple[str, _Version]:
    """Text and version of the same file, even while it is exchanged. Raises `InvalidSettings`."""
    try:
        with file.open("rb") as opened:
            version = _Version.of(os.fstat(opened.fileno()))
            read = opened.read(LARGEST + 1)
    except OSError as error:
        raise InvalidSettings(f"{file}: {error.strerror}") from error
    if len(read) > LARGEST:
        raise InvalidSettings(f"{file} has more than {LARGEST} bytes")
    try:
        return read.decode(), version
    except UnicodeDecodeError as error:
        raise InvalidSettings(f"{file} is not UTF-8 at byte {error.start}") from error


# -- the file's content


def parse(text: str, source: str) -> dict[str, NamedQuery]:
    """The queries by their names. `source` is what the text comes from. Raises `InvalidSettings`."""
    try:
        told = YAML(typ="rt", pure=True).load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = " ".join(str(error.problem or error.context).split())
        raise _wrong(source, 1 if mark is None else mark.line + 1, said) from error
    except (YAMLError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidSettings(f"{source} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(told, dict) or not told:  # nothing at all: one that is being written
        raise _wrong(source, 1, "allowed is a mapping of names to queries")
    return {str(name): _query(name, told[name], source, _line(told, name)) for name in told}


def _query(name: Any, told: Any, source: str, line: int) -> NamedQuery:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise _wrong(source, line, f"{name!r} is no name: letters, digits, and _ . -")
    if not isinstance(told, dict):
        raise _wrong(source, line, f"{name} is to be a mapping with sql, params and read")
    for key in told:
        if key not in _KEYS:
            raise _wrong(source, _line(told, key), f"{name} has {key!r}; allowed are {', '.join(_KEYS)}")
    sql, read = told.get("sql"), told.get("read", False)
    if not isinstance(sql, str):
        raise _wrong(source, line, f"{name} has no sql, which is to be text")
    if not isinstance(read, bool):
        raise _wrong(source, _line(told, "read"), f"{name}: read is to be true or false")
    count = _checked(name, str(sql), read, source, _line(told, "sql"))
    return NamedQuery(str(name), str(sql), _params(name, told, count, source), count, bool(read))


def _checked(name: str, sql: str, read: bool, source: str, line: int) -> int:
    """The number of its parameters."""
    try:
        statements.check(sql, reads_only=read)
        return statements.placeholders(sql)
    except NotAllowed as error:
        raise _wrong(source, line, f"{name}: {error.detail}") from error


def _params(name: str, told: Any, count: int, source: str) -> tuple[str, ...] | None:
    if "params" not in told:
        return None
    params, line = told["params"], _line(told, "params")
    if not isinstance(params, list) or not all(isinstance(each, str) and each for each in params):
        raise _wrong(source, line, f"{name}: params is to be a list of names")
    names = tuple(map(str, params))
    if len(set(names)) < len(names):
        raise _wrong(source, line, f"{name}: a name in params is there twice")
    if len(names) != count:
        raise _wrong(source, line, f"{name}: sql has {count} ?, and params {len(names)} names")
    return names


def _line(told: Any, key: Any) -> int:
    """Where a key of a mapping is; of one that was merged into it, where the mapping is."""
    marks = told.lc.data or {}
    return int(marks[key][0] if key in marks else told.lc.line or 0) + 1


def _wrong(source: str, line: int, said: str) -> InvalidSettings:
    return InvalidSettings(f"{source}, line {line}: {said}")
