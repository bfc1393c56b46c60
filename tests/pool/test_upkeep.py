"""What has its time: heartbeats, old age, borrowers that do not come back, pauses and the end. On virtual
time."""

from __future__ import annotations

import asyncio
import logging
import re
import types
from collections.abc import Generator
from functools import partial
from typing import Any

import pytest
from plugins.virtual import VirtualLoop, run

from penstock_pool import ConnectionPool, PoolSettings, Server
from penstock_pool.errors import (
    CheckoutTimeout,
    CommitUnknown,
    ConnectionLost,
    HoldLimitExceeded,
    PoolClosed,
    Unreachable,
)
from penstock_pool.testing import FakeDriver


def pool_over(driver: FakeDriver, **chosen: Any) -> ConnectionPool:
    clock = asyncio.get_running_loop().time
    return ConnectionPool(
        Server(user="app"), PoolSettings(**chosen), driver=driver, clock=clock, chance=lambda: 0.5
    )


def test_idle_connections_that_died_are_found_and_replaced_before_anybody_asks() -> None:
    async def heartbeat() -> None:
        driver = FakeDriver()
        async with pool_over(driver, min=3, max=3, heartbeat=5) as pool:
            await asyncio.sleep(1)
            for session in driver.open_sessions:
                session.die()
            await asyncio.sleep(7)
            assert pool.stats().lost == 3
            assert [session.id for session in driver.open_sessions] == [4, 5, 6]
        driver.check()

    run(heartbeat())


def test_a_network_that_lost_everything_silently_is_found_too() -> None:
    async def silence() -> None:
        driver = FakeDriver()
        async with pool_over(driver, min=2, max=2, heartbeat=5, ping_timeout=1) as pool:
            await asyncio.sleep(1)
            for session in driver.open_sessions:
                session.die(silently=True)
            await asyncio.sleep(10)
            assert pool.stats().idle == 2
            assert await pool.fetchval("SELECT 1") == 1
        driver.check()

    run(silence())


def test_one_connection_that_is_found_dead_has_the_others_asked_before_anybody_gets_them() -> None:
    async def distrust() -> None:
        driver = FakeDriver()
        async with pool_over(driver, min=3, max=3, heartbeat=1000, ping_after=1000) as pool:
            await asyncio.sleep(1)
            for session in driver.open_sessions:
                session.die(silently=session is not pool._idle[-1])
            await pool.execute("SET @x = 1")
            await asyncio.sleep(2)
            assert pool.stats().lost == 3
        driver.check()

    run(distrust())


def test_who_waited_through_a_long_pause_is_served_once_a_connection_was_asked() -> None:
    async def pause() -> None:
        loop, driver = asyncio.get_running_loop(), FakeDriver()
        async with pool_over(driver, min=1, max=1, heartbeat=1000, ping_after=1, checkout_timeout=60) as pool:
            await asyncio.sleep(1)
            pool.pause()
            waiting = asyncio.create_task(pool.fetchval("SELECT 1"), name="waiting")
            await asyncio.sleep(30.3)
            pool.resume()
            resumed = loop.time()
            assert await waiting == 1
            assert loop.time() - resumed < 0.1
        driver.check()

    run(pause())


def test_no_connection_gets_older_than_its_lifetime_and_not_all_end_at_once() -> None:
    async def ageing() -> None:
        loop, driver = asyncio.get_running_loop(), FakeDriver()
        chances = iter([0.0, 0.5, 1.0] * 100)
        pool = ConnectionPool(
            Server(user="app"),
            PoolSettings(min=3, max=3, lifetime=100),
            driver=driver,
            clock=loop.time,
            chance=lambda: next(chances),
        )
        async with pool:
            await asyncio.sleep(1)
            assert sorted(session.ends_at for session in driver.open_sessions) == [90, 95, 100]
            await asyncio.sleep(93)
            assert len(driver.sessions) == 4
            await asyncio.sleep(8)
            assert len(driver.sessions) == 6
            assert pool.stats().idle == 3

    run(ageing())


