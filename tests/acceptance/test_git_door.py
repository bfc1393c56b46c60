"""The git endpoint, at the wire: nobody who leaves, dawdles or lies harms a push."""

from __future__ import annotations

import base64
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
from plugins.penstock import Penstock, Repository, static, wait_for_end

APP_NUMBER = iter(range(1, 1000))


@pytest.fixture
def app(shared_penstock: Penstock) -> tuple[Penstock, str, Repository]:
    name = f"door{next(APP_NUMBER)}"
    return shared_penstock, name, shared_penstock.add(name)


App = tuple[Penstock, str, Repository]


def remote(repository: Repository) -> str:
    return repository.git("remote", "get-url", "penstock").stdout.strip()


def wait_for(condition: Callable[[], Any], *, within: float = 20) -> Any:
    deadline = time.monotonic() + within
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


class Wire:
    """A connection to the git endpoint, spoken by hand."""

    def __init__(self, penstock: Penstock, repository: Repository) -> None:
        where = urlsplit(remote(repository))
        self._path = where.path
        secret = base64.b64encode(f"ann:{where.password}".encode()).decode()
        self._head = f"Host: x\r\nAuthorization: Basic {secret}\r\n"
        self.socket = socket.create_connection(("127.0.0.1", where.port or 0), timeout=20)

    def send(self, request: str, *headers: str, body: bytes = b"") -> None:
        method, rest = request.split(" ")
        lines = "".join(f"{line}\r\n" for line in headers)
        self.socket.sendall(
            f"{method} {self._path}{rest} HTTP/1.1\r\n{self._head}{lines}\r\n".encode() + body
        )

    def silent(self, seconds: float = 0.3) -> bool:
        """Whether nothing comes for a while."""
        self.socket.settimeout(seconds)
        try:
            return not self.socket.recv(1, socket.MSG_PEEK)
        except TimeoutError:
            return True
        finally:
            self.socket.settimeout(20)

    def answer(self) -> bytes:
        """All that comes until the other side is done."""
        received = b""
        while b"\r\n\r\n" not in received and (piece := self.socket.recv(65536)):
            received += piece
        return received


RECEIVE = ("POST /git-receive-pack", "Content-Type: application/x-git-receive-pack-request")


def backends(penstock: Penstock) -> list[psutil.Process]:
    """The git processes the engine has started that live."""
    assert penstock.process is not None
    return [one for one in psutil.Process(penstock.process.pid).children(recursive=True) if is_git(one)]


def is_git(process: psutil.Process) -> bool:
    try:
        return process.name() == "git" and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_no_head_is_sent_before_git_has_spoken(app: App) -> None:
    penstock, _, repository = app
    wire = Wire(penstock, repository)
    wire.send(*RECEIVE, "Content-Length: 4")
    assert wire.silent()
    wire.socket.sendall(b"0000")
    head = wire.answer()
    assert head.startswith(b"HTTP/1.1 200")
    assert b"x-accel-buffering: no" in head.lower()
    wire.socket.close()


def test_a_client_that_leaves_in_mid_upload_leaves_no_git_behind(app: App) -> None:
    penstock, _, repository = app
    wire = Wire(penstock, repository)
    wire.send(*RECEIVE, "Content-Length: 1000000", body=b"00")
    wait_for(lambda: backends(penstock))
    wire.socket.close()
    wait_for(lambda: not backends(penstock))


def test_an_engine_that_dies_in_mid_upload_leaves_no_git_behind(penstock: Penstock) -> None:
    repository = penstock.add("shop")
    wire = Wire(penstock, repository)
    wire.send(*RECEIVE, "Content-Length: 1000000", body=b"00")
    gits = wait_for(lambda: backends(penstock))
    penstock.kill()
    _, alive = psutil.wait_procs(gits, timeout=10)
    assert not any(map(is_git, alive))
    wire.socket.close()
    penstock.start()


def test_an_engine_that_stops_tells_who_pushes(penstock: Penstock) -> None:
    repository = penstock.add("shop")
    gate = repository.folder.parent / "gate"
    repository.commit(static("one", test=f"while ! test -e {gate}; do sleep 0.02; done"))
    push = repository.pushing()
    wait_for(lambda: penstock.api("/runs?app=shop"))
    assert penstock.stop() == 0
    pushed = wait_for_end(push)
    assert pushed.code == 1
    assert "Penstock went away (Penstock stopped)" in pushed.said
    assert "outcome unknown" in pushed.said
    gate.touch()
    penstock.start()
    assert penstock.finished(1)["run"]["status"] == "succeeded"


