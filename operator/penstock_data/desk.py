"""Where a query meets the pool: which connection it goes over, what its rows become, what its errors mean."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import orjson
from asyncmy.errors import MySQLError

from penstock_data.errors import (
    BadRequest,
    DatabaseRefused,
    Forbidden,
    OutcomeUnknown,
    Problem,
    ResultTooLarge,
    RetryTransaction,
    TimedOut,
    Unavailable,
)
from penstock_data.requests import Batch, Query
from penstock_data.settings import Settings
from penstock_data.values import Row, Shape, shape_of
from penstock_pool import Connection, ConnectionPool
from penstock_pool.errors import CommitUnknown, ConnectionLost, Misuse, PoolUnavailable, RolledBack
from penstock_pool.statements import Effect, effect_of
from penstock_pool.stream import Stream

NOT_PREPARABLE = 1295
"""ER_UNSUPPORTED_PS."""
UNDONE = frozenset((1205, 1213))
"""Lock wait time-out, deadlock."""
READ_ONLY_TRANSACTION = 1792
READ_ONLY_SERVER = frozenset((1290, 1836))
"""After a failover the way leads to the wrong server for a while; 1290 is of other options, too."""
OUT_OF_TIME = frozenset((1969, 3024))
"""max_statement_time, max_execution_time."""
FULL = frozenset((1461,))
"""Too many prepared statements."""


T = TypeVar("T")

_STREAM = "Accept: application/x-ndjson"

Sink = Callable[[bytes], Awaitable[None]]
"""Takes lines, and returns when more may come."""


@dataclass(frozen=True, slots=True)
class Bound:
    """How much of a result is taken."""

    rows: int
    bytes: int


class Desk:
    """Sends queries over one pool."""

    def __init__(self, pool: ConnectionPool, settings: Settings) -> None:
        self._pool = pool
        self._bound = Bound(settings.max_rows, settings.max_bytes)
        self._stream_bytes = settings.max_stream_bytes

    def _wait(self, timeout: float) -> float:
        """Seconds that a connection is waited for."""
        return min(timeout, self._pool.settings.checkout_timeout)

    @asynccontextmanager
    async def reading(self, timeout: float) -> AsyncIterator[Connection]:
        """A connection over which nothing can be written: of a replica, whose sessions are read-only, or in a
        transaction that is."""
        async with self._pool.reader(timeout=self._wait(timeout)) as connection:
            if connection.pool is not self._pool:
                yield connection
                return
            async with connection.transaction(read_only=True):
                yield connection

    def borrowed(self, timeout: float, *, reads_only: bool) -> AbstractAsyncContextManager[Connection]:
        """A connection, or one of `reading`."""
        return self.reading(timeout) if reads_only else self._pool.connection(timeout=self._wait(timeout))

    def transaction(self, timeout: float) -> AbstractAsyncContextManager[Connection]:
        """A connection with a transaction open on it."""
        return self._pool.transaction(timeout=self._wait(timeout))

    async def answer(self, query: Query, timeout: float) -> bytes:
        """The document of a query. Raises `Problem`."""
        if query.read:
            async with self.reading(timeout) as connection:
                return await self.over(connection, query)
        async with self._pool.connection(timeout=self._wait(timeout)) as connection:
            return await self.over(connection, query)

    async def all_of(self, batch: Batch, timeout: float) -> bytes:
        """The document of a batch: all of it is done, or nothing. Raises `Problem`."""
        which = self.reading(timeout) if batch.read else self.transaction(timeout)
        async with which as connection:
            return await self.each(connection, batch)

    async def each(self, connection: Connection, batch: Batch) -> bytes:
        """On a connection that has a transaction open. Raises `Problem`."""
        answers, left = [], self._bound.bytes
        for at, query in enumerate(batch.queries):
            try:
                answers.append(await self.over(connection, query))
            except Problem as problem:
                problem.more["statement"] = at
                raise
            left -= len(answers[-1])
            if left < 0:
                raise ResultTooLarge(f"the results have more than {self._bound.bytes} bytes")
        return b'{"results":[%b]}' % b",".join(answers)

    async def over(self, connection: Connection, query: Query) -> bytes:
        """The document of a query, sent over this connection. Raises `Problem`."""
        return await self._sent(connection, query, self._document)

    async def _document(self, stream: Stream) -> bytes:
        rows = await stream.some()
        if stream.columns is None:
            return b'{"affected_rows":%d,"insert_id":%d}' % (stream.affected_rows, stream.insert_id)
        shape = shape_of(stream.columns)
        if stream.ended:
            written = shape.rows(rows)
            self._check(len(rows), len(written))
        else:
            written = await self._whole(stream, shape, rows)
        return b'{"columns":%b,"rows":%b}' % (shape.columns, written)

    async def _whole(self, stream: Stream, shape: Shape, rows: Sequence[Row]) -> bytes:
        """Never more than the bound and what lay in one buffer is held."""
        pieces: list[bytes] = []
        count = size = 0
        while rows:
            count += len(rows)
            pieces.append(shape.rows(rows)[1:-1])
            size += len(pieces[-1]) + 1
            self._check(count, size)
            rows = await stream.some()
        return b"[%b]" % b",".join(pieces)

    async def pass_on(self, connection: Connection, query: Query, to: Sink) -> int:
        """Hands a result on as lines, no faster than they are taken; returns how many rows it had. Raises
        `Problem`."""
        return await self._sent(connection, query, partial(self._lines, to))

    async def _lines(self, to: Sink, stream: Stream) -> int:
        rows = await stream.some()
        if stream.columns is None:
            done = {"affected_rows": stream.affected_rows, "insert_id": stream.insert_id}
            await to(orjson.dumps(done, option=orjson.OPT_APPEND_NEWLINE))
            return 0
        shape = shape_of(stream.columns)
        await to(b'{"columns":%b}\n' % shape.columns)
        count = size = 0
        while rows:
            lines = shape.lines(rows)
            count, size = count + len(rows), size + len(lines)
            if self._stream_bytes is not None and size > self._stream_bytes:
                raise ResultTooLarge(f"more than {self._stream_bytes} bytes")
            await to(lines)
            rows = await stream.some()
        return count

    async def _sent(
        self,
        connection: Connection,
        query: Query,
        take: Callable[[Stream], Awaitable[T]],
        *,
        prepared: bool = True,
    ) -> T:
        """What is made of the answer to a query; of one that cannot be prepared, sent as text."""
        stream = connection.stream(query.sql, query.params if prepared else None, prepared=prepared)
        try:
            return await take(stream)
        except MySQLError as error:
            if query.params or not prepared or error.args[0] != NOT_PREPARABLE:
                raise refused(error, reads_only=query.read) from error
        finally:
            if not stream.ended:
                await stream.close()
        return await self._sent(connection, query, take, prepared=False)

    def _check(self, count: int, size: int) -> None:
        """Raises `ResultTooLarge`."""
        bound = self._bound
        if count > bound.rows:
            raise ResultTooLarge(f"more than {bound.rows} rows: ask for fewer, or for a stream ({_STREAM})")
        if size > bound.bytes:
            raise ResultTooLarge(f"more than {bound.bytes} bytes: ask for less, or for a stream ({_STREAM})")


def refused(error: MySQLError, *, reads_only: bool = False) -> Problem:
    """What the database's own error means to the client."""
    number = error.args[0] if error.args else 0
    text = str(error.args[1]) if len(error.args) > 1 else str(error)
    told: dict[str, Any] = {"errno": number, "sqlstate": getattr(error, "sqlstate", None)}
    if number in UNDONE:
        return RetryTransaction(text, **told)
    only_reads = number in READ_ONLY_SERVER and "read" in text
    if number == READ_ONLY_TRANSACTION or (only_reads and reads_only):
        return Forbidden(f"what was sent writes, and may not here: {text}", **told)
    if only_reads:
        return Unavailable(f"the server takes no writes just now: {text}", **told)
    if number in OUT_OF_TIME:
        return TimedOut(text, **told)
    if number in FULL:
        return Unavailable(text, **told)
    return DatabaseRefused(text, **told)


def problem_of(error: Exception, sql: str | None = None) -> Problem | None:
    """What an error of the pool means to the client; None for one that is a fault of ours."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, MySQLError):
        return refused(error)
    if isinstance(error, PoolUnavailable):
        return Unavailable(str(error))
    if isinstance(error, CommitUnknown):
        return OutcomeUnknown(str(error))
    if isinstance(error, ConnectionLost):
        reads = sql is not None and effect_of(sql) is Effect.READ
        return Unavailable(str(error)) if reads else OutcomeUnknown(str(error))
    if isinstance(error, RolledBack):
        return RetryTransaction(str(error))
    if isinstance(error, Misuse):
        return BadRequest(str(error))
    return None
