"""A short form of `make soak`."""

from __future__ import annotations

import random
from pathlib import Path

from plugins.replicated import Replicated
from soak.requests import soak


async def test_nothing_hangs_is_lost_or_done_twice_whatever_the_database_does(
    own_replicated: Replicated, short_tmp: Path
) -> None:
    tally = await soak(own_replicated, short_tmp, 25, random.Random(4))
    print(tally)
    assert tally.sound, str(tally)
    assert tally.faults["fail_over"] == 1
    assert tally.kept
