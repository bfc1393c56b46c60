"""A PostgreSQL for the peer psycopg_pool, where that is installed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from plugins.ports import free_port

WITHIN = 30.0
OPTIONS = ("-F", "-c", "max_connections=200", "-c", "listen_addresses=127.0.0.1")
"""No fsync, as nothing is written: only `SELECT 1`."""


class Postgres:
    """A server of its own. `port` is None where there is none: standard error says what is missing."""

    def __init__(self) -> None:
        self.port: int | None = None

    def __enter__(self) -> Postgres:
        if told := missing():
            print(f"peer psycopg_pool: left out, {told}", file=sys.stderr, flush=True)
            return self
        self._folder = Path(tempfile.mkdtemp(prefix="pst-"))
        if os.geteuid() == 0:
            shutil.chown(self._folder, "postgres", "postgres")
        make = [
            *_as_its_user(),
            _program("initdb"),
            "-A",
            "trust",
            "-U",
            "app",
            "-D",
            str(self._folder / "data"),
        ]
        subprocess.run(make, check=True, capture_output=True, cwd="/", timeout=WITHIN)
        self._start(free_port())
        return self

    def _start(self, port: int) -> None:
        where = ["-D", str(self._folder / "data"), "-k", str(self._folder), "-p", str(port)]
        with (self._folder / "server.log").open("wb") as log:
            self._process = subprocess.Popen(
                [*_as_its_user(), _program("postgres"), *where, *OPTIONS], stdout=log, stderr=log, cwd="/"
            )
        deadline = time.monotonic() + WITHIN
        while not _answers(port):
            assert time.monotonic() < deadline, (self._folder / "server.log").read_text()
            time.sleep(0.05)
        self.port = port

    def __exit__(self, *_: object) -> None:
        if self.port is not None:
            self._process.terminate()
            self._process.wait(WITHIN)
            shutil.rmtree(self._folder, ignore_errors=True)


def missing() -> str | None:
    """What is to be installed first, if anything is."""
    if find_spec("psycopg_pool") is None:
        return "the package psycopg[binary,pool] is not installed"
    if _program("postgres") is None:
        return "PostgreSQL is not installed (postgresql)"
    return None


def _program(name: str) -> str | None:
    newest = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(newest[-1]) if newest else shutil.which(name)


def _as_its_user() -> list[str]:
    """It refuses to be root's."""
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []


def _answers(port: int) -> bool:
    with socket.socket() as knocks:
        return knocks.connect_ex(("127.0.0.1", port)) == 0
