"""Events out, over everything real: the command line, a push, a receiver, and an engine that is killed."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from plugins.penstock import Penstock, static, wait_for_end
from plugins.receivers import Received


class Subscriber:
    """A program that is told; `first` happens before its first answer."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.first: Callable[[], object] | None = None
        subscriber = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                subscriber.received.append(Received("POST", self.path, headers, body))
                first, subscriber.first = subscriber.first, None
                if first is not None:
                    first()
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"

    def told(self, kind: str, *, within: float = 30) -> bool:
        deadline = time.monotonic() + within
        while kind not in [one.type for one in self.received]:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True


@pytest.fixture
def subscriber() -> Iterator[Subscriber]:
    made = Subscriber()
    serving = threading.Thread(target=made.server.serve_forever, name="subscriber")
    serving.start()
    yield made
    made.server.shutdown()
    serving.join()
    made.server.server_close()


def test_a_push_is_told_to_whoever_was_added(penstock: Penstock, subscriber: Subscriber) -> None:
    added = json.loads(penstock.run("events", "add", subscriber.url, "--json").stdout)
    assert penstock.run("events", "test", "1").stdout == "it arrived\n"
    repository = penstock.add("shop")
    repository.commit(static("one"))
    assert repository.push().code == 0
    assert subscriber.told("run.succeeded")
    for one in subscriber.received:
        one.verify(added["secret"])
    listed = penstock.run("events").stdout
    assert subscriber.url in listed
    assert added["secret"] not in listed + penstock.log()
    assert penstock.run("events", "remove", "1").returncode == 0
    assert "Nobody is told yet" in penstock.run("events").stdout


def test_an_engine_killed_while_it_tells_tells_again_under_the_same_id(
    penstock: Penstock, subscriber: Subscriber
) -> None:
    repository = penstock.add("shop")
    penstock.run("events", "add", subscriber.url, "--app", "shop")
    subscriber.first = penstock.kill
    commit = repository.commit(static("one"))
    push = repository.pushing()
    assert subscriber.told("run.accepted")
    wait_for_end(push)
    penstock.start()
    assert penstock.finished(1)["run"]["commit"] == commit
    assert subscriber.told("run.succeeded")
    ids = [one.id for one in subscriber.received]
    assert ids[0] == ids[1]
    numbers = [int(one.rpartition("-")[2]) for one in ids]
    assert numbers == sorted(numbers)
    assert len(set(numbers)) == len(numbers) - 1
