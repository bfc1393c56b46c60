"""When a pool is looked at, on virtual time: at once, never twice at the same time, and never hot."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import pairwise

import pytest
from plugins.virtual import run

from penstock_operator.agenda import GAP, LONGEST_PAUSE, Agenda, Key, Outcome
from penstock_operator.errors import Unavailable

SHOP, TILL = ("shop", "shop-db"), ("shop", "till-db")
RESYNC = 300.0


class Looks:
    """Tells when each pool was looked at, and answers as it is told to."""

    def __init__(self, *answers: Outcome | Exception, takes: float = 0.0) -> None:
        self.at: dict[Key, list[float]] = {}
        self.now = self.most = 0
        self._answers = list(answers)
        self._takes = takes

    async def __call__(self, key: Key) -> Outcome:
        self.at.setdefault(key, []).append(asyncio.get_running_loop().time())
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(self._takes)
        self.now -= 1
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def told(looks: Looks, story: Callable[[Agenda], Awaitable[None]], *, at_once: int = 8) -> None:
    async def tell() -> None:
        async with asyncio.TaskGroup() as tasks:
            agenda = Agenda(looks, tasks, looks=at_once, resync=RESYNC)
            await story(agenda)
            await agenda.close()

    run(tell())


def test_who_rings_is_looked_at_at_once_and_then_now_and_again() -> None:
    async def story(agenda: Agenda) -> None:
        agenda.ring(SHOP)
        await asyncio.sleep(2 * RESYNC + 10)

    looks = Looks(Outcome.SETTLED)
    told(looks, story)
    assert looks.at[SHOP] == [0, RESYNC + GAP, 2 * (RESYNC + GAP)]


def test_a_crowd_of_events_is_two_looks() -> None:
    async def story(agenda: Agenda) -> None:
        agenda.ring(SHOP)
        await asyncio.sleep(0.05)
        for _ in range(100):
            agenda.ring(SHOP)
        await asyncio.sleep(10)

    looks = Looks(Outcome.SETTLED, takes=0.1)
    told(looks, story)
    assert looks.at[SHOP] == [0, pytest.approx(0.1 + GAP)]


def test_who_rings_without_end_is_looked_at_every_gap() -> None:
    async def story(agenda: Agenda) -> None:
        for _ in range(1000):
            agenda.ring(SHOP)
            await asyncio.sleep(0.01)

    looks = Looks(Outcome.SETTLED)
    told(looks, story)
    assert len(looks.at[SHOP]) <= 10 / GAP + 1


@pytest.mark.parametrize("answer", [Outcome.UNSETTLED, Unavailable("away"), RuntimeError("a fault of ours")])
def test_what_fails_is_tried_again_ever_later(answer: Outcome | Exception) -> None:
    async def story(agenda: Agenda) -> None:
        agenda.ring(SHOP)
        await asyncio.sleep(120)

    looks = Looks(answer)
    told(looks, story)
    times = looks.at[SHOP]
    pauses = [after - before - GAP for before, after in pairwise(times)]
    assert pauses == pytest.approx([1, 2, 4, 8, 16, LONGEST_PAUSE, LONGEST_PAUSE])


def test_after_a_success_the_pauses_begin_anew() -> None:
    async def story(agenda: Agenda) -> None:
        agenda.ring(SHOP)
        await asyncio.sleep(20)
        agenda.ring(SHOP)
        await asyncio.sleep(3)

    away = Unavailable("away")
    looks = Looks(away, away, Outcome.SETTLED, away, Outcome.SETTLED)
    told(looks, story)
    assert looks.at[SHOP] == pytest.approx([0, 1.5, 4, 20, 21.5])


def test_an_event_ends_a_pause() -> None:
    async def story(agenda: Agenda) -> None:
        agenda.ring(SHOP)
        await asyncio.sleep(30)
        agenda.ring(SHOP)
        await asyncio.sleep(0.1)

    looks = Looks(Outcome.UNSETTLED)
    told(looks, story)
    assert looks.at[SHOP][-1] == pytest.approx(30)


def test_a_pool_that_went_is_forgotten_until_it_is_there_again() -> None:
    async def story(agenda: Agenda) -> None:
        agenda.ring(SHOP)
        await asyncio.sleep(3 * RESYNC)
        assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("pool ")]
        agenda.ring(SHOP)
        await asyncio.sleep(1)

    looks = Looks(Outcome.GONE)
    told(looks, story)
    assert looks.at[SHOP] == [0, 3 * RESYNC]


def test_a_pool_that_comes_back_while_its_end_is_seen_is_looked_at() -> None:
    async def story(agenda: Agenda) -> None:
        agenda.ring(SHOP)
        await asyncio.sleep(0.5)
        agenda.ring(SHOP)
        await asyncio.sleep(10)

    looks = Looks(Outcome.GONE, Outcome.SETTLED, takes=1.0)
    told(looks, story)
    assert looks.at[SHOP] == [0, 1.0 + GAP]


def test_one_pool_that_takes_long_keeps_no_other_waiting() -> None:
    async def story(agenda: Agenda) -> None:
        agenda.ring(SHOP)
        await asyncio.sleep(0.5)
        agenda.ring(SHOP)
        agenda.ring(TILL)
        await asyncio.sleep(60)

    looks = Looks(Outcome.SETTLED, takes=20.0)
    told(looks, story)
    assert looks.at == {SHOP: [0, 20 + GAP], TILL: [0.5]}


def test_no_more_looks_at_a_time_than_there_is_room_for() -> None:
    async def story(agenda: Agenda) -> None:
        for number in range(20):
            agenda.ring(("shop", f"pool-{number}"))
        await asyncio.sleep(60)

    looks = Looks(Outcome.SETTLED, takes=1.0)
    told(looks, story, at_once=4)
    assert looks.most == 4
    assert len(looks.at) == 20