def test_a_client_that_leaves_after_its_upload_has_pushed(app: App) -> None:
    penstock, name, repository = app
    gate = repository.folder.parent / f"{repository.folder.name}-gate"
    flood = f"i=0; while ! test -e {gate}; do echo line; sleep 0.001; done; seq 200000"
    repository.commit(static("one", test=f"'{flood}'"))
    push = subprocess.Popen(
        ["git", "push", "penstock", "main"],
        cwd=repository.folder,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    runs = wait_for(lambda: penstock.api(f"/runs?app={name}"))
    os.killpg(push.pid, signal.SIGKILL)
    push.communicate()
    gate.touch()
    assert penstock.finished(runs[0]["id"])["run"]["status"] == "succeeded"
    wait_for(lambda: not backends(penstock))
    assert repository.push().said.strip() == "Everything up-to-date"


def test_pushing_again_while_it_runs_joins_it(app: App) -> None:
    penstock, name, repository = app
    gate = repository.folder.parent / f"{repository.folder.name}-gate"
    repository.commit(static("one", test=f"while ! test -e {gate}; do sleep 0.02; done"))
    first = repository.pushing()
    wait_for(lambda: penstock.api(f"/runs?app={name}"))
    second = repository.pushing()
    assert second.stdout is not None
    said = second.stdout.readline()
    assert "Joined" in said
    gate.touch()
    assert [first.wait(30), second.wait(30)] == [0, 0]
    for push in (first, second):
        push.communicate()
    assert len(penstock.api(f"/runs?app={name}")) == 1


def test_a_chunked_upload_of_many_megabytes(app: App) -> None:
    penstock, name, repository = app
    noise = base64.b64encode(os.urandom(20_000_000)).decode()
    repository.commit({**static("one"), "public/noise.txt": noise})
    repository.git("config", "http.postBuffer", "65536")
    pushed = repository.push()
    assert pushed.code == 0, pushed.said
    assert penstock.ask(penstock.urls(name)["app"] + "noise.txt").body == noise.encode()


def test_what_was_pushed_can_be_cloned_and_the_pushes_own_refs_are_hidden(app: App) -> None:
    _, _, repository = app
    repository.commit(static("one"))
    repository.push()
    clone = repository.folder.parent / f"{repository.folder.name}-clone"
    repository.git("clone", "--quiet", remote(repository), str(clone))
    assert (clone / "public/index.html").read_text() == "<h1>one</h1>\n"
    assert "penstock/pushes" not in repository.git("ls-remote", "penstock").stdout
    refused = repository.push("penstock", "HEAD:refs/penstock/pushes/99")
    assert refused.code == 1
    assert "hidden" in refused.said


@pytest.mark.parametrize(
    "path",
    ["/config", "/objects/info/packs", "/../other/info/refs", "/%2e%2e/info/refs", "/hooks/proc-receive", ""],
)
def test_nothing_but_the_protocol_is_served(app: App, path: str) -> None:
    penstock, _, repository = app
    wire = Wire(penstock, repository)
    wire.send(f"GET {path}")
    assert wire.answer().split(b" ", 2)[1] == b"404"
    wire.socket.close()


@pytest.mark.parametrize(
    "given", ["", "Bearer x", "Basic !!!", "Basic " + base64.b64encode(b"\xff:\xff").decode()]
)
def test_without_a_token_git_is_asked_for_one(app: App, given: str) -> None:
    penstock, _, repository = app
    where = urlsplit(remote(repository))
    url = f"http://127.0.0.1:{where.port}{where.path}/info/refs?service=git-receive-pack"
    answer = penstock.ask(url, headers={"Authorization": given} if given else {})
    assert answer.status == 401
    assert answer.headers["www-authenticate"].startswith("Basic")
    assert b"token" in answer.body or b"Authorization" in answer.body


def test_a_token_for_one_app_is_not_told_which_others_there_are(app: App) -> None:
    penstock, _, repository = app
    where = urlsplit(remote(repository))
    given = base64.b64encode(f"x:{where.password}".encode()).decode()
    url = f"http://127.0.0.1:{where.port}/git/nope/info/refs?service=git-receive-pack"
    answer = penstock.ask(url, headers={"Authorization": f"Basic {given}"})
    assert answer.body == b"this token is not for nope; make one: penstock token --app nope\n"


def test_an_odd_request_is_told_by_git_and_harms_nothing(app: App) -> None:
    penstock, _, repository = app
    for body in (b"zzzz", b"ffff", b"0008abc", b"\0" * 100):
        wire = Wire(penstock, repository)
        wire.send(*RECEIVE, f"Content-Length: {len(body)}", body=body)
        assert wire.answer().startswith(b"HTTP/1.1 ")
        wire.socket.close()
    repository.commit(static("one"))
    assert repository.push().code == 0
