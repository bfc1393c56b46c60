"""What a client asks for, taken from a body. Every complaint says where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from penstock_data import statements
from penstock_data.errors import BadRequest, NotAllowed, NotFound
from penstock_data.settings import Settings
from penstock_data.values import parameter


class NamedQuery(Protocol):
    """A statement that the service knows by name."""

    @property
    def sql(self) -> str: ...

    @property
    def read(self) -> bool: ...

    def bound(self, params: Any) -> Sequence[Any]:
        """Parameters in their order, of a list or by their names. Raises `BadRequest`."""


class Known(Protocol):
    """The named queries."""

    def get(self, name: str) -> NamedQuery | None: ...


@dataclass(frozen=True, slots=True)
class Query:
    """One statement, and what it is bound to."""

    sql: str
    params: Sequence[object]
    read: bool
    """Whether it may only read."""
    timeout: float
    """Seconds."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Statements of one transaction."""

    queries: Sequence[Query]
    read: bool
    timeout: float
    """Seconds."""


class Reader:
    """Takes requests from bodies."""

    def __init__(self, settings: Settings, known: Known | None) -> None:
        self._settings, self._known = settings, known

    def query(self, told: dict[str, Any], *, reads_only: bool) -> Query:
        """`reads_only`: who asks may not write. Raises `BadRequest`, `NotAllowed`, `NotFound`."""
        check_names(told, _OF_A_QUERY)
        return self._query(told, "", reads_only=reads_only, timeout=self.timeout(told))

    def batch(self, told: dict[str, Any], *, reads_only: bool) -> Batch:
        """Raises like `query`."""
        check_names(told, ("statements", "timeout", "read"))
        given, timeout, read = told.get("statements"), self.timeout(told), flag(told, "read")
        most = self._settings.max_batch
        if type(given) is not list or not 0 < len(given) <= most:
            raise BadRequest(f"statements is to be a list of 1 to {most} queries")
        queries = [
            self._of_batch(it, f"statements[{at}]", reads_only or read, timeout)
            for at, it in enumerate(given)
        ]
        return Batch(queries, read or reads_only, timeout)

    def _of_batch(self, told: Any, place: str, reads_only: bool, timeout: float) -> Query:
        if type(told) is not dict:
            raise BadRequest(f"{place} is to be an object with sql and params")
        check_names(told, ("sql", "name", "params"), place)
        return self._query(told, f"{place}.", reads_only=reads_only, timeout=timeout)

    def _query(self, told: dict[str, Any], place: str, *, reads_only: bool, timeout: float) -> Query:
        name, params, read = told.get("name"), told.get("params", ()), flag(told, "read")
        if name is not None:
            if "sql" in told:
                raise BadRequest(f"{place}sql and {place}name exclude each other")
            found = self._named(name, place)
            sql, params, read = found.sql, found.bound(params), read or found.read
        else:
            sql = self._text(told, place)
        read = read or reads_only
        statements.check(sql, reads_only=read)
        return Query(sql, self._params(params, place), read, timeout)

    def _named(self, name: Any, place: str) -> NamedQuery:
        found = self._known.get(name) if self._known is not None and type(name) is str else None
        if found is None:
            raise NotFound(f"{place}name: there is no query of this name")
        return found

    def _text(self, told: dict[str, Any], place: str) -> str:
        sql = told.get("sql")
        if type(sql) is not str:
            raise BadRequest(f"{place}sql is to be text: one statement, with ? for each parameter")
        if self._settings.only_named:
            raise NotAllowed("this service does named queries only: send name in place of sql")
        return sql

    def _params(self, params: Any, place: str) -> Sequence[object]:
        if type(params) not in (list, tuple):
            raise BadRequest(f"{place}params is to be a list")
        if len(params) > self._settings.max_params:
            raise BadRequest(f"{place}params has {len(params)}, more than {self._settings.max_params}")
        return [parameter(value, f"{place}params[{at}]") for at, value in enumerate(params)]

    def timeout(self, told: dict[str, Any]) -> float:
        """Seconds of a request. Raises `BadRequest`."""
        return seconds(told, "timeout", self._settings.timeout, self._settings.timeout_limit)


_OF_A_QUERY = ("sql", "name", "params", "timeout", "read")


def document(body: bytes) -> dict[str, Any]:
    """A JSON object. Raises `BadRequest`."""
    try:
        told = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body is not JSON: {error}") from None
    if type(told) is not dict:
        raise BadRequest("the body is to be a JSON object")
    return told


def seconds(told: dict[str, Any], name: str, unset: float, most: float) -> float:
    """A time of a request, above 0. Raises `BadRequest`."""
    given = told.get(name)
    if given is None:
        return unset
    if type(given) not in (int, float) or not 0 < given <= most:
        raise BadRequest(f"{name} is to be a number of seconds, above 0 and up to {most:g}")
    return float(given)


def flag(told: dict[str, Any], name: str) -> bool:
    """False when it is not there. Raises `BadRequest`."""
    given = told.get(name, False)
    if type(given) is not bool:
        raise BadRequest(f"{name} is to be true or false")
    return given


def check_names(told: dict[str, Any], known: Sequence[str], place: str = "") -> None:
    """Raises `BadRequest` for a member that is not known."""
    for name in told:
        if name not in known:
            where = f" of {place}" if place else ""
            raise BadRequest(f"{name[:100]!r}{where} is not known; there are: {', '.join(known)}")
