"""Following a run: its events and what its stages print, in order, as it happens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

from sqlalchemy import Connection

from ..model import RunStatus, StageName
from ..tell import Heard, Output, Silence
from . import history
from .logs import Logs
from .sqlite import SqliteStore

PRINTING = frozenset({StageName.TEST, StageName.BUILD})
"""The stages whose output belongs to those who follow; the others speak through their events."""

AWAITING = "run.awaiting"
"""What is heard last for now; once somebody has approved, more follows."""


async def follow(
    store: SqliteStore, logs: Logs, run_id: int, *, after: int = 0, beat: float = 5.0, wait: bool = True
) -> AsyncIterator[Heard]:
    """Everything of a run from event `after` on, until it has ended or waits for approval (`wait` false: what
    there is by now); a `Silence` after each quiet `beat` seconds. Raises `NotFound` where there is no such
    run."""
    if await store.read(_rests, run_id, after):
        return
    loop = asyncio.get_running_loop()
    stage: StageName | None = None
    since = loop.time()
    reader = LogReader(logs, run_id)
    with store.changes.watch(run_id) as news:
        while True:
            news.clear()
            events = await store.read(history.events_after, after, run_id=run_id)
            for event in events:
                after = event.id
                if event.kind == "stage.started":
                    stage, since = event.stage, loop.time()
                for output in reader.rest(stage):
                    yield output
                yield event
                if event.kind.startswith("run.") and (event is events[-1] or event.kind != AWAITING):
                    return
            for output in reader.rest(stage):
                yield output
            if not wait:
                return
            try:
                await asyncio.wait_for(news.wait(), beat)
            except TimeoutError:
                if stage is not None:
                    yield Silence(stage, loop.time() - since)


def _rests(tx: Connection, run_id: int, after: int) -> bool:
    """Whether the last event for now is known already, to who asks again after a broken connection."""
    run = history.run(tx, run_id)
    rests = run.status.ended or run.status is RunStatus.AWAITING
    return rests and not history.events_after(tx, after, run_id=run_id, limit=1)


class LogReader:
    """Reads on where it stopped, one offset a stage; from the start where a log has begun again."""

    def __init__(self, logs: Logs, run_id: int) -> None:
        self._logs = logs
        self._run_id = run_id
        self._offsets: dict[StageName, int] = {}

    def rest(self, stage: StageName | None) -> Iterator[Output]:
        if stage not in PRINTING:
            return
        offset = self._offsets.get(stage, 0)
        if offset > self._logs.size(self._run_id, stage):
            offset = 0
        while data := self._logs.read(self._run_id, stage, offset):
            offset += len(data)
            self._offsets[stage] = offset
            yield Output(stage, data)
