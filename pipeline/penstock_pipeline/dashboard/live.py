"""Live pages: server-sent events that carry a page from where it stands to how things are.

Nothing is remembered of a page here. Its cursor names the version of the facts it shows and how much of each
log; whatever is newer is sent. The page brings the cursor when it connects and, as `Last-Event-ID`, when it
connects again: nothing is lost, nothing shown twice.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable, Iterator, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, field

from fastapi.responses import StreamingResponse
from starlette.types import Send

from ..errors import Unavailable
from ..model import StageName
from ..store import EVERYTHING
from ..tokens import Session
from . import facts, output, pages
from .facts import AppFacts, Board, RunFacts
from .output import Mark, Marks
from .view import View

KEEP_ALIVE = 15.0
"""Seconds of quiet after which a comment is sent, so that nothing on the way takes the stream for dead."""

PAUSE = 0.2
"""Seconds between news and the look at the store: what changes in between is shown at once, and a flood of
output costs five looks a second."""

_END = "end"
"""The last event of a stream that has nothing more to tell; without it a browser would connect again."""

_CURSOR = re.compile(r"([0-9a-f]{0,64})((?:;[a-z]{1,20}=[0-9]{1,9}@[0-9]{1,15})*)")
_MARK = re.compile(r"([a-z]+)=([0-9]+)@([0-9]+)")


@dataclass(slots=True)
class Cursor:
    """Where a page stands; in text `4f51232b;test=1@6553`: version of the facts, and of each log attempt and
    bytes shown."""

    seen: str = ""
    marks: Marks = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Text that is no cursor stands for a page that has seen nothing."""
        if (found := _CURSOR.fullmatch(text)) is None:
            return cls()
        marks = {stage: Mark(int(tries), int(offset)) for stage, tries, offset in _MARK.findall(found[2])}
        return cls(found[1], {stage: marks[stage] for stage in StageName if stage in marks})

    def __str__(self) -> str:
        marks = (f"{stage}={mark.attempt}@{mark.offset}" for stage, mark in self.marks.items())
        return ";".join((self.seen, *marks))

    def turn(self, version: str) -> bool:
        """Stands at this version from now on; says whether that is news."""
        before, self.seen = self.seen, version
        return before != version


class EventStream(StreamingResponse):
    """Events as they come; whichever way the stream ends, their source is closed at once."""

    def __init__(self, events: AsyncGenerator[str]) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
        self._events = events

    async def stream_response(self, send: Send) -> None:
        async with aclosing(self._events):
            await super().stream_response(send)


def board_events(view: View, session: Session, cursor: Cursor) -> AsyncGenerator[str]:
    """The first page's news, for as long as it is open."""

    async def look() -> Iterator[str]:
        return _page_news(view, session, await facts.board(view, session), cursor)

    return _stream(view, session, EVERYTHING, look)


def app_events(view: View, session: Session, name: str, cursor: Cursor) -> AsyncGenerator[str]:
    """The news of an app's page, for as long as it is open."""

    async def look() -> Iterator[str]:
        return _page_news(view, session, await facts.app(view, session, name), cursor)

    return _stream(view, session, EVERYTHING, look)


def run_events(view: View, session: Session, run_id: int, cursor: Cursor) -> AsyncGenerator[str]:
    """A run's news and output, until it has ended."""

    async def look() -> Iterator[str]:
        return _run_news(view, session, await facts.run(view, session, run_id), cursor)

    return _stream(view, session, run_id, look)


Look = Callable[[], Awaitable[Iterator[str]]]


async def _stream(view: View, session: Session, topic: Hashable, look: Look) -> AsyncGenerator[str]:
    """Looks, and looks again after each change, until there is nothing to come or the session has ended.
    While the store is out of reach the stream ends: the page comes back."""
    with view.streams.watch(view.store.changes, topic) as news, suppress(Unavailable):
        while not view.streams.ended and session.left > 0:
            news.clear()
            for event in await look():
                yield event
                if event.startswith(f"event: {_END}\n"):
                    return
            if not await _heard(news, min(KEEP_ALIVE, session.left)):
                yield ": nothing new\n\n"


async def _heard(news: asyncio.Event, patience: float) -> bool:
    """Waits for news; false when there were none in so many seconds."""
    try:
        await asyncio.wait_for(news.wait(), patience)
    except TimeoutError:
        return False
    await asyncio.sleep(PAUSE)
    return True


def _page_news(view: View, session: Session, known: Board | AppFacts, cursor: Cursor) -> Iterator[str]:
    if cursor.turn(facts.version(known)):
        yield _event("page", cursor, pages.body(view, session, known))


def _run_news(view: View, session: Session, known: RunFacts, cursor: Cursor) -> Iterator[str]:
    if cursor.turn(facts.version(known)):
        yield _event("page", cursor, pages.body(view, session, known))
    for piece in output.pieces(view.logs, known, cursor.marks):
        yield _event("log", cursor, pages.log_body(view, session, known, piece))
    if known.run.status.ended:
        yield _event(_END, cursor, {})


def _event(kind: str, cursor: Cursor, data: Mapping[str, str]) -> str:
    return f"event: {kind}\nid: {cursor}\ndata: {json.dumps(data)}\n\n"
