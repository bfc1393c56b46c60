"""Crashes and upgrades of the engine under load, while pushes go on: does a visitor notice?

python tests/benchmarks/outlive.py [--json] [--quick]
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from harness import Beside, Result, Timed, penstock, percentile, present
from plugins.penstock import Penstock, Repository
from switch import RATE, Visited, crowd, failed, files, short, straight, tell_problems

KILLS, UPGRADES = 20, 5

PATIENCE = 60.0
"""Seconds in which a version must go live, however often it has to be pushed again."""


class Pusher(threading.Thread):
    """Pushes one version after the other; where the engine is away, the same one again."""

    def __init__(self, repository: Repository) -> None:
        super().__init__(name="pusher")
        self._repository = repository
        self._over = threading.Event()
        self.live = 1
        """The newest version whose push has said that it is live."""

    def run(self) -> None:
        while not self._over.is_set():
            self._repository.commit(files(self.live + 1))
            deadline = time.monotonic() + PATIENCE
            while self._repository.push().code:
                if time.monotonic() > deadline:
                    return
                time.sleep(0.1)
            self.live += 1

    def leave(self) -> None:
        """Once the push that is under way, which may have met the last of the ends, is live."""
        self._over.set()
        self.join()


def through_ends(running: Penstock, kills: int, upgrades: int) -> tuple[list[Timed[Visited]], int]:
    """Visited all the time; the number of versions that went live meanwhile, too."""
    repository = running.add("app")
    repository.commit(files(1))
    pushed = repository.push()
    assert pushed.code == 0, pushed.said
    where = urlsplit(running.urls("app")["app"])
    pusher = Pusher(repository)
    with Beside(crowd, f"http://127.0.0.1:{where.port}", where.netloc, None) as visitors:
        pusher.start()
        try:
            end_again_and_again(running, kills, upgrades)
        finally:
            pusher.leave()
        visitors.end()
        return visitors.result(), pusher.live - 1


def end_again_and_again(running: Penstock, kills: int, upgrades: int) -> None:
    chance = random.Random(0)
    ends = [running.kill] * kills + [running.stop] * upgrades
    chance.shuffle(ends)
    for end in ends:
        time.sleep(chance.uniform(0.2, 1.5))
        end()
        running.start()


def measure(quick: bool) -> Iterator[Result]:
    visits, kills, upgrades = (RATE // 10, 1, 1) if quick else (10 * RATE, KILLS, UPGRADES)
    with penstock() as running:
        floor = straight(visits)
        ours, live = through_ends(running, kills, upgrades)
    tell_problems(ours)
    yield Result("requests", len(ours), "requests", "higher")
    yield Result("kills", kills, "kills", "higher")
    yield Result("upgrades", upgrades, "upgrades", "higher")
    yield Result("versions_live", live, "versions", "higher")
    yield Result("failed_requests", failed(ours), "requests", floor=failed(floor))
    yield Result("p99_ms", percentile(short(ours), 0.99), "ms", floor=percentile(short(floor), 0.99))


def broken(results: Mapping[str, float]) -> str | None:
    if results["failed_requests"]:
        return f"{results['failed_requests']:g} requests failed; none may"
    return None if results["versions_live"] else "no version went live"


if __name__ == "__main__":
    present("outlive", measure, broken=broken)
