"""A crash loses nothing: the engine ends by SIGKILL in each stage, and the next one ends the run right."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from plugins.penstock import Answer, Penstock, service, wait_for_end

from penstock_pipeline import plan
from penstock_pipeline.model import RunKind, StageName


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
        while not self._over.wait(0.005):
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


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("stage", plan.stages(RunKind.PUSH))
def test_killed_in_a_stage(penstock: Penstock, stage: StageName, moment: str) -> None:
    repository = penstock.add("shop")
    repository.commit(service("one"))
    assert repository.push().code == 0
    penstock.stop()
    penstock.start(dies=f"{stage}:{moment}")
    urls = penstock.urls("shop")
    visitor = Visitor(penstock, urls["app"] + "version")
    visitor.start()
    commit = repository.commit(service("two", test="true"))
    push = repository.pushing()
    assert penstock.process is not None
    assert penstock.process.wait(30) < 0
    lost = wait_for_end(push)  # the connection is gone, and with it the word of how it ended; the push is not
    assert lost.code != 0

    penstock.start()
    record = penstock.finished(2)
    visitor.leave()
    assert (record["run"]["status"], record["run"]["commit"]) == ("succeeded", commit)
    assert visitor.asked > 0
    assert visitor.failed == []
    check_that_everything_exists_once(penstock, urls)
    assert repository.push().said.strip() == "Everything up-to-date"


def check_that_everything_exists_once(penstock: Penstock, urls: dict[str, Any]) -> None:
    record = penstock.api("/runs/2")
    assert {one["stage"]: one["status"] for one in record["stages"]} == dict.fromkeys(
        map(str, StageName), "done"
    )
    assert [release["version"] for release in penstock.api("/apps/shop/releases")] == [2, 1]
    assert penstock.ask(urls["app"] + "version").body == b"two"
    for edge in urls["edges"]:
        assert penstock.ask(edge).body == b"<h1>two</h1>\n"
    eventually(lambda: candidates(penstock) == ["shop-2"])


def candidates(penstock: Penstock) -> list[str]:
    """Whose processes run."""
    return [process["candidate"] for app in penstock.api("/status")["apps"] for process in app["processes"]]


def eventually(condition: Callable[[], bool], *, within: float = 30) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
