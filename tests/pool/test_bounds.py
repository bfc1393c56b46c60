"""No test of a pool holds up the others: one that hangs fails, and says where."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress

import pytest
from plugins.bounded import Hang, bounded
from plugins.pools import RUNNERS


@pytest.mark.parametrize("runner", RUNNERS.values(), ids=RUNNERS)
def test_what_waits_for_ever_is_interrupted_and_the_task_that_does_is_named(runner: object) -> None:
    async def waits_for_ever() -> None:
        await asyncio.Event().wait()

    assert callable(runner)
    with pytest.raises(Hang, match=r"not ended after 0.2 s(?s:.*)in waits_for_ever"), bounded(0.2):
        runner(waits_for_ever())


def test_what_blocks_is_interrupted_and_the_line_named() -> None:
    with pytest.raises(Hang, match=r"never_set\.wait"), bounded(0.2):
        never_set = threading.Event()
        never_set.wait()


def test_who_takes_the_interruption_for_something_else_has_failed_all_the_same() -> None:
    with pytest.raises(Hang), bounded(0.2), suppress(KeyboardInterrupt):
        threading.Event().wait()
