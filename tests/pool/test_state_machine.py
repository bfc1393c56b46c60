"""Whatever happens to a pool, and in whatever order: its promises are checked after each step.

One pool over a fake database, on virtual time. Places are disjoint and never more than `max`; nobody waits
while there is a connection for him or one could be opened; first come, first served; a cancelled checkout
changes nothing; nothing of a session reaches the next borrower; what was opened is closed once.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from plugins.virtual import VirtualLoop

from penstock_pool import ConnectionPool, Limit, PoolSettings, Server
from penstock_pool.connection import Connection
from penstock_pool.errors import (
    AccessRefused,
    CheckoutTimeout,
    ConnectFailed,
    DatabaseDown,
    PoolError,
    PoolUnavailable,
    QueueFull,
    Unreachable,
)
from penstock_pool.stats import LimitStats
from penstock_pool.testing import FakeDriver, FakeServerError, Ok, ServerError
from penstock_pool.testing.fake_driver import FakeSession

LATE = 0.06
"""Seconds that a time-out may come after a loop that stood still."""

STATEMENTS = ("SELECT 1", "INSERT", "SET @x = 'mine'", "TEMPORARY", "BEGIN", "COMMIT", "ROLLBACK", "BAD")
ANSWERS: dict[str, Any] = {
    "INSERT": Ok(1),
    "TEMPORARY": Ok(changes_session=True),
    "BAD": ServerError(1064),
}


class WatchedDriver(FakeDriver):
    """Looks at the pool at the moment at which a connection is opened."""

    def __init__(self, **times: float) -> None:
        super().__init__(ANSWERS, **times)
        self.pool: ConnectionPool
        self.wrong: list[str] = []

    async def open(self) -> FakeSession:
        slots, supply = self.pool._slots, self.pool._supply
        if asyncio.current_task() in slots.connecting:  # else a statement is killed while all are held
            self.must(slots.total <= self.pool.settings.max, "opened beyond max")
            wanted = slots.total - len(slots.ending)
            self.must(wanted <= supply.ceiling.value, "opened beyond what the server takes")
            alone = len(slots.connecting) == 1
            self.must(alone or not supply.breaker.down, "several attempts at one that is down")
        if self.attempts[-100:].count(self.pool._clock()) == 100:
            self.must(False, "connects without a pause")
            self.hangs = True
        return await super().open()

    def must(self, holds: bool, what: str) -> None:
        """What does not hold is told by an invariant: an error would be caught by the pool here."""
        if not holds:
            self.wrong.append(what)


@dataclass(eq=False)
class Asker:
    """One checkout, from its first step to the return."""

    connection: Connection
    order: int
    deadline: float
    limit: str | None = None
    task: asyncio.Task[None] | None = None
    statement: asyncio.Task[Any] | None = None


@dataclass
class World:
    """The pool, its database, and who uses them."""

    loop: VirtualLoop
    driver: WatchedDriver
    pool: ConnectionPool
    waiting: list[Asker] = field(default_factory=list)
    holding: list[Asker] = field(default_factory=list)
    served: list[int] = field(default_factory=list)
    asked: int = 0
    stood_until: float = 0.0
    """When the loop stood still for the last time."""
    closing: asyncio.Task[None] | None = None


class Machine(RuleBasedStateMachine):
    """See the module."""

    @initialize(
        least=st.integers(0, 3),
        room=st.integers(0, 3),
        connect_time=st.sampled_from([0.0, 0.02, 0.3]),
        query_time=st.sampled_from([0.0, 0.01]),
        farewell_time=st.sampled_from([0.0, 0.05]),
        queue=st.sampled_from([2, 100]),
        hold_limit=st.sampled_from([None, None, 8.0]),
        chance=st.sampled_from([0.0, 0.5, 1.0]),
        autocreate=st.booleans(),
    )
    def open(
        self,
        least: int,
        room: int,
        connect_time: float,
        query_time: float,
        farewell_time: float,
        queue: int,
        hold_limit: float | None,
        chance: float,
        autocreate: bool,
    ) -> None:
        loop = VirtualLoop()
        driver = WatchedDriver(connect_time=connect_time, query_time=query_time, farewell_time=farewell_time)
        chosen = PoolSettings(
            min=least,
            max=max(1, least + room),
            queue=queue,
            hold_limit=hold_limit,
            idle_timeout=20.0,
            lifetime=60.0,
            full_retry=5.0,
            limits={"few": Limit(concurrency=1, queue=2)},
        )
        pool = ConnectionPool(
            Server(user="app"), chosen, driver=driver, clock=loop.time, chance=lambda: chance
        )
        driver.pool = pool
        self.w = World(loop, driver, pool)
        self.do(pool.open)
        if autocreate:
            loop.advance(1.0)

    # -- who asks

    @rule(timeout=st.sampled_from([None, None, 0.0, 0.05, 1.0, 20.0]), count=st.sampled_from([1, 1, 2, 5]))
    def ask(self, timeout: float | None, count: int) -> None:
        for _ in range(count):
            self.begin(timeout)
        self.w.loop.settle()

    @rule(timeout=st.sampled_from([1.0, 20.0]), count=st.sampled_from([2, 3, 4]))
    def ask_for_few(self, timeout: float, count: int) -> None:
        for _ in range(count):
            self.begin(timeout, "few")
        self.w.loop.settle()

    def begin(self, timeout: float | None, limit: str | None = None) -> Asker:
        w = self.w
        w.asked += 1
        lasts = w.pool.settings.checkout_timeout if timeout is None else timeout
        connection = w.pool.connection(timeout=timeout, limit=limit)
        asker = Asker(connection, w.asked, w.loop.time() + lasts, limit)
        w.waiting.append(asker)
        asker.task = w.loop.create_task(self.check_out(asker), name=f"asker {asker.order}")
        return asker

    async def check_out(self, asker: Asker) -> None:
        w = self.w
        try:
            await asker.connection.__aenter__()
        except asyncio.CancelledError:
            raise
        except PoolUnavailable as error:
            self.was_refused(asker, error)
        else:
            self.was_served(asker)
        finally:
            w.waiting.remove(asker)

    def was_served(self, asker: Asker) -> None:
        w = self.w
        session = asker.connection._session
        assert isinstance(session, FakeSession)
        asker.task = None
        w.holding.append(asker)
        w.served.append(asker.order)
        must = w.driver.must
        must(not w.pool._slots.paused, "served while paused")
        must(not w.pool._closed, "served by a closed pool")
        ahead = [waiter for waiter in w.pool._waiters.values() if self.order_of(waiter.task) < asker.order]
        must(not ahead, "somebody who came earlier waits still")
        must(not session.variables, "something was left in the session")
        must(not session.in_transaction, "a transaction was left open")
        must(not (session.lost or session.running or session.closed), "a session of no use")
        held = [other.connection._session for other in w.holding]
        must(held.count(session) == 1, "two have one connection")

    def order_of(self, task: asyncio.Task[Any] | None) -> float:
        """Who waited for a limit first came later to the pool than it seems."""
        orders = [asker.order for asker in self.w.waiting if asker.task is task and asker.limit is None]
        return orders[0] if orders else float("inf")

    def was_refused(self, asker: Asker, error: PoolUnavailable) -> None:
        w = self.w
        must = w.driver.must
        if isinstance(error, CheckoutTimeout):
            must(w.loop.time() >= asker.deadline, "sent away before the time")
        elif isinstance(error, DatabaseDown):
            must(w.pool._supply.breaker.down, "told of an outage that there is not")
            must(isinstance(error.__cause__, ConnectFailed), "an outage without a cause")
        elif isinstance(error, QueueFull):
            full = len(w.pool._waiters) >= w.pool.settings.queue
            must(full or (asker.limit is not None and self.few.waiting >= 2), "the queue was not full")
        else:
            must(bool(w.pool._closed), repr(error))

    @precondition(lambda self: self.w.waiting)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        asker = data.draw(st.sampled_from(self.w.waiting))
        assert asker.task is not None
        asker.task.cancel()
        self.w.loop.settle()

    # -- who has one

    @precondition(lambda self: self.w.holding)
    @rule(data=st.data(), leaves=st.integers(0, 2))
    def give_back(self, data: st.DataObject, leaves: int) -> None:
        """And in the same instant some of the first who wait leave: perhaps with what they were given."""
        asker = data.draw(st.sampled_from(self.w.holding))
        self.do(partial(self.give_and_leave, asker, leaves))

    async def give_and_leave(self, asker: Asker, leaves: int) -> None:
        first = self.w.waiting[:leaves]
        await self.return_of(asker)
        for other in first:
            if other.task is not None:
                other.task.cancel()

    async def return_of(self, asker: Asker) -> None:
        if asker.statement is not None:
            asker.statement.cancel()
            await asyncio.wait({asker.statement})
        self.w.holding.remove(asker)
        await asker.connection.__aexit__(None, None, None)

    @precondition(lambda self: self.idlers())
    @rule(data=st.data(), sql=st.sampled_from(STATEMENTS), long=st.sampled_from([False, False, True]))
    def use(self, data: st.DataObject, sql: str, long: bool) -> None:
        asker = data.draw(st.sampled_from(self.idlers()))
        text = "SELECT SLEEP(3)" if long else sql
        asker.statement = self.w.loop.create_task(self.ask_for(asker, text), name="statement")
        self.w.loop.settle()

    def idlers(self) -> list[Asker]:
        return [asker for asker in self.w.holding if asker.statement is None]

    async def ask_for(self, asker: Asker, sql: str) -> None:
        try:
            await asker.connection.execute(sql)
        except (FakeServerError, PoolError):
            pass
        finally:
            asker.statement = None

    @precondition(lambda self: self.idlers())
    @rule(data=st.data(), sql=st.sampled_from(STATEMENTS), fails=st.booleans())
    def transact(self, data: st.DataObject, sql: str, fails: bool) -> None:
        asker = data.draw(st.sampled_from(self.idlers()))
        asker.statement = self.w.loop.create_task(self.inside_one(asker, sql, fails), name="transaction")
        self.w.loop.settle()

    async def inside_one(self, asker: Asker, sql: str, fails: bool) -> None:
        try:
            async with asker.connection.transaction(), asker.connection.transaction():
                await asker.connection.execute(sql)
                if fails:
                    raise LookupError
        except (FakeServerError, PoolError, LookupError):
            pass
        finally:
            asker.statement = None

    @precondition(lambda self: self.w.holding)
    @rule(data=st.data())
    def cut_short(self, data: st.DataObject) -> None:
        """A statement is cancelled; who asked keeps the connection."""
        asker = data.draw(st.sampled_from(self.w.holding))
        if asker.statement is not None:
            asker.statement.cancel()
        self.w.loop.settle()

    # -- what the database does

    @precondition(lambda self: self.w.driver.open_sessions)
    @rule(data=st.data(), silently=st.booleans(), all_of_them=st.sampled_from([False, False, True]))
    def die(self, data: st.DataObject, silently: bool, all_of_them: bool) -> None:
        there = self.w.driver.open_sessions
        for session in there if all_of_them else [data.draw(st.sampled_from(there))]:
            session.die(silently=silently)
        self.w.loop.settle()

    @rule(error=st.sampled_from([Unreachable, AccessRefused, None, None]), kills=st.booleans())
    def fail(self, error: type[ConnectFailed] | None, kills: bool) -> None:
        self.w.driver.fails = None if error is None else partial(error, "told to")
        if error is not None and kills:
            for session in self.w.driver.open_sessions:
                session.die()
        self.w.loop.settle()

    @rule(hangs=st.booleans())
    def hang(self, hangs: bool) -> None:
        self.w.driver.hangs = hangs

    @rule(most=st.sampled_from([None, None, 0, 1, 2, 4]))
    def limit(self, most: int | None) -> None:
        self.w.driver.most = most

    # -- who runs the pool

    @rule(least=st.integers(0, 3), room=st.integers(0, 3))
    def resize(self, least: int, room: int) -> None:
        self.do(lambda: self.w.pool.resize(least, max(1, least + room)))

    @rule(pauses=st.booleans())
    def pause(self, pauses: bool) -> None:
        self.do(self.w.pool.pause if pauses else self.w.pool.resume)

    @precondition(lambda self: self.w.closing is None and self.w.asked > 5)
    @rule(grace=st.sampled_from([0.0, 0.0, 1.0, 30.0]))
    def close(self, grace: float) -> None:
        self.w.closing = self.w.loop.create_task(self.w.pool.close(grace), name="closing")
        self.w.loop.settle()

    # -- time

    @rule(seconds=st.sampled_from([0.001, 0.005, 0.03, 0.11, 0.3, 1.2, 3.1, 6.0, 25.0, 70.0]))
    def pass_time(self, seconds: float) -> None:
        self.w.loop.advance(seconds)
        self.w.loop.settle()
        if seconds > 3:
            self.check_age()

    def check_age(self) -> None:
        now, slots, chosen = self.w.loop.time(), self.w.pool._slots, self.w.pool.settings
        for session in slots.idle:
            assert now < session.ends_at + 1.5, "older than its lifetime"
        spare = [session for session in slots.idle if now - session.since > chosen.idle_timeout + 10]
        assert not spare or slots.open <= chosen.min, "idle for too long"

    @rule(seconds=st.sampled_from([0.05, 0.2, 5.0]))
    def stall(self, seconds: float) -> None:
        self.w.loop.stall(seconds)
        self.w.stood_until = self.w.loop.time()
        self.w.loop.settle()

    @precondition(lambda self: self.w.closing is None)
    @rule()
    def calm(self) -> None:
        """The database is well again and everybody gives back: after a while all is as it should be."""
        w = self.w
        w.driver.fails, w.driver.hangs, w.driver.most = None, False, None
        self.do(w.pool.resume)
        for _ in range(8):
            for asker in list(w.holding):
                self.do(partial(self.return_of, asker))
            w.loop.advance(6.0)
        assert not w.waiting or w.holding, "they wait, and nobody holds anything"
        assert w.pool._slots.total >= w.pool.settings.min, "fewer than min"
        assert w.pool._supply.ceiling.value == w.pool.settings.max, "the ceiling stays low"
        if not w.holding:
            served = self.begin(1.0)
            w.loop.advance(1.5)
            assert served in w.holding, "not served by a database that is well"

    # -- what must hold at any time

    @invariant()
    def places_are_disjoint_and_true(self) -> None:
        w, slots = self.w, self.w.pool._slots
        places = [*slots.idle, *slots.parked, *slots.busy, *slots.tending, *slots.ending]
        twice = [session.id for session, count in Counter(places).items() if count > 1]
        assert not twice, f"in two places: {twice}"
        held = {asker.connection._session for asker in w.holding}
        borrowed = {session for session, task in slots.busy.items() if task is not None}
        assert borrowed == held - {None}, "busy is not what is held"
        beyond = set(w.driver.open_sessions) - set(places)
        assert len(beyond) <= 1, f"sockets of nobody: {[session.id for session in beyond]}"
        spare = slots.idle or slots.parked
        assert not spare or slots.total - len(slots.ending) <= w.pool.settings.max, "more than max are kept"
        closed = [session.id for session in set(places) - set(slots.ending) if session.closed]  # type: ignore[attr-defined]
        assert not (set(closed) - {session.id for session in slots.busy}), f"closed, and offered: {closed}"

    @invariant()
    def nothing_went_wrong_inside(self) -> None:
        assert not self.w.driver.faults, self.w.driver.faults
        assert not self.w.driver.wrong, self.w.driver.wrong

    @invariant()
    def nobody_waits_in_vain(self) -> None:
        w, slots, supply = self.w, self.w.pool._slots, self.w.pool._supply
        waiting = len(slots.line)
        if not waiting or w.pool._slots.paused:
            return
        now, quiet = w.loop.time(), w.pool.settings.ping_after
        proven = [s for s in slots.idle if now - max(s.since, s.proven_at) < quiet]
        assert not proven, "a connection is idle and somebody waits"
        asked = sum(not session.slow for session in slots.tending)
        assert asked >= waiting or not slots.idle, "a connection could be asked whether it is alive"
        missing = waiting - asked - len(slots.connecting)
        if missing > 0 and slots.total < supply.ceiling.value:
            held_back = not supply.breaker.allows(1, len(slots.connecting), now)
            assert held_back, "a connection could be opened"
            assert slots.connecting or supply._retry, "nothing will ever be opened"

    @invariant()
    def limits_are_kept(self) -> None:
        holding = [asker for asker in self.w.holding if asker.limit is not None]
        # Of the others the connection was taken away, with its place; or is exchanged, in its place.
        inside = [asker for asker in holding if asker.connection._session is not None]
        assert len(inside) <= self.few.in_use <= 1, "more than a limit allows, or a place that is nobody's"
        waiting = any(asker.limit is not None for asker in self.w.waiting)
        assert waiting or self.few.in_use <= len(holding), "a place in a limit is lost"
        assert self.few.in_use or not self.few.waiting, "they wait for a limit that nobody uses"

    @property
    def few(self) -> LimitStats:
        return self.w.pool.stats().limits["few"]

    @invariant()
    def nobody_waits_for_a_pool_that_closes(self) -> None:
        w = self.w
        assert w.closing is None or not w.waiting, "waits for a closed pool"
        if w.closing is not None and w.closing.done():
            w.closing.result()
            assert not w.driver.open_sessions, "closed, with a socket open"
            assert not w.pool._slots.total, "closed, and not empty"
            assert not w.pool._supply._tasks, "closed, and at work"

    @invariant()
    def nobody_waits_too_long(self) -> None:
        now = self.w.loop.time()
        for asker in self.w.waiting:
            assert now <= max(asker.deadline, self.w.stood_until) + LATE, "waits past the deadline"

    def teardown(self) -> None:
        if not hasattr(self, "w"):
            return
        w = self.w
        try:
            began = w.loop.time()
            w.loop.run_until_complete(w.closing or w.pool.close(grace=1.0))
            assert w.loop.time() - began < (12.0 if w.closing is None else 42.0), "closing took too long"
            assert not w.driver.wrong, w.driver.wrong
            w.driver.check()
            w.loop.settle()
            assert not w.waiting, "waits for a closed pool"
            assert not w.pool._supply._tasks
            self.end_statements()
        finally:
            w.loop.close()

    def end_statements(self) -> None:
        for asker in list(self.w.holding):
            self.do(partial(self.return_of, asker))
        left = [task.get_name() for task in asyncio.all_tasks(self.w.loop) if not task.done()]
        assert not left, left

    def do(self, act: Callable[[], Any]) -> None:
        """Inside the loop, and what follows from it at once."""

        async def acts() -> None:
            done = act()
            if done is not None:
                await done

        self.w.loop.run_until_complete(acts())
        self.w.loop.settle()


@pytest.fixture(autouse=True)
def quietly(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "penstock_pool")


PROFILE = settings(
    max_examples=300,
    stateful_step_count=60,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
TestMachine = Machine.TestCase
TestMachine.settings = PROFILE
