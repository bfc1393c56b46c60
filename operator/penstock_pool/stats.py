"""What a pool tells of itself. Nothing is counted on the way of a checkout that does not wait: uses and times
are noted on the sessions anyway, and added up when somebody asks."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds: upper bounds of the histogram of waits."""


@dataclass(slots=True)
class Waits:
    """A histogram of how long checkouts waited that had to."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    """Per bucket, the last one is beyond all bounds; not cumulative."""

    seconds: float = 0.0
    """All of them together."""

    def add(self, waited: float) -> None:
        self.counts[bisect_left(BUCKETS, waited)] += 1
        self.seconds += waited


@dataclass(frozen=True, slots=True)
class LimitStats:
    """A class of query at one moment (`PoolSettings.limits`)."""

    concurrency: int
    """Connections that it may use at a time."""
    in_use: int
    waiting: int


@dataclass(frozen=True, slots=True)
class PoolStats:
    """A pool at one moment. Counts since it was made are in the second half."""

    name: str
    min: int
    max: int
    ceiling: int
    """`max`, or less while the server takes no more."""
    idle: int
    busy: int
    connecting: int
    tending: int
    """Being pinged or reset."""
    ending: int
    """Being closed: the server may still count them."""
    parked: int
    """Idle, while the pool is paused."""
    waiting: int
    down: str | None
    """Why the last attempt to connect failed; None when it succeeded."""
    checkouts: int
    """That have ended."""
    held_seconds: float
    """All of those together."""
    waits: tuple[int, ...]
    """Checkouts that had to wait and were served, per bucket of `BUCKETS`."""
    waited_seconds: float
    timeouts: int
    opened: int
    failed: int
    """Connects."""
    lost: int
    """Connections found dead."""
    killed: int
    """Statements killed after their task was cancelled."""
    limits: Mapping[str, LimitStats] = field(default_factory=dict)
    """By name."""

    @property
    def total(self) -> int:
        """All that the server may count."""
        return self.idle + self.busy + self.connecting + self.tending + self.ending + self.parked
