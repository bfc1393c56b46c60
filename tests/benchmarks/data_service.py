"""The data service beside what one writes oneself: what does a request cost, how long does it take, what does
a stream hold in memory?

python tests/benchmarks/data_service.py [--json] [--quick]
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from data_load import Load, Streamed, load, stopped, stream
from data_peers import APPS, PEERS, Settings
from harness import Beside, Result, folder, percentile, present, process
from plugins.data_service import DataService
from plugins.mariadb import MariaDB
from plugins.ports import free_port

CONNECTIONS = 20
"""To the database, of each."""
USERS = 50
TENANTS = 5
"""Each with ten of the connections, which is what it may have under way if nothing is set."""

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Effort:
    """How long and how often."""

    rounds: int = 5
    seconds: float = 4.0
    warm_up: float = 1.0
    rows: int = 500_000
    """Of a stream."""
    kilobytes: int = 1_000_000
    """Of the large one."""
    stops: float = 4.0
    """Seconds for which the reader that stopped is looked at."""


QUICK = Effort(1, 0.3, 0.2, 2_000, 3_000, 0.3)


@dataclass(frozen=True, slots=True)
class Served:
    """A service that is there, and how it is asked."""

    port: int
    pid: int
    users: list[bytes]
    """Requests, one for each connection."""
    streamed: Callable[[str, int], bytes] | None = None
    """A request for a stream, of a statement and the rows that it has."""


# -- what is served


def _request(path: str, body: object, **headers: str) -> bytes:
    content = json.dumps(body).encode()
    given = {"Host": "db", "Content-Type": "application/json", "Content-Length": str(len(content)), **headers}
    head = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + content


POINT = "SELECT id, name, price FROM wares WHERE id = {}"


@dataclass(frozen=True, slots=True)
class Signer:
    """Makes tokens, of one algorithm."""

    key: Any
    public: str
    """What they are verified with."""
    algorithm: str

    def token(self, tenant: int = 0) -> str:
        now = int(time.time())
        claims = {"iss": "penstock-data", "aud": "penstock-data/pool", "scope": "data:read data:write"}
        more = {"sub": f"tenant-{tenant}", "iat": now, "exp": now + 3600}
        return jwt.encode({**claims, **more}, self.key, self.algorithm, headers={"kid": "one"})

    def users(self, sql: str, params: object) -> list[bytes]:
        """The requests of each connection."""
        tokens = [self.token(tenant) for tenant in range(TENANTS)]
        body = {"sql": sql, "params": params}
        return [
            _request("/v1/query", body, Authorization=f"Bearer {tokens[number % TENANTS]}")
            for number in range(USERS)
        ]

    def streamed(self, path: str, sql: str, rows: int, **more: object) -> bytes:
        headers = {"Authorization": f"Bearer {self.token()}", "Accept": "application/x-ndjson"}
        return _request(path, {"sql": sql, **more}, **headers)


def hs256(here: Path) -> Signer:
    key = "k" * 48
    (here / "key").write_text(key)
    return Signer(key, key, "HS256")


def rs256() -> Signer:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    kind, form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    return Signer(key, key.public_key().public_bytes(kind, form).decode(), "RS256")


@contextlib.contextmanager
def _ours(db: MariaDB, here: Path, signer: Signer, **settings: Any) -> Iterator[Served]:
    sizes = {"min": CONNECTIONS, "max": CONNECTIONS, "timeout_limit": 600}
    with DataService(here, db.address, **sizes, **settings) as service:
        assert service.process is not None
        large = partial(signer.streamed, "/v1/query", timeout=5)
        yield Served(service.port, service.process.pid, signer.users(POINT.format("?"), [7]), large)


@contextlib.contextmanager
def _peer(name: str, db: MariaDB, signer: Signer) -> Iterator[Served]:
    told = ("penstock-data/pool", "penstock-data")
    settings = Settings(free_port(), dict(db.address), CONNECTIONS, signer.public, signer.algorithm, *told)
    command = [sys.executable, str(HERE / "data_peers.py"), name, settings.text]
    with process(command, at=HERE, port=settings.port) as started:
        yield Served(settings.port, started.pid, _asked(name, signer), _streamed(name, signer))


def _asked(name: str, signer: Signer) -> list[bytes]:
    if name == "fastapi_sqlalchemy":
        return signer.users(POINT.format(":id"), {"id": 7})
    return signer.users(POINT.format("%s"), [7])


def _streamed(name: str, signer: Signer) -> Callable[[str, int], bytes] | None:
    if name == "fastapi_asyncmy":
        return partial(signer.streamed, "/v1/stream")
    if name == "floor":
        return lambda sql, rows: _request("/v1/stream", {"rows": rows})
    return None


@contextlib.contextmanager
def _keys_served(signer: Signer) -> Iterator[str]:
    """An identity provider's keys."""
    key = jwt.algorithms.RSAAlgorithm.to_jwk(signer.key.public_key(), as_dict=True)
    document = json.dumps({"keys": [{**key, "kid": "one", "use": "sig", "alg": "RS256"}]}).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(document)))
            self.end_headers()
            self.wfile.write(document)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def _fill(db: MariaDB) -> None:
    db.admin(
        "CREATE TABLE shop.wares (id INT AUTO_INCREMENT PRIMARY KEY, name VARCHAR(40), price DECIMAL(8, 2));"
        "USE shop; INSERT INTO wares SELECT seq, CONCAT('a pipe ', seq), seq * 1.75 FROM seq_1_to_1000"
    )


