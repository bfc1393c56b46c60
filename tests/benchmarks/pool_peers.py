"""Our pool, the others, and what there is without any: all used in one way.

Every `ask…` answers when (`perf_counter`) it had its connection."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from time import monotonic, perf_counter
from typing import Any

from plugins.mariadb import Address

import penstock_pool.connection
import penstock_pool.pool
from penstock_pool import ConnectionPool, PoolSettings, Server
from penstock_pool.asyncmy_driver import AsyncmyDriver

STATEMENT = "SELECT 1"


@dataclass(frozen=True, slots=True)
class Place:
    """Where the databases are. Without a port of PostgreSQL there is no such peer."""

    mysql: Address
    postgres: int | None

    @property
    def peers(self) -> list[str]:
        """Those that can be measured here."""
        return [name for name in PEERS if name != "psycopg_pool" or self.postgres is not None]


def server_at(place: Place) -> Server:
    mysql = place.mysql
    return Server(
        mysql["host"],
        mysql["port"],
        user=mysql["user"],
        password=mysql["password"],
        database=mysql["database"],
    )


async def reached(holds: Callable[[], bool], within: float = 10.0) -> None:
    """When it holds; looks every millisecond or so."""
    async with asyncio.timeout(within):
        while True:
            if holds():
                return
            await asyncio.sleep(0.001)


class Peer(ABC):
    """A pool."""

    def __init__(self, place: Place) -> None:
        self.place = place

    @abstractmethod
    async def open(self, least: int, most: int) -> None:
        """Returns when `least` connections are open. For those that do not fill, they are opened by use."""

    @abstractmethod
    async def close(self) -> None: ...

    @abstractmethod
    def borrowed(self) -> AbstractAsyncContextManager[Any]:
        """A connection for the time of an `async with`, as its users write that."""

    @abstractmethod
    async def checkouts(self, times: int) -> None:
        """Takes and returns a connection: no statement."""

    @abstractmethod
    async def ask(self) -> float:
        """One statement and its row on a borrowed connection, as its users write that."""

    async def ask_raw(self) -> float:
        """The same by the barest call of the driver, for those on the same driver."""
        raise NotImplementedError

    async def grow(self, least: int) -> None:
        """From one connection to `least`, in the way this pool fills itself. Returns when they are there."""
        raise NotImplementedError

    async def resize(self, size: int) -> None:
        raise NotImplementedError

    async def sleep(self, connection: Any, seconds: float) -> None:
        """A statement that takes as long."""
        raise NotImplementedError

    def counting(self) -> AbstractAsyncContextManager[Callable[[], Awaitable[int]]]:
        """How many connections the server counts, but for the one it is asked over."""
        raise NotImplementedError

    async def all_open(self, most: int) -> None:
        """When as many users have a connection each."""
        together = asyncio.Barrier(most)

        async def one() -> None:
            async with self.borrowed():
                await together.wait()

        async with asyncio.TaskGroup() as group:
            for number in range(most):
                group.create_task(one(), name=f"opens-{number}")


class Ours(Peer):
    async def open(self, least: int, most: int) -> None:
        self.pool = ConnectionPool(server_at(self.place), PoolSettings(min=least, max=most))
        await self.pool.open()
        await self.all_open(least)

    async def close(self) -> None:
        await self.pool.close()

    def borrowed(self) -> AbstractAsyncContextManager[Any]:
        return self.pool.connection()

    async def checkouts(self, times: int) -> None:
        pool = self.pool
        for _ in range(times):
            async with pool.connection():
                pass

    async def ask(self) -> float:
        async with self.pool.connection() as connection:
            got = perf_counter()
            await connection.fetchrow(STATEMENT)
        return got

    async def ask_raw(self) -> float:
        async with self.pool.connection() as connection:
            got = perf_counter()
            await connection._session.raw.query(STATEMENT)  # type: ignore[union-attr]
        return got

    async def grow(self, least: int) -> None:
        self.pool.resize(least, least)
        await reached(lambda: self.pool.stats().idle + self.pool.stats().busy >= least)

    async def resize(self, size: int) -> None:
        self.pool.resize(size, size)

    async def sleep(self, connection: Any, seconds: float) -> None:
        await connection.execute("SELECT SLEEP(%s)", (seconds,))

    @asynccontextmanager
    async def counting(self) -> AsyncIterator[Callable[[], Awaitable[int]]]:
        session = await AsyncmyDriver(server_at(self.place)).open()

        async def count() -> int:
            found = await session.query("SELECT COUNT(*) - 1 FROM information_schema.processlist")
            assert found.rows is not None
            return int(found.rows[0][0])

        try:
            yield count
        finally:
            session.abort()

    async def ask_dirty(self) -> float:
        async with self.pool.connection() as connection:
            got = perf_counter()
            await connection.execute("SET @a = 1")
        return got


class OursPolled(Ours):
    """Looks at the socket at every checkout, however short the connection was idle."""

    async def open(self, least: int, most: int) -> None:
        penstock_pool.connection.QUIET = 0.0
        penstock_pool.pool.QUIET = 0.0
        await super().open(least, most)

    async def close(self) -> None:
        penstock_pool.connection.QUIET = 0.001
        penstock_pool.pool.QUIET = 0.001
        await super().close()


class Asyncmy(Peer):
    async def open(self, least: int, most: int) -> None:
        from asyncmy import create_pool

        self.pool = await create_pool(
            minsize=least, maxsize=most, autocommit=True, **_named(self.place.mysql)
        )

    async def close(self) -> None:
        self.pool.terminate()
        await asyncio.wait_for(self.pool.wait_closed(), 2)

    def borrowed(self) -> AbstractAsyncContextManager[Any]:
        acquired: AbstractAsyncContextManager[Any] = self.pool.acquire()
        return acquired

    async def checkouts(self, times: int) -> None:
        pool = self.pool
        for _ in range(times):
            async with pool.acquire():
                pass

    async def ask(self) -> float:
        async with self.pool.acquire() as connection:
            got = perf_counter()
            async with connection.cursor() as cursor:
                await cursor.execute(STATEMENT)
                await cursor.fetchone()
        return got

    async def ask_raw(self) -> float:
        async with self.pool.acquire() as connection:
            got = perf_counter()
            await connection.query(STATEMENT)
        return got

    async def grow(self, least: int) -> None:
        """It fills itself when it is below its minimum, as after a recycling, and somebody asks."""
        self.pool._minsize = least
        await reached(lambda: self.pool.size >= least)


class Aiomysql(Asyncmy):
    async def open(self, least: int, most: int) -> None:
        from aiomysql import create_pool

        self.pool = await create_pool(
            minsize=least, maxsize=most, autocommit=True, **_named(self.place.mysql)
        )


class SQLAlchemy(Peer):
    """Without its ROLLBACK at every return: the others have none either."""

    async def open(self, least: int, most: int) -> None:
        from sqlalchemy.ext.asyncio import create_async_engine

        self.engine = create_async_engine(
            "mysql+asyncmy://{user}:{password}@{host}:{port}/{database}".format(**self.place.mysql),
            pool_size=most,
            max_overflow=0,
            pool_reset_on_return=None,
            isolation_level="AUTOCOMMIT",
        )
        await self.all_open(least)

    async def close(self) -> None:
        await asyncio.wait_for(self.engine.dispose(), 2)

    def borrowed(self) -> AbstractAsyncContextManager[Any]:
        return self.engine.connect()

    async def checkouts(self, times: int) -> None:
        engine = self.engine
        for _ in range(times):
            async with engine.connect():
                pass

    async def ask(self) -> float:
        async with self.engine.connect() as connection:
            got = perf_counter()
            (await connection.exec_driver_sql(STATEMENT)).one()
        return got

    async def ask_raw(self) -> float:
        async with self.engine.connect() as connection:
            got = perf_counter()
            await (await connection.get_raw_connection()).driver_connection.query(STATEMENT)  # type: ignore[union-attr]
        return got


class Psycopg(Peer):
    @property
    def _address(self) -> str:
        return f"host=127.0.0.1 port={self.place.postgres} user=app dbname=postgres"

    async def open(self, least: int, most: int) -> None:
        from psycopg_pool import AsyncConnectionPool

        self.pool = AsyncConnectionPool(
            self._address,
            kwargs={"autocommit": True},
            min_size=least,
            max_size=most,
            open=False,
        )
        await self.pool.open(wait=True)

    async def close(self) -> None:
        await self.pool.close(2)

    def borrowed(self) -> AbstractAsyncContextManager[Any]:
        return self.pool.connection()

    async def checkouts(self, times: int) -> None:
        pool = self.pool
        for _ in range(times):
            async with pool.connection():
                pass

    async def ask(self) -> float:
        async with self.pool.connection() as connection:
            got = perf_counter()
            await (await connection.execute(STATEMENT)).fetchone()
        return got

    async def grow(self, least: int) -> None:
        await self.resize(least)
        await self.pool.wait()

    async def resize(self, size: int) -> None:
        await self.pool.resize(size, size)

    async def sleep(self, connection: Any, seconds: float) -> None:
        await connection.execute("SELECT pg_sleep(%s)", (seconds,))

    @asynccontextmanager
    async def counting(self) -> AsyncIterator[Callable[[], Awaitable[int]]]:
        from psycopg import AsyncConnection

        async def count() -> int:
            asked = "SELECT count(*) - 1 FROM pg_stat_activity WHERE backend_type = 'client backend'"
            found: Any = await (await connection.execute(asked)).fetchone()
            return int(found[0])

        async with await AsyncConnection.connect(self._address, autocommit=True) as connection:
            yield count


PEERS: dict[str, type[Peer]] = {
    "asyncmy": Asyncmy,
    "aiomysql": Aiomysql,
    "sqlalchemy": SQLAlchemy,
    "psycopg_pool": Psycopg,
}


ON_ASYNCMY = ("asyncmy", "sqlalchemy")
"""Those of them that have the same driver as we."""


def _named(mysql: Address) -> dict[str, Any]:
    """As asyncmy and aiomysql call them."""
    return {"db" if name == "database" else name: value for name, value in mysql.items()}


# -- the floors


class Shelf:
    """The least that a pool could do: a deque, a busy set, two clock reads, and an object per checkout."""

    def __init__(self) -> None:
        self.idle = deque([object()])
        self.busy: set[object] = set()
        self.held = 0.0

    def connection(self) -> Loan:
        return Loan(self)


class Loan:
    __slots__ = ("_session", "_shelf", "_since")

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    async def __aenter__(self) -> object:
        shelf = self._shelf
        session = self._session = shelf.idle.pop()
        shelf.busy.add(session)
        self._since = monotonic()
        return session

    async def __aexit__(self, *_: object) -> None:
        shelf, session = self._shelf, self._session
        shelf.held += monotonic() - self._since
        shelf.busy.remove(session)
        shelf.idle.append(session)


class BareShelf:
    """The same without an object per checkout, which one task at a time could use."""

    def __init__(self) -> None:
        self.idle = deque([object()])
        self.busy: set[object] = set()
        self.held = 0.0

    async def __aenter__(self) -> object:
        session = self._session = self.idle.pop()
        self.busy.add(session)
        self._since = monotonic()
        return session

    async def __aexit__(self, *_: object) -> None:
        session = self._session
        self.held += monotonic() - self._since
        self.busy.remove(session)
        self.idle.append(session)


async def from_a_shelf(times: int) -> None:
    shelf = Shelf()
    for _ in range(times):
        async with shelf.connection():
            pass


async def from_a_bare_shelf(times: int) -> None:
    shelf = BareShelf()
    for _ in range(times):
        async with shelf:
            pass
