"""What the local runtime knows, in files that outlive the engine:

<folder>/<candidate>/candidate       what was asked for, its environment sealed
                     root/           the files of its image
                     <process>.json  the process as it was last started
                     <process>.log   what it prints
                     home/  tmp/
<folder>/live/<app>.json             the route its visitors take
<folder>/executing/<name>/           home and tmp of a one-off command that runs, or was cut off by a crash
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter

from ..config import Command, Health
from ..durable import aside, sync
from ..vault import Vault
from . import Candidate, Route
from .process import Identity

T = TypeVar("T")

_ROUTE = TypeAdapter(Route)


@dataclass(frozen=True, slots=True)
class _Kept:
    """A candidate as it lies on the disk: without its environment, which may hold secrets, but for this."""

    candidate: Candidate
    sealed: str | None
    """None: its environment is empty."""


_KEPT = TypeAdapter(_Kept)
_KEPT.rebuild(_types_namespace={"Command": Command, "Health": Health})


@dataclass(frozen=True, slots=True)
class Started:
    """A process as it was last started; whether it still runs is for its identity to tell."""

    candidate: str
    process: str
    identity: Identity
    port: int | None
    restarts: int
    at: float
    """Seconds since the epoch."""


_STARTED = TypeAdapter(Started)


class Records:
    """See the module's docstring for the layout."""

    def __init__(self, folder: Path, vault: Vault) -> None:
        self._folder = folder
        self._vault = vault

    def folder(self, candidate: str) -> Path:
        return self._folder / candidate

    def log(self, candidate: str, process: str) -> Path:
        return self.folder(candidate) / f"{process}.log"

    def mark(self, candidate: str, process: str) -> str:
        """Unique on the machine, even beside another Penstock with an app of the same name."""
        return str(self.folder(candidate) / process)

    def executing(self, name: str) -> Path:
        return self._folder / "executing" / name

    def all_executing(self) -> list[str]:
        return [path.name for path in self._folder.glob("executing/*")]

    def keep_candidate(self, candidate: Candidate) -> None:
        """Durable when it returns. Raises `Unsealable` where its environment cannot be sealed."""
        folder = self.folder(candidate.name)
        for own in ("home", "tmp"):
            (folder / own).mkdir(parents=True, exist_ok=True)
        kept = _Kept(replace(candidate, env={}), self._sealed(candidate))
        _write_durably(folder / "candidate", _KEPT.dump_json(kept))

    def _sealed(self, candidate: Candidate) -> str | None:
        if not candidate.env:
            return None
        return self._vault.seal(json.dumps(dict(candidate.env)).encode(), about=candidate.name)

    def candidate(self, name: str) -> Candidate | None:
        """Its environment is opened when it is looked at: what runs can be watched, and ended, without."""
        kept = _read(_KEPT, self.folder(name) / "candidate")
        if kept is None:
            return None
        if kept.sealed is None:
            return kept.candidate
        return replace(kept.candidate, env=_SealedEnv(kept.sealed, self._vault, about=name))

    def candidates(self, app: str | None = None) -> list[Candidate]:
        """All there are, or those of an app; nothing of the others is read."""
        kept = sorted(self._folder.glob("*/candidate" if app is None else f"{app}-*/candidate"))
        found = (self.candidate(path.parent.name) for path in kept)
        return [one for one in found if one is not None and app in (None, one.app)]

    def keep_started(self, started: Started) -> None:
        """Outlives this process, not the machine: neither does what was started."""
        path = self.folder(started.candidate) / f"{started.process}.json"
        whole = path.with_suffix(".new")
        whole.write_bytes(_STARTED.dump_json(started))
        whole.replace(path)

    def started(self, candidate: str, process: str) -> Started | None:
        return _read(_STARTED, self.folder(candidate) / f"{process}.json")

    def all_started(self, candidate: Candidate) -> list[Started]:
        found = (self.started(candidate.name, process) for process in candidate.processes)
        return [started for started in found if started is not None]

    def strays(self) -> list[Started]:
        """Processes of candidates that are not known any more, or were written down by another version."""
        found = (_read(_STARTED, path) for path in sorted(self._folder.glob("*/*.json")))
        return [one for one in found if one is not None and self.candidate(one.candidate) is None]

    def keep_live(self, route: Route) -> None:
        """Durable when it returns."""
        _write_durably(self._folder / "live" / f"{route.app}.json", _ROUTE.dump_json(route))

    def live(self) -> list[Route]:
        found = (_read(_ROUTE, path) for path in sorted(self._folder.glob("live/*.json")))
        return [route for route in found if route is not None]


class _SealedEnv(Mapping[str, str]):
    """An environment that is opened when it is first looked at; raises `Unsealable` where it cannot be, so
    nothing is ever started without its secrets."""

    def __init__(self, sealed: str, vault: Vault, *, about: str) -> None:
        self._sealed = sealed
        self._vault = vault
        self._about = about

    @cached_property
    def _opened(self) -> dict[str, str]:
        return dict(json.loads(self._vault.open(self._sealed, about=self._about)))

    def __getitem__(self, name: str) -> str:
        return self._opened[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._opened)

    def __len__(self) -> int:
        return len(self._opened)


def _write_durably(path: Path, content: bytes) -> None:
    with aside(path.parent) as new:
        new.file.write(content)
        new.become(path)
    sync(path.parent)


def _read(kind: TypeAdapter[T], path: Path) -> T | None:
    """What is not there, or was torn by the end of the machine, is not known."""
    try:
        return kind.validate_json(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
