"""The peer `buildbot`: a real Buildbot, installed from its packages into an environment of its own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deliveries import SECRET, Hook
from harness import process, pss
from plugins.ports import free_port
from repositories import Upstream

VERSION = "4.3.0"
PACKAGES = [f"{name}=={VERSION}" for name in ("buildbot", "buildbot-worker", "buildbot-www")]
CONFIGURATION = Path(__file__).with_name("master.cfg")
INSTALLED_WITHIN = 180.0
ENDED_WITHIN = 60.0


@contextlib.contextmanager
def buildbot(here: Path, apps: list[Upstream]) -> Iterator[ByBuildbot | None]:
    """A Buildbot that carries these apps, or None where it cannot be installed."""
    if (programs := installed()) is None:
        yield None
        return
    master, port = here / "master", free_port()
    create(programs, master, port, apps)
    with process([str(programs / "buildbot"), "start", "--nodaemon", "."], at=master, port=port) as started:
        yield ByBuildbot(master, port, started.pid)


def create(programs: Path, master: Path, port: int, apps: list[Upstream]) -> None:
    """A master of these apps that is ready to be started."""
    subprocess.run([programs / "buildbot", "create-master", str(master)], check=True, capture_output=True)
    shutil.copy(CONFIGURATION, master)
    told = {"port": port, "secret": SECRET, "apps": {app.name: str(app.path) for app in apps}}
    (master / "apps.json").write_text(json.dumps(told))


def kept() -> Path | None:
    """The same folder, where an earlier benchmark has made it."""
    environment = _environment()
    return environment / "bin" if (environment / "ready").exists() else None


def installed() -> Path | None:
    """The folder of Buildbot's programs: made once, and kept with the user's other caches. None where that
    fails; standard error says why."""
    environment = _environment()
    ready = environment / "ready"
    if not ready.exists():
        _say(f"peer buildbot: installs {VERSION} into {environment} (once)")
        try:
            _install(environment)
        except (subprocess.SubprocessError, OSError) as error:
            _say(f"peer buildbot: left out, it cannot be installed: {_reason(error)}")
            return None
        ready.touch()
    return environment / "bin"


def _environment() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "penstock-benchmarks"
    return cache / f"buildbot-{VERSION}-python{sys.version_info.major}.{sys.version_info.minor}"


def _install(environment: Path) -> None:
    make = [sys.executable, "-m", "venv", "--clear", str(environment)]
    fill = [str(environment / "bin" / "python"), "-m", "pip", "install", "--quiet", *PACKAGES]
    for command in (make, fill):
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALLED_WITHIN)


def _reason(error: Exception) -> str:
    """What pip said last, or else the error itself."""
    said = (getattr(error, "stderr", None) or "").strip()
    return said.splitlines()[-1] if said else str(error)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class ByBuildbot:
    """Builds without work, set off by webhooks."""

    def __init__(self, master: Path, port: int, pid: int) -> None:
        self._url, self._pid = f"http://127.0.0.1:{port}/change_hook/github", pid
        self._journal = Journal(master / "journal")
        self.flood = self._hook("flood")

    def _hook(self, app: str) -> Hook:
        return Hook(self._url, app, accepts=200)

    def run(self, app: Upstream, number: int) -> float:
        """Seconds of a build of this commit, from the change's being stored to the build's end."""
        self._push(app, number)
        began, ended = self._journal.next("accepted"), self._journal.next("ended")
        assert ended["ok"], ended
        return float(ended["at"] - began["at"])

    def carry(self, apps: list[Upstream], numbers: range) -> float:
        """Seconds until these commits of every app are built, each pushed once the one before is."""
        began = time.time()
        rest = {app.name: (app, iter(numbers)) for app in apps}
        moving = sum(self._push_next(*each) for each in rest.values())
        while moving:
            ended = self._journal.next("ended")
            assert ended["ok"], ended
            moving += self._push_next(*rest[ended["app"]]) - 1
        return float(ended["at"] - began)

    def _push_next(self, app: Upstream, numbers: Iterator[int]) -> bool:
        if (number := next(numbers, None)) is None:
            return False
        self._push(app, number)
        return True

    def _push(self, app: Upstream, number: int) -> None:
        self._hook(app.name).tell(app.advance(number))

    def memory(self) -> float:
        """Megabytes of the master, with the worker inside."""
        return pss(self._pid)


class Journal:
    """What the master writes down, as it comes. Reading it costs the master nothing."""

    def __init__(self, file: Path) -> None:
        self._lines = file.open()
        self._part = ""

    def next(self, what: str) -> dict[str, Any]:
        """The next line about that."""
        deadline = time.monotonic() + ENDED_WITHIN
        while True:
            self._part += self._lines.readline()
            if self._part.endswith("\n"):
                line: dict[str, Any] = json.loads(self._part)
                self._part = ""
                if line["what"] == what:
                    return line
            else:
                assert time.monotonic() < deadline, f"Buildbot has not {what} anything"
                time.sleep(0.02)
