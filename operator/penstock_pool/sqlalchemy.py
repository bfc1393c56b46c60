"""SQLAlchemy on a pool of ours: its connections are checkouts, and all that the pool promises holds for them.

    async with ConnectionPool(Server("db", user="app", password=…, database="shop", found_rows=True)) as pool:
        engine = engine_on(pool)
        async with engine.begin() as connection:
            await connection.execute(insert(wares).values(name="a pipe"))

Returning a connection costs no round trip when nothing is open on it, and the pool resets what was changed in
its session. A checkout that is refused raises the pool's own errors (`CheckoutTimeout`, `DatabaseDown` …);
a connection that breaks raises SQLAlchemy's `OperationalError` with `connection_invalidated`, whose
`orig.__cause__` is the pool's `ConnectionLost` or `CommitUnknown`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from asyncmy.errors import OperationalError
from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from penstock_pool.connection import Connection
from penstock_pool.cursor import Cursor, Row, StreamCursor
from penstock_pool.driver import Arguments, Session
from penstock_pool.errors import ConnectionLost, NotBorrowed
from penstock_pool.pool import ConnectionPool

SERVER_LOST = 2013
"""CR_SERVER_LOST, by which SQLAlchemy knows a disconnect."""


def engine_on(pool: ConnectionPool, *, limit: str | None = None, **options: Any) -> AsyncEngine:
    """An engine whose connections are the pool's; `options` are those of `create_async_engine`, without its
    pool's. `limit`: the class of query of all of them (`PoolSettings.limits`). The pool is opened and closed
    by its owner; `engine.dispose()` leaves it alone.

    A transaction begins with the first statement, as everywhere in SQLAlchemy: by a BEGIN, or, on a pool of a
    `Server` with `autocommit=False`, by itself, which spares that round trip. With
    `isolation_level="AUTOCOMMIT"` each statement stands alone, at no cost on a pool with `autocommit=True`.
    The ORM counts the rows that an UPDATE matches: open the pool with `found_rows=True` for it, else that
    check is off."""

    async def checkout() -> Checkout:
        return Checkout(pool, await pool.connection(limit=limit).__aenter__())

    server = pool.server
    url = URL.create("mysql+asyncmy", server.user, None, server.host, server.port, server.database)
    engine = create_async_engine(url, async_creator=checkout, poolclass=NullPool, **options)
    if not server.found_rows:
        engine.dialect.supports_sane_rowcount = engine.dialect.supports_sane_multi_rowcount = False
    return engine


class Checkout:
    """What SQLAlchemy takes for a connection of asyncmy (`get_raw_connection().driver_connection`)."""

    def __init__(self, pool: ConnectionPool, connection: Connection) -> None:
        self.connection = connection
        """The pool's, for what only it has."""
        self._pool = pool
        self._begins = pool.server.autocommit
        self._alone = False
        """Whether each statement is a transaction of its own."""

    def cursor(self, kind: object = None) -> Cursor:
        """Of any kind, one that streams."""
        return _Cursor(self) if kind is None else _StreamCursor(self)

    async def begin(self) -> None:
        """Before every statement: sends BEGIN where one is needed. After a deadlock nothing is sent until the
        rollback (`RolledBack`): it would be a half."""
        if self._begins and not self._in_transaction():
            await self.connection.execute("BEGIN")
        self.connection._depth = int(not self._alone)

    async def commit(self) -> None:
        with _as_driver():
            if self._in_transaction():
                await self.connection.execute("COMMIT")
        self.connection._depth = 0

    async def rollback(self) -> None:
        connection = self.connection
        undone, connection._undone, connection._depth = connection._undone, None, 0
        with _as_driver():
            if connection.usable and (undone or self._in_transaction()):
                await connection.execute("ROLLBACK")

    async def autocommit(self, value: bool) -> None:
        """Costs a statement only where the session is not as it is asked for."""
        self._begins, self._alone = self._pool.server.autocommit and not value, value
        if not self._pool.server.autocommit:
            with _as_driver():
                await self.connection.execute(f"SET autocommit = {int(value)}")

    async def ping(self, reconnect: bool = False) -> None:
        """For `pool_pre_ping`, which is not needed: the pool knows its connections."""
        with _as_driver():
            await self.connection.execute("SELECT 1")

    def character_set_name(self) -> None:
        """Not told, for SQLAlchemy would SET NAMES at every checkout; the pool has done so."""

    async def ensure_closed(self) -> None:
        """Returns it to the pool."""
        await self.connection.__aexit__(None, None, None)

    def close(self) -> None:
        """Of one that was left behind, which the garbage collector found, at any moment and in any thread:
        ended, for nobody can wait here."""
        session, loop = self.connection._session, self._pool._loop
        if session is not None and loop is not None and loop.is_running():
            loop.call_soon_threadsafe(self._take_back, session)

    def _take_back(self, session: Session) -> None:
        if session is self.connection._session:
            self._pool._seize(session, NotBorrowed("this connection was forgotten, and taken back"))

    def _in_transaction(self) -> bool:
        return self.connection._held().in_transaction


class _Cursor(Cursor):
    def __init__(self, checkout: Checkout) -> None:
        super().__init__(checkout.connection)
        self._checkout = checkout

    async def execute(self, sql: str, arguments: Arguments = None) -> int:
        with _as_driver():
            await self._checkout.begin()
            return await super().execute(sql, arguments)

    async def executemany(self, sql: str, rows: Iterable[Sequence[object] | dict[str, object]]) -> int:
        with _as_driver():
            await self._checkout.begin()
            return await super().executemany(sql, rows)

    async def nextset(self) -> None:
        """There is never another one."""


class _StreamCursor(StreamCursor):
    def __init__(self, checkout: Checkout) -> None:
        super().__init__(checkout.connection)
        self._checkout = checkout

    async def execute(self, sql: str, arguments: Arguments = None) -> int:
        with _as_driver():
            await self._checkout.begin()
            return await super().execute(sql, arguments)

    async def fetchmany(self, size: int | None = None) -> Sequence[Row]:
        with _as_driver():
            return await super().fetchmany(size)

    async def fetchall(self) -> Sequence[Row]:
        with _as_driver():
            return await super().fetchall()


@contextmanager
def _as_driver() -> Iterator[None]:
    """Tells of a lost connection as asyncmy would."""
    try:
        yield
    except ConnectionLost as error:
        raise OperationalError(SERVER_LOST, str(error)) from error
