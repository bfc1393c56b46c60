"""A time limit that does not take a pause of our own process for silence of the other side."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from penstock_pool.line import AFTER_STALL, STALL


@asynccontextmanager
async def patient(seconds: float) -> AsyncIterator[None]:
    """Like `asyncio.timeout(seconds)`, and raises TimeoutError as it does. But an event loop that stood still
    first reads what has come meanwhile."""
    loop = asyncio.get_running_loop()
    due = loop.time() + seconds
    timers: list[asyncio.TimerHandle] = []

    async with asyncio.timeout(None) as limit:

        def ring() -> None:
            if loop.time() - due > STALL and len(timers) == 1:
                timers.append(loop.call_later(AFTER_STALL, ring))
            else:
                limit.reschedule(loop.time())

        timers.append(loop.call_at(due, ring))
        try:
            yield
        finally:
            for timer in timers:
                timer.cancel()
