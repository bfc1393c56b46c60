"""What serves visitors outlives what does not, and comes back when it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
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


def serves_everywhere(penstock: Penstock, name: str) -> bool:
    """As app and on every edge."""
    urls, page = penstock.urls(name), f"<h1>{name}</h1>\n".encode()
    app = answers(penstock, urls["app"] + "version") == name.encode()
    return app and all(answers(penstock, edge) == page for edge in urls["edges"])


@pytest.mark.parametrize("torn", ["runtime/*/web.json", "runtime/*/candidate", "front/front.json"])
def test_all_comes_back_once_after_the_machine_has_crashed(penstock: Penstock, torn: str) -> None:
    """One record was torn by it, which names what runs no more."""
    shops = {name: penstock.add(name) for name in ("shop", "books")}
    for name, repository in shops.items():
        repository.commit(service(name))
        assert repository.push().code == 0
    before = penstock.processes()
    assert sorted(before.values()) == [1, 1]
    penstock.crash()
    record = min(penstock.state.glob(torn))
    os.truncate(record, record.stat().st_size // 2)
    penstock.start()
    for name in shops:
        eventually(lambda name=name: serves_everywhere(penstock, name))  # type: ignore[misc]
    assert penstock.processes() == before
    shops["shop"].commit(service("next"))
    pushed = shops["shop"].push()
    assert pushed.code == 0, pushed.said
    eventually(lambda: sorted(penstock.processes().values()) == [1, 1])
    assert "Traceback" not in penstock.log()


def test_a_live_app_whose_records_are_lost_or_of_another_version_is_adopted(penstock: Penstock) -> None:
    repository = penstock.add("shop")
    repository.commit(service("one"))
    repository.push()
    (web,) = penstock.api("/status")["apps"][0]["processes"]
    penstock.stop()
    (record,) = penstock.state.glob("runtime/*/candidate")
    record.write_text('{"app": "shop"}')
    penstock.start()
    eventually(
        lambda: (
            [process["pid"] for process in penstock.api("/status")["apps"][0]["processes"]] == [web["pid"]]
        )
    )
    os.killpg(web["pid"], signal.SIGKILL)
    eventually(lambda: answers(penstock, penstock.urls("shop")["app"] + "version") == b"one")


SOCKETS = """
import os, signal, socketserver

signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
VERSION = {version!r}.encode()
OK = b"HTTP/1.1 200 OK\\r\\nConnection: close\\r\\nContent-Length: 2\\r\\n\\r\\nok"
ACCEPTED = b"HTTP/1.1 101 Switching Protocols\\r\\nConnection: Upgrade\\r\\nUpgrade: websocket\\r\\n\\r\\n"

class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        head = b"".join(iter(self.rfile.readline, b"\\r\\n"))
        self.request.sendall(ACCEPTED if b"Upgrade" in head else OK)
        while b"Upgrade" in head and self.request.recv(100):
            self.request.sendall(b"\\x82" + bytes([len(VERSION)]) + VERSION)

class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True

Server(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""


def test_a_websocket_outlives_the_engine_and_is_told_to_come_again_after_a_release(short_tmp: Path) -> None:
    config = "web: python serve.py\nhealth: {within: 5s}\n"
    with Penstock(short_tmp, drain_timeout=0.5) as penstock:
        repository = penstock.add("chat")
        repository.commit({"serve.py": SOCKETS.format(version="one"), "penstock.yaml": config})
        assert repository.push().code == 0
        port = urlsplit(penstock.urls("chat")["app"]).port
        assert port is not None
        with websocket(port) as visitor:
            assert spoken(visitor) == b"\x82\x03one"
            penstock.kill()
            assert spoken(visitor) == b"\x82\x03one"
            penstock.start()
            assert spoken(visitor) == b"\x82\x03one"
            repository.commit({"serve.py": SOCKETS.format(version="two")})
            assert repository.push().code == 0
            assert visitor.recv(100) == b"\x88\x02\x03\xf4"
        with websocket(port) as visitor:
            assert spoken(visitor) == b"\x82\x03two"


def websocket(port: int) -> socket.socket:
    visitor = socket.create_connection(("127.0.0.1", port), timeout=20)
    visitor.sendall(
        b"GET / HTTP/1.1\r\nHost: chat.localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Key: a\r\n\r\n"
    )
    head = visitor.recv(4096)
    assert head.startswith(b"HTTP/1.1 101"), head
    return visitor


def spoken(visitor: socket.socket) -> bytes:
    visitor.sendall(b"who are you?")
    return visitor.recv(100)