def test_a_borrowed_connection_that_is_too_old_ends_when_it_comes_back() -> None:
    async def coming_back() -> None:
        driver = FakeDriver()
        async with pool_over(driver, min=1, max=1, lifetime=10, hold_warn=None) as pool:
            async with pool.connection() as connection:
                await asyncio.sleep(30)
                await connection.execute("SELECT 1")
            assert await pool.fetchval("SELECT 2") == 2
            assert len(driver.sessions) == 2

    run(coming_back())


def test_what_is_not_used_is_closed_down_to_min() -> None:
    async def spare() -> None:
        driver = FakeDriver()
        async with pool_over(driver, min=2, max=6, idle_timeout=60) as pool:
            await asyncio.gather(*(pool.fetchval("SELECT SLEEP(1)") for _ in range(6)))
            assert pool.stats().idle == 6
            await asyncio.sleep(50)
            assert pool.stats().idle == 6
            await asyncio.sleep(15)
            assert pool.stats().idle == 2
        driver.check()

    run(spare())


def test_a_loop_that_stood_still_for_five_seconds_loses_no_connection() -> None:
    async def stall() -> None:
        loop, driver = asyncio.get_running_loop(), FakeDriver(query_time=0.01)
        assert isinstance(loop, VirtualLoop)
        async with pool_over(driver, min=5, max=5, heartbeat=2, ping_timeout=0.5) as pool:
            for _ in range(10):
                await asyncio.sleep(0.7)
                loop.stall(5)
            await asyncio.sleep(1)
            assert pool.stats().idle == 5
            assert len(driver.sessions) == 5

    run(stall())


def test_time_in_which_the_loop_stood_still_is_nobodys_hold(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "penstock_pool")

    async def stall() -> None:
        loop, driver = asyncio.get_running_loop(), FakeDriver()
        assert isinstance(loop, VirtualLoop)
        chosen = {"min": 0, "max": 1, "hold_limit": 4, "hold_warn": None}
        async with pool_over(driver, **chosen) as pool, pool.connection() as connection:
            for _ in range(2):
                await asyncio.sleep(0.9)
                loop.stall(5)
            await asyncio.sleep(0.9)
            await connection.execute("INSERT")
            await asyncio.sleep(2)
            with pytest.raises(HoldLimitExceeded, match=r"held for 4\."):
                await connection.execute("INSERT")
        driver.check()

    run(stall())


def test_who_was_handed_a_connection_and_has_not_woken_up_holds_nothing_yet() -> None:
    async def hand_over() -> None:
        driver = FakeDriver()
        async with pool_over(driver, min=1, max=1, hold_limit=5, hold_warn=None) as pool:
            first = pool.connection()
            await first.__aenter__()
            waits = asyncio.create_task(pool.execute("INSERT"), name="waits")
            await asyncio.sleep(1)
            await first.__aexit__(None, None, None)
            pool._upkeep.look(pool._clock() + 10)
            await waits
            assert pool.stats().idle == 1
        driver.check()

    run(hand_over())


def test_who_holds_for_long_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    async def holding() -> None:
        async with pool_over(FakeDriver(), min=0, max=1, hold_warn=5) as pool:
            await report(pool)

    async def report(pool: ConnectionPool) -> None:
        async with pool.connection():
            await asks_somebody_else()

    async def asks_somebody_else() -> None:
        await old_fashioned()

    @types.coroutine
    def old_fashioned() -> Generator[Any, None, None]:
        yield from asyncio.sleep(60)

    with caplog.at_level(logging.WARNING, "penstock_pool"):
        run(holding())
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 1
    assert "held for 5." in told[0]
    names = ["sleep", "old_fashioned", "asks_somebody_else", "report", "holding"]
    assert re.findall(r"\.py:\d+ (\w+)", told[0]) == names


