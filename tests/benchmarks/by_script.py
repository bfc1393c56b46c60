"""The peer `script`: the shell scripts that a person would write instead of installing anything."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from deliveries import SECRET, Hook
from harness import process, seconds
from plugins.penstock import Repository, service
from plugins.ports import free_port
from repositories import Upstream, bare

HERE = Path(__file__).parent
AT_ONCE = 4
"""As many as Penstock moves at once by default."""


class ByScript:
    """`noop.sh` for every commit: what a run without work does, by hand."""

    def __init__(self, home: Path, apps: list[Upstream]) -> None:
        self._homes = {app.name: home / app.name for app in apps}
        for one in self._homes.values():
            (one / "origin").mkdir(parents=True)
            bare(one / "repository")

    def run(self, app: Upstream, number: int) -> float:
        """Seconds of this commit."""
        commit, home = app.advance(number), self._homes[app.name]
        paths = (app.path, home / "repository", commit, home / "origin")
        return seconds(lambda: subprocess.run(["sh", HERE / "noop.sh", *map(str, paths)], check=True))

    def carry(self, apps: list[Upstream], numbers: range) -> float:
        """Seconds of these commits of every app, some apps at once."""

        def all_of(app: Upstream) -> None:
            for number in numbers:
                self.run(app, number)

        with ThreadPoolExecutor(AT_ONCE) as pool:
            return seconds(lambda: list(pool.map(all_of, apps)))


@contextlib.contextmanager
def door(here: Path) -> Iterator[Hook]:
    """A webhook receiver in a few lines, `door.py`."""
    port = free_port()
    with process([sys.executable, str(HERE / "door.py"), SECRET, str(here / "accepted")], at=here, port=port):
        yield Hook(f"http://127.0.0.1:{port}/", "script")


class PushedByHand:
    """The floor: commits of a service pushed to a repository that does nothing with them, and the app started
    by hand."""

    def __init__(self, here: Path) -> None:
        self._work = Repository(here / "by-hand")
        self._work.git("remote", "add", "bare", str(bare(here / "bare")))

    def push(self, number: int) -> float:
        self._work.commit(service(f"version {number}"))
        return seconds(lambda: self._work.push("bare", "main"))

    def start(self) -> float:
        """Seconds until the app answers."""
        began, port = time.perf_counter(), free_port()
        with process([sys.executable, "serve.py"], at=self._work.folder, port=port):
            return time.perf_counter() - began


@contextlib.contextmanager
def post_receive(here: Path) -> Iterator[PostReceive]:
    """A repository that starts anew what is pushed to it."""
    pushed = PostReceive(here)
    try:
        yield pushed
    finally:
        pushed.end()


class PostReceive:
    """Commits of a service pushed to a bare repository whose hook, `post-receive.sh`, makes them live."""

    def __init__(self, here: Path) -> None:
        self._home, self._port = bare(here / "live.git"), free_port()
        (self._home / "live").mkdir()
        (self._home / "deploy.env").write_text(f"export PORT={self._port}\npython={sys.executable}\n")
        shutil.copy(HERE / "post-receive.sh", self._home / "hooks/post-receive")
        self._work = Repository(here / "post-receive")
        self._work.git("remote", "add", "live", str(self._home))

    def push(self, number: int) -> float:
        """Seconds until visitors get this version."""
        self._work.commit(service(f"version {number}"))
        return seconds(lambda: self._push(f"version {number}"))

    def _push(self, version: str) -> None:
        pushed, deadline = self._work.push("live", "main"), time.monotonic() + 20
        assert pushed.code == 0, pushed.said
        while self._serves() != version:
            assert time.monotonic() < deadline, "the hook's app does not start"
            time.sleep(0.005)

    def _serves(self) -> str | None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/", timeout=5) as answer:
                body: bytes = answer.read()
        except OSError:
            return None
        return body.decode()

    def end(self) -> None:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            os.kill(int((self._home / "pid").read_text()), signal.SIGKILL)
