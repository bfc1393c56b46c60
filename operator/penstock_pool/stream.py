"""Rows as they come, for results that are too large to keep."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from penstock_pool.columns import Columns
from penstock_pool.driver import Arguments, Session, Started
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

    __slots__ = (
        "_arguments",
        "_connection",
        "_ended",
        "_next",
        "_prepared",
        "_rows",
        "_session",
        "_sql",
        "affected_rows",
        "columns",
        "description",
        "insert_id",
    )

    def __init__(self, connection: Connection, sql: str, arguments: Arguments, prepared: bool) -> None:
        self._connection, self._sql, self._arguments = connection, sql, arguments
        self._prepared = prepared
        self._session: Session | None = None
        self._rows: Sequence[tuple[Any, ...]] = ()
        self._next = 0
        self._ended = False
        self.description: tuple[tuple[Any, ...], ...] | None = None
        """Of the columns, as the DB API 2 has it, once the stream has begun."""
        self.columns: Columns | None = None
        """The columns and their types, once the stream has begun; None when there is no result set."""
        self.affected_rows = self.insert_id = 0
        """Of a statement without a result set."""

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

    @property
    def ended(self) -> bool:
        """The last row has come, or an error in its place."""
        return self._ended

    async def some(self) -> Sequence[tuple[Any, ...]]:
        """The next rows, as many as have come; none at the end. In place of one by one, which takes longer.
        Raises like `execute`."""
        if self._session is None:
            await self._begin()
        if self._next == len(self._rows):
            await self._read_on()
        rows, self._next = self._rows[self._next :] if self._next else self._rows, len(self._rows)
        return rows

    async def close(self) -> None:
        """Reads the rest, or gives the connection up. May be called again."""
        if self._ended:
            return
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
        except BaseException:
            connection._untouched = False  # nobody knows what was done before it failed
            raise
        session = self._borrowed()
        self._rows, self._ended = result.rows or (), not session.running
        self.description, self.columns = result.description, result.columns
        self.affected_rows, self.insert_id = result.affected_rows, result.insert_id
        if session.changed or session.in_transaction:
            session.attention = True
        connection._untouched = False

    async def _start(self) -> Started:
        connection, sql, arguments = self._connection, self._sql, self._arguments
        self._session = session = connection._held()
        if effect_of(sql) is Effect.SESSION:
            connection._will_change(session, sql)
        watch = connection._pool._watch
        session.asked_at = connection._pool._clock()
        try:
            if self._prepared:
                result = await session.start_prepared(sql, cast(Sequence[object], arguments or ()))
            else:
                result = await session.start(sql, arguments)
        except BaseException as error:
            session.attention, self._ended = True, not session.running
            watch.failed(session, sql, error)
            connection._failed(session, effect_of(sql), error)
            raise
        if connection._pool._clock() - session.asked_at >= watch.least:
            await watch.answered(session, sql, arguments, result)
        return result

    async def _read_on(self) -> None:
        self._rows, self._next = (), 0
        if self._ended:
            return
        session = self._borrowed()
        try:
            rows = await session.more()
        except BaseException as error:
            session.attention, self._ended = True, not session.running
            self._connection._failed(session, effect_of(self._sql), error)
            raise
        if session.changed or session.in_transaction:
            session.attention = True
        self._borrowed()  # an end that came because it was taken away is none
        self._rows, self._ended = rows, not rows

    def _borrowed(self) -> Session:
        session = self._connection._session
        if session is None:
            raise self._connection._gone_during(effect_of(self._sql))
        if session is not self._session:
            raise NotBorrowed("a stream ends with the loan of its connection")
        return session
