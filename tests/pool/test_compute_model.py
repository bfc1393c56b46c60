"""Whatever is submitted, ended, cancelled and resized, in whatever order: the pool is as its model says."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from plugins.compute_tasks import Gate, until

from penstock_pool.compute import ComputePool, TaskRejected

SMALL = st.integers(0, 3)


class Model:
    """The rules as the JDK words them, on plain lists."""

    def __init__(self, core: int, max: int, queue: int | None, first: bool) -> None:
        self.core, self.max, self.queue, self.first = core, max, queue, first
        self.running: list[Gate] = []
        self.waiting: list[Gate] = []
        self.idle = 0
        self.completed = self.rejected = self.largest = 0

    @property
    def workers(self) -> int:
        return len(self.running) + self.idle

    def submit(self, task: Gate) -> bool:
        """Whether it finds a place."""
        if self.workers < self.core:
            self._begin(task)
        elif self.idle:
            self.idle -= 1
            self._begin(task)
        elif self.workers < self.max and (self.first or self.workers == 0):
            self._begin(task)
        elif self.queue is None or len(self.waiting) < self.queue:
            self.waiting.append(task)
        elif self.workers < self.max:
            self._begin(task)
        else:
            self.rejected += 1
            return False
        return True

    def end(self, task: Gate) -> None:
        self.running.remove(task)
        self.completed += 1
        if self.workers + 1 > self.max:
            return
        self.idle += 1
        if self.waiting:
            self.idle -= 1
            self._begin(self.waiting.pop(0))

    def resize(self, core: int, max: int) -> None:
        self.core, self.max = core, max
        while self.waiting and self.workers < (max if self.first else core):
            self._begin(self.waiting.pop(0))
        while self.idle and self.workers > max:
            self.idle -= 1

    def prestart(self) -> None:
        while self.workers < self.core:
            self.idle += 1
        self.largest = max(self.largest, self.workers)

    def _begin(self, task: Gate) -> None:
        self.running.append(task)
        self.largest = max(self.largest, self.workers)


class PoolAndModel(RuleBasedStateMachine):
    @initialize(core=SMALL, more=SMALL, queue=st.none() | SMALL, first=st.booleans())
    def begin(self, core: int, more: int, queue: int | None, first: bool) -> None:
        largest = max(core + (0 if queue is None and not first else more), 1)
        self.model = Model(core, largest, queue, first)
        self.pool = ComputePool(
            core, largest, queue=queue, grow="first" if first else "last", keep_alive=float("inf")
        )
        self.futures: dict[Gate, Future[Gate]] = {}
        self.over: list[Gate] = []

    @rule()
    def submit(self) -> None:
        task = Gate()
        try:
            self.futures[task] = self.pool.submit(task)
        except TaskRejected:
            assert not self.model.submit(task)
        else:
            assert self.model.submit(task)

    @precondition(lambda self: self.model.running)
    @rule(choose=st.data())
    def end(self, choose: Any) -> None:
        task = choose.draw(st.sampled_from(self.model.running))
        task.open()
        assert self.futures[task].result(10) is task
        self.model.end(task)

    @precondition(lambda self: self.model.waiting)
    @rule(choose=st.data())
    def cancel_what_waits(self, choose: Any) -> None:
        task = choose.draw(st.sampled_from(self.model.waiting))
        assert self.futures[task].cancel()
        self.model.waiting.remove(task)
        self.over.append(task)

    @precondition(lambda self: self.model.running)
    @rule(choose=st.data())
    def cancel_what_runs(self, choose: Any) -> None:
        assert not self.futures[choose.draw(st.sampled_from(self.model.running))].cancel()

    @rule(core=SMALL, more=SMALL)
    def resize(self, core: int, more: int) -> None:
        self.pool.resize(core, max(core + more, 1))
        self.model.resize(core, max(core + more, 1))

    @rule()
    def prestart(self) -> None:
        missing = max(self.model.core - self.model.workers, 0)
        assert self.pool.prestart() == missing
        self.model.prestart()

    @invariant()
    def they_agree(self) -> None:
        model = self.model
        expected = (len(model.running), model.idle, len(model.waiting))
        self._settled(lambda: expected == self._figures())
        assert all(task.began.wait(10) for task in model.running)
        assert not any(task.began.is_set() for task in (*model.waiting, *self.over))
        stats = self.pool.stats()
        assert (stats.completed, stats.rejected) == (model.completed, model.rejected)
        assert stats.largest == model.largest

    def teardown(self) -> None:
        if not hasattr(self, "pool"):
            return
        self.pool.shutdown(wait=False)
        for task in self.futures:
            task.open()
        self.pool.shutdown()
        assert self._figures() == (0, 0, 0)
        assert all(future.done() for future in self.futures.values())
        assert self.pool.stats().completed == len(self.futures) - len(self.over)

    def _figures(self) -> tuple[int, int, int]:
        stats = self.pool.stats()
        return stats.active, stats.idle, stats.queued

    def _settled(self, probe: Callable[[], bool]) -> None:
        """A worker is done a moment after its future tells."""
        try:
            until(probe)
        except AssertionError:
            model = self.model
            expected = f"{len(model.running)} active, {model.idle} idle, {len(model.waiting)} queued"
            raise AssertionError(f"expected {expected}, is {self.pool}") from None


PoolAndModel.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestPoolAndModel = PoolAndModel.TestCase


# -- many threads at once


def test_no_task_is_lost_or_done_twice_whatever_many_threads_do_at_once() -> None:
    pool = ComputePool(1, 4, queue=8, keep_alive=0.0005, name="crowd")
    ran: list[int] = []  # appending is atomic
    futures: list[Future[None]] = []
    rejected = Counter[int]()

    def crowd(number: int) -> None:
        dice = random.Random(number)
        for task in range(number, 4000, 4):
            try:
                future = pool.submit(ran.append, task)
            except TaskRejected:
                rejected[number] += 1
                continue
            futures.append(future)
            if dice.random() < 0.2:
                future.cancel()
            if dice.random() < 0.05:
                core = dice.randint(0, 3)
                pool.resize(core, max(core, dice.randint(1, 4)))

    threads = [threading.Thread(target=crowd, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wait(futures, 10).not_done
    pool.shutdown()
    cancelled = sum(future.cancelled() for future in futures)
    assert len(ran) == len(set(ran)) == len(futures) - cancelled == pool.stats().completed
    assert len(futures) + rejected.total() == 4000
    assert pool.stats().rejected == rejected.total()
    assert pool.stats().workers == pool.stats().queued == 0
