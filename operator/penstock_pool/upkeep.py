"""What has its time: heartbeats, old age, and borrowers that do not come back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from penstock_pool.driver import Session
from penstock_pool.errors import HoldLimitExceeded, PoolError
from penstock_pool.line import STALL
from penstock_pool.settings import PoolSettings
from penstock_pool.slots import Slots
from penstock_pool.supply import Supply

logger = logging.getLogger("penstock_pool")

LONGEST_TICK = 1.0
"""Seconds between two looks."""


class Upkeep:
    """Looks at every session of one pool at an interval. It decides by what it sees then, so a look that
    comes late does no harm."""

    def __init__(
        self,
        slots: Slots,
        supply: Supply,
        clock: Callable[[], float],
        seize: Callable[[Session, PoolError], None],
    ) -> None:
        self._slots, self._supply, self._clock, self._seize = slots, supply, clock, seize
        self._task: asyncio.Task[None] | None = None
        self._stalls: list[tuple[float, float]] = []
        """When the event loop went on after it had stood still, and for how many seconds it had."""

    @property
    def _settings(self) -> PoolSettings:
        return self._supply.settings

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name=f"penstock-pool-{self._settings.name}-upkeep")

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def stop(self) -> None:
        self.cancel()
        if self._task is not None:
            await asyncio.wait({self._task})

    async def _run(self) -> None:
        while True:
            due = self._clock() + (tick := self._tick())
            await asyncio.sleep(tick)
            try:
                now = self._clock()
                self.look(now, late=now - due)
            except Exception:
                logger.exception("pool %s: upkeep failed", self._settings.name)

    def _tick(self) -> float:
        settings = self._settings
        times = (settings.heartbeat, settings.idle_timeout, settings.lifetime, settings.full_retry)
        holds = (time for time in (settings.hold_warn, settings.hold_limit) if time is not None)
        return min(LONGEST_TICK, *(time / 4 for time in (*times, *holds)))

    def look(self, now: float, late: float = 0.0) -> None:
        """Everything that is due by now, so many seconds after it should have been looked at."""
        self._retire(now)
        self._heartbeat(now)
        if late > STALL:
            self._stalls.append((now, late))
        self._check_holds(now)
        self._supply.ceiling.probe(now)
        self._supply.replenish()

    def _retire(self, now: float) -> None:
        settings, slots = self._settings, self._slots
        for session in [session for session in slots.idle if now >= session.ends_at]:
            slots.idle.remove(session)
            self._supply.end(session)
        while slots.idle and slots.open > settings.min and now - slots.idle[0].since >= settings.idle_timeout:
            self._supply.end(slots.idle.popleft())
        for session in slots.busy:
            session.attention = session.attention or now >= session.ends_at

    def _heartbeat(self, now: float) -> None:
        idle = self._slots.idle
        for session in list(idle):
            if now - max(session.since, session.proven_at) >= self._settings.heartbeat:
                idle.remove(session)
                self._supply.tend(session)

    def _check_holds(self, now: float) -> None:
        warn, limit = self._settings.hold_warn, self._settings.hold_limit
        first = min((session.since for session in self._slots.busy), default=now)
        self._stalls = [(at, late) for at, late in self._stalls if at > first]
        for session, task in list(self._slots.busy.items()):
            if session.holder is None or session.holder._session is not session:
                continue  # it was handed over, and nobody has woken up to it
            held = self._held(session.since, now)
            if warn is not None and held >= warn and session.warned_of != session.since:
                session.warned_of = session.since
                logger.warning("pool %s: held for %.1f s by %s", self._settings.name, held, _named(task))
            if limit is not None and held >= limit:
                self._end_hold(session, held, task)

    def _held(self, since: float, now: float) -> float:
        """Without the time in which nobody could have returned it."""
        return now - since - sum(min(late, at - since) for at, late in self._stalls if at > since)

    def _end_hold(self, session: Session, held: float, task: asyncio.Task[Any] | None) -> None:
        name = self._settings.name
        told = f"pool {name}: held for {held:.1f} s, taken away, uncommitted work rolled back: {_named(task)}"
        logger.error("%s", told)
        self._seize(session, HoldLimitExceeded(told))


def _named(task: asyncio.Task[Any] | None) -> str:
    if task is None:
        return "no task"
    lines = [f"{it.f_code.co_filename}:{it.f_lineno} {it.f_code.co_name}" for it in _frames(task.get_coro())]
    return f"task {task.get_name()}, at " + (" < ".join(reversed(lines)) or "its end")


def _frames(awaited: object) -> Iterator[FrameType]:
    """From the outermost on to where it waits; of a task that waits `Task.get_stack` has the first alone."""
    while awaited is not None:
        kind = next((kind for kind in _AWAITED if hasattr(awaited, f"{kind}_frame")), None)
        if kind is None:  # a future
            return
        if (frame := getattr(awaited, f"{kind}_frame")) is not None:
            yield frame
        awaited = getattr(awaited, _AWAITED[kind], None)


_AWAITED = {"cr": "cr_await", "gi": "gi_yieldfrom", "ag": "ag_await"}
"""What coroutines, generators and asynchronous generators wait for."""
