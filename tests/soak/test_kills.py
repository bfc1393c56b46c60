"""A short form of `make soak`."""

from __future__ import annotations

import random

from plugins.penstock import Penstock
from soak.kills import soak


def test_nothing_that_was_accepted_is_lost_or_stuck(penstock: Penstock) -> None:
    tally = soak(penstock, 10, random.Random(4))
    print(tally)
    assert tally.sound, str(tally)
    assert tally.kills >= 10
