"""What a borrower has in its hands."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine, Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from penstock_pool.batches import batches
from penstock_pool.cursor import Cursor, StreamCursor
from penstock_pool.driver import DEADLOCK, Arguments, Result, Session
from penstock_pool.errors import (
    CommitUnknown,
    ConnectionLost,
    Misuse,
    NotBorrowed,
    PoolError,
    PoolUnavailable,
    RolledBack,
)
from penstock_pool.prepared import PreparedStatement
from penstock_pool.statements import Effect, effect_of, outlasts_reset
from penstock_pool.stream import Stream
from penstock_pool.transaction import Transaction

if TYPE_CHECKING:
    from penstock_pool.pool import ConnectionPool

Row = tuple[Any, ...]

QUIET = 0.001
"""An idle connection is looked at (one poll of its socket) when it was not used for as many seconds: then it
may have been closed without the event loop having seen it."""

AT_ONCE = 0.1
"""Seconds after which a connection that was closed before a statement was sent has told so."""

BORROWED = "this connection is borrowed already: ask the pool for another one"

if sys.version_info >= (3, 12):
    current_task = asyncio.current_task
else:  # there that is written in Python, and would be a sixth of a checkout
    current_task = asyncio.tasks._current_tasks.get  # type: ignore[attr-defined]


class _Done:
    """What has ended before it is awaited; to those who check types it is a coroutine."""

    __slots__ = ()
    __await__ = iter(()).__iter__  # it is at its end, each time anew


DONE: Coroutine[Any, Any, None] = _Done()  # type: ignore[assignment]


class Connection:
    """A connection of the pool for the time of an `async with`; made by `ConnectionPool.connection()`, which
    fills these four fields in: to call an `__init__` takes a twentieth of a checkout. One task at a
    time sends statements over it. Errors that the server answers are the driver's
    (`asyncmy.errors`), and the connection stays usable; `ConnectionLost` means that it does not."""

    __slots__ = ("_depth", "_pool", "_session", "_taken", "_timeout", "_undone", "_untouched")

    _pool: ConnectionPool
    _timeout: float | None
    _session: Session | None
    _undone: Exception | None
    """Why the transaction that is open in the program is open no more on the server."""

    async def __aenter__(self) -> Connection:
        pool = self._pool
        if self._session is not None:
            raise Misuse(BORROWED)
        if pool._idle and (task := current_task(pool._loop)) is not None:  # else in a foreign event loop
            session = pool._idle.pop()
            now = pool._clock()
            if now - session.since < QUIET:
                pool._busy[session] = task
                session.since = now
                session.holder = self
                self._session = session
                self._untouched = True
                self._depth = 0
                return self
            pool._idle.append(session)
        session = await pool._checkout(self._timeout)
        if self._session is not None:  # another task has entered it meanwhile
            del pool._busy[session]
            pool._take_back(session)
            raise Misuse(BORROWED)
        session.holder = self
        self._session = session
        self._untouched = True
        self._depth = 0
        return self

    def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Coroutine[Any, Any, None]:
        """It waits for nothing: a coroutine for it would be a twentieth of a checkout."""
        session = self._session
        if session is None:
            return DONE  # it was taken away
        self._session = None
        pool = self._pool
        now = pool._clock()
        session.held += now - session.since
        session.uses += 1
        session.since = now
        del pool._busy[session]
        if session.attention or session.running or pool._waiters:
            pool._take_back(session)
        else:
            pool._idle.append(session)
        return DONE

    # -- statements

    async def execute(self, sql: str, arguments: Arguments = None) -> Result:
        """Sends one statement; `%s` and `%(name)s` in it stand for the arguments, which are escaped. Raises
        the driver's error that the server answered, `ConnectionLost`, `CommitUnknown`."""
        session = self._session
        if session is None or self._undone is not None:
            raise self._gone()
        effect = effect_of(sql)
        if effect is Effect.SESSION:
            self._will_change(session, sql)
        pool = self._pool
        session.asked_at = pool._clock()
        try:
            result = await session.query(sql, arguments)
        except BaseException as error:
            session.attention = True
            pool._watch.failed(session, sql, error)
            if not isinstance(error, ConnectionLost):
                self._untouched = False  # nobody knows what was done before it failed
                self._failed(session, effect, error)
                raise
            await self._renew(effect, error)
            return await self.execute(sql, arguments)
        if session.changed or session.in_transaction:
            session.attention = True
        self._untouched = False
        if pool._clock() - session.asked_at >= pool._watch.least:
            await pool._watch.answered(session, sql, arguments, result)
        return result

    async def fetch(self, sql: str, arguments: Arguments = None) -> tuple[Row, ...]:
        """All rows; empty when the statement has no result set. Raises like `execute`."""
        return (await self.execute(sql, arguments)).rows or ()

    async def fetchrow(self, sql: str, arguments: Arguments = None) -> Row | None:
        """The first row, None when there is none. Raises like `execute`."""
        rows = (await self.execute(sql, arguments)).rows
        return rows[0] if rows else None

    async def fetchval(self, sql: str, arguments: Arguments = None) -> Any:
        """The first value of the first row, None when there is none. Raises like `execute`."""
        row = await self.fetchrow(sql, arguments)
        return row[0] if row else None

    async def fetchdicts(self, sql: str, arguments: Arguments = None) -> list[dict[str, Any]]:
        """All rows by the names of their columns, the last of two with the same. Raises like `execute`."""
        result = await self.execute(sql, arguments)
        names = [column[0] for column in result.description or ()]
        return [dict(zip(names, row, strict=True)) for row in result.rows or ()]

    async def executemany(self, sql: str, rows: Iterable[Sequence[object] | dict[str, object]]) -> int:
        """Once for each of the rows of arguments; returns how many rows that changed. Of `INSERT … VALUES
        (%s, …)` and `REPLACE` few statements of many rows are made, each of which is a transaction of its own
        when none is open. Raises like `execute`."""
        changed = 0
        for statement, arguments in batches(sql, rows, self._held().written):
            changed += (await self.execute(statement, arguments)).affected_rows
        return changed

    def stream(self, sql: str, arguments: Arguments = None, *, prepared: bool = False) -> Stream:
        """`async with connection.stream(sql) as rows: async for row in rows: …` reads rows as they come
        instead of keeping them all, and nothing else can be sent meanwhile. Leaving early reads on for a
        moment; a connection with more rows than that is given up. With `prepared`, `?` stands for an
        argument, and the session keeps the statement, parsed, for whoever sends it next (as many as
        `Server.statement_cache`, at least one). Raises like `execute`."""
        return Stream(self, sql, arguments, prepared)

    async def prepare(self, sql: str) -> PreparedStatement:
        """Has the server parse the statement once, to execute it many times over the binary protocol; `?`
        stands for an argument. It ends with the loan: afterwards the session is reset. Raises like
        `execute`."""
        session = self._held()
        self._will_change(session, sql)
        return PreparedStatement(self, session, sql, await session.prepare(sql))

    def cursor(self, *, stream: bool = False) -> Cursor:
        """As the DB API 2 has it, with `await`; for code that comes from another library. With `stream`,
        rows are read as they come."""
        return StreamCursor(self) if stream else Cursor(self)

    def transaction(self, *, isolation: str | None = None, read_only: bool = False) -> Transaction:
        """BEGIN; COMMIT when the block ends well, ROLLBACK when it raises. Inside another one: a savepoint.
        `isolation` ("read committed", …) is of this transaction alone. Raises like `execute`,
        `CommitUnknown`, and `Misuse` for an isolation that there is not."""
        return Transaction(self, isolation, read_only)

    @property
    def usable(self) -> bool:
        """It is borrowed, not lost, and no statement was cut short on it."""
        session = self._session
        return session is not None and not session.lost and not session.running

    @property
    def pool(self) -> ConnectionPool:
        """Whose it is: of a `reader`, the replica's or the primary's."""
        return self._pool

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open on it, by the server's last word. A deadlock ends one, and so does
        what defines tables. Raises `NotBorrowed`."""
        return self._held().in_transaction

    @property
    def session_id(self) -> int:
        """The server's number of this connection (CONNECTION_ID()). Raises `NotBorrowed`."""
        if self._session is None:
            raise self._gone()
        return self._session.id

    async def _isolate(self, isolation: str) -> None:
        """For the transaction that begins next, which uses it up: the session is not changed by it."""
        session = self._held()
        session.attention = True
        try:
            await session.query(f"SET TRANSACTION ISOLATION LEVEL {isolation}")
        except ConnectionLost as error:
            await self._renew(Effect.TRANSACTION, error)
            await self._isolate(isolation)
        self._untouched = False

    def _will_change(self, session: Session, sql: str) -> None:
        session.changed = session.attention = True
        if outlasts_reset(sql):
            session.ends_at = 0.0

    # -- when it breaks

    async def _renew(self, effect: Effect, error: ConnectionLost) -> None:
        """A connection that turns out dead at its borrower's first statement is exchanged, if that statement
        only reads or begins a transaction: the borrower does not see that the server closed it between two
        of them. Raises when it was not."""
        if self._session is None:
            raise self._gone_during(effect) from error
        if self._session.running:  # since an earlier one was cut short: this one was not sent
            raise error
        if effect is Effect.COMMIT:
            raise CommitUnknown(f"the outcome of COMMIT is not known: {error}") from error
        untouched, self._untouched = self._untouched, False
        if not untouched or not self._may_repeat(effect):
            raise error
        await self._exchange()

    def _may_repeat(self, effect: Effect) -> bool:
        """A statement that was ended after a while may have been ended on purpose."""
        lost_at_once = self._pool._clock() - self._held().asked_at < AT_ONCE
        return effect is Effect.TRANSACTION or (effect is Effect.READ and lost_at_once)

    async def _exchange(self) -> None:
        """For a connection from a fresh look: each one on offer is pinged by now."""
        await Connection.__aexit__(self, None, None, None)  # a limit's place is kept
        session = await self._pool._checkout(self._timeout)
        session.holder = self
        self._session = session

    def _failed(self, session: Session, effect: Effect, error: BaseException) -> None:
        """That the connection was taken away says more than the answer to the statement that was killed. A
        deadlock undoes all of the transaction: what would still come would be a half, each statement of it
        stored at once."""
        if not isinstance(error, Exception):
            return
        if self._session is not session:
            raise self._gone_during(effect) from error
        if self._depth and error.args[:1] == (DEADLOCK,):
            self._undone = error

    def _gone_during(self, effect: Effect) -> PoolError:
        """What a statement is told that was under way when the connection was taken away: it was sent."""
        gone = self._gone()
        if effect is Effect.COMMIT:
            return CommitUnknown(f"the outcome of COMMIT is not known: {gone}")
        if isinstance(gone, PoolUnavailable):
            return ConnectionLost(f"{gone}, during a statement")
        return gone

    def _take_away(self, error: PoolError) -> None:
        """The pool ends the loan."""
        self._session = None
        self._taken = error

    def _held(self) -> Session:
        """For the next statement."""
        if self._session is None or self._undone is not None:
            raise self._gone()
        return self._session

    def _gone(self) -> PoolError:
        """Why no statement can be sent."""
        if self._session is not None and self._undone is not None:
            undone = RolledBack(
                f"the transaction was rolled back, all of it: repeat it from its beginning ({self._undone})"
            )
            undone.__cause__ = self._undone
            return undone
        taken: PoolError | None = getattr(self, "_taken", None)
        return taken or NotBorrowed("this connection is not borrowed: use it inside its `async with`, once")
