"""Who waits for news of what: woken after a commit, then reads the store itself."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator
from contextlib import contextmanager

EVERYTHING = "everything"
"""The topic of those who want to hear of every change."""

EVENTS = "events"
"""The topic of those who want to hear of every event, whichever run it is about."""


class Changes:
    """Wake-up calls by topic (a run's number, or `EVERYTHING`). Lives on one event loop; carries no data, so
    a lost or doubled call costs nothing."""

    def __init__(self) -> None:
        self._waiting: defaultdict[Hashable, set[asyncio.Event]] = defaultdict(set)

    @contextmanager
    def watch(self, topic: Hashable) -> Iterator[asyncio.Event]:
        """An event that is set whenever something of the topic has changed; the watcher clears it."""
        event = asyncio.Event()
        self._waiting[topic].add(event)
        try:
            yield event
        finally:
            self._waiting[topic].discard(event)
            if not self._waiting[topic]:
                del self._waiting[topic]

    def tell(self, topics: Iterable[Hashable]) -> None:
        for topic in (*topics, EVERYTHING):
            for event in self._waiting.get(topic, ()):
                event.set()
