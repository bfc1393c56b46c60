"""The hook of a repository elsewhere keeps every push until Penstock knows of it, and never holds one up."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from plugins.ports import free_port

from penstock_pipeline import signatures
from penstock_pipeline.hook import __main__ as program
from penstock_pipeline.hook.spool import CUT_OFF, Message, Spool

SECRET = "a secret of sixteen"
OLD, GONE = "b" * 40, "0" * 40


class Door(http.server.ThreadingHTTPServer):
    """What stands for Penstock: notes what it is told, and answers as it is told to."""

    daemon_threads = False
    request_queue_size = 64

    def __init__(self, port: int = 0) -> None:
        self.told: list[tuple[str, str]] = []
        """Id and ref of all that came, in order."""
        self.statuses: list[int] = []
        """What to answer first; 202 after that."""
        self.silent = threading.Event()
        self.silent.set()
        self.busy, self.busiest = 0, 0
        super().__init__(("127.0.0.1", port), _Handler)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hooks/generic/shop"

    @property
    def refs(self) -> list[str]:
        return [ref.removeprefix("refs/heads/") for _, ref in self.told]

    def end(self) -> None:
        self.silent.set()
        self.shutdown()
        self.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Door

    def do_POST(self) -> None:
        door = self.server
        door.busy += 1
        door.busiest = max(door.busiest, door.busy)
        body = self.rfile.read(int(self.headers["content-length"]))
        signatures.verify(
            SECRET,
            body,
            message=self.headers["webhook-id"],
            at=self.headers["webhook-timestamp"],
            signatures=self.headers["webhook-signature"],
            now=time.time(),
        )
        door.silent.wait(30)
        with contextlib.suppress(ValueError):
            door.told.append((self.headers["webhook-id"], json.loads(body)["ref"]))
        status = door.statuses.pop(0) if door.statuses else 202
        words = {"run": len(door.told)} if status == 202 else {"error": "no\x1b[31m such app"}
        said = json.dumps(words).encode() if status == 202 or status >= 400 else b"<h1>Welcome</h1>"
        door.busy -= 1
        self.send_response(status)
        self.send_header("Content-Length", str(len(said) * (status != 204)))
        self.end_headers()
        self.wfile.write(said * (status != 204))

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def door() -> Iterator[Door]:
    door = Door()
    yield door
    door.end()


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Path]:
    """A bare repository; a sender that is left over is ended."""
    folder = tmp_path / "shop.git"
    subprocess.run(["git", "init", "--quiet", "--bare", str(folder)], check=True)
    yield folder
    with contextlib.suppress(OSError), Spool(folder).alone() as ended:
        if not ended:
            os.kill(int((folder / "penstock-spool/lock").read_text()), signal.SIGKILL)


def lines(*refs: str, new: str = "4f51232" + "a" * 33) -> str:
    return "".join(f"{OLD} {new} refs/heads/{ref}\n" for ref in refs)


def hook(
    repository: Path,
    door: Door | str,
    *arguments: str,
    said: str = "",
    limit: Callable[[], None] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Runs the hook as git does. Its secret comes by the environment."""
    url = door if isinstance(door, str) else door.url
    return subprocess.run(
        [sys.executable, "-m", "penstock_pipeline.hook", "--url", url, *arguments],
        input=said,
        cwd=repository,
        env={**os.environ, "PENSTOCK_WEBHOOK_SECRET": SECRET, "REMOTE_USER": "ann", "GIT_DIR": "."},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=limit,
    )


def waiting(repository: Path) -> list[str]:
    return Spool(repository).waiting()


def wait_for(condition: Callable[[], Any], *, within: float = 20) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# -- Penstock is there


