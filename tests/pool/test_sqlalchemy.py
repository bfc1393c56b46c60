"""An engine of SQLAlchemy on the pool: its connections are checkouts, and cost no more than those."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from plugins.house import eventually
from plugins.mariadb import MariaDB
from sqlalchemy import Column, Integer, MetaData, String, Table, insert, inspect, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError, SAWarning
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.orm.attributes import flag_modified
from sqlalchemy.orm.exc import StaleDataError

from penstock_pool import ConnectionPool, Limit, Statement
from penstock_pool.errors import CheckoutTimeout, ConnectionLost, NotBorrowed, RolledBack
from penstock_pool.sqlalchemy import Checkout, engine_on

PoolOf = Callable[..., Awaitable[ConnectionPool]]

wares = Table("stock", MetaData(), Column("id", Integer, primary_key=True), Column("name", String(20)))


class Base(DeclarativeBase): ...


class Ware(Base):
    __table__ = wares
    __allow_unmapped__ = True
    name: Any


class Heard:
    """What was sent over the pool, in order."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    def statement(self, ended: Statement) -> None:
        self.sent.append(" ".join(ended.sql.split()))

    def waited(self, seconds: float, error: BaseException | None) -> None: ...

    def connected(self, seconds: float) -> None: ...


@pytest.fixture(params=[True, False], ids=["autocommit", "no autocommit"])
async def pool(request: pytest.FixtureRequest, pool_of: PoolOf) -> ConnectionPool:
    pool = await pool_of(max=2, server={"autocommit": request.param, "found_rows": True})
    await pool.execute("CREATE OR REPLACE TABLE stock (id INT PRIMARY KEY AUTO_INCREMENT, name VARCHAR(20))")
    return pool


@pytest.fixture
async def engine(pool: ConnectionPool) -> AsyncEngine:
    return engine_on(pool)


async def names(engine: AsyncEngine) -> list[Any]:
    async with engine.connect() as connection:
        return list((await connection.scalars(select(wares.c.name).order_by(wares.c.id))).all())


