"""A real MariaDB for tests and benchmarks: started, killed, frozen and started again by them.

with MariaDB(max_connections=50) as db:
    connection = await asyncmy.connect(**db.address)
    db.kill(db.connections("app")[0])
"""

from __future__ import annotations

import atexit
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import TypedDict

import pytest
from plugins.authority import Authority, Certificate
from plugins.ports import free_port

WITHIN = 60.0
USER, PASSWORD, DATABASE = "app", "penstock", "shop"
SERVICE = "service"
"""Another account, of services that outlive a test: the connections that are counted are those of `app`."""

_FIRST_STATEMENTS = f"""
CREATE DATABASE {DATABASE};
FLUSH PRIVILEGES;
CREATE USER {USER}@'%' IDENTIFIED BY '{PASSWORD}';
GRANT ALL ON {DATABASE}.* TO {USER}@'%';
CREATE USER {SERVICE}@'%' IDENTIFIED BY '{PASSWORD}';
GRANT ALL ON {DATABASE}.* TO {SERVICE}@'%';
"""

_QUICK = {
    "innodb_flush_log_at_trx_commit": 2,
    "innodb_flush_method": "nosync",  # nobody tests a power failure here
    "debug_no_sync": 1,
    "innodb_log_file_size": "4M",
    "innodb_buffer_pool_size": "16M",
    "innodb_fast_shutdown": 2,
    "aria_pagecache_buffer_size": "1M",
    "key_buffer_size": "1M",
    "performance_schema": "OFF",
    "skip_name_resolve": "ON",
    "max_connections": 200,
}


class Address(TypedDict):
    """Where a server is and who may enter, by the names that asyncmy gives to it."""

    host: str
    port: int
    user: str
    password: str
    database: str


class MariaDB:
    """A server of its own: folder, port and process. Use as a context manager, which starts it and ends it.

    Its port and its data stay over `stop`, `crash` and `start`. `app` owns the database `shop`; with a
    certificate it speaks TLS to those who ask for it.
    """

    def __init__(self, *, certificate: Certificate | None = None, **options: object) -> None:
        """`options` are the server's own, such as `wait_timeout=2`."""
        self.options: dict[str, object] = {**_QUICK, **options}
        """Changes hold from the next `start` on."""
        self.certificate = certificate
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> Address:
        return Address(host="127.0.0.1", port=self.port, user=USER, password=PASSWORD, database=DATABASE)

    def __enter__(self) -> MariaDB:
        self._folder = Path(tempfile.mkdtemp(prefix="pst-"))
        try:
            shutil.copytree(_prepared(), self._folder / "data")
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.crash()
        shutil.rmtree(self._folder, ignore_errors=True)

    def start(self) -> None:
        """Starts the server and waits until it answers."""
        with (self._folder / "server.log").open("ab") as output:
            self.process = subprocess.Popen(self._command(), stdout=output, stderr=output)
        deadline = time.monotonic() + WITHIN
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(self.log())
            time.sleep(0.02)

    def stop(self) -> None:
        """Ends the server politely: it says so to those who are connected."""
        self.thaw()
        self._end(signal.SIGTERM)

    def crash(self) -> None:
        """Ends the server as a power failure would, frozen or not."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Ends it politely and starts it again, on the same port with the same data."""
        self.stop()
        self.start()

    def freeze(self) -> None:
        """Stops the process: its sockets stay open, and the kernel still accepts connections for it."""
        self._signal(signal.SIGSTOP)
        assert self.process is not None
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)  # until its last thread stands still

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def admin(self, statement: str) -> list[list[str]]:
        """What the database's root is answered: rows of texts, where NULL is `NULL`."""
        done = self._client(statement)
        assert done.returncode == 0, (statement, done.stderr)
        return [line.split("\t") for line in done.stdout.splitlines()]

    def connections(self, user: str = USER) -> list[int]:
        """The ids of a user's connections, oldest first."""
        found = "SELECT id FROM information_schema.processlist WHERE user = '{}' ORDER BY id"
        return [int(row[0]) for row in self.admin(found.format(user))]

    def kill(self, connection: int) -> None:
        """Ends a connection on the server's side, by its id."""
        self.admin(f"KILL {connection}")

    def log(self) -> str:
        return (self._folder / "server.log").read_text()

    def _command(self) -> list[str]:
        options = {
            "datadir": self._folder / "data",
            "tmpdir": self._folder,  # a server that starts removes the temporary tables of all who share it
            "socket": self._socket,
            "pid_file": self._folder / "server.pid",
            "bind_address": "127.0.0.1",
            "port": self.port,
            "user": _me(),
            **self.options,
        }
        if self.certificate is not None:
            options |= {"ssl_cert": self.certificate.cert, "ssl_key": self.certificate.key}
        given = (f"--{name}={value}" for name, value in options.items())
        return [_program("mariadbd"), "--no-defaults", *given]

    @property
    def _socket(self) -> Path:
        return self._folder / "socket"

    def _client(self, statement: str) -> subprocess.CompletedProcess[str]:
        where = ("--no-defaults", f"--socket={self._socket}", "--user=root")
        return subprocess.run(
            [_program("mariadb"), *where, "--batch", "--skip-column-names", f"--execute={statement}"],
            capture_output=True,
            text=True,
            check=False,
            timeout=WITHIN,
        )

    def _answers(self) -> bool:
        return self._client("SELECT 1").returncode == 0

    def _signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def _end(self, number: signal.Signals) -> None:
        if self.process is None:
            return
        self.process.send_signal(number)
        self.process.wait(WITHIN)
        self.process = None