def test_branches_are_told_in_order_and_the_pusher_hears_of_each(repository: Path, door: Door) -> None:
    ended = hook(repository, door, said=lines("main", "topic"))
    assert ended.returncode == 0
    assert ended.stderr.splitlines() == [
        "-----> Accepted   4f51232 on main as run 1",
        "-----> Accepted   4f51232 on topic as run 2",
    ]
    assert door.refs == ["main", "topic"]
    assert waiting(repository) == []


def test_a_message_says_what_moved_and_who_moved_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REMOTE_USER", "ann")
    (message,) = program.messages(lines("main").encode())
    told = {"ref": "refs/heads/main", "before": OLD, "after": "4f51232" + "a" * 33, "pusher": "ann"}
    assert json.loads(message.body) == told


def test_tags_and_deletions_and_noise_are_not_told() -> None:
    tag = f"{OLD} {'c' * 40} refs/tags/v1\n"
    assert program.messages((tag + lines("main", new=GONE) + "what?\n\n").encode()) == []


def test_a_ref_that_is_no_text_is_kept_apart_from_its_neighbours() -> None:
    odd = lines("main").encode() + f"{OLD} {'c' * 40} refs/heads/".encode() + b"\xff\xc2\x85x\n"
    assert [json.loads(one.body)["ref"] for one in program.messages(odd)] == [
        "refs/heads/main",
        "refs/heads/\udcff\x85x",
    ]


def test_what_is_refused_is_set_aside_with_the_reason_and_the_next_goes_on(
    repository: Path, door: Door
) -> None:
    door.statuses = [404]
    ended = hook(repository, door, said=lines("main", "topic"))
    assert ended.returncode == 0
    assert "Refused    4f51232 on main: no[31m such app; it is in" in ended.stderr
    assert "Accepted   4f51232 on topic" in ended.stderr
    refused = sorted((repository / "penstock-spool/refused").iterdir())
    assert [file.suffix for file in refused] == [".json", ".txt"]
    assert "such app" in refused[1].read_text()
    assert waiting(repository) == []


def test_hooks_at_once_tell_every_push_once_and_one_at_a_time(repository: Path, door: Door) -> None:
    with ThreadPoolExecutor(8) as pushers:
        ended = list(pushers.map(lambda n: hook(repository, door, said=lines(f"b{n}")), range(16)))
    assert {one.returncode for one in ended} == {0}
    wait_for(lambda: not waiting(repository))
    assert sorted(door.refs) == sorted(f"b{n}" for n in range(16))
    assert door.busiest == 1


# -- Penstock is away


def test_what_is_kept_while_penstock_is_away_is_told_when_it_is_back(repository: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}/hooks/generic/shop"
    first = hook(repository, url, said=lines("one"))
    assert first.returncode == 0
    assert "Penstock is away (Connection refused); 1 push is kept, and sent when it is back" in first.stderr
    second = hook(repository, url, said=lines("two", "three"))
    assert "3 pushes are kept" in second.stderr
    door = Door(port)
    try:
        wait_for(lambda: not waiting(repository))
        assert door.refs == ["one", "two", "three"]
    finally:
        door.end()


@pytest.mark.parametrize("status", [500, 503, 429, 425, 408])
def test_an_answer_that_means_later_is_asked_for_again_under_the_same_id(
    repository: Path, door: Door, status: int
) -> None:
    door.statuses = [status]
    assert "Penstock is away" in hook(repository, door, said=lines("main")).stderr
    wait_for(lambda: not waiting(repository))
    assert door.refs == ["main", "main"]
    assert len({id for id, _ in door.told}) == 1


@pytest.mark.parametrize("status", [200, 204, 301])
def test_something_else_that_says_yes_is_not_believed(repository: Path, door: Door, status: int) -> None:
    door.statuses = [status]
    assert f"Penstock is away (it answers {status}" in hook(repository, door, said=lines("main")).stderr
    wait_for(lambda: not waiting(repository))
    assert door.refs == ["main", "main"]


