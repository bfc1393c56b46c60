"""What serves visitors outlives what does not, and comes back when it ends."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable

from plugins.penstock import Penstock, service


def eventually(condition: Callable[[], bool], *, within: float = 20) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def answers(penstock: Penstock, url: str) -> bytes | None:
    try:
        return penstock.ask(url).body
    except OSError:
        return None


def test_down_ends_everything_and_up_brings_it_back(penstock: Penstock) -> None:
    repository = penstock.add("shop")
    repository.commit(service("one"))
    assert repository.push().code == 0
    urls = penstock.urls("shop")
    penstock.run("down")
    assert answers(penstock, urls["app"]) is None
    penstock.start()
    assert penstock.urls("shop") == urls
    eventually(lambda: answers(penstock, urls["app"] + "version") == b"one")
    eventually(lambda: answers(penstock, urls["edges"][1]) == b"<h1>one</h1>\n")


def test_a_state_folder_can_be_moved(penstock: Penstock) -> None:
    repository = penstock.add("shop")
    repository.commit(service("one"))
    repository.push()
    urls = penstock.urls("shop")
    penstock.run("down")
    penstock.state = penstock.state.rename(penstock.folder / "elsewhere")
    penstock.start()
    eventually(lambda: answers(penstock, urls["app"] + "version") == b"one")
    eventually(lambda: answers(penstock, urls["app"]) == b"<h1>one</h1>\n")
    repository.commit(service("two"))
    pushed = repository.push()
    assert pushed.code == 0, pushed.said
    assert answers(penstock, urls["edges"][0]) == b"<h1>two</h1>\n"


def test_a_stop_of_the_engine_is_not_noticed_by_visitors(penstock: Penstock) -> None:
    repository = penstock.add("shop")
    repository.commit(service("one"))
    repository.push()
    urls = penstock.urls("shop")
    assert penstock.stop() == 0
    assert answers(penstock, urls["app"] + "version") == b"one"
    assert answers(penstock, urls["edges"][0]) == b"<h1>one</h1>\n"


def test_a_front_that_is_killed_is_back_in_a_moment(penstock: Penstock) -> None:
    repository = penstock.add("shop")
    repository.commit(service("one"))
    repository.push()
    front = json.loads((penstock.state / "front" / "front.json").read_text())
    os.kill(front["pid"], signal.SIGKILL)
    eventually(lambda: answers(penstock, penstock.urls("shop")["app"] + "version") == b"one")


def test_an_app_that_is_killed_is_back_in_a_moment(penstock: Penstock) -> None:
    repository = penstock.add("shop")
    repository.commit(service("one"))
    repository.push()
    (web,) = penstock.api("/status")["apps"][0]["processes"]
    os.killpg(web["pid"], signal.SIGKILL)
    eventually(lambda: penstock.api("/status")["apps"][0]["processes"][0]["restarts"] == 1)
    eventually(lambda: answers(penstock, penstock.urls("shop")["app"] + "version") == b"one")
