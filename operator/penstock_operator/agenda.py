"""When each pool is looked at: at once when something of it changed, again after a pause that grows while a
look fails, and now and then in any case; one look at a time, and none within `GAP` of the last."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from enum import Enum, auto

from penstock_operator.errors import Unavailable

logger = logging.getLogger(__name__)

Key = tuple[str, str]
"""Namespace and name of a pool."""

GAP = 0.5
"""Seconds between two looks at the same pool, whoever rings: two controllers that undo each other's work, or
a crowd of events, cost no more than this."""

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
"""Seconds until a look that failed or found something lacking is repeated: doubled each time."""


class Outcome(Enum):
    """What came of a look, and so when the next one is."""

    GONE = auto()
    """The pool is no more, or about to go: no next look, unless somebody rings."""

    SETTLED = auto()
    """Whatever changes next, an event will tell."""

    UNSETTLED = auto()
    """Something is in the way of which no event tells, such as a Secret that is missing."""


class Agenda:
    """`look` is what is done at a pool, `tasks` what ends with it. One task attends to each pool."""

    def __init__(
        self,
        look: Callable[[Key], Awaitable[Outcome]],
        tasks: asyncio.TaskGroup,
        *,
        looks: int,
        resync: float,
    ) -> None:
        self._look = look
        self._tasks = tasks
        self._room = asyncio.Semaphore(looks)
        self._resync = resync
        self._bells: dict[Key, asyncio.Event] = {}
        self._attending: dict[Key, asyncio.Task[None]] = {}

    def ring(self, key: Key) -> None:
        """Something changed that concerns the pool, or may."""
        if key not in self._attending:
            self._bells[key] = asyncio.Event()
            self._attending[key] = self._tasks.create_task(self._attend(key), name=f"pool {'/'.join(key)}")
        self._bells[key].set()

    async def close(self) -> None:
        """No more looks; what was begun is cut short, and done again by whoever starts next."""
        for task in self._attending.values():
            task.cancel()
        await asyncio.gather(*self._attending.values(), return_exceptions=True)

    async def _attend(self, key: Key) -> None:
        bell = self._bells[key]
        pause, failed = 0.0, 0
        while True:
            await _rung(bell, pause)
            outcome = await self._looked(key)
            if outcome is Outcome.GONE and not bell.is_set():
                del self._bells[key], self._attending[key]
                return
            failed = failed + 1 if outcome is Outcome.UNSETTLED else 0
            pause = min(FIRST_PAUSE * 2.0 ** min(failed - 1, 10), LONGEST_PAUSE) if failed else self._resync
            await asyncio.sleep(GAP)

    async def _looked(self, key: Key) -> Outcome:
        """Whatever goes wrong in a look concerns this pool, this time."""
        async with self._room:
            try:
                return await self._look(key)
            except Unavailable as error:
                logger.warning("%s: %s; it is tried again", "/".join(key), error)
            except Exception:
                logger.exception("%s: a look failed; it is tried again", "/".join(key))
            return Outcome.UNSETTLED


async def _rung(bell: asyncio.Event, pause: float) -> None:
    """Until somebody rings, or the pause is over."""
    try:
        async with asyncio.timeout(pause):
            await bell.wait()
    except TimeoutError:
        pass
    bell.clear()
