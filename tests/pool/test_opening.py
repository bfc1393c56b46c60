"""When connections are opened: not all at once at a database that is down, never more than it takes."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
from plugins.virtual import run

from penstock_pool import ConnectionPool, PoolSettings, Server
from penstock_pool.errors import (
    AccessRefused,
    CheckoutTimeout,
    ConnectFailed,
    DatabaseDown,
    PoolClosed,
    ServerFull,
    Unreachable,
)
from penstock_pool.opening import Breaker, Ceiling
from penstock_pool.testing import FakeDriver
from penstock_pool.testing.fake_driver import FakeSession

OUTAGE = 5.0


def pool_over(driver: FakeDriver, **chosen: Any) -> ConnectionPool:
    clock = asyncio.get_running_loop().time
    return ConnectionPool(
        Server(user="app"), PoolSettings(**chosen), driver=driver, clock=clock, chance=lambda: 0.5
    )


def refuse_until(end: float, breaker: Breaker, error: Exception | None = None) -> list[float]:
    """Tries as often as the breaker lets it; when."""
    now, tries = 0.0, []
    breaker.suspect()
    while now < end:
        assert breaker.allows(30, 0, now) == 1
        tries.append(now)
        breaker.failed(error or Unreachable("down"), now)  # type: ignore[arg-type]
        assert breaker.allows(30, 0, now) == 0
        now = breaker.retry_at
    return tries


@pytest.mark.parametrize("chance", [0.0, 0.5, 1.0])
def test_a_database_that_is_down_is_tried_often_at_first_and_then_ever_more_rarely(chance: float) -> None:
    breaker = Breaker(lambda: chance)
    tries = refuse_until(OUTAGE, breaker)
    assert len(tries) <= 50
    assert breaker.retry_at - OUTAGE <= 0.25, "it is back for longer, and nobody looked"
    pauses = [round(after - before, 6) for before, after in pairwise(tries)]
    assert pauses == sorted(pauses)
    for hours in (1, 10):
        breaker.failed(Unreachable("down"), hours * 3600)
        assert 4.0 <= breaker.retry_at - hours * 3600 <= 5.0


def test_who_refuses_our_password_is_not_asked_more_than_about_once_a_second() -> None:
    assert len(refuse_until(5.0, Breaker(lambda: 0.0), AccessRefused("1045"))) <= 7


def test_one_success_opens_the_way_for_all() -> None:
    breaker = Breaker()
    assert breaker.allows(30, 7, 0.0) == 30
    breaker.failed(Unreachable("down"), 0.0)
    breaker.succeeded()
    assert not breaker.down
    assert breaker.allows(30, 7, 0.0) == 30


def test_after_a_loss_one_goes_first() -> None:
    breaker = Breaker()
    breaker.suspect()
    assert breaker.allows(30, 0, 0.0) == 1
    assert breaker.allows(30, 1, 0.0) == 0
    assert breaker.allows(0, 0, 0.0) == 0
    breaker.succeeded()
    assert breaker.allows(30, 1, 0.0) == 30


def test_the_ceiling_stays_at_what_was_reached_and_rises_by_one_then_ever_faster() -> None:
    ceiling = Ceiling(8, retry=30.0)
    ceiling.probe(1000.0)
    assert ceiling.value == 8
    assert ceiling.refused(3, 0.0)
    assert not ceiling.refused(3, 1.0), "no news"
    assert ceiling.clamped
    ceiling.probe(30.0)
    assert ceiling.value == 3, "a refusal begins the time anew"
    ceiling.probe(31.0)
    ceiling.probe(32.0)
    assert ceiling.value == 4
    ceiling.probe(61.0)
    assert ceiling.value == 6
    ceiling.refused(5, 62.0)
    ceiling.probe(92.0)
    assert ceiling.value == 6, "after a refusal it begins again with one"
    ceiling.probe(122.0)
    assert (ceiling.value, ceiling.clamped) == (8, False)


def test_a_smaller_pool_is_below_its_ceiling() -> None:
    ceiling = Ceiling(5, retry=30.0)
    ceiling.refused(3, 0.0)
    ceiling.most = 2
    assert (ceiling.value, ceiling.clamped) == (2, False)


def test_an_outage_of_five_seconds_costs_few_attempts_and_little_time_after_it() -> None:
    async def outage() -> None:
        loop, driver = asyncio.get_running_loop(), FakeDriver(connect_time=0.01)
        async with pool_over(driver, min=10, max=20) as pool:
            await asyncio.sleep(1.0)
            driver.fails = partial(Unreachable, "down")
            for session in driver.open_sessions:
                session.die()
            began, before = loop.time(), len(driver.attempts)
            while loop.time() < began + OUTAGE:
                with pytest.raises(DatabaseDown):
                    await pool.fetchval("SELECT 1")
                await asyncio.sleep(0.01)
            assert len(driver.attempts) - before <= 50
            driver.fails = None
            await asyncio.sleep(0.25)
            assert await pool.fetchval("SELECT 1") == 1
            assert pool.stats().idle >= 10
        driver.check()

    run(outage())


class RefusesAtOnce(FakeDriver):
    """Whom it lets in it greets for longer than it takes to refuse the others, as servers do."""

    async def open(self) -> FakeSession:
        if self.most is not None and self.served + self.opening >= self.most:
            self.attempts.append(asyncio.get_running_loop().time())
            raise ServerFull("1040 Too many connections")
        return await super().open()


@pytest.mark.parametrize("kind", [FakeDriver, RefusesAtOnce])
def test_a_server_that_takes_three_of_twenty_at_once_gives_a_pool_of_three(
    kind: type[FakeDriver], caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody is told that the database is down while others of the same burst are let in, and what was
    reached is told once."""

    async def burst() -> None:
        driver = kind(connect_time=0.05, most=3)
        async with pool_over(driver, min=0, max=20) as pool:
            answers = await asyncio.gather(*(pool.fetchval("SELECT SLEEP(0.01)") for _ in range(20)))
            assert len(answers) == 20
            assert pool.stats().ceiling == 3
            assert pool.stats().total == 3
            assert len(driver.attempts) == 20
            assert [line for line in caplog.messages if "stays at" in line] == [
                "pool pool: stays at 3 connections: 1040 Too many connections"
            ]
            driver.most = None
            await asyncio.sleep(65)
            assert pool.stats().ceiling == 6, "one more after 30 s, two more after 60"
        driver.check()

    run(burst())


