"""A first look: the service over a MariaDB that is made for it and goes with it."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote

from penstock_data.errors import InvalidSettings, Missing
from penstock_data.settings import Settings
from penstock_data.tokens import SCOPES, issue, key_in

DAY = 86400
WITHIN = 60.0
"""Seconds in which the database must be there."""

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

OWN = ("url", "password_file", "ca_file", "replicas", "jwks_url")
"""Settings that say which database or whose tokens: these are its own."""

_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"])
"""Debian has the server itself where only root looks."""

_FIRST = """\
CREATE DATABASE shop CHARACTER SET utf8mb4;
CREATE USER app@localhost IDENTIFIED BY '{password}';
GRANT ALL ON shop.* TO app@localhost;
CREATE TABLE shop.wares (id INT AUTO_INCREMENT PRIMARY KEY, name VARCHAR(40) NOT NULL, price DECIMAL(8, 2));
INSERT INTO shop.wares (name, price) VALUES ('a valve', 4.00), ('a gate', 250.00), ('a wheel', 75.50), \
('a lock', NULL), ('a sluice', 1200.00), ('a trash rack', 310.00), ('a pipe', 12.30);
"""

_TOLD = """\
A MariaDB of its own is behind {url}, with a few wares in it. Ctrl-C ends both; nothing is left.

export TOKEN={token}

curl -s {url}/v1/query -H "Authorization: Bearer $TOKEN" \\
  -d '{{"sql": "SELECT id, name, price FROM wares WHERE id = ?", "params": [7]}}'

curl -s {url}/v1/query -H "Authorization: Bearer $TOKEN" \\
  -d '{{"sql": "INSERT INTO wares (name, price) VALUES (?, ?)", "params": ["a penstock", "99.90"]}}'

curl -s {url}/v1/query -H "Authorization: Bearer $TOKEN" -H "Accept: application/x-ndjson" \\
  -d '{{"sql": "SELECT * FROM wares"}}'

curl -s {url}/v1/pool -H "Authorization: Bearer $TOKEN"

"""


def run(options: dict[str, Any]) -> None:
    """Until Ctrl-C or SIGTERM. Raises `Missing`, `InvalidSettings`."""
    if given := [name for name in OWN if name in options]:
        raise InvalidSettings(f"--demo has a database and a key of its own: leave out {', '.join(given)}")
    programs = _programs()
    _answer(_end)  # by an exception: what was started is ended
    with _folder() as folder, _database(folder, programs) as url:
        settings = _settings(options, folder, url)
        _tell(settings)
        from penstock_data.serving import serve

        try:
            serve(settings)
        finally:
            _answer(signal.SIG_IGN)


def _end(number: int, _: object) -> NoReturn:
    _answer(signal.SIG_IGN)  # cleaning up must not be interrupted
    sys.exit(128 + number)


def _answer(how: Any) -> None:
    for number in ENDING:
        signal.signal(number, how)


@contextmanager
def _held_back() -> Iterator[None]:
    """Who wants to end this waits: a process that is just being started would be forgotten."""
    came: list[int] = []
    _answer(lambda number, _: came.append(number))
    yield
    _answer(_end)
    for number in came:
        signal.raise_signal(number)


def _programs() -> tuple[str, str]:
    """The server, and what makes its first files."""
    found = {name: shutil.which(name, path=_PATH) for name in ("mariadbd", "mariadb-install-db")}
    if absent := [name for name, path in found.items() if path is None]:
        raise Missing(
            f"--demo needs MariaDB, and there is no {' and no '.join(absent)}: install mariadb-server"
        )
    return str(found["mariadbd"]), str(found["mariadb-install-db"])


@contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="pst-"))  # short: a socket's path has 108 bytes at most
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _database(folder: Path, programs: tuple[str, str]) -> Iterator[str]:
    """A server that nobody reaches but over its socket; its URL."""
    server, installs = programs
    password = secrets.token_urlsafe(24)
    first = folder / "first.sql"
    first.write_text(_FIRST.format(password=password))
    common = ["--no-defaults", f"--datadir={folder}/data", f"--user={pwd.getpwuid(os.getuid()).pw_name}"]
    _make([installs, *common, "--skip-test-db", "--skip-name-resolve"], folder / "made.log")
    where = [f"--socket={folder}/socket", f"--pid-file={folder}/pid", f"--tmpdir={folder}"]
    command = [
        server,
        *common,
        *where,
        "--skip-networking",
        "--performance-schema=OFF",
        f"--init-file={first}",
    ]
    with _started(command, folder / "log") as process:
        _wait(process, folder / "socket", folder / "log")
        yield f"mysql://app:{password}@localhost/shop?unix_socket={quote(str(folder / 'socket'))}"


def _make(command: Sequence[str], log: Path) -> None:
    with _started(command, log) as process:
        try:
            code = process.wait(WITHIN)
        except subprocess.TimeoutExpired:
            raise Missing(f"a MariaDB is not made within {WITHIN:g} s") from None
    if code != 0:
        raise Missing(f"a MariaDB cannot be made: {_last(log)}")


@contextmanager
def _started(command: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """In a session of its own: Ctrl-C in a terminal must not end it before the service. It is killed with all
    that it has started: nobody needs its data any more."""
    started: list[subprocess.Popen[bytes]] = []
    try:
        with log.open("wb") as output, _held_back():
            started.append(subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True))
        yield started[0]
    finally:
        for process in started:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait(process: subprocess.Popen[bytes], file: Path, log: Path) -> None:
    deadline = time.monotonic() + WITHIN
    while not file.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise Missing(f"MariaDB does not start: {_last(log)}")
        time.sleep(0.02)


def _last(log: Path) -> str:
    return " / ".join(log.read_text(errors="replace").strip().splitlines()[-3:]) or "it says nothing"


def _settings(options: dict[str, Any], folder: Path, url: str) -> Settings:
    own = {"url": url, "key_file": folder / "key", "replicas": (), "password_file": None, "jwks_url": None}
    port = int(options.get("port", 0)) if str(options.get("port", 0)).isdecimal() else 0
    wanted = options if port else {**options, "port": _free_port(8080, 0)}
    return Settings.load({"log": "text", **wanted, **own})


def _free_port(*wanted: int) -> int:
    """The first of these that nobody listens on; 0: any."""
    for port in wanted:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise Missing("there is no free port")


def _tell(settings: Settings) -> None:
    token = issue(
        key_in(settings.signs_with),
        issuer=settings.issuer,
        audience=settings.serves,
        subject="demo",
        scopes=sorted(SCOPES),
        seconds=DAY,
    )
    scheme = "https" if settings.tls_cert else "http"
    sys.stdout.write(_TOLD.format(url=f"{scheme}://127.0.0.1:{settings.port}", token=token))
    sys.stdout.flush()
