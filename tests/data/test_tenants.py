"""Who is let in, and when: never more than there is room for, and nobody is kept out by the crowd of another
tenant; on virtual time."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from plugins.virtual import VirtualLoop, run

from penstock_data.errors import Busy, Unavailable
from penstock_data.tenants import Turns

FOREVER = 10.0**6


def turns(most: int = 2, per_tenant: int = 10, queue: int = 100) -> Turns:
    clock = asyncio.get_running_loop().time
    return Turns(lambda: most, per_tenant=per_tenant, queue=queue, clock=clock)


async def waits(by: Turns, tenant: str, deadline: float = FOREVER) -> asyncio.Task[None]:
    """A request that is in line when this returns."""
    assert not by.enter(tenant)
    task = asyncio.create_task(by.wait(tenant, deadline))
    await asyncio.sleep(0)
    return task


def is_empty(by: Turns) -> bool:
    return not (by._began or by._of or by._lines or by._next or by._waiting)


def test_who_finds_room_is_in_at_once_and_leaves_nothing() -> None:
    async def alone() -> None:
        by = turns(2)
        assert by.enter("a")
        assert by.enter("b")
        assert not by.enter("a")
        assert (by.stats().running, by.stats().tenants) == (2, 2)
        by.leave("a")
        by.leave("b")
        assert is_empty(by)

    run(alone())


def test_a_tenant_has_no_more_under_way_than_it_may_and_hinders_nobody() -> None:
    async def greedy() -> None:
        by = turns(10, per_tenant=2)
        assert by.enter("a")
        assert by.enter("a")
        waiting = await waits(by, "a")
        assert by.enter("b")
        by.leave("b")
        assert not waiting.done()
        by.leave("a")
        await waiting
        assert by.stats().running == 2

    run(greedy())


def test_tenants_take_turns_and_each_keeps_its_order() -> None:
    async def in_turn() -> None:
        by, order = turns(1), []
        assert by.enter("x")
        crowd = ["a1", "a2", "a3", "b1", "c1", "c2"]
        tasks = {name: await waits(by, name[0]) for name in crowd}
        inside = "x"
        while not all(task.done() for task in tasks.values()):
            by.leave(inside)
            await asyncio.sleep(0)
            (name,) = [name for name, task in tasks.items() if task.done() and name not in order]
            order.append(name)
            inside = name[0]
        by.leave(inside)
        assert order == ["a1", "b1", "c1", "a2", "c2", "a3"]
        assert is_empty(by)

    run(in_turn())


def test_who_comes_anew_does_not_overtake_those_who_wait() -> None:
    async def polite() -> None:
        by = turns(1)
        assert by.enter("a")
        first = await waits(by, "a")
        by.leave("a")
        assert not by.enter("b")
        await first

    run(polite())


def test_a_queue_that_is_full_refuses_and_says_how_long_it_would_be() -> None:
    async def full() -> None:
        by = turns(2, per_tenant=2, queue=2)
        for _ in range(10):
            assert by.enter("a")
            await asyncio.sleep(4)
            by.leave("a")
        assert by.enter("a")
        assert by.enter("a")
        tasks = [await waits(by, "a") for _ in range(2)]
        with pytest.raises(Busy, match="2 requests of your tenant are under way and 2 wait") as raised:
            await by.wait("a", FOREVER)
        assert raised.value.more == {"position": 3, "expected_wait": 6.0}
        assert raised.value.headers == {"Retry-After": "6"}
        assert by.stats().refused == 1
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert by.stats().waiting == 0

    run(full())


def test_what_is_expected_follows_the_crowd_and_a_database_that_hangs() -> None:
    async def crowd() -> None:
        by = turns(1, per_tenant=10, queue=1)
        assert by.enter("x")
        await asyncio.sleep(1)
        by.leave("x")
        assert by.enter("x")
        tasks = [await waits(by, tenant) for tenant in "abcd"]
        with pytest.raises(Busy) as raised:
            await by.wait("a", FOREVER)
        assert raised.value.more["expected_wait"] == 5.0
        await asyncio.sleep(100)
        with pytest.raises(Busy) as raised:
            await by.wait("a", FOREVER)
        assert raised.value.more["expected_wait"] == 500.0
        for task in tasks:
            task.cancel()

    run(crowd())


def test_at_the_deadline_it_is_said_whose_fault_it_is() -> None:
    async def late() -> None:
        by, loop = turns(2, per_tenant=1), asyncio.get_running_loop()
        assert by.enter("a")
        own = await waits(by, "a", deadline=3.0)
        assert by.enter("b")
        others = await waits(by, "c", deadline=5.0)
        with pytest.raises(Busy, match="of your tenant are under way") as raised:
            await own
        assert (loop.time(), raised.value.more["position"]) == (3.0, 1)
        with pytest.raises(Unavailable, match="no connection was free in time"):
            await others
        assert (loop.time(), by.stats().late) == (5.0, 2)
        by.leave("a")
        by.leave("b")
        assert is_empty(by)

    run(late())


def test_a_deadline_that_is_over_is_told_and_room_wins_over_it() -> None:
    async def over() -> None:
        by = turns(1)
        await by.wait("a", -1.0)
        with pytest.raises(Unavailable):
            await by.wait("b", -1.0)
        by.leave("a")
        assert is_empty(by)

    run(over())


def test_no_queue_at_all_refuses_at_once() -> None:
    async def none() -> None:
        by = turns(1, queue=0)
        assert by.enter("a")
        with pytest.raises(Busy) as raised:
            await by.wait("a", FOREVER)
        assert raised.value.more["position"] == 1

    run(none())


def test_a_turn_that_comes_while_one_leaves_is_the_next_ones() -> None:
    async def leaves() -> None:
        by = turns(1)
        assert by.enter("a")
        first, second = await waits(by, "a"), await waits(by, "b")
        by.leave("a")
        first.cancel()
        await second
        assert first.cancelled()
        by.leave("b")
        assert is_empty(by)

    run(leaves())


def test_a_turn_passes_over_one_that_was_just_cancelled_and_his_tenant_keeps_its_place() -> None:
    async def passed_over() -> None:
        by = turns(1)
        assert by.enter("x")
        first, same, other = await waits(by, "a"), await waits(by, "a"), await waits(by, "b")
        first.cancel()
        by.leave("x")
        await same
        assert not other.done()
        by.leave("a")
        await other
        by.leave("b")
        assert is_empty(by)

    run(passed_over())


def test_room_that_is_new_is_given_away_when_it_is_told() -> None:
    async def grows() -> None:
        most = 0
        by = Turns(lambda: most, per_tenant=5, queue=5, clock=asyncio.get_running_loop().time)
        tasks = [await waits(by, tenant) for tenant in "abc"]
        most = 2
        by.more()
        await asyncio.gather(*tasks[:2])
        assert not tasks[2].done()
        most = 0
        by.leave("a")
        by.leave("b")
        most = 1
        assert not by.enter("d")
        late = asyncio.create_task(by.wait("d", FOREVER))
        await tasks[2]
        by.leave("c")
        await late

    run(grows())


def test_many_tenants_leave_nothing_behind() -> None:
    async def many() -> None:
        by = turns(3)
        for number in range(1000):
            assert by.enter(f"tenant {number}")
            by.leave(f"tenant {number}")
        assert is_empty(by)

    run(many())


# -- whatever happens, in whatever order


@dataclass(eq=False)
class Request:
    """One request of a tenant, from its arrival on."""

    tenant: str
    done: asyncio.Future[None]
    task: asyncio.Task[None] | None = None
    inside: bool = False
    ended: bool = False
    """Cancelled or refused."""


class TurnsMachine(RuleBasedStateMachine):
    """Limits hold, nobody waits beside room, each tenant is served in its order and once in a round, and what
    was cancelled leaves nothing."""

    @initialize(
        most=st.integers(0, 4), per_tenant=st.integers(1, 3), queue=st.integers(0, 5), count=st.integers(1, 4)
    )
    def begin(self, most: int, per_tenant: int, queue: int, count: int) -> None:
        self.loop = VirtualLoop()
        self.most, self.per_tenant, self.queue = most, per_tenant, queue
        self.names = "abcd"[:count]
        self.turns = Turns(lambda: self.most, per_tenant=per_tenant, queue=queue, clock=self.loop.time)
        self.requests: list[Request] = []
        self.overtaken: dict[str, Counter[str]] = {}
        self.was_running = 0
        self.wrong: list[str] = []

    def teardown(self) -> None:
        if not hasattr(self, "loop"):
            return
        for request in self.requests:
            assert request.task
            request.task.cancel()
        self.loop.settle()
        self.loop.close()
        assert is_empty(self.turns)

    @property
    def inside(self) -> list[Request]:
        return [each for each in self.requests if each.inside]

    @property
    def outside(self) -> list[Request]:
        return [each for each in self.requests if not each.inside]

    async def ask(self, request: Request, seconds: float) -> None:
        try:
            if self.turns.enter(request.tenant):
                assert request.tenant not in self.turns._lines
                assert not self.turns._next
                self.overtaken.clear()  # nobody waits: who has not moved yet has his turn
            else:
                await self.turns.wait(request.tenant, self.loop.time() + seconds)
                self.was_let_in(request)
        except (Busy, Unavailable) as error:
            self.was_refused(request, error)
            return
        request.inside = True
        try:
            await request.done
        finally:
            self.turns.leave(request.tenant)

    def was_refused(self, request: Request, error: Busy | Unavailable) -> None:
        request.ended = True
        told = error.more
        assert 1 <= told["position"] <= self.queue + 1
        assert told["expected_wait"] >= 0
        assert int(error.headers["Retry-After"]) >= 1

    def was_let_in(self, request: Request) -> None:
        before = [each for each in self.outside if each.tenant == request.tenant and not each.ended]
        self.wrong += [] if before[0] is request else ["not in its order"]
        self.overtaken.pop(request.tenant, None)
        for others in self.overtaken.values():
            others[request.tenant] += 1

    @rule(data=st.data(), seconds=st.sampled_from([0.5, 5.0, FOREVER]))
    def arrive(self, data: Any, seconds: float) -> None:
        request = Request(data.draw(st.sampled_from(self.names)), self.loop.create_future())
        self.requests.append(request)
        request.task = self.loop.create_task(self.ask(request, seconds))
        request.task.add_done_callback(lambda _: self.requests.remove(request))

    @precondition(lambda self: self.inside)
    @rule(data=st.data())
    def finish(self, data: Any) -> None:
        request = data.draw(st.sampled_from(self.inside))
        if not request.done.done():
            request.done.set_result(None)

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def cancel(self, data: Any) -> None:
        request = data.draw(st.sampled_from(self.requests))
        if request.inside and request.done.done():
            return
        request.ended = True
        self.overtaken.pop(request.tenant, None)  # a turn that he gets all the same is his tenant's
        assert request.task
        request.task.cancel()

    @rule(most=st.integers(0, 4))
    def resize(self, most: int) -> None:
        self.most = most
        self.turns.more()

    @rule(seconds=st.sampled_from([0.1, 1.0, 10.0]))
    def time_passes(self, seconds: float) -> None:
        self.loop.advance(seconds)

    @rule()
    def settle(self) -> None:
        self.loop.settle()
        self.look()

    def look(self) -> None:
        """When nothing is on its way."""
        told, running = self.turns.stats(), Counter(each.tenant for each in self.inside)
        waiting = Counter(each.tenant for each in self.outside)
        assert (told.running, told.waiting) == (len(self.inside), len(self.outside))
        assert told.tenants == len(running.keys() | waiting.keys())
        assert all(count <= self.queue for count in waiting.values())
        could = [tenant for tenant in waiting if running[tenant] < self.per_tenant]
        assert not could or len(self.inside) >= self.most, "waits beside room"
        self.overtaken = {tenant: self.overtaken.get(tenant, Counter()) for tenant in could}

    @invariant()
    def limits_hold(self) -> None:
        running = len(self.turns._began)
        assert running <= max(self.most, self.was_running)
        assert sum(self.turns._of.values()) == running
        assert all(0 < count <= self.per_tenant for count in self.turns._of.values())
        assert all(self.turns._lines.values())
        assert not self.wrong
        self.was_running = running

    @invariant()
    def nobody_is_overtaken_twice_by_the_same_tenant(self) -> None:
        assert all(count <= 1 for others in self.overtaken.values() for count in others.values())


TestTurns = TurnsMachine.TestCase
TestTurns.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)