# -- requests

EXPECTED = b"a pipe 7"


def points(services: Mapping[str, Served], effort: Effort) -> Iterator[Result]:
    """One row by its primary key, as JSON."""
    rounds = [
        {name: _load(services[name], effort) for name in _rotated(services, number)}
        for number in range(effort.rounds)
    ]
    yield from _compared("rps_per_core", "1/s", rounds, lambda load: load.rate_per_core)
    yield from _compared("rps", "1/s", rounds, lambda load: load.rate)
    for share in (50, 99):
        at = partial(_percentile, share=share / 100)
        yield _result(f"p{share}_ms", "ms", "lower", rounds, at)


def _load(service: Served, effort: Effort) -> Load:
    asked = (service.port, service.pid, service.users, EXPECTED, effort.warm_up, effort.seconds)
    with Beside(load, *asked) as users:
        return users.result()


def _percentile(load: Load, share: float) -> float:
    return 1000 * percentile(load.waits, share)


def _rotated(names: Iterable[str], number: int) -> list[str]:
    """Another one first each time."""
    order = deque(names)
    order.rotate(-number)
    return list(order)


Rounds = list[dict[str, Any]]


def _result(name: str, unit: str, better: Any, rounds: Rounds, of: Callable[[Any], float]) -> Result:
    """Medians."""
    figures = {each: median(of(one[each]) for one in rounds) for each in rounds[0]}
    peers = {peer: figures.get(peer) for peer in PEERS}
    return Result(name, figures["ours"], unit, better, figures.get("floor"), peers)


def _compared(name: str, unit: str, rounds: Rounds, of: Callable[[Any], float]) -> Iterator[Result]:
    """And the medians of the rounds' own ratios."""
    yield _result(name, unit, "higher", rounds, of)
    for other in rounds[0]:
        if other == "ours":
            continue
        if other == "ours_rs256":
            yield Result(f"{name}_rs256", median(of(one[other]) for one in rounds), unit, "higher")
            continue
        yield Result(
            f"{name}_vs_{other}",
            median(of(one["ours"]) / of(one[other]) for one in rounds),
            "times",
            "higher",
        )


# -- streams

SMALL = "SELECT seq, CONCAT('a pipe with the number ', seq), seq / 4 FROM seq_1_to_{}"
LARGE = "SELECT seq, REPEAT('x', 990) FROM seq_1_to_{}"


def streams(services: Mapping[str, Served], effort: Effort) -> Iterator[Result]:
    """Rows as they come."""
    streaming = {
        name: each for name, each in services.items() if each.streamed is not None and name != "ours_rs256"
    }
    rounds = [
        {name: _stream(streaming[name], SMALL, effort.rows) for name in _rotated(streaming, number)}
        for number in range(effort.rounds)
    ]
    yield from _compared("stream_rows_per_s", "1/s", rounds, lambda it: it.lines / it.seconds)
    yield from _compared("stream_rows_per_core", "1/s", rounds, lambda it: it.lines / it.cpu)


def _stream(service: Served, sql: str, rows: int, **pace: float) -> Streamed:
    assert service.streamed is not None
    request = service.streamed(sql.format(rows), rows)
    with Beside(partial(stream, **pace), service.port, service.pid, request) as reader:
        done = reader.result()
    assert rows <= done.lines, done
    return done


def memory(services: Mapping[str, Served], effort: Effort) -> Iterator[Result]:
    """Of the service's process: a gigabyte to one who rests after each megabyte, and to one who stops."""
    streaming = {name: services[name] for name in ("ours", "fastapi_asyncmy")}
    slow = {
        name: _stream(each, LARGE, effort.kilobytes, rest=0.005, piece=1_000_000)
        for name, each in streaming.items()
    }
    yield _memory("rss_mb_streaming_1gb", slow)
    yield _memory("rss_mb_reader_stopped", {name: _stopped(each, effort) for name, each in streaming.items()})


def _stopped(service: Served, effort: Effort) -> Streamed:
    assert service.streamed is not None
    request = service.streamed(LARGE.format(effort.kilobytes), effort.kilobytes)
    pace = {"after": 1_000 * effort.kilobytes // 100, "seconds": effort.stops}
    with Beside(partial(stopped, **pace), service.port, service.pid, request) as reader:
        return reader.result()


def _memory(name: str, measured: Mapping[str, Streamed]) -> Result:
    """The floor is what the process had before."""
    peers = {peer: measured[peer].memory if peer in measured else None for peer in PEERS}
    return Result(name, measured["ours"].memory, "MB", "lower", measured["ours"].memory_before, peers)


# -- the program


def measure(quick: bool) -> Iterator[Result]:
    effort = QUICK if quick else Effort()
    with contextlib.ExitStack() as started, folder() as here:
        db = started.enter_context(MariaDB(max_connections=500))
        _fill(db)
        signer, other = hs256(here), rs256()
        services = {
            "ours": started.enter_context(_ours(db, here, signer)),
            **{name: started.enter_context(_peer(name, db, signer)) for name in APPS},
        }
        keys = started.enter_context(_keys_served(other))
        with _ours(db, here, other, key_file=None, jwks_url=keys) as by_rs256:
            yield from points({**services, "ours_rs256": by_rs256}, effort)
        yield from memory(services, effort)  # before the other streams, which leave some behind
        yield from streams(services, effort)


if __name__ == "__main__":
    present("data_service", measure)
