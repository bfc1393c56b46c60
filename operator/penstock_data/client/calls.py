"""What the service is asked: requests as data, and what their answers say. Nothing is sent here."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from penstock_data.client.errors import DataError, Fault, error_of
from penstock_data.client.results import Result, result_of
from penstock_data.client.values import encoded, encoded_by_name

LINES = "application/x-ndjson"


@dataclass(frozen=True, slots=True)
class Call:
    """One request."""

    path: str
    seconds: float
    """For all of it, whatever is repeated."""
    body: Mapping[str, Any] | None = None
    """None: a GET."""
    again: bool = False
    """Whether it may be sent again when it is not known whether it was done."""
    reads: bool = False
    """Whether it changes nothing."""
    key: str | None = None
    """Under which it is done once."""
    lines: bool = False
    """Rows are wanted as they come."""
    timed: bool = False
    """Whether the service is told how many seconds there are."""
    lease: str | None = None
    """Whose process is asked, wherever it is."""
    tries: int = 6

    @property
    def method(self) -> str:
        return "GET" if self.body is None else "POST"

    def headers(self, token: str) -> dict[str, str]:
        told = {"Authorization": f"Bearer {token}", "Accept": LINES if self.lines else "application/json"}
        if self.body is not None:
            told["Content-Type"] = "application/json"
        return told if self.key is None else {**told, "Idempotency-Key": self.key}

    def content(self, left: float) -> bytes | None:
        """`left`: the seconds that there are yet."""
        if self.body is None:
            return None
        told = {**self.body, "timeout": round(left, 3)} if self.timed else self.body
        return json.dumps(told, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of HTTP; the body of a stream is with whoever reads it."""

    status: int
    headers: Mapping[str, str]
    """Case does not matter."""
    body: bytes = b""

    def document(self) -> dict[str, Any]:
        """Raises `Fault` for what is no JSON object."""
        try:
            told = json.loads(self.body)
        except ValueError:
            told = None
        if not isinstance(told, dict):
            raise Fault(f"status {self.status} and no JSON: is this the data service?", status=self.status)
        return told

    def error(self) -> DataError:
        """What it says that went wrong."""
        try:
            told = self.document()
        except Fault as fault:
            return fault
        after = self.headers.get("retry-after", "")
        return error_of(
            {"status": self.status, **told}, retry_after=float(after) if after.isdecimal() else None
        )

    def result(self) -> Result:
        return result_of(self.document(), replayed="idempotency-replayed" in self.headers)

    def results(self) -> list[Result]:
        """Of a batch."""
        replayed, told = "idempotency-replayed" in self.headers, self.document().get("results")
        if not isinstance(told, list):
            raise Fault("the answer is not understood: it has no results")
        return [result_of(each, replayed=replayed) for each in told]


@dataclass(frozen=True, slots=True)
class Named:
    """A named query and its parameters, in their order or by their names; in a batch."""

    name: str
    params: Sequence[Any] | Mapping[str, Any] = ()


Statement = str | tuple[Any, ...] | Named
"""Of a batch: its text, or that with the parameters behind it (`("DELETE … WHERE id = ?", 7)`)."""


def statement(sql: str, params: Sequence[Any]) -> dict[str, Any]:
    return {"sql": sql, "params": encoded(params)} if params else {"sql": sql}


def named(name: str, params: Sequence[Any] | Mapping[str, Any]) -> dict[str, Any]:
    given = encoded_by_name(params) if isinstance(params, Mapping) else encoded(params)
    return {"name": name, "params": given}


def query(told: dict[str, Any], seconds: float, *, read: bool, key: str | None, lines: bool = False) -> Call:
    """Of a `statement` or `named`."""
    body = {**told, "read": True} if read else told
    again = read or (key is not None and not lines)
    return Call(
        "/v1/query",
        seconds,
        body,
        again=again,
        reads=read,
        key=None if lines else key,
        lines=lines,
        timed=True,
    )


def batch(statements: Iterable[Statement], seconds: float, *, read: bool, key: str | None) -> Call:
    """All of them, or none."""
    told = {"statements": list(map(_one_of, statements)), "read": read}
    return Call("/v1/batch", seconds, told, again=read or key is not None, reads=read, key=key, timed=True)


def _one_of(given: Statement) -> dict[str, Any]:
    if isinstance(given, Named):
        return named(given.name, given.params)
    sql, *params = (given,) if isinstance(given, str) else given
    return statement(sql, params)


def begin(seconds: float, *, lease: float | None, isolation: str | None, read: bool) -> Call:
    """A transaction. One whose answer was lost ends by itself, and has done nothing."""
    told = {"seconds": lease, "isolation": isolation, "read": read or None}
    body = {name: value for name, value in told.items() if value is not None}
    return Call("/v1/transactions", seconds, body, again=True, reads=True, timed=True)


def inside(lease: str, told: dict[str, Any], seconds: float) -> Call:
    """A statement in a transaction."""
    return Call(f"/v1/transactions/{lease}/query", seconds, told, timed=True, lease=lease)


def commit(lease: str, seconds: float) -> Call:
    """Under a key, so that one whose answer was lost is asked for again."""
    path = f"/v1/transactions/{lease}/commit"
    return Call(path, seconds, {}, again=True, key=uuid.uuid4().hex, lease=lease)


def rollback(lease: str, seconds: float) -> Call:
    """Tried once: where it is not heard, the lease ends by itself."""
    return Call(f"/v1/transactions/{lease}/rollback", seconds, {}, lease=lease, reads=True, tries=2)


def renew(lease: str, seconds: float, *, to: float | None) -> Call:
    body = {} if to is None else {"seconds": to}
    return Call(f"/v1/transactions/{lease}/renew", seconds, body, again=True, reads=True, lease=lease)


def pool(seconds: float) -> Call:
    return Call("/v1/pool", seconds, again=True, reads=True)
