"""Where every connection of a pool is. A slot is counted by being in a collection, never by a number that is
kept beside it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator

from penstock_pool.driver import Session
from penstock_pool.line import Line


class Slots:
    """The collections are disjoint; together they are what the server may count as ours."""

    def __init__(self, line: Line) -> None:
        self.idle: deque[Session] = deque()
        """Ready for the next checkout. The last one returned goes out first, so that spare ones get old."""
        self.parked: list[Session] = []
        """Ready, but the pool is paused."""
        self.paused = False
        self.busy: dict[Session, asyncio.Task[object] | None] = {}
        """Borrowed, and by whom."""
        self.connecting: set[asyncio.Task[None]] = set()
        """Being opened."""
        self.tending: dict[Session, asyncio.Task[None]] = {}
        """Being pinged or reset: ready in a moment, or gone."""
        self.ending: dict[Session, asyncio.Task[None]] = {}
        """Being closed. They count until the server has closed its side, for so long it counts them too."""
        self.line = line
        """Who waits for one of these."""

    @property
    def open(self) -> int:
        """Sessions that are there."""
        return len(self.idle) + len(self.parked) + len(self.busy) + len(self.tending)

    @property
    def total(self) -> int:
        """All that the server may count, now or in a moment."""
        return self.open + len(self.connecting) + len(self.ending)

    def all(self) -> Iterator[Session]:
        """Every session that is open."""
        for sessions in (self.idle, self.parked, self.busy, self.tending):
            yield from list(sessions)
