"""Rows as they come, for results that are too large to keep."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from penstock_pool.driver import Arguments, Result, Session
from penstock_pool.errors import ConnectionLost, Misuse, NotBorrowed
from penstock_pool.patience import patient
from penstock_pool.statements import Effect, effect_of

if TYPE_CHECKING:
    from penstock_pool.connection import Connection

DRAIN = 0.05
"""Seconds for which the rest of a stream is read when it is left early. After them the connection is given
up: its statement is killed, and nobody else gets to see it."""


class Stream:
    """`async with connection.stream(sql) as rows:`; see there. Without `async with` it works too, but one
    that is left early then makes the connection useless for the rest of its loan."""

    def __init__(self, connection: Connection, sql: str, arguments: Arguments) -> None:
        self._connection, self._sql, self._arguments = connection, sql, arguments
        self._session: Session | None = None
        self._rows: Sequence[tuple[Any, ...]] = ()
        self._next = 0
        self._ended = False
        self.description: tuple[tuple[Any, ...], ...] | None = None
        """Of the columns, as the DB API 2 has it, once the stream has begun."""

    async def __aenter__(self) -> Stream:
        await self._begin()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> tuple[Any, ...]:
        if self._session is None:
            await self._begin()
        if self._next == len(self._rows):
            await self._read_on()
        if not self._rows:
            raise StopAsyncIteration
        self._next += 1
        return self._rows[self._next - 1]

    async def close(self) -> None:
        """Reads the rest, or gives the connection up. May be called again."""
        with suppress(Exception):  # nobody wants the rest, nor what was wrong with it
            async with patient(DRAIN):
                while not self._ended:
                    await self._read_on()
        session = self._session
        if session is not None and session is self._connection._session and session.running:
            lost = ConnectionLost("given up, because a stream with many more rows was left early")
            self._connection._pool._seize(session, lost)

    async def _begin(self) -> None:
        if self._session is not None:
            raise Misuse("a stream is read once")
        connection, sql = self._connection, self._sql
        try:
            result = await self._start()
        except ConnectionLost as error:
            await connection._renew(effect_of(sql), error)
            result = await self._start()
        self.description, self._ended = result.description, not self._borrowed().running
        connection._untouched = False

    async def _start(self) -> Result:
        connection, sql = self._connection, self._sql
        self._session = session = connection._held()
        session.attention = True
        if effect_of(sql) is Effect.SESSION:
            connection._will_change(session, sql)
        watch = connection._pool._watch
        session.asked_at = connection._pool._clock()
        try:
            result = await session.start(sql, self._arguments)
        except BaseException as error:
            watch.failed(session, sql, error)
            connection._check_taken(session, error)
            raise
        if connection._pool._clock() - session.asked_at >= watch.least:
            await watch.answered(session, sql, self._arguments, result)
        return result

    async def _read_on(self) -> None:
        self._rows, self._next = (), 0
        if self._ended:
            return
        session = self._borrowed()
        try:
            rows = await session.more()
        except BaseException as error:
            self._connection._check_taken(session, error)
            raise
        self._borrowed()  # an end that came because it was taken away is none
        self._rows, self._ended = rows, not rows

    def _borrowed(self) -> Session:
        session = self._connection._held()
        if session is not self._session:
            raise NotBorrowed("a stream ends with the loan of its connection")
        return session
