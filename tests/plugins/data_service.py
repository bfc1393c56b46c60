"""A real data service for tests and benchmarks: a process of its own over a MariaDB, ended by who started it.

with DataService(folder, db.address, max_rows=10) as service:
    httpx.post(f"{service.url}/v1/query", json={"sql": "SELECT 1"}, headers=service.bearer("data:read"))
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from plugins.mariadb import SERVICE, Address, MariaDB
from plugins.ports import free_port

from penstock_data.tokens import issue, key_in

WITHIN = 30.0


def url_of(address: Address) -> str:
    """Of a database, as the service is told it."""
    address = {**address, "user": SERVICE}  # type: ignore[assignment]
    return "mysql://{user}:{password}@{host}:{port}/{database}".format(**address)


class DataService:
    """One data service. Use as a context manager, which starts it and ends it. Its port and key stay over
    `stop`, `kill` and `start`."""

    def __init__(self, folder: Path, address: Address | None = None, **settings: Any) -> None:
        """`settings` are the service's own; the address of a database is its `url`. Two of them in one folder
        have one key."""
        self.port = settings.get("port") or free_port()
        given = {"key_file": str(folder / "key"), "min": 1, "max": 4, "log": "text", "pod": str(self.port)}
        where = {} if address is None else {"url": url_of(address)}
        self.settings: dict[str, Any] = {**given, **where, **settings, "port": self.port}
        """Changes hold from the next `start` on."""
        self._folder = folder
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        scheme = "https" if "tls_cert" in self.settings else "http"
        return f"{scheme}://127.0.0.1:{self.port}"

    def __enter__(self) -> DataService:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def config(self) -> Path:
        """The file that it reads."""
        return self._folder / f"{self.port}.yaml"

    def start(self, *, ready: bool = True, environment: dict[str, str] | None = None) -> None:
        """Starts the process and waits until requests may be sent to it, or only until it answers."""
        self.config.write_text(json.dumps(self.settings))  # which is YAML
        command = [sys.executable, "-m", "penstock_data", "--config", str(self.config)]
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_DATA_")}
        with self._log.open("ab") as output:
            self.process = subprocess.Popen(
                command, stdout=output, stderr=output, env={**clean, **(environment or {})}
            )
        self._wait("/readyz" if ready else "/livez")

    def _wait(self, path: str) -> None:
        assert self.process is not None
        deadline = time.monotonic() + WITHIN
        while self._status(path) != 200:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(self.log())
            time.sleep(0.02)

    def _status(self, path: str) -> int | None:
        """Of TLS only that somebody listens is looked at: who wants to know more, asks."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WITHIN)
        try:
            connection.connect()
            if "tls_cert" in self.settings:
                return 200
            connection.request("GET", path)
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    def stop(self) -> int:
        """Ends it politely; the exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(WITHIN)

    def kill(self) -> None:
        """Ends it as a crash would, whether it runs or not."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(WITHIN)

    def log(self) -> str:
        return self._log.read_text()

    @property
    def _log(self) -> Path:
        return self._folder / f"{self.port}.log"

    # -- who asks

    @property
    def key(self) -> bytes:
        """That tokens are signed with."""
        return key_in(Path(self.settings["key_file"]))

    def token(
        self, *scopes: str, subject: str = "ann", tenant: str | None = None, seconds: float = 600
    ) -> str:
        """A good token; without scopes for reading and writing."""
        return issue(
            self.key,
            issuer=self.settings.get("issuer", "penstock-data"),
            audience=self.settings.get("audience", f"penstock-data/{self.settings.get('name', 'pool')}"),
            subject=subject,
            tenant=tenant,
            scopes=scopes or ("data:read", "data:write"),
            seconds=seconds,
        )

    def bearer(self, *scopes: str, **more: Any) -> dict[str, str]:
        """The header that a token is sent in."""
        return {"Authorization": f"Bearer {self.token(*scopes, **more)}"}


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the services of a run have their one key and their logs."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="session")
def data_service(data_folder: Path, mariadb: MariaDB) -> Iterator[DataService]:
    """A service over the shared MariaDB that the whole run shares; each test uses tables of its own. Who
    needs other settings, or ends one, takes an own."""
    with DataService(data_folder, mariadb.address, max=8) as service:
        yield service


@pytest.fixture
def service_of(data_folder: Path, request: pytest.FixtureRequest) -> Iterator[Callable[..., DataService]]:
    """Starts services of the test's own: `service_of(max_rows=10)`; without a `url`, over the shared MariaDB.
    To start one later: `service_of(started=False)`."""
    with ExitStack() as ended:

        def service_of(*, started: bool = True, **settings: Any) -> DataService:
            address = None if "url" in settings else request.getfixturevalue("mariadb").address
            service = DataService(data_folder, address, **settings)
            ended.callback(service.kill)
            if started:
                service.start()
            return service

        yield service_of


_tables = count()


@pytest.fixture
def table(mariadb: MariaDB) -> Iterator[str]:
    """The name of a table of wares that nobody else uses, with three rows in it."""
    name = f"wares_{next(_tables)}"
    mariadb.admin(
        f"CREATE TABLE shop.{name} (id INT AUTO_INCREMENT PRIMARY KEY, name VARCHAR(40) NOT NULL UNIQUE,"
        f" price DECIMAL(8, 2)) CHARACTER SET utf8mb4; INSERT INTO shop.{name} (name, price) VALUES"
        " ('a pipe', 12.30), ('a valve', 4.00), ('a gate', NULL)"
    )
    yield name
    mariadb.admin(f"DROP TABLE IF EXISTS shop.{name}")