def missing() -> str | None:
    """What is to be installed before a MariaDB can be started, if anything is."""
    programs = ("mariadbd", "mariadb-install-db", "mariadb")
    if absent := [name for name in programs if not shutil.which(name, path=_PATH)]:
        return f"the pool's tests need MariaDB, no {' or '.join(absent)} here: apt-get install mariadb-server"
    return None


_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"])
"""Debian has the server itself where only root looks."""


def _program(name: str) -> str:
    found = shutil.which(name, path=_PATH)
    assert found, missing()
    return found


def _me() -> str:
    return pwd.getpwuid(os.getuid()).pw_name


@cache
def _prepared() -> Path:
    """Data that new servers begin with: making it takes seconds, copying it does not."""
    folder = Path(tempfile.mkdtemp(prefix="pst-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    statements = folder / "first.sql"
    statements.write_text(_FIRST_STATEMENTS)
    options = {
        "datadir": folder / "data",
        "tmpdir": folder,
        "user": _me(),
        "auth_root_authentication_method": "normal",
        "innodb_log_file_size": "4M",
        "innodb_flush_method": "nosync",
        "debug_no_sync": 1,
        "extra_file": statements,
    }
    flags = ("--no-defaults", "--skip-test-db", "--skip-name-resolve")
    given = (f"--{name.replace('_', '-')}={value}" for name, value in options.items())
    done = subprocess.run(
        [_program("mariadb-install-db"), *flags, *given],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=4 * WITHIN,
    )
    assert done.returncode == 0, done.stdout
    return folder / "data"


def missing_is_told() -> None:
    """Skips the test, under CI fails it, where no MariaDB can be started."""
    if told := missing():
        pytest.fail(told) if os.environ.get("CI") else pytest.skip(told)


@pytest.fixture(scope="session")
def mariadb(authority: Authority) -> Iterator[MariaDB]:
    """A server that the whole run shares, with a good certificate. Who needs to stop one takes an own."""
    missing_is_told()
    with MariaDB(certificate=authority.good) as db:
        yield db


@pytest.fixture
def own_mariadb() -> Iterator[Callable[..., MariaDB]]:
    """Starts servers of the test's own: `own_mariadb(wait_timeout=2)`."""
    missing_is_told()
    with ExitStack() as started:
        yield lambda **options: started.enter_context(MariaDB(**options))
