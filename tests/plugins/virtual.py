"""An event loop on virtual time: when nothing is ready, time jumps to the next timer.

assert run(sleeps_for_an_hour())  # at once
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Jumping(selectors.DefaultSelector):
    """Never waits: what it is told to wait for is added to the time."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            raise AssertionError("nothing is ready and no timer is set: this would wait for ever")
        self.now += max(0.0, timeout)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """Its `time` begins at 0 and is the clock for whatever runs in it."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now

    def stall(self, seconds: float) -> None:
        """Stands still, as while somebody computes: time passes and nothing is done in it."""
        self._jumping.now += seconds

    def advance(self, seconds: float) -> None:
        """Lets time pass, and does what is due in it."""
        self.run_until_complete(asyncio.sleep(seconds))

    def settle(self) -> None:
        """Does what is ready or due now, and what follows from that at once."""
        self.run_until_complete(_turns(20))


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Like `asyncio.run`, on virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)
