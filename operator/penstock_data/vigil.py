"""The end of a request's work when its time is over or its client has left."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any

from starlette.types import Receive

from penstock_data.errors import TimedOut
from penstock_data.http import Gone
from penstock_pool.connection import current_task

GLANCE = 0.02
"""Seconds for which nobody looks whether the client is still there: most requests are over by then, and a
look costs a task."""


class Vigil:
    """`with Vigil(seconds, receive): await …` cancels what is inside and raises `TimedOut` or `Gone` in its
    place. The body must have been read: from then on all that can be received is that the client has left."""

    __slots__ = ("_asked", "_due", "_loop", "_receive", "_task", "_timer", "_watch", "_why")

    def __init__(self, seconds: float, receive: Receive) -> None:
        self._receive = receive
        self._loop = asyncio.get_running_loop()
        self._due = self._loop.time() + seconds
        self._why: Exception | None = None
        self._watch: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def left(self) -> float:
        """Seconds until the time is over."""
        return max(0.0, self._due - self._loop.time())

    def again(self, seconds: float) -> None:
        """From now on there are as many seconds."""
        self._due = self._loop.time() + seconds

    def __enter__(self) -> Vigil:
        task: Any = current_task(self._loop)
        self._task, self._asked = task, task.cancelling()
        self._timer = self._loop.call_at(min(self._due, self._loop.time() + GLANCE), self._look)
        return self

    def _look(self) -> None:
        if self._loop.time() >= self._due:
            self._end(TimedOut("the time of the request is over"))
            return
        if self._watch is None:
            self._watch = self._loop.create_task(self._until_gone(), name="penstock-data-vigil")
        self._timer = self._loop.call_at(self._due, self._look)

    async def _until_gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._end(Gone())

    def _end(self, why: Exception) -> None:
        if self._why is None:
            self._why = why
            self._task.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._watch is not None:
            self._watch.cancel()
        if self._why is not None and self._task.uncancel() <= self._asked and kind is asyncio.CancelledError:
            raise self._why from error
