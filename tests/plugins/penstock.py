"""A real Penstock for tests and benchmarks: its own processes, state and ports; ended with all it started."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
from plugins.pace import slower

DYING = Path(__file__).with_name("dying.py")
SHIFTED = Path(__file__).with_name("shifted.py")

WITHIN = 30.0


@dataclass(frozen=True)
class Answer:
    """What a URL answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Pushed:
    """How a push ended and what was said."""

    code: int
    said: str


class Penstock:
    """One Penstock in a folder. Use as a context manager: on leaving, everything it started is ended."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.folder = folder
        self.state = folder / "state"
        self._settings = settings
        self.process: subprocess.Popen[bytes] | None = None
        self.fate: Path | None = None
        """A file that tells engines started from now on when to die (see `dying`)."""
        self.clock: Path | None = None
        """A file that tells them by how much their clock is wrong (see `shifted`)."""
        self.files: int | None = None
        """How many files engines started from now on may have open."""
        self.spawned = 0.0
        """When the engine's process was started, in seconds since the epoch."""
        self.slower = 1.0
        """How many times longer than on a quiet machine it took until it answered (see `pace`)."""

    def __enter__(self) -> Penstock:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self.run("down", check=False)

    def start(self) -> None:
        """Starts the engine and waits until it answers."""
        program = ["-m", "penstock_pipeline"]
        for told, wrapper in ((self.fate, DYING), (self.clock, SHIFTED)):
            program = program if told is None else [str(wrapper), str(told)]
        limit = [] if self.files is None else ["prlimit", f"--nofile={self.files}"]
        ports = {"PORT": 0, "ROUTER_PORT": 0, "EDGE_PORTS": "[0,0]", "APP_PORTS": 0}
        shows = {"SANDBOX_SHOWS": json.dumps([str(self.folder)])}  # what tests tell to commands that run
        given = {**ports, **shows, **self._settings}
        environment = {f"PENSTOCK_{name.upper()}": str(value) for name, value in given.items()}
        if self.process is not None:
            self.process.wait(WITHIN)
        client_file = self.state / "client.json"
        client_file.unlink(missing_ok=True)
        self.spawned = time.time()
        with (self.folder / "up.log").open("ab") as output:
            self.process = subprocess.Popen(
                [*limit, sys.executable, *program, "up", "--state", str(self.state)],
                stdout=output,
                stderr=output,
                env={**os.environ, **environment},
                start_new_session=True,
            )
        deadline = time.monotonic() + WITHIN
        while not client_file.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError((self.folder / "up.log").read_text() + self.log())
            time.sleep(0.01)
        self.slower = slower(self.process.pid)

    def kill(self) -> None:
        """Ends the engine as a crash would: no chance to say or save anything."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """Ends the engine politely; apps, router and edges stay."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(WITHIN)

    def log(self) -> str:
        file = self.state / "engine.log"
        return file.read_text() if file.exists() else ""

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A command of the CLI."""
        command = [sys.executable, "-m", "penstock_pipeline", *arguments, "--state", str(self.state)]
        return subprocess.run(command, capture_output=True, text=True, check=check, timeout=120)

    @property
    def client(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads((self.state / "client.json").read_text())
        return told

    def api(self, path: str, body: object = None, *, method: str | None = None) -> Any:
        """The answer of the API, which must be a success."""
        answer = self.ask(f"{self.client['url']}/api{path}", body, method=method, token=self.client["token"])
        assert answer.status < 300, (answer.status, answer.body)
        return answer.json()

    def ask(
        self,
        url: str,
        body: object = None,
        *,
        method: str | None = None,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Asks this machine, whatever the host name in the URL resolves to."""
        where = urlsplit(url)
        given = {"Host": where.netloc, **(headers or {})}
        if token is not None:
            given["Authorization"] = f"Bearer {token}"
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        if data is not None:
            given.setdefault("Content-Type", "application/json")
        connection = http.client.HTTPConnection("127.0.0.1", where.port, timeout=30)
        try:
            path = (where.path or "/") + (f"?{where.query}" if where.query else "")
            connection.request(method or ("GET" if data is None else "POST"), path, data, given)
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        except http.client.IncompleteRead as error:  # which is no OSError, as all other ends are
            raise ConnectionResetError("the answer broke off") from error
        finally:
            connection.close()

    def add(self, name: str, **options: object) -> Repository:
        """Registers an app and makes a working copy that can be pushed to it."""
        added = self.api("/apps", {"name": name, **options})
        repository = Repository(self.folder / f"{name}-work")
        where = urlsplit(self.client["url"]).netloc
        repository.git("remote", "add", "penstock", f"http://ann:{added['token']}@{where}{added['remote']}")
        return repository

    def urls(self, app: str) -> dict[str, Any]:
        urls: dict[str, Any] = self.api(f"/apps/{app}")["urls"]
        return urls

    def resumed(self, run: int) -> float | None:
        """Seconds from the start of this engine's process to the first event of the run that is its own; None
        where there is none. For an engine that has found the run."""
        told = (datetime.fromisoformat(event["at"]) for event in self.api(f"/runs/{run}/events"))
        return next((at.timestamp() - self.spawned for at in told if at.timestamp() >= self.spawned), None)

    def processes(self) -> Counter[str]:
        """By candidate and process (`shop-1/web`), how many there are of it, whatever Penstock says: whoever
        carries that mark in the system's own list, and was started by somebody who does not."""
        marked = self._marked()
        first = (mark for mark, parent in marked.values() if marked.get(parent, ("", 0))[0] != mark)
        return Counter(str(Path(mark).relative_to(self.state / "runtime")) for mark in first)

    def _marked(self) -> dict[int, tuple[str, int]]:
        """All processes of apps and of commands: by pid their mark and their parent."""
        marked = {}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                mark = process.environ().get("PENSTOCK_INSTANCE", "")
                if mark.startswith(f"{self.state}/") and process.status() != psutil.STATUS_ZOMBIE:
                    marked[process.pid] = mark, process.ppid()
        return marked

    def crash(self) -> None:
        """Ends all of it at once, as a machine does that loses its power: engine, front and every app."""
        front = json.loads((self.state / "front" / "front.json").read_text())
        self.kill()
        for pid in (front["pid"], *front["children"].values(), *self._marked()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + WITHIN
        while self._marked() or psutil.pid_exists(front["pid"]):
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def finished(self, run: int, *, within: float = WITHIN) -> dict[str, Any]:
        """The record of a run once it has ended."""
        deadline = time.monotonic() + within
        while True:
            record: dict[str, Any] = self.api(f"/runs/{run}")
            if record["run"]["status"] not in ("queued", "running"):
                return record
            assert time.monotonic() < deadline, record
            time.sleep(0.02)


class Repository:
    """A working copy."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self.git("init", "--quiet", "--initial-branch=main")

    def git(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        identity = ("-c", "user.name=Ann", "-c", "user.email=ann@example.com", "-c", "commit.gpgsign=false")
        return subprocess.run(
            ["git", *identity, *arguments],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=check,
            timeout=120,
        )

    def write(self, files: Mapping[str, str]) -> None:
        for name, text in files.items():
            file = self.folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)

    def commit(self, files: Mapping[str, str] | None = None, message: str = "a change") -> str:
        """Commits these files, and everything else that changed; the new commit's id."""
        self.write(files or {})
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", message)
        return self.git("rev-parse", "HEAD").stdout.strip()

    def push(self, *arguments: str) -> Pushed:
        done = self.git("push", *(arguments or ("penstock", "main")), check=False)
        return Pushed(done.returncode, done.stdout + done.stderr)

    def pushing(self, *arguments: str) -> subprocess.Popen[str]:
        """A push under way."""
        return subprocess.Popen(
            ["git", "push", *(arguments or ("penstock", "main"))],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


SERVICE = """
import http.server, os, signal, socketserver, sys, threading

VERSION = {version!r}

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        code, body = (200, VERSION) if self.path != "/healthz" else ({status}, "health")
        if self.path.startswith("/env/"):
            body = os.environ.get(self.path[5:], "unset")
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_):
        pass

class Server(http.server.ThreadingHTTPServer):
    def server_bind(self):
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]

print("serving", VERSION, flush=True)
server = Server(("127.0.0.1", int(os.environ["PORT"])), Handler)
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
server.serve_forever()
"""


def service(version: str, *, status: int = 200, **config: str) -> dict[str, str]:
    """The files of a small web service that answers with its version, besides a static page;
    `status` is what its health check answers."""
    lines = {"web": "python serve.py", "static": "public", "health": "{path: /healthz, within: 5s}", **config}
    return {
        "serve.py": SERVICE.format(version=version, status=status),
        "public/index.html": f"<h1>{version}</h1>\n",
        "public/same.txt": "the same in every version\n",
        "penstock.yaml": "".join(f"{key}: {value}\n" for key, value in lines.items()),
    }


def static(version: str, **config: str) -> dict[str, str]:
    """The files of an app that is nothing but a static page."""
    lines = {"static": "public", **config}
    return {
        "public/index.html": f"<h1>{version}</h1>\n",
        "penstock.yaml": "".join(f"{key}: {value}\n" for key, value in lines.items()),
    }


@pytest.fixture
def penstock() -> Iterator[Penstock]:
    """A Penstock of the test's own."""
    folder = Path(tempfile.mkdtemp(prefix="pst-"))
    try:
        with Penstock(folder) as running:
            yield running
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def shared_penstock() -> Iterator[Penstock]:
    """A Penstock that the tests of a module share; each uses apps of its own."""
    folder = Path(tempfile.mkdtemp(prefix="pst-"))
    try:
        with Penstock(folder) as running:
            yield running
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def wait_for_end(process: subprocess.Popen[str]) -> Pushed:
    """The end of a push that was under way."""
    said, _ = process.communicate(timeout=WITHIN)
    return Pushed(process.returncode, said)


def up(state: Path, *options: str) -> tuple[int, str]:
    """`penstock up` where it cannot: the exit code and what was said."""
    command = [sys.executable, "-m", "penstock_pipeline", "up", "--state", str(state), *options]
    ports = {"PENSTOCK_PORT": "0", "PENSTOCK_ROUTER_PORT": "0", "PENSTOCK_EDGE_PORTS": "[0]"}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **ports}
    )
    return done.returncode, done.stderr
