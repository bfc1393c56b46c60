"""Who waits for a connection, and for how long: on virtual time."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest
from plugins.virtual import VirtualLoop, run

from penstock_pool import ConnectionPool, PoolSettings, Server
from penstock_pool.errors import CheckoutTimeout, DatabaseDown, Unreachable
from penstock_pool.line import Line, Waiter
from penstock_pool.testing import FakeDriver
from penstock_pool.testing.fake_driver import FakeSession


def pool_over(driver: FakeDriver, **chosen: Any) -> ConnectionPool:
    clock = asyncio.get_running_loop().time
    return ConnectionPool(Server(user="app"), PoolSettings(**chosen), driver=driver, clock=clock)


def line() -> Line:
    return Line(asyncio.get_running_loop().time, lambda _: CheckoutTimeout("too late"))


def waiter(seconds: float) -> Waiter:
    loop = asyncio.get_running_loop()
    return Waiter(loop.create_future(), loop.time(), loop.time() + seconds, None)


def test_the_first_who_waits_is_the_first_who_gets_one() -> None:
    async def in_order() -> None:
        queue, session = line(), FakeSession(FakeDriver(), 1)
        first, second, urgent = waiter(3), waiter(1), waiter(2)
        queue.join(first)
        queue.join(second)
        queue.join(urgent, first=True)
        assert [queue.give(session, 0.0) for _ in range(4)] == [urgent, first, second, None]
        assert sum(queue.waits.counts) == 3

    run(in_order())


def test_who_has_left_gets_nothing() -> None:
    async def left() -> None:
        queue, gone, cancelled, there = line(), waiter(1), waiter(1), waiter(1)
        for each in (gone, cancelled, there):
            queue.join(each)
        queue.leave(gone)
        queue.leave(gone)
        cancelled.future.cancel()
        assert queue.give(FakeSession(FakeDriver(), 1), 0.0) is there
        assert not gone.future.done()

    run(left())


def test_each_waits_to_its_own_deadline_whatever_the_order() -> None:
    async def own_deadlines() -> None:
        loop, queue = asyncio.get_running_loop(), line()
        ended: list[tuple[float, float]] = []
        for seconds in (3.0, 0.5, 2.0, 0.0, 2.0):
            each = waiter(seconds)
            queue.join(each)
            each.future.add_done_callback(lambda _, due=each.deadline: ended.append((due, loop.time())))
            each.future.add_done_callback(lambda done: done.exception())
        await asyncio.sleep(5)
        assert [due for due, _ in ended] == [0.0, 0.5, 2.0, 2.0, 3.0]
        assert all(at == pytest.approx(due) for due, at in ended)
        assert queue.timeouts == 5

    run(own_deadlines())


def test_what_came_while_the_loop_stood_still_is_seen_before_anybody_is_sent_away() -> None:
    async def stood_still() -> None:
        loop, queue = asyncio.get_running_loop(), line()
        assert isinstance(loop, VirtualLoop)
        served, late = waiter(1), waiter(1)
        queue.join(served)
        queue.join(late)
        loop.stall(5)
        loop.call_later(0.01, queue.give, FakeSession(FakeDriver(), 1), 5.01)
        await served.future
        with pytest.raises(CheckoutTimeout):
            await late.future
        assert loop.time() < 5.1

    run(stood_still())


def test_an_event_loop_that_stands_still_again_and_again_ends_waits_all_the_same() -> None:
    async def stands_still() -> None:
        loop, queue, late = asyncio.get_running_loop(), line(), waiter(1)
        assert isinstance(loop, VirtualLoop)
        queue.join(late)

        def computes() -> None:
            loop.stall(0.5)
            if loop.time() < 60 and not late.future.done():
                loop.call_soon(computes)

        computes()
        with pytest.raises(CheckoutTimeout):
            await late.future
        assert loop.time() < 5

    run(stands_still())


def test_an_idle_connection_is_asked_whether_it_lives_although_a_connect_is_under_way() -> None:
    async def hanging() -> None:
        loop, driver = asyncio.get_running_loop(), FakeDriver()
        async with pool_over(driver, min=1, max=2, heartbeat=60) as pool:
            await asyncio.sleep(2)
            driver.hangs = True
            pool.resize(2, 2)
            began = loop.time()
            assert await pool.fetchval("SELECT 1") == 1
            assert loop.time() == began

    run(hanging())


def test_who_has_no_time_takes_an_idle_connection_as_it_is_or_none() -> None:
    async def in_no_time() -> None:
        loop, driver = asyncio.get_running_loop(), FakeDriver(query_time=0.5)
        async with pool_over(driver, min=1, max=2, heartbeat=60) as pool:
            await asyncio.sleep(30)
            began = loop.time()
            async with pool.connection(timeout=0):
                with pytest.raises(CheckoutTimeout):
                    await pool.connection(timeout=0).__aenter__()
            assert loop.time() == began

    run(in_no_time())


def test_those_who_wait_are_told_at_once_when_the_last_connection_breaks_in_an_outage() -> None:
    async def last_one() -> None:
        loop, driver = asyncio.get_running_loop(), FakeDriver()
        async with pool_over(driver, min=0, max=2, checkout_timeout=60) as pool:
            async with pool.connection() as connection:
                driver.fails = partial(Unreachable, "down")
                waits = asyncio.create_task(pool.fetchval("SELECT 1"), name="waits")
                await asyncio.sleep(30)
                assert not waits.done()
                driver.sessions[0].die()
                with pytest.raises(Exception, match="closed"):
                    await connection.execute("INSERT")
            broke = loop.time()
            with pytest.raises(DatabaseDown):
                await waits
            assert loop.time() == broke
        driver.check()

    run(last_one())


def test_a_cancelled_checkout_hands_what_it_was_given_to_the_next() -> None:
    async def cancelled() -> None:
        driver = FakeDriver()
        async with pool_over(driver, min=0, max=1) as pool:
            holder = pool.connection()
            await holder.__aenter__()
            first = asyncio.create_task(pool.fetchval("SELECT 1"), name="first")
            second = asyncio.create_task(pool.fetchval("SELECT 2"), name="second")
            await asyncio.sleep(0.1)
            await holder.__aexit__(None, None, None)
            first.cancel()
            assert await second == 2
            assert first.cancelled()
            assert (pool.stats().idle, pool.stats().busy) == (1, 0)

    run(cancelled())


def test_a_connection_that_was_pinged_just_now_is_had_at_once_though_another_was_used_later() -> None:
    async def pinged() -> None:
        loop, driver = asyncio.get_running_loop(), FakeDriver(query_time=0.2)
        async with pool_over(driver, min=2, max=2, ping_after=1, heartbeat=3) as pool:
            await asyncio.sleep(0.1)
            async with pool.connection():
                await asyncio.sleep(1.0)
            await asyncio.sleep(2.4)
            used_later, just_pinged = pool._idle[-1], pool._idle[0]
            assert loop.time() - used_later.since > 1 > loop.time() - just_pinged.proven_at
            began = loop.time()
            async with pool.connection():
                assert loop.time() == began

    run(pinged())