def test_beyond_the_limit_the_connection_is_taken_away_and_its_statement_killed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.CRITICAL, "penstock_pool")

    async def too_long() -> None:
        driver = FakeDriver()
        async with pool_over(driver, min=0, max=1, hold_limit=5, hold_warn=None) as pool:
            async with pool.connection() as connection:
                with pytest.raises(HoldLimitExceeded):
                    await connection.execute("SELECT SLEEP(600)")
                with pytest.raises(HoldLimitExceeded):
                    await connection.execute("SELECT 1")
                assert await pool.fetchval("SELECT 1") == 1
            assert driver.served == 1
        driver.check()

    run(too_long())


def test_a_statement_is_killed_over_a_new_connection_when_there_is_room_for_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.CRITICAL, "penstock_pool")

    async def room() -> None:
        driver = FakeDriver()
        async with pool_over(driver, min=0, max=3, hold_warn=None) as pool, pool.connection():
            asked = asyncio.create_task(pool.execute("SELECT SLEEP(600)"), name="asked")
            await asyncio.sleep(1)
            asked.cancel()
            await asyncio.sleep(0.1)
            assert (pool.stats().killed, pool.stats().idle) == (1, 1)
        driver.check()

    run(room())


def test_a_kill_gets_through_although_the_idle_connection_is_dead_in_silence(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.CRITICAL, "penstock_pool")

    async def silence() -> None:
        driver = FakeDriver(connect_time=0.1)
        async with pool_over(driver, min=2, max=2, heartbeat=1000, kill_timeout=2) as pool:
            await asyncio.sleep(1)
            asked = asyncio.create_task(pool.execute("SELECT SLEEP(600)"), name="asked")
            await asyncio.sleep(0.1)
            pool._idle[0].die(silently=True)  # type: ignore[attr-defined]
            asked.cancel()
            await asyncio.sleep(3)
            assert pool.stats().killed == 1
        driver.check()

    run(silence())


@pytest.mark.parametrize("way", ["idle", "held", "opened for it"])
def test_a_kill_never_meets_a_session_with_that_number_on_another_server(
    way: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "penstock_pool")

    async def balanced() -> None:
        driver = FakeDriver()
        pool = pool_over(driver, min=0, max=1 if "opened" in way else 2, hold_warn=None, heartbeat=1000)
        await pool.open()
        cancelled = asyncio.create_task(pool.execute("SELECT SLEEP(600)"), name="cancelled")
        await asyncio.sleep(1)
        driver.leads_to = "another server"
        innocent = await driver.open()
        asked = asyncio.create_task(innocent.query("SELECT SLEEP(60)"), name="asked")
        other = pool.connection()
        if "opened" not in way:
            await other.__aenter__()
        if way == "idle":
            await other.__aexit__(None, None, None)
        await asyncio.sleep(1)
        cancelled.cancel()
        await asyncio.sleep(0.15)
        await other.__aexit__(None, None, None)
        await asyncio.sleep(30)
        assert innocent.id == driver.sessions[0].id
        assert pool.stats().killed == 0
        assert driver.sessions[0].closed
        await asked  # is not interrupted
        await innocent.quit()
        driver.sessions[0].die()
        await pool.close()
        driver.check()

    run(balanced())


def test_a_connect_for_a_kill_counts_when_it_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    async def full() -> None:
        driver = FakeDriver(most=1)
        async with pool_over(driver, min=0, max=1, hold_warn=None) as pool:
            asked = asyncio.create_task(pool.execute("SELECT SLEEP(9)"), name="asked")
            await asyncio.sleep(1)
            asked.cancel()
            await asyncio.sleep(1)
            assert (pool.stats().failed, pool.stats().killed) == (1, 0)
        driver.check()

    run(full())
    assert "not killed: ServerFull" in caplog.text


