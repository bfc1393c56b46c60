"""Turns: how many requests are under way at once, all in all and of each tenant, and who is next.

Whoever finds room is in at once. Else a tenant's requests wait in their order, up to a number, and the
tenants that wait take turns: whoever sends a thousand requests gets one turn in each round, as all do.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass

from penstock_data.errors import Busy, Retriable, Unavailable

_WEIGHT = 0.05
"""Of the latest request in the average of their times: what was twenty requests ago has a third of it."""


@dataclass(frozen=True, slots=True)
class TurnStats:
    """How it is now, and what there was since the beginning."""

    running: int
    waiting: int
    tenants: int
    """That have something under way, or wait."""
    service: float
    """Seconds that a request takes, an average of the latest."""
    refused: int
    """Requests that found their tenant's queue full."""
    late: int
    """Requests that waited until their deadline."""


@dataclass(slots=True, eq=False)
class _Waiter:
    """One request that waits."""

    tenant: str
    turn: asyncio.Future[None]


class Turns:
    """Whoever has been let in must `leave`:

    if not turns.enter(tenant):
        await turns.wait(tenant, deadline)
    try: …
    finally: turns.leave(tenant)
    """

    def __init__(
        self,
        most: Callable[[], int],
        *,
        per_tenant: int,
        queue: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`most`: how many may be under way now; when it grew, `more` is to be called. `per_tenant`: how many
        of one tenant; `queue`: how many of one tenant may wait. `clock`: the event loop's, in seconds."""
        self._most, self._per_tenant, self._queue, self._clock = most, per_tenant, queue, clock
        self._began: deque[float] = deque()
        """One for each that is under way. Who leaves takes the first, be it his or not: the average of the
        times is the same."""
        self._of: dict[str, int] = {}
        """Under way, by tenant: none without any."""
        self._lines: dict[str, OrderedDict[_Waiter, None]] = {}
        """Waiting, by tenant: none that is empty."""
        self._next: OrderedDict[str, None] = OrderedDict()
        """The tenants that wait for others, and not for one of their own to end; in the round's order."""
        self._waiting = self._refused = self._late = 0
        self._service: float | None = None

    def enter(self, tenant: str) -> bool:
        """Whether there is room at once; False: `wait`."""
        running = self._of.get(tenant, 0)
        if self._next or running >= self._per_tenant or len(self._began) >= self._most():
            return False
        self._of[tenant] = running + 1
        self._began.append(self._clock())
        return True

    async def wait(self, tenant: str, deadline: float) -> None:
        """Until it is this request's turn. `deadline` by the clock. Raises `Busy` at once when enough of this
        tenant wait, and at the deadline while it has enough under way; else `Unavailable`."""
        if len(self._lines.get(tenant, ())) >= self._queue:
            self._refused += 1
            raise self._refusal(Busy, tenant, len(self._lines.get(tenant, ())) + 1)
        waiter = _Waiter(tenant, asyncio.get_running_loop().create_future())
        self._join(waiter)
        timer = waiter.turn.get_loop().call_later(max(0.0, deadline - self._clock()), self._give_up, waiter)
        try:
            await waiter.turn
        except asyncio.CancelledError:
            self._gone(waiter)
            raise
        finally:
            timer.cancel()

    def leave(self, tenant: str) -> None:
        """One request of this tenant, that was let in, has ended."""
        took = self._clock() - self._began.popleft()
        self._service = took if self._service is None else self._service + _WEIGHT * (took - self._service)
        self._end(tenant)

    def more(self) -> None:
        """There may be more room than before: those who are next get it."""
        while self._next and len(self._began) < self._most():
            self._hand_over()

    def stats(self) -> TurnStats:
        return TurnStats(
            running=len(self._began),
            waiting=self._waiting,
            tenants=len(self._of.keys() | self._lines.keys()),
            service=self._service or 0.0,
            refused=self._refused,
            late=self._late,
        )

    # -- in line

    def _join(self, waiter: _Waiter) -> None:
        self._lines.setdefault(waiter.tenant, OrderedDict())[waiter] = None
        self._waiting += 1
        self._rejoin(waiter.tenant)
        self.more()

    def _rejoin(self, tenant: str) -> None:
        """At the end of the round, if the tenant waits for others."""
        if tenant in self._lines and self._of.get(tenant, 0) < self._per_tenant:
            self._next.setdefault(tenant)

    def _part(self, waiter: _Waiter) -> None:
        """Out of the line."""
        line = self._lines[waiter.tenant]
        del line[waiter]
        self._waiting -= 1
        if not line:
            del self._lines[waiter.tenant]
            self._next.pop(waiter.tenant, None)

    def _hand_over(self) -> None:
        """To the first of the tenant that is next, who takes its place at the end of the round."""
        tenant = next(iter(self._next))
        waiter = next(iter(self._lines[tenant]))
        self._part(waiter)
        if waiter.turn.done():  # has left, and will not tell any more
            return
        self._next.pop(tenant, None)
        self._of[tenant] = self._of.get(tenant, 0) + 1
        self._began.append(self._clock())
        waiter.turn.set_result(None)
        self._rejoin(tenant)

    def _end(self, tenant: str) -> None:
        running = self._of[tenant] - 1
        if running:
            self._of[tenant] = running
        else:
            del self._of[tenant]
        if self._lines:
            self._rejoin(tenant)
            self.more()

    def _gone(self, waiter: _Waiter) -> None:
        """Cancelled: the turn, if it had come, is the next one's."""
        if not waiter.turn.cancelled() and waiter.turn.exception() is None:
            self._began.pop()
            self._end(waiter.tenant)
        elif waiter in self._lines.get(waiter.tenant, ()):
            self._part(waiter)

    def _give_up(self, waiter: _Waiter) -> None:
        if waiter.turn.done():
            return
        self._late += 1
        own = self._of.get(waiter.tenant, 0) >= self._per_tenant
        position = list(self._lines[waiter.tenant]).index(waiter) + 1
        error = self._refusal(Busy if own else Unavailable, waiter.tenant, position)
        self._part(waiter)
        waiter.turn.set_exception(error)

    # -- what is told

    def _refusal(self, kind: type[Retriable], tenant: str, position: int) -> Retriable:
        running, waiting = self._of.get(tenant, 0), len(self._lines.get(tenant, ()))
        detail = f"{running} requests of your tenant are under way and {waiting} wait"
        if kind is Unavailable:
            detail = f"no connection was free in time; {detail}"
        expected = self._expected_wait(position)
        return kind(detail, after=expected, position=position, expected_wait=expected)

    def _expected_wait(self, position: int) -> float:
        """Seconds until it is the turn of who is at `position` of a tenant's line, counted from 1: by the
        time that a request takes, and by how many are done at once."""
        service = self._service or 0.0
        if self._began:
            service = max(service, self._clock() - self._began[0])
        ahead = min(self._waiting + 1, position * max(1, len(self._next)))
        rounds = max(position / self._per_tenant, ahead / max(1, self._most()))
        return round(rounds * service, 3)
