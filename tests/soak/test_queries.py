"""A short form of `make soak`."""

from __future__ import annotations

import random
from collections.abc import Callable

from plugins.mariadb import MariaDB
from soak.queries import SERVER, soak


def test_every_answer_is_for_the_one_who_asked(own_mariadb: Callable[..., MariaDB]) -> None:
    tally = soak(own_mariadb(**SERVER), 20_000, random.Random(4))
    print(tally)
    assert tally.sound, str(tally)
    assert tally.cancelled
