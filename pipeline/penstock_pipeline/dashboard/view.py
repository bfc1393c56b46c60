"""What the dashboard reads from, and the live streams it has open."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ..model import App
from ..settings import Settings
from ..store import Changes, SqliteStore
from ..store.logs import Logs


class Streams:
    """The live streams that are open. A server that stops ends them, for their clients never would."""

    def __init__(self) -> None:
        self.ended = False
        self._open: set[asyncio.Event] = set()

    @contextmanager
    def watch(self, changes: Changes, topic: Hashable) -> Iterator[asyncio.Event]:
        """An event that is set by each change of the topic, and when the streams end."""
        with changes.watch(topic) as news:
            self._open.add(news)
            try:
                yield news
            finally:
                self._open.discard(news)

    def end(self) -> None:
        """Ends every stream, now and later."""
        self.ended = True
        for news in self._open:
            news.set()

    def __len__(self) -> int:
        return len(self._open)


@dataclass(frozen=True, slots=True)
class View:
    """What the dashboard reads. `urls` tells where an app is reached: `app` by its host name, `port` by a
    port of its own, `edges` through each edge."""

    store: SqliteStore
    logs: Logs
    settings: Settings
    urls: Callable[[App], Mapping[str, Any]]
    streams: Streams = field(default_factory=Streams)
