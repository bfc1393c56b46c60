"""What the dashboard reads from and asks, and the live streams it has open."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..model import App, Run, StageName
from ..settings import Settings
from ..store import Changes, SqliteStore
from ..store.logs import Logs
from ..tokens import Tokens
from ..variables import Variable


class Orders(Protocol):
    """What the buttons pass on, and what the store does not tell by itself."""

    async def approve(self, run_id: int, *, by: str) -> Run: ...

    async def cancel(self, run_id: int, *, by: str) -> Run: ...

    async def retry(self, run_id: int, *, again: StageName | None, by: str) -> Run: ...

    async def roll_back(self, app_name: str, *, version: int | None, by: str) -> Run: ...

    async def unpin(self, app_name: str, *, by: str) -> Run: ...

    async def redeploy(self, app_name: str, *, by: str) -> Run: ...

    async def refresh(self, app_name: str, *, by: str) -> Run: ...

    async def variables(self, app_name: str) -> Mapping[str, Variable]: ...


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
    """What the dashboard stands on. `urls` tells where an app is reached: `app` by its host name, `port` by a
    port of its own, `edges` through each edge."""

    orders: Orders
    tokens: Tokens
    store: SqliteStore
    logs: Logs
    settings: Settings
    urls: Callable[[App], Mapping[str, Any]]
    streams: Streams = field(default_factory=Streams)