def test_who_is_wanted_while_down_opens_nothing_beyond_its_most() -> None:
    async def wanted() -> None:
        driver = FakeDriver()
        async with pool_over(driver, min=0, max=3) as pool, AsyncExitStack() as held:
            for _ in range(2):
                await held.enter_async_context(pool.connection())
            driver.fails = partial(Unreachable, "down")
            with pytest.raises(CheckoutTimeout):
                await pool.connection(timeout=0.1).__aenter__()
            assert pool.stats().down
            pool.resize(0, 2)
            driver.fails = None
            for _ in range(10):
                pool._supply.wake()
                await asyncio.sleep(1)
            assert pool.stats().total == 2
        driver.check()

    run(wanted())


@pytest.mark.parametrize("least", [0, 2])
def test_who_waits_for_a_database_gets_one_that_comes_up_within_that_time(least: int) -> None:
    async def comes_up() -> None:
        loop, driver = asyncio.get_running_loop(), FakeDriver(connect_time=0.01)
        driver.fails = partial(Unreachable, "not yet")
        loop.call_later(1, setattr, driver, "fails", None)
        pool = pool_over(driver, min=least, max=2)
        await pool.open(wait=10)
        assert 1 < loop.time() < 1.3
        assert pool.stats().idle
        await pool.close()
        driver.check()

    run(comes_up())


@pytest.mark.parametrize("least", [0, 2])
@pytest.mark.parametrize(
    ("kind", "seconds"), [(Unreachable, 10), (ServerFull, 10), (AccessRefused, 0), (None, 10)]
)
def test_who_waits_for_a_database_is_told_why_there_is_none(
    least: int, kind: type[ConnectFailed] | None, seconds: float
) -> None:
    async def never() -> None:
        loop, driver = asyncio.get_running_loop(), FakeDriver()
        driver.fails = partial(kind, "told to") if kind else None
        driver.hangs = kind is None
        pool = pool_over(driver, min=least, max=2, connect_timeout=30)
        with pytest.raises(DatabaseDown if kind else CheckoutTimeout) as told:
            await pool.open(wait=10)
        assert kind is None or isinstance(told.value.__cause__, kind)
        assert loop.time() == pytest.approx(seconds, abs=0.1)
        assert len(driver.attempts) <= 100
        driver.check()

    run(never())


def test_who_is_cancelled_while_he_waits_for_a_database_leaves_nothing() -> None:
    async def cancelled() -> None:
        driver = FakeDriver()
        driver.hangs = True
        opening = asyncio.create_task(pool_over(driver, min=0, max=2).open(wait=10), name="opening")
        await asyncio.sleep(1)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        driver.check()

    run(cancelled())


def test_a_pool_that_is_not_open_yet_opens_nothing() -> None:
    async def early() -> None:
        driver = FakeDriver()
        pool = pool_over(driver, min=1, max=2)
        pool.resize(2, 3)
        pool.resume()
        with pytest.raises(PoolClosed, match="not open yet"):
            await pool.fetchval("SELECT 1")
        await asyncio.sleep(10)
        assert not driver.attempts
        async with pool:
            await asyncio.sleep(1)
            assert pool.stats().idle == 2
        driver.check()

    run(early())


def test_twenty_connections_open_side_by_side_and_an_idle_one_is_had_at_once() -> None:
    async def fill() -> None:
        loop, driver = asyncio.get_running_loop(), FakeDriver(connect_time=0.05)
        async with pool_over(driver, min=1, max=20) as pool, AsyncExitStack() as held:
            await asyncio.sleep(0.1)
            pool.resize(20, 20)
            began = loop.time()
            await held.enter_async_context(pool.connection())
            assert loop.time() == began
            await asyncio.sleep(0.06)
            assert pool.stats().total == 20
            assert pool.stats().connecting == 0

    run(fill())