async def test_what_is_committed_stays_and_what_is_rolled_back_goes(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        done = await connection.execute(insert(wares).values(name="a 100% pipe"))
        assert done.inserted_primary_key == (1,)
        async with connection.begin_nested() as inner:
            await connection.execute(insert(wares).values(name="gone"))
            await inner.rollback()
    async with engine.connect() as connection:
        await connection.execute(insert(wares).values(name="forgotten"))
        assert await connection.scalar(text("SELECT COUNT(*) FROM stock")) == 2
    with pytest.raises(ZeroDivisionError):
        async with engine.begin() as connection:
            await connection.execute(insert(wares).values(name="failed"))
            raise ZeroDivisionError
    assert await names(engine) == ["a 100% pipe"]


async def test_many_rows_go_in_one_statement_and_rows_that_match_are_counted(
    pool: ConnectionPool, engine: AsyncEngine
) -> None:
    heard = Heard()
    async with engine.begin() as connection:
        pool.listen(heard)
        done = await connection.execute(insert(wares), [{"name": f"n{number}"} for number in range(100)])
        assert done.rowcount == 100
        same = await connection.execute(update(wares).where(wares.c.id == 1).values(name="n0"))
        assert same.rowcount == 1
    assert sum(sent.startswith("INSERT") for sent in heard.sent) == 1
    assert len(await names(engine)) == 100


async def test_results_are_streamed(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        result = await connection.stream(text("SELECT seq FROM seq_1_to_20000"))
        assert sum([number async for (number,) in result]) == 20000 * 20001 // 2
        result = await connection.stream(text("SELECT seq FROM seq_1_to_100"))
        assert await result.fetchone() == (1,)
        await result.close()
        assert await connection.scalar(text("SELECT 5")) == 5


async def test_clean_use_costs_no_reset_and_no_idle_round_trip(
    pool: ConnectionPool, engine: AsyncEngine, resets: list[int]
) -> None:
    await names(engine)
    resets.clear()
    heard = Heard()
    pool.listen(heard)
    async with engine.connect():
        pass
    assert heard.sent == []
    async with engine.begin() as connection:
        await connection.execute(text("INSERT INTO stock (name) VALUES ('a')"))
    async with engine.connect() as connection:
        await connection.execute(text("SELECT name FROM stock"))
    begin = ["BEGIN"] if pool.server.autocommit else []
    assert heard.sent == [
        *(*begin, "INSERT INTO stock (name) VALUES ('a')", "COMMIT"),
        *(*begin, "SELECT name FROM stock", "ROLLBACK"),
    ]
    assert resets == []


async def test_statements_may_stand_alone(pool: ConnectionPool) -> None:
    engine = engine_on(pool, isolation_level="AUTOCOMMIT")
    await names(engine)
    heard = Heard()
    pool.listen(heard)
    async with engine.connect() as connection:
        await connection.execute(text("INSERT INTO stock (name) VALUES ('a')"))
    assert await names(engine) == ["a"]
    if pool.server.autocommit:
        assert [sent.split()[0] for sent in heard.sent] == ["INSERT", "SELECT"]


async def test_an_isolation_reaches_nobody_else(engine: AsyncEngine, pool: ConnectionPool) -> None:
    async with engine.connect() as plain:
        connection = await plain.execution_options(isolation_level="SERIALIZABLE")
        assert await connection.scalar(text("SELECT @@tx_isolation")) == "SERIALIZABLE"
    assert await pool.fetchval("SELECT @@tx_isolation") == "REPEATABLE-READ"


async def test_schemas_are_made_and_read(engine: AsyncEngine) -> None:
    made = Table("made", MetaData(), Column("id", Integer, primary_key=True), Column("name", String(9)))
    async with engine.begin() as connection:
        await connection.run_sync(made.metadata.create_all)
        columns = await connection.run_sync(lambda plain: inspect(plain).get_columns("made"))
        await connection.run_sync(made.metadata.drop_all)
    assert [column["name"] for column in columns] == ["id", "name"]


async def test_the_orm_counts_the_rows_that_match(engine: AsyncEngine, pool: ConnectionPool) -> None:
    async with AsyncSession(engine, expire_on_commit=False) as session:
        ware = Ware(name="a pipe")
        session.add(ware)
        await session.commit()
        ware.name = "a pipe"
        flag_modified(ware, "name")
        await session.commit()
        async with pool.transaction() as connection:
            await connection.execute("DELETE FROM stock")
        ware.name = "a long pipe"
        with pytest.raises(StaleDataError):
            await session.commit()


async def test_errors_of_the_server_are_told_as_usual(engine: AsyncEngine, pool: ConnectionPool) -> None:
    with pytest.raises(IntegrityError):
        async with engine.begin() as connection:
            await connection.execute(insert(wares).values(id=1, name="a"))
            await connection.execute(insert(wares).values(id=1, name="b"))
    assert await names(engine) == []
    assert pool.stats().opened <= 2


async def test_a_broken_connection_is_told_as_such_and_replaced(
    engine: AsyncEngine, mariadb: MariaDB, pool: ConnectionPool
) -> None:
    async with engine.connect() as connection:
        mine = await connection.scalar(text("SELECT CONNECTION_ID()"))
        mariadb.kill(int(mine or 0))
        with pytest.raises(DBAPIError) as told:
            await connection.scalar(text("SELECT 1"))
        assert told.value.connection_invalidated
        assert told.value.orig is not None
        assert isinstance(told.value.orig.__cause__, ConnectionLost)
        await connection.rollback()
        assert await connection.scalar(text("SELECT 2")) == 2
    await eventually(lambda: pool.stats().busy == 0)


async def test_a_dead_idle_connection_is_not_noticed(
    engine: AsyncEngine, mariadb: MariaDB, pool: ConnectionPool
) -> None:
    await names(engine)
    for id in mariadb.connections():
        mariadb.kill(id)
    assert await names(engine) == []


async def test_a_cancelled_task_leaves_nothing_behind(
    engine: AsyncEngine, mariadb: MariaDB, pool: ConnectionPool
) -> None:
    async def sleeps() -> None:
        async with engine.begin() as connection:
            await connection.execute(insert(wares).values(name="never"))
            await connection.execute(text("SELECT SLEEP(60)"))

    def sleeping() -> bool:
        return any("SLEEP(60)" in " ".join(row) for row in mariadb.admin("SHOW PROCESSLIST"))

    await names(engine)
    task = asyncio.create_task(sleeps())
    await eventually(sleeping)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    await eventually(lambda: not sleeping())
    assert await names(engine) == []
    await eventually(lambda: (pool.stats().busy, pool.stats().ending) == (0, 0))


async def test_a_refused_checkout_is_the_pools_error(pool: ConnectionPool) -> None:
    async with pool.connection(), pool.connection():
        with pytest.raises(CheckoutTimeout):
            await asyncio.create_task(names(engine_on(quick(pool))))


def quick(pool: ConnectionPool) -> ConnectionPool:
    """Waits for a moment only."""
    connection = pool.connection
    pool.connection = lambda **_: connection(timeout=0.02)  # type: ignore[method-assign]
    return pool


async def test_an_engine_may_have_its_class_of_query(pool_of: PoolOf) -> None:
    pool = await pool_of(limits={"reports": Limit(1)})
    async with engine_on(pool, limit="reports").connect():
        assert pool.stats().limits["reports"].in_use == 1
    assert pool.stats().limits["reports"].in_use == 0


async def test_a_forgotten_connection_comes_back(engine: AsyncEngine, pool: ConnectionPool) -> None:
    async def forgets() -> None:
        connection = await engine.connect()
        await connection.execute(text("SELECT 1"))

    await forgets()
    with pytest.warns(SAWarning, match="garbage collector"):
        gc.collect()
    await eventually(lambda: pool.stats().busy == 0)
    assert await names(engine) == []


async def test_a_forgotten_connection_that_another_thread_collects_comes_back(pool: ConnectionPool) -> None:
    forgotten = Checkout(pool, await pool.connection().__aenter__())
    await asyncio.to_thread(forgotten.close)
    await eventually(lambda: pool.stats().busy == 0)
    with pytest.raises(NotBorrowed, match="forgotten"):
        await forgotten.connection.fetchval("SELECT 1")


async def test_of_a_transaction_that_a_deadlock_has_undone_no_half_is_stored(
    engine: AsyncEngine, pool: ConnectionPool
) -> None:
    async with pool.transaction() as some:
        await some.execute("INSERT INTO stock (id, name) VALUES (1, 'a'), (2, 'b')")
    with pytest.raises(RolledBack, match="Deadlock"):
        async with engine.begin() as connection:
            await connection.execute(text("INSERT INTO stock (id) VALUES (3)"))
            with pytest.raises(DBAPIError, match="Deadlock"):
                await deadlock(pool, connection)
            for _ in range(2):
                with pytest.raises(RolledBack):
                    await connection.execute(text("INSERT INTO stock (id) VALUES (5)"))
            await connection.commit()
    assert await pool.fetch("SELECT id FROM stock WHERE id < 100") == ((1,), (2,))
    async with engine.connect() as connection:
        await connection.execute(text("INSERT INTO stock (id) VALUES (3)"))
        with pytest.raises(DBAPIError, match="Deadlock"):
            await deadlock(pool, connection)
        await connection.rollback()
        await connection.execute(text("INSERT INTO stock (id) VALUES (6)"))
        await connection.commit()
    assert await pool.fetch("SELECT id FROM stock WHERE id < 100") == ((1,), (2,), (6,))


async def deadlock(pool: ConnectionPool, connection: AsyncConnection) -> None:
    """Of two transactions that wait for each other the server undoes the one that has done less."""
    async with pool.transaction() as other:
        await other.execute("INSERT INTO stock (id) SELECT seq FROM seq_100_to_200")
        await other.execute("UPDATE stock SET name = 'c' WHERE id = 1")
        await connection.execute(text("UPDATE stock SET name = 'd' WHERE id = 2"))
        waits = asyncio.ensure_future(other.execute("UPDATE stock SET name = 'e' WHERE id = 2"))
        try:
            await connection.execute(text("UPDATE stock SET name = 'f' WHERE id = 1"))
        finally:
            await waits
            await other.execute("DELETE FROM stock WHERE id > 99")
