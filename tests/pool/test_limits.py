"""Classes of query take their part of the pool, in their order, and no more."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
from asyncmy.errors import ProgrammingError
from plugins.house import eventually
from plugins.virtual import run

from penstock_pool import Connection, ConnectionPool, Limit, PoolSettings, Server
from penstock_pool.errors import (
    CheckoutTimeout,
    HoldLimitExceeded,
    Misuse,
    NestedCheckout,
    PoolClosed,
    QueueFull,
)
from penstock_pool.testing import FakeDriver

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
        with pytest.raises(
            CheckoutTimeout, match=r"pool shop: limit reports: all of its 1 connections are in use.*busy 1"
        ):
            await asyncio.create_task(takes(pool, 0.02))
        assert await pool.fetchval("SELECT 1") == 1
    assert spoken(pool) == (0, 0)
    assert pool.stats().timeouts == 1
    assert await pool.fetchval("SELECT 1", limit="reports") == 1


async def test_who_waits_for_a_place_is_served_in_order_and_not_without_bounds(pool_of: PoolOf) -> None:
    pool = await pool_of(**REPORTS)
    release, served = asyncio.Event(), list[str]()
    async with asyncio.TaskGroup() as tasks:
        for number, name in enumerate("abc"):
            tasks.create_task(holds(pool, release, served, name))
            await eventually(lambda number=number: spoken(pool) == (1, number))
        with pytest.raises(QueueFull, match=r"pool shop: .* 2 wait for it already \(total 1, "):
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


# -- on virtual time


def pool_over(driver: FakeDriver, **chosen: Any) -> ConnectionPool:
    clock = asyncio.get_running_loop().time
    settings = PoolSettings(**{"min": 0, "hold_warn": None, **chosen})
    return ConnectionPool(Server(user="app"), settings, driver=driver, clock=clock, chance=lambda: 0.5)


def test_who_loses_a_connection_loses_the_place_too(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "penstock_pool")

    async def too_long() -> None:
        driver = FakeDriver()
        async with pool_over(driver, max=2, hold_limit=5, **REPORTS) as pool:
            async with pool.connection(limit="reports") as connection:
                with pytest.raises(HoldLimitExceeded):
                    await connection.execute("SELECT SLEEP(600)")
                assert spoken(pool) == (0, 0)
                await asyncio.create_task(takes(pool, 1), name="the next one")
            assert spoken(pool) == (0, 0)
        driver.check()

    run(too_long())


async def both(first: Connection, second: Callable[[], Connection], met: asyncio.Barrier) -> None:
    async with first:
        await met.wait()
        async with second():
            pass


@pytest.mark.parametrize("waits_first", ["at the gate", "for the pool"])
def test_a_ring_through_a_gate_and_the_pool_is_told_at_once(waits_first: str) -> None:
    """One holds the connection and wants into the gate; the other is inside and wants the connection."""

    async def ring() -> None:
        loop, driver = asyncio.get_running_loop(), FakeDriver()
        limits = {"reports": Limit(1)}
        async with pool_over(driver, max=2, checkout_timeout=60, limits=limits) as pool:
            met = asyncio.Barrier(3)
            inside = partial(both, pool.connection(limit="reports"), pool.connection, met)
            outside = partial(both, pool.connection(), partial(pool.connection, limit="reports"), met)
            order = (outside, inside) if "gate" in waits_first else (inside, outside)
            pair = [asyncio.create_task(one(), name="one") for one in order]
            await met.wait()
            ends = await asyncio.gather(*pair, return_exceptions=True)
            assert [type(end) for end in ends if end is not None] == [NestedCheckout]
            assert loop.time() < 1
        driver.check()

    run(ring())


def test_who_holds_what_the_one_inside_waits_for_is_told_at_once() -> None:
    async def deadlock() -> None:
        driver = FakeDriver()
        async with pool_over(driver, max=1, checkout_timeout=60, **REPORTS) as pool:
            async with pool.connection():
                inside = asyncio.create_task(takes(pool, 60), name="inside")
                await asyncio.sleep(1)
                assert spoken(pool) == (1, 0)
                with pytest.raises(NestedCheckout, match="limit reports"):
                    await pool.fetch("SELECT 1", limit="reports")
            await inside
        driver.check()

    run(deadlock())


def test_a_ring_of_two_gates_is_told_and_who_is_in_none_waits() -> None:
    async def ring() -> None:
        loop, driver = asyncio.get_running_loop(), FakeDriver()
        limits = {"reports": Limit(1), "imports": Limit(1)}
        async with pool_over(driver, max=4, checkout_timeout=60, limits=limits) as pool:
            met = asyncio.Barrier(2)
            ends = await asyncio.gather(
                both(pool.connection(limit="reports"), partial(pool.connection, limit="imports"), met),
                both(pool.connection(limit="imports"), partial(pool.connection, limit="reports"), met),
                return_exceptions=True,
            )
            assert [type(end) for end in ends if end is not None] == [NestedCheckout]
            async with pool.connection():
                slow = asyncio.create_task(pool.execute("SELECT SLEEP(2)", limit="reports"), name="slow")
                await asyncio.sleep(0.1)
                await pool.execute("INSERT", limit="reports")  # waits for one that ends
                assert 2 <= loop.time() < 3
                await slow
        driver.check()

    run(ring())


def test_a_limited_connection_that_is_entered_again_has_its_whole_time_again() -> None:
    async def again() -> None:
        loop, driver = asyncio.get_running_loop(), FakeDriver()
        async with pool_over(driver, max=2, **REPORTS) as pool:
            connection = pool.connection(limit="reports", timeout=5)
            for _ in range(3):
                slow = asyncio.create_task(pool.execute("SELECT SLEEP(4)", limit="reports"), name="slow")
                await asyncio.sleep(0.1)
                async with connection:
                    await slow
            assert loop.time() == pytest.approx(12.0)
        driver.check()

    run(again())


def test_who_is_sent_away_and_cancelled_at_once_leaves_no_error_behind(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def sent_away() -> None:
        driver = FakeDriver()
        pool = pool_over(driver, max=2, **REPORTS)
        await pool.open()
        async with pool.connection(limit="reports"):
            waits = asyncio.create_task(takes(pool, 30), name="waits")
            await asyncio.sleep(1)
            closing = asyncio.create_task(pool.close(grace=0), name="closing")
            closing.add_done_callback(lambda _: None)
            asyncio.get_running_loop().call_soon(waits.cancel)
            await asyncio.wait({waits})
            assert waits.cancelled()
            await closing
        driver.check()

    run(sent_away())
    gc.collect()
    assert "never retrieved" not in caplog.text
