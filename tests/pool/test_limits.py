"""Classes of query take their part of the pool, in their order, and no more."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from asyncmy.errors import ProgrammingError
from plugins.house import eventually

from penstock_pool import ConnectionPool, Limit
from penstock_pool.errors import CheckoutTimeout, Misuse, NestedCheckout, PoolClosed, QueueFull

PoolOf = Callable[..., Awaitable[ConnectionPool]]

REPORTS = {"limits": {"reports": Limit(concurrency=1, queue=2)}}


def spoken(pool: ConnectionPool) -> tuple[int, int]:
    told = pool.stats().limits["reports"]
    return told.in_use, told.waiting


async def takes(pool: ConnectionPool, timeout: float) -> None:
    async with pool.connection(limit="reports", timeout=timeout):
        pass


async def holds(pool: ConnectionPool, release: asyncio.Event, served: list[str], name: str) -> None:
    async with pool.connection(limit="reports"):
        served.append(name)
        await release.wait()


async def test_a_class_takes_its_part_and_leaves_the_rest_to_others(pool_of: PoolOf) -> None:
    pool = await pool_of(**REPORTS)
    async with pool.connection(limit="reports"):
        assert spoken(pool) == (1, 0)
        with pytest.raises(CheckoutTimeout, match="limit reports: all of its 1 connections are in use"):
            await asyncio.create_task(takes(pool, 0.02))
        assert await pool.fetchval("SELECT 1") == 1
    assert spoken(pool) == (0, 0)
    assert await pool.fetchval("SELECT 1", limit="reports") == 1


async def test_who_waits_for_a_place_is_served_in_order_and_not_without_bounds(pool_of: PoolOf) -> None:
    pool = await pool_of(**REPORTS)
    release, served = asyncio.Event(), list[str]()
    async with asyncio.TaskGroup() as tasks:
        for number, name in enumerate("abc"):
            tasks.create_task(holds(pool, release, served, name))
            await eventually(lambda number=number: spoken(pool) == (1, number))
        with pytest.raises(QueueFull, match="2 wait for it already"):
            await pool.execute("SELECT 1", limit="reports")
        release.set()
    assert served == ["a", "b", "c"]
    assert spoken(pool) == (0, 0)


async def test_a_cancelled_or_failed_checkout_gives_its_place_back(pool_of: PoolOf) -> None:
    pool = await pool_of(max=1, **REPORTS)
    release, served = asyncio.Event(), list[str]()
    async with pool.connection():  # a place is free, a connection is not
        with pytest.raises(CheckoutTimeout):
            await asyncio.create_task(takes(pool, 0.02))
        assert spoken(pool) == (0, 0)
        waits = asyncio.create_task(holds(pool, release, served, "a"))
        behind = asyncio.create_task(holds(pool, release, served, "b"))
        await eventually(lambda: spoken(pool) == (1, 1))
        behind.cancel()
        await eventually(lambda: spoken(pool) == (1, 0))
        waits.cancel()
        await eventually(lambda: spoken(pool) == (0, 0))
    with pytest.raises(ProgrammingError):
        await pool.fetch("SELECT * FROM nowhere", limit="reports")
    assert spoken(pool) == (0, 0)
    assert served == []


async def test_a_place_that_comes_as_its_task_is_cancelled_goes_to_the_next(pool_of: PoolOf) -> None:
    pool = await pool_of(**REPORTS)
    release, served = asyncio.Event(), list[str]()
    release.set()
    async with pool.connection(limit="reports"):
        waits = asyncio.create_task(holds(pool, release, served, "a"))
        behind = asyncio.create_task(holds(pool, release, served, "b"))
        await eventually(lambda: spoken(pool) == (1, 2))
    waits.cancel()
    await asyncio.wait({waits, behind})
    assert waits.cancelled()
    assert served == ["b"]
    assert spoken(pool) == (0, 0)


async def test_a_dead_connection_is_exchanged_within_its_place(pool_of: PoolOf, mariadb: Any) -> None:
    pool = await pool_of(min=2, **REPORTS)
    async with pool.connection(limit="reports") as connection:
        mariadb.kill(connection.session_id)
        assert await connection.fetchval("SELECT 1") == 1
        assert spoken(pool) == (1, 0)
    assert spoken(pool) == (0, 0)


async def test_transactions_have_a_class_too(pool_of: PoolOf) -> None:
    pool = await pool_of(**REPORTS)
    async with pool.transaction(limit="reports"):
        assert spoken(pool) == (1, 0)


async def test_a_task_that_waits_for_its_own_place_is_told_at_once(pool_of: PoolOf) -> None:
    pool = await pool_of(**REPORTS)
    async with pool.connection(limit="reports"):
        with pytest.raises(NestedCheckout, match="limit reports"):
            await pool.fetch("SELECT 1", limit="reports")


async def test_one_connection_has_one_place(pool_of: PoolOf) -> None:
    pool = await pool_of(limits={"reports": Limit(2)})
    connection = pool.connection(limit="reports")
    async with connection:
        with pytest.raises(Misuse, match="borrowed already"):
            await connection.__aenter__()
        assert spoken(pool) == (1, 0)
        assert await connection.fetchval("SELECT 1") == 1
    assert spoken(pool) == (0, 0)


async def test_an_unknown_class_is_named_beside_those_there_are(pool_of: PoolOf) -> None:
    pool = await pool_of(**REPORTS)
    with pytest.raises(Misuse, match="no limit 'report'; there are: reports"):
        pool.connection(limit="report")


async def test_closing_sends_away_who_waits_for_a_place(pool_of: PoolOf) -> None:
    pool = await pool_of(**REPORTS)
    async with pool.connection(limit="reports"):
        waits = asyncio.create_task(takes(pool, 30))
        await eventually(lambda: spoken(pool) == (1, 1))
        await pool.close(grace=0)
        with pytest.raises(PoolClosed):
            await waits
    with pytest.raises(PoolClosed):
        await pool.fetch("SELECT 1", limit="reports")
