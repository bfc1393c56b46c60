"""Readers go to a replica that is there and has room, else to another one, else to the primary."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from asyncmy.errors import OperationalError
from plugins.house import eventually
from plugins.mariadb import MariaDB
from plugins.pooled import server_of, settings

from penstock_pool import ConnectionPool, Server
from penstock_pool.errors import CheckoutTimeout, Misuse, PoolClosed, PoolError
from penstock_pool.reader import by_room
from penstock_pool.testing import FakeMySQL, Rows

WHO = "SELECT who"


def pool_on(server: FakeMySQL, *replicas: ConnectionPool, **changes: Any) -> ConnectionPool:
    where, name = Server(server.host, server.port, user="app"), f"at-{server.port}"
    return ConnectionPool(where, settings(**{"name": name, "max": 2, **changes}), replicas=replicas)


@pytest.fixture
async def servers() -> AsyncIterator[list[FakeMySQL]]:
    """A primary and two replicas, which say who they are."""
    async with AsyncExitStack() as started:
        yield [
            await started.enter_async_context(FakeMySQL({WHO: Rows(["who"], [[name]])}))
            for name in ("primary", "first", "second")
        ]


@pytest.fixture
async def pool(servers: list[FakeMySQL]) -> AsyncIterator[ConnectionPool]:
    primary, first, second = servers
    async with pool_on(primary, pool_on(first), pool_on(second)) as pool:
        yield pool


async def read(pool: ConnectionPool, timeout: float | None = None) -> str:
    async with pool.reader(timeout=timeout) as connection:
        return str(await connection.fetchval(WHO))


async def test_readers_read_from_replicas_the_one_with_the_most_room_first(pool: ConnectionPool) -> None:
    assert await pool.fetchval(WHO) == "primary"
    async with pool.reader() as one, pool.reader() as other:
        assert {await one.fetchval(WHO), await other.fetchval(WHO)} == {"first", "second"}


async def test_without_replicas_readers_read_from_the_pool_itself(servers: list[FakeMySQL]) -> None:
    async with pool_on(servers[0]) as pool:
        assert await read(pool) == "primary"


async def test_replicas_that_are_down_are_left_in_peace_until_they_are_back(
    pool: ConnectionPool, servers: list[FakeMySQL]
) -> None:
    _, first, second = servers
    await asyncio.gather(*(read(pool) for _ in range(4)))
    for server, replica in zip((first, second), pool.replicas, strict=True):
        await server.crash()
        with pytest.raises(PoolError):
            await replica.fetchval(WHO)
        assert {await read(pool) for _ in range(20)} == {"second" if server is first else "primary"}
    failed = [replica.stats().failed for replica in pool.replicas]
    assert all(number < 10 for number in failed), failed
    await first.start()
    await eventually(lambda: is_read(pool, "first"))


async def is_read(pool: ConnectionPool, who: str) -> bool:
    return await read(pool) == who


async def test_a_replica_without_spare_connections_comes_back_when_it_is_wanted(
    servers: list[FakeMySQL],
) -> None:
    primary, replica, _ = servers
    await replica.crash()
    async with pool_on(primary, pool_on(replica, min=0)) as pool:
        assert await read(pool) == "primary"
        await replica.start()
        await eventually(lambda: is_read(pool, "first"))


async def test_when_all_replicas_are_busy_the_primary_is_read_within_the_same_time(
    pool: ConnectionPool,
) -> None:
    async with AsyncExitStack() as held:
        for _ in range(4):
            await held.enter_async_context(pool.reader())
        assert [replica.stats().busy for replica in pool.replicas] == [2, 2]
        assert await asyncio.create_task(read(pool, timeout=0.2)) == "primary"
        for _ in range(2):
            await held.enter_async_context(pool.connection())
        with pytest.raises(CheckoutTimeout):
            await asyncio.create_task(read(pool, timeout=0.1))
    assert [each.stats().busy for each in (pool, *pool.replicas)] == [0, 0, 0]


async def test_a_paused_replica_is_not_the_one_with_the_most_room(pool: ConnectionPool) -> None:
    first, second = pool.replicas
    async with second.connection():
        first.pause()
        assert by_room(pool.replicas) == [second]
        second.pause()
        assert await read(pool) == "primary"
    first.resume()
    assert await read(pool) == "first"


async def test_who_holds_all_of_the_replicas_reads_from_the_primary(pool: ConnectionPool) -> None:
    async with AsyncExitStack() as held:
        for _ in range(4):
            await held.enter_async_context(pool.reader())
        assert await read(pool) == "primary"


async def test_a_reader_that_two_tasks_enter_at_once_is_one_loan(pool: ConnectionPool) -> None:
    shared, both_are_in = pool.reader(), asyncio.Barrier(2)

    async def enter() -> None:
        await both_are_in.wait()
        async with shared as connection:
            await connection.fetchval(WHO)

    outcomes = await asyncio.gather(enter(), enter(), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes if outcome is not None] == [Misuse]
    assert [each.stats().busy for each in (pool, *pool.replicas)] == [0, 0, 0]


async def test_replicas_are_opened_and_closed_with_their_pool(servers: list[FakeMySQL]) -> None:
    primary, first, _ = servers
    replica = pool_on(first)
    async with pool_on(primary, replica) as pool:
        assert await read(pool) == "first"
        with pytest.raises(Misuse, match="was opened before"):
            await replica.open()
    with pytest.raises(PoolClosed):
        await replica.fetch(WHO)
    await eventually(lambda: first.open == 0)


async def test_a_replica_that_somebody_opened_is_refused_before_anything_opens(
    servers: list[FakeMySQL],
) -> None:
    primary, first, second = servers
    async with pool_on(second) as opened:
        pool = pool_on(primary, pool_on(first), opened)
        with pytest.raises(Misuse, match=f"pool at-{second.port} was opened before"):
            await pool.open()
        await pool.close()
    assert primary.opened == first.opened == 0


async def test_sessions_may_refuse_to_write(mariadb: MariaDB) -> None:
    replica = ConnectionPool(server_of(mariadb.address, read_only=True), settings(name="replica"))
    async with ConnectionPool(server_of(mariadb.address), settings(), replicas=[replica]) as pool:
        await pool.execute("CREATE OR REPLACE TABLE copied (id INT)")
        async with pool.reader() as connection:
            for _ in range(2):
                with pytest.raises(OperationalError, match="READ ONLY"):
                    await connection.execute("INSERT INTO copied VALUES (1)")
                assert await connection.fetch("SELECT * FROM copied") == ()
                await connection.execute("SET @a = 1")  # and still after a reset
        assert await pool.fetch("SELECT * FROM copied") == ()
