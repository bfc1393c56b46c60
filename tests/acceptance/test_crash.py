"""A crash loses nothing: the engine ends by SIGKILL at each write and each effect of a run, and the next one
ends the run right."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count

import pytest
from plugins.dying import EFFECTS, WRITE
from plugins.penstock import WITHIN, Answer, Penstock, Repository, service, wait_for_end

MOMENTS = ("before", "after")


class Visitor(threading.Thread):
    """Asks for the app without pause; keeps what did not answer as it must."""

    def __init__(self, penstock: Penstock, url: str) -> None:
        super().__init__(name="visitor")
        self._penstock = penstock
        self._url = url
        self._over = threading.Event()
        self.asked = 0
        self.failed: list[Answer | OSError] = []

    def run(self) -> None:
        while not self._over.wait(0.01):
            self.asked += 1
            try:
                answer = self._penstock.ask(self._url)
            except OSError as error:
                self.failed.append(error)
            else:
                if answer.status != 200:
                    self.failed.append(answer)

    def leave(self) -> None:
        self._over.set()
        self.join()


class Doomed:
    """A Penstock whose engine dies when it is told to, an app that is live on it, and its visitor."""

    def __init__(self, penstock: Penstock) -> None:
        self.penstock = penstock
        self.fate = penstock.fate = penstock.folder / "fate"
        penstock.stop()
        penstock.start()
        self.repository: Repository = penstock.add("shop")
        self.version = 0
        self.change()
        assert self.repository.push().code == 0
        self.urls = penstock.urls("shop")
        self.visitor = Visitor(penstock, self.urls["app"] + "version")
        self.slowest = 0.0
        """Seconds from the start of a new engine to the end of the run that it resumed."""

    def change(self) -> str:
        self.version += 1
        return self.repository.commit(service(f"v{self.version}", test="true", build="{run: 'true'}"))

    def dies_in_a_push(self, point: str, number: int, moment: str) -> bool:
        """Whether the engine came to that point. Either way the push went live, and all of it exists once."""
        commit = self.change()
        self.fate.write_text(f"{point} {number} {moment}")
        push = self.repository.pushing()
        died = self._dies_before_the_end_of(push)
        self.fate.unlink()
        if died:
            wait_for_end(push)  # its connection is gone, and with it the word of how it ended
            self._resume(commit)
        else:
            assert wait_for_end(push).code == 0
        self._check(commit)
        return died

    def _dies_before_the_end_of(self, push: subprocess.Popen[str]) -> bool:
        """An engine that lives has ended what it replaced soon after the push."""
        process = self.penstock.process
        assert process is not None
        eventually(lambda: process.poll() is not None or (push.poll() is not None and self._is_settled()))
        return process.poll() is not None

    def _is_settled(self) -> bool:
        try:
            return len(candidates(self.penstock)) == 1
        except (OSError, AssertionError):  # it died just now
            return False

    def _resume(self, commit: str) -> None:
        began = time.monotonic()
        self.penstock.start()
        runs = [run for run in self.penstock.api("/runs?app=shop") if run["commit"] == commit]
        if not runs:  # killed before it was accepted: the pusher was told of no success, and pushes again
            assert self.repository.push().code == 0
            return
        (run,) = runs
        record = self.penstock.finished(run["id"])
        self.slowest = max(self.slowest, time.monotonic() - began)
        assert record["run"]["status"] == "succeeded", record
        assert all(stage["status"] == "done" for stage in record["stages"])

    def _check(self, commit: str) -> None:
        told = f"v{self.version}".encode()
        assert self.penstock.ask(self.urls["app"] + "version").body == told
        for edge in self.urls["edges"]:
            assert self.penstock.ask(edge).body == b"<h1>%s</h1>\n" % told
        releases = self.penstock.api("/apps/shop/releases")
        assert [release["commit"] for release in releases].count(commit) == 1
        assert [release["version"] for release in releases] == list(range(len(releases), 0, -1))
        (run,) = [run for run in self.penstock.api("/runs?app=shop") if run["commit"] == commit]
        eventually(lambda: candidates(self.penstock) == [f"shop-{run['id']}"])
        assert self.repository.push().said.strip() == "Everything up-to-date"


@pytest.fixture
def doomed(penstock: Penstock) -> Iterator[Doomed]:
    """Visited all the time; nobody may notice anything."""
    doomed = Doomed(penstock)
    doomed.visitor.start()
    try:
        yield doomed
    finally:
        doomed.visitor.leave()
    assert doomed.visitor.asked > 0
    assert doomed.visitor.failed == []
    print(f"resumed and ended within {doomed.slowest:.2f} s of the new engine's start")


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_every_write_of_the_store(doomed: Doomed, moment: str) -> None:
    died = next(number for number in count(1) if not doomed.dies_in_a_push(WRITE, number, moment))
    assert died > 10, "a run makes more writes than that"


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_every_effect_of_a_run(doomed: Doomed, moment: str) -> None:
    assert [point for point in EFFECTS if not doomed.dies_in_a_push(point, 1, moment)] == []


def candidates(penstock: Penstock) -> list[str]:
    """Whose processes run."""
    return [process["candidate"] for app in penstock.api("/status")["apps"] for process in app["processes"]]


def eventually(condition: Callable[[], bool], *, within: float = WITHIN) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