def test_during_a_pause_they_wait_to_their_deadline_even_through_an_outage() -> None:
    async def failover() -> None:
        driver = FakeDriver()
        async with pool_over(driver, min=1, max=1, checkout_timeout=60) as pool:
            async with pool.connection() as connection:
                pool.pause()
                patient = asyncio.create_task(pool.fetchval("SELECT 1"), name="patient")
                driver.fails = partial(Unreachable, "down")
                driver.sessions[0].die()
                with pytest.raises(ConnectionLost):
                    await connection.execute("INSERT")
            await asyncio.sleep(10)
            assert pool.stats().down
            with pytest.raises(CheckoutTimeout):
                await pool.connection(timeout=1).__aenter__()
            driver.fails = None
            await asyncio.sleep(1)
            assert pool.stats().parked == 1
            pool.resume()
            assert await patient == 1
        driver.check()

    run(failover())


def test_a_checkout_that_is_too_late_tells_of_every_connection_and_of_a_pause() -> None:
    async def late() -> None:
        driver = FakeDriver(farewell_time=10)
        async with pool_over(driver, min=0, max=4, checkout_timeout=1, lifetime=1000, hold_warn=None) as pool:
            connections = [pool.connection() for _ in range(4)]
            for connection in connections:
                await connection.__aenter__()
            driver.query_time = 5
            await connections[0].__aexit__(None, None, None)
            pool._supply.end(pool._idle.pop())
            await connections[1].__aexit__(None, None, None)
            pool._supply.tend(pool._idle.pop())
            await connections[2].__aexit__(None, None, None)
            pool.pause()
            told = "busy 1, connecting 0, tending 1, ending 1, parked 1, waiting 0, at most 4, paused)"
            with pytest.raises(CheckoutTimeout, match=re.escape(f"(total 4, idle 0, {told}")):
                await pool.connection(timeout=0).__aenter__()
            await connections[3].__aexit__(None, None, None)
        driver.check()

    run(late())


def test_a_checkout_that_cannot_wait_leaves_nobody_in_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    async def cannot() -> None:
        driver = FakeDriver()
        async with pool_over(driver, min=0, max=1) as pool:
            with monkeypatch.context() as broken:
                broken.setattr(pool._supply, "_start", no_task)
                with pytest.raises(MemoryError):
                    await pool.fetchval("SELECT 1")
            assert pool.stats().waiting == 0
            assert await pool.fetchval("SELECT 1") == 1
        driver.check()

    def no_task(work: Any, what: str) -> None:
        work.close()
        raise MemoryError

    run(cannot())


def test_after_a_short_pause_nobody_waits_for_a_ping() -> None:
    async def moment() -> None:
        loop, driver = asyncio.get_running_loop(), FakeDriver(query_time=0.2)
        async with pool_over(driver, min=2, max=2) as pool:
            await asyncio.sleep(0.1)
            pool.pause()
            waits = asyncio.create_task(pool.connection().__aenter__(), name="waits")
            await asyncio.sleep(0.1)
            began = loop.time()
            pool.resume()
            connection = await waits
            assert loop.time() == began
            await connection.__aexit__(None, None, None)
        driver.check()

    run(moment())


def test_borrowers_have_their_whole_grace_whatever_came_back_before() -> None:
    async def grace() -> None:
        loop, driver = asyncio.get_running_loop(), FakeDriver()
        pool = pool_over(driver, min=1, max=1)
        await pool.open()
        await pool.execute("SET @x = 'dirty'")

        async def borrower() -> None:
            async with pool.connection() as connection:
                await asyncio.sleep(2)
                await connection.execute("INSERT")

        borrowed = asyncio.create_task(borrower(), name="borrower")
        await asyncio.sleep(1)
        began = loop.time()
        await pool.close(grace=5)
        await borrowed
        assert loop.time() - began == pytest.approx(1.0)
        driver.check()

    run(grace())


