"""The rule by which a submitted task finds its place: pure, and checked at once.

It is the one of `java.util.concurrent.ThreadPoolExecutor` (its class documentation, "Core and maximum pool
sizes" and "Queuing"), and for `grow="first"` the one of Apache Tomcat's executor (`TaskQueue.offer`).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Literal

Grow = Literal["last", "first"]
"""Whether workers above core are started when the queue is full, or before anything is queued."""


class Place(enum.Enum):
    """What becomes of a task that is submitted."""

    START = enum.auto()
    """A new worker begins with it, even before tasks that are queued."""
    HAND = enum.auto()
    """A worker that is idle gets it."""
    QUEUE = enum.auto()
    """It waits behind those that wait; first come, first served."""
    REJECT = enum.auto()
    """There is no place: the rejection policy says what now."""


def check_whole(**given: object) -> None:
    """Raises ValueError for what is neither a whole number nor None."""
    for name, value in given.items():
        if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
            raise ValueError(f"{name}={value!r}: must be a whole number")


@dataclass(frozen=True, slots=True)
class Sizes:
    """Raises ValueError for what cannot be meant."""

    core: int
    """Workers that are started before anything is queued, idle ones notwithstanding, and that stay."""
    max: int
    """Workers there may be."""
    queue: int | None = None
    """Tasks that may wait; 0: none, each is handed over or rejected; None: any number."""
    grow: Grow = "last"

    def __post_init__(self) -> None:
        check_whole(core=self.core, max=self.max, queue=self.queue)
        if self.core < 0 or self.max < 1 or self.max < self.core:
            raise ValueError(f"core={self.core}, max={self.max}: 0 ≤ core ≤ max and 1 ≤ max must hold")
        if self.queue is not None and self.queue < 0:
            raise ValueError(f"queue={self.queue}: must be 0 or more, or None for no bound")
        if self.grow not in ("last", "first"):
            raise ValueError(f"grow={self.grow!r}: must be 'last' or 'first'")

    def place(self, *, workers: int, idle: int, queued: int, startable: bool = True) -> Place:
        """Where the next task goes in a pool that stands so. Not `startable`: no worker can be started just
        now. One worker there must be before anything is queued, core or not."""
        limit = self.max if startable else workers
        if workers < min(self.core, limit):
            return Place.START
        if idle:
            return Place.HAND
        if workers < limit and (self.grow == "first" or not workers):
            return Place.START
        if workers and (self.queue is None or queued < self.queue):
            return Place.QUEUE
        return Place.START if workers < limit else Place.REJECT
