"""Who waits for a connection: first come, first served, each to its own deadline."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from penstock_pool.driver import Session
from penstock_pool.stats import Waits

STALL = 0.1
"""A timer that is as many seconds late tells of an event loop that stood still: what it should end may have
been served meanwhile, and gets a moment to be seen."""
AFTER_STALL = 0.05


@dataclass(slots=True, eq=False)
class Waiter:
    """One checkout that waits."""

    future: asyncio.Future[Session]
    since: float
    deadline: float
    task: asyncio.Task[object] | None


class Line:
    """The waiters in their order. One timer for all of them, at the earliest deadline or before."""

    def __init__(self, clock: Callable[[], float], late: Callable[[Waiter], Exception]) -> None:
        self._clock = clock
        self._late = late
        self.waiters: OrderedDict[object, Waiter] = OrderedDict()
        """In their order, by the task that waits, so that it can be found."""
        self.waits = Waits()
        self.timeouts = 0
        self._timer: asyncio.TimerHandle | None = None
        self._rings_at = 0.0

    def __len__(self) -> int:
        return len(self.waiters)

    def join(self, waiter: Waiter, *, first: bool = False) -> None:
        """At the end, or before all others."""
        key: object = waiter.task
        if key is None or self.waiters.setdefault(key, waiter) is not waiter:
            key = waiter  # of no task, or of one that steps through two waits by hand
            self.waiters[key] = waiter
        if first:
            self.waiters.move_to_end(key, last=False)
        if self._timer is None or waiter.deadline < self._rings_at:
            self._set_timer(waiter.deadline)

    def leave(self, waiter: Waiter) -> None:
        """When it is still there."""
        by_task = self.waiters.get(waiter.task) is waiter
        self.waiters.pop(waiter.task if by_task else waiter, None)

    def give(self, session: Session, now: float) -> Waiter | None:
        """Hands the session to the first; None when nobody waits."""
        while self.waiters:
            _, waiter = self.waiters.popitem(last=False)
            if not waiter.future.done():
                session.since = now
                self.waits.add(now - waiter.since)
                waiter.future.set_result(session)
                return waiter
        return None

    def fail(self, error: Callable[[Waiter], Exception]) -> None:
        """Sends all away."""
        while self.waiters:
            _, waiter = self.waiters.popitem(last=False)
            if not waiter.future.done():
                waiter.future.set_exception(error(waiter))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set_timer(self, at: float, *, after_stall: bool = False) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._rings_at = at
        self._timer = asyncio.get_running_loop().call_later(
            max(0.0, at - self._clock()), self._ring, after_stall
        )

    def _ring(self, after_stall: bool) -> None:
        self._timer = None
        now = self._clock()
        if now - self._rings_at > STALL and not after_stall:  # one that always stands still ends waits too
            return self._set_timer(now + AFTER_STALL, after_stall=True)
        for waiter in [waiter for waiter in self.waiters.values() if waiter.deadline <= now]:
            self.leave(waiter)
            if not waiter.future.done():
                self.timeouts += 1
                waiter.future.set_exception(self._late(waiter))
        if self.waiters:
            self._set_timer(min(waiter.deadline for waiter in self.waiters.values()))
        return None