def test_a_penstock_that_does_not_answer_holds_no_push_up(repository: Path, door: Door) -> None:
    door.silent.clear()
    ended = hook(repository, door, said=lines("main"))
    assert ended.returncode == 0
    assert "Penstock takes its time" in ended.stderr
    assert len(waiting(repository)) == 1
    door.silent.set()
    wait_for(lambda: not waiting(repository))


def test_what_a_killed_sender_leaves_the_next_push_sends_in_order(repository: Path, door: Door) -> None:
    door.statuses = [503]
    hook(repository, door, said=lines("one"))
    os.kill(int((repository / "penstock-spool/lock").read_text()), signal.SIGKILL)
    hook(repository, door, said=lines("two"))
    wait_for(lambda: not waiting(repository))
    assert door.refs == ["one", "one", "two"]


def test_order_is_kept_when_the_clock_is_set_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path)
    for moment in (2_000, 1_000, 1_000, 3_000):
        monkeypatch.setattr(time, "time_ns", lambda: moment)  # noqa: B023 - used at once
        spool.keep(Message.new(f"{len(spool.waiting())}".encode()))
    assert [spool.message(name).body for name in spool.waiting()] == [b"0", b"1", b"2", b"3"]


# -- what goes wrong here


def no_room() -> None:
    """As on a full disk: no file may grow."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def test_what_cannot_be_kept_is_told_at_once(repository: Path, door: Door) -> None:
    ended = hook(repository, door, said=lines("main"), limit=no_room)
    assert ended.returncode == 0
    assert "4f51232 on main cannot be kept in" in ended.stderr
    assert "File too large" in ended.stderr
    assert "Accepted   4f51232 on main as run 1" in ended.stderr
    assert door.refs == ["main"]


def test_what_was_kept_before_the_disk_was_full_is_sent(repository: Path, door: Door) -> None:
    Spool(repository).keep(program.messages(lines("before").encode())[0])
    door.statuses = [503]
    ended = hook(repository, door, said=lines("main"), limit=no_room)
    assert "was not told of 4f51232 on main" in ended.stderr
    assert "Accepted   4f51232 on before" in ended.stderr
    assert door.refs == ["main", "before"]
    assert waiting(repository) == []


def test_what_can_neither_be_kept_nor_told_is_said(repository: Path) -> None:
    (repository / "penstock-spool").write_text("not a folder")
    ended = hook(repository, f"http://127.0.0.1:{free_port()}/hooks/generic/shop", said=lines("main"))
    assert ended.returncode == 0
    assert "cannot be kept in" in ended.stderr
    assert "was not told of 4f51232 on main" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_what_was_cut_off_while_it_was_written_is_set_aside(repository: Path, door: Door) -> None:
    hook(repository, door, said=lines("one"))
    spool = repository / "penstock-spool"
    torn, young, empty = spool / ".torn", spool / ".young", spool / f"{1:020}-{'a' * 32}.json"
    for file in (torn, young, empty):
        file.touch()
    os.utime(torn, (time.time() - CUT_OFF - 1,) * 2)
    door.statuses = [400]
    ended = hook(repository, door, said=lines("two"))
    assert "cut off when it was kept" in ended.stderr
    assert f"Refused    {'a' * 32}" in ended.stderr
    assert sorted(file.name for file in (spool / "refused").iterdir()) == sorted(
        [torn.name, f"{torn.name}.txt", empty.name, f"{empty.name}.txt"]
    )
    assert young.exists()
    assert door.refs == ["one", "two"]


def test_a_push_that_is_kept_just_now_does_not_end_the_sender(tmp_path: Path) -> None:
    spool, done = Spool(tmp_path), threading.Event()
    spool.keep(Message.new(b"{}"))

    def write() -> None:
        while not done.is_set():
            spool.keep(Message.new(b"{}"))
            for name in spool.waiting():
                spool.told(name)

    with ThreadPoolExecutor() as others:
        writing = others.submit(write)
        try:
            assert not any(spool.refuse_cut_off() for _ in range(20_000))
        finally:
            done.set()
        writing.result()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "is no address for webhooks"),
        ("ftp://x/y", "is no address for webhooks"),
        ("http://x:99999/y", "is no address for webhooks"),
        ("http://[/y", "is no address for webhooks"),
    ],
)
def test_a_wrong_address_is_told_and_the_push_kept(repository: Path, url: str, said: str) -> None:
    ended = hook(repository, url, said=lines("main"))
    assert ended.returncode == 0
    assert said in ended.stderr
    assert "what waits is kept in" in ended.stderr
    assert len(waiting(repository)) == 1


@pytest.mark.parametrize("content", [None, b"", b" \n", b"\xff"])
def test_a_secret_that_is_none_is_told_and_the_push_kept(
    repository: Path, door: Door, content: bytes | None
) -> None:
    file = repository / "secret"
    if content is not None:
        file.write_bytes(content)
    ended = hook(repository, door, "--secret-file", str(file), said=lines("main"))
    assert ended.returncode == 0
    assert "the webhook's secret" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert len(waiting(repository)) == 1
    assert door.told == []


# -- run by people


def test_what_waits_can_be_sent_by_hand(repository: Path, door: Door) -> None:
    spool = Spool(repository)
    for ref in ("one", "two"):
        spool.keep(program.messages(lines(ref).encode())[0])
    door.statuses = [503]
    away = hook(repository, door, "--flush")
    assert away.returncode == 3
    assert "no[31m such app" in away.stderr
    assert hook(repository, door, "--flush").returncode == 0
    assert door.refs == ["one", "one", "two"]
    assert "Nothing waits" in hook(repository, door, "--flush").stderr


def test_who_sends_by_hand_is_told_that_another_process_does(repository: Path, door: Door) -> None:
    spool = Spool(repository)
    spool.keep(program.messages(lines("one").encode())[0])
    with spool.alone() as alone:
        assert alone
        ended = hook(repository, door, "--flush")
    assert ended.returncode == 2
    assert "another process sends" in ended.stderr


def test_the_hook_is_installed_and_never_over_somebody_elses(repository: Path, door: Door) -> None:
    (repository / "secret").write_text(SECRET)
    install = ("--install", "--secret-file", str(repository / "secret"), str(repository))
    for _ in range(2):
        assert hook(repository, door, *install).returncode == 0
    file = repository / "hooks/post-receive"
    assert os.access(file, os.X_OK)
    assert SECRET not in file.read_text()
    file.write_text("#!/bin/sh\nmail ann\n")
    refused = hook(repository, door, *install)
    assert refused.returncode == 2
    assert "is there already; add to it, as the last line: exec" in refused.stderr
    assert file.read_text() == "#!/bin/sh\nmail ann\n"


def test_the_hook_goes_where_git_looks_for_it_and_nowhere_else(
    repository: Path, door: Door, tmp_path: Path
) -> None:
    subprocess.run(
        ["git", "-C", str(repository), "config", "core.hooksPath", str(tmp_path / "all")], check=True
    )
    assert hook(repository, door, "--install", str(repository)).returncode == 0
    assert (tmp_path / "all/post-receive").exists()
    (tmp_path / "none").mkdir()
    refused = hook(tmp_path / "none", door, "--install", "/nowhere")
    assert refused.returncode == 2
    assert "is no git repository" in refused.stderr


def test_the_hook_loads_nothing_heavy() -> None:
    heavy = "('asyncio', 'typer', 'rich', 'pydantic', 'sqlalchemy', 'fastapi', 'git')"
    code = f"import sys, penstock_pipeline.hook.__main__; print([n for n in {heavy} if n in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "[]\n"


def test_the_hook_is_a_command_of_penstock_too() -> None:
    command = [sys.executable, "-m", "penstock_pipeline", "hook", "--install", "/nowhere", "--url", "nothing"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "is no address for webhooks" in ended.stderr