def test_from_the_moment_at_which_a_pool_closes_nothing_is_given_out() -> None:
    async def closes() -> None:
        driver = FakeDriver()
        pool = pool_over(driver, min=3, max=3)
        await pool.open()
        await asyncio.sleep(0.5)
        held = pool.connection()
        await held.__aenter__()
        closing = asyncio.create_task(pool.close(grace=30), name="closing")
        for turn in range(10):
            await asyncio.sleep(0)
            if pool._closed:
                with pytest.raises(PoolClosed):
                    await pool.fetchval("SELECT 1")
            if turn == 3:
                await held.__aexit__(None, None, None)
        assert pool._closed
        await closing
        driver.check()

    run(closes())


def test_a_pool_waits_for_no_loan_that_was_taken_away() -> None:
    async def taken() -> None:
        loop, driver = asyncio.get_running_loop(), FakeDriver()
        pool = pool_over(driver, min=1, max=1)
        await pool.open()
        async with pool.connection() as connection:
            closing = asyncio.create_task(pool.close(grace=30), name="closing")
            await asyncio.sleep(1)
            assert connection._session is not None
            pool._seize(connection._session, ConnectionLost("a stream was left early"))
            await closing
        assert loop.time() < 2
        driver.check()

    run(taken())


def test_a_pool_that_closes_while_a_statement_is_killed_leaves_no_socket(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.CRITICAL, "penstock_pool")

    async def close_while(seconds: float) -> None:
        driver = FakeDriver(query_time=0.1)
        pool = pool_over(driver, min=2, max=2, hold_limit=1, hold_warn=None)
        await pool.open()
        async with asyncio.TaskGroup() as both:
            both.create_task(hold(pool), name="holder")
            await asyncio.sleep(seconds)
            await pool.close(grace=0)
        driver.check()

    async def hold(pool: ConnectionPool) -> None:
        with pytest.raises(ConnectionLost):
            await pool.execute("SELECT SLEEP(600)")

    for step in range(40):
        run(close_while(1.0 + step * 0.02))


@pytest.mark.parametrize("kills", [True, False], ids=["the server kills it", "the server is silent"])
@pytest.mark.parametrize("by", ["the end of the pool", "the limit of its hold"])
def test_a_commit_that_was_sent_may_have_been_done_whoever_takes_its_connection_away(
    by: str, kills: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "penstock_pool")

    async def commit() -> None:
        driver = FakeDriver()
        pool = pool_over(driver, min=0, max=1, hold_limit=5 if "hold" in by else None, hold_warn=None)
        await pool.open()
        committing = asyncio.create_task(commits(driver, pool), name="committing")
        await asyncio.sleep(1)
        driver.sessions[0].silent = not kills
        if "pool" in by:
            await pool.close(grace=0)
        with pytest.raises(CommitUnknown, match=r"the outcome of COMMIT is not known: pool pool"):
            await committing
        await pool.close()
        driver.check()

    async def commits(driver: FakeDriver, pool: ConnectionPool) -> None:
        async with pool.transaction() as connection:
            await connection.execute("INSERT")
            driver.query_time = 600

    run(commit())


@pytest.mark.parametrize("statement", ["INSERT", "SELECT 1"])
def test_a_statement_that_was_sent_is_not_told_as_one_that_was_not_when_the_pool_closes(
    statement: str,
) -> None:
    async def close() -> None:
        driver = FakeDriver(query_time=600)
        pool = pool_over(driver, min=0, max=2)
        await pool.open()
        sent = asyncio.create_task(pool.execute(statement), name="sent")
        between = pool.connection()
        await between.__aenter__()
        await asyncio.sleep(1)
        await pool.close(grace=1)
        with pytest.raises(ConnectionLost, match="took the connection back"):
            await sent
        with pytest.raises(PoolClosed, match="took the connection back"):
            await between.execute(statement)
        driver.check()

    run(close())
