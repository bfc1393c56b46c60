"""When connections may be opened, decided without touching anything: not all at once at a database that is
down, and never more than it takes."""

from __future__ import annotations

import random
from collections.abc import Callable

from penstock_pool.errors import AccessRefused, ConnectFailed

SHORTEST_PAUSE = 0.125
"""Seconds between two attempts at first."""
SHARE_OF_OUTAGE = 0.04
"""Later the pause grows with the outage: it ends late by at most this share of what it lasted."""
LONGEST_PAUSE = 5.0
REFUSED_PAUSE = 1.0
"""At least, after credentials were refused: servers block a host that goes on trying."""


class Breaker:
    """Lets connects through while they succeed. After a failure one at a time, ever more rarely; after a
    connection was lost one first, as a probe."""

    def __init__(self, chance: Callable[[], float] = random.random) -> None:
        self._chance = chance
        self._down_since = 0.0
        self._suspect = False
        self.cause: ConnectFailed | None = None
        """Why the last connect failed; None when it succeeded."""
        self.retry_at = 0.0
        """Before this nothing is opened."""

    @property
    def down(self) -> bool:
        """The last connect failed."""
        return self.cause is not None

    def allows(self, wanted: int, opening: int, now: float) -> int:
        """How many more connects may begin, of those wanted, while so many are under way."""
        if not (self.down or self._suspect):
            return wanted
        return min(wanted, 1) if not opening and now >= self.retry_at else 0

    def suspect(self) -> None:
        """A connection was lost."""
        self._suspect = True

    def succeeded(self) -> None:
        self.cause, self._suspect, self.retry_at = None, False, 0.0

    def failed(self, error: ConnectFailed, now: float) -> None:
        if not self.down:
            self._down_since = now
        self.cause = error
        lasts = (now - self._down_since) * SHARE_OF_OUTAGE
        least = REFUSED_PAUSE if isinstance(error, AccessRefused) else SHORTEST_PAUSE
        pause = min(max(lasts, least), LONGEST_PAUSE)
        self.retry_at = now + pause * (0.8 + 0.2 * self._chance())


class Ceiling:
    """The most connections that make sense now: `max`, or what was reached when the server refused more."""

    def __init__(self, most: int, retry: float) -> None:
        self.most = most
        """The pool's max."""
        self._reached: int | None = None
        self._step = 1
        self._retry = retry
        self.retry_at = float("inf")
        """When more are tried."""

    @property
    def value(self) -> int:
        return self.most if self._reached is None else min(self._reached, self.most)

    @property
    def clamped(self) -> bool:
        return self._reached is not None and self._reached < self.most

    def refused(self, reached: int, now: float) -> bool:
        """The server takes no more than are open. Whether that is news."""
        news = self._reached is None or reached < self._reached
        self._reached, self._step = reached, 1
        self.retry_at = now + self._retry
        return news

    def probe(self, now: float) -> None:
        """Once it is time: one more is tried, then twice as many each time. A refusal puts it back."""
        if self._reached is not None and now >= self.retry_at:
            self._reached += self._step
            self._step *= 2
            self.retry_at = now + self._retry
            if self._reached >= self.most:
                self._reached, self.retry_at = None, float("inf")
