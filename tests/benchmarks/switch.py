"""Deploys and rollbacks under load: does a visitor notice?

python tests/benchmarks/switch.py [--json] [--quick]
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
from harness import Beside, Result, Timed, folder, open_loop, penstock, percentile, present
from harness import process as started
from plugins.penstock import Penstock, Repository
from plugins.ports import free_port

RATE = 500
"""Arrivals a second."""

SERVED = Path(__file__).with_name("served.py")


# -- the visitors, in a process of their own


@dataclass(frozen=True, slots=True)
class Visit:
    """One request, and what its answer must be, given the version that answers."""

    path: str
    expected: Callable[[str], str]
    body: bytes | None = None
    long: bool = False


@dataclass(frozen=True, slots=True)
class Visited:
    """How a request ended: `problem` None says that this version has answered as it must."""

    long: bool
    version: str = ""
    problem: str | None = None


NOISE = random.Random(0).randbytes(128 * 1024)


def visit(number: int) -> Visit:
    """The request of this number: one in fifty takes two seconds, a quarter has a body of 1 to 64 KiB."""
    if number % 100 == 0:
        return Visit(f"/late/{number}", lambda version: f"{version} {number}", long=True)
    if number % 100 == 50:
        return Visit(f"/slow/{number}", lambda version: _parts(version, number), long=True)
    if number % 4 == 3:
        size = random.Random(number).randint(1024, 65536)
        return _echo(NOISE[number % 65536 :][:size])
    return Visit(f"/get/{number}", lambda version: f"{version} {number}")


def _parts(version: str, number: int) -> str:
    return "".join(f"{version} {number}.{part}\n" for part in range(20))


def _echo(body: bytes) -> Visit:
    expected = f"{len(body)} {hashlib.sha256(body).hexdigest()}"
    return Visit("/echo", lambda version: f"{version} {expected}", body)


async def crowd(ended: Callable[[], bool], url: str, host: str, most: int | None) -> list[Timed[Visited]]:
    """Visits until told that it has ended, or so many times."""
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=30)
    async with aiohttp.ClientSession(url, connector=connector, timeout=timeout) as session:
        session._retry_connection = False  # a request that would have to be sent again has failed
        return await open_loop(
            RATE, lambda number: _go(session, host, visit(number)), lambda number: number == most or ended()
        )


async def _go(session: aiohttp.ClientSession, host: str, what: Visit) -> Visited:
    method = "GET" if what.body is None else "POST"
    try:
        async with session.request(method, what.path, data=what.body, headers={"Host": host}) as answer:
            return _judged(what, answer.status, await answer.text())
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        return Visited(what.long, problem=repr(error))


def _judged(what: Visit, status: int, text: str) -> Visited:
    version = text.partition(" ")[0]
    if status == 200 and re.fullmatch(r"v\d+", version) and text == what.expected(version):
        return Visited(what.long, version)
    return Visited(what.long, problem=f"{status} {text[:80]!r}")


# -- the app, alone and on Penstock


def files(version: int) -> dict[str, str]:
    config = "web: exec python serve.py\nhealth: {path: /get/health, within: 20s}\n"
    return {"serve.py": SERVED.read_text(), "version": f"v{version}", "penstock.yaml": config}


@contextlib.contextmanager
def alone() -> Iterator[str]:
    """The URL of the app as one process, which nobody deploys."""
    port = free_port()
    with folder() as here:
        Repository(here / "app").write(files(0))
        with started([sys.executable, "serve.py"], at=here / "app", port=port):
            yield f"http://127.0.0.1:{port}"


def straight(visits: int) -> list[Timed[Visited]]:
    with alone() as url, Beside(crowd, url, "app", visits) as visitors:
        return visitors.result()


def through_changes(running: Penstock, rounds: int, pause: float) -> list[Timed[Visited]]:
    """Visited all the time; two deploys and a rollback a round, with a pause in seconds after each."""
    repository = running.add("app")
    deploy(repository, 1)
    where = urlsplit(running.urls("app")["app"])
    with Beside(crowd, f"http://127.0.0.1:{where.port}", where.netloc, None) as visitors:
        for number in range(rounds):
            for version in (2 * number + 2, 2 * number + 3):
                deploy(repository, version)
                time.sleep(pause)
            roll_back(running)
            time.sleep(pause)
        visitors.end()
        return visitors.result()


def deploy(repository: Repository, version: int) -> None:
    repository.commit(files(version))
    pushed = repository.push()
    assert pushed.code == 0, pushed.said


def roll_back(running: Penstock) -> None:
    run = running.api("/apps/app/rollback", {})["id"]
    assert running.finished(run)["run"]["status"] == "succeeded"


# -- the program


def measure(quick: bool) -> Iterator[Result]:
    """Straight at the app before and after: a machine that others use changes meanwhile."""
    visits, rounds, pause = (RATE // 10, 1, 0.1) if quick else (10 * RATE, 5, 1.0)
    with penstock() as running:
        floor = straight(visits)
        ours = through_changes(running, rounds, pause)
        floor += straight(visits)
    tell_problems(ours)
    yield Result("requests", len(ours), "requests", "higher")
    yield Result("versions", len({timed.value.version for timed in ours} - {""}), "versions", "higher")
    yield Result("failed_requests", failed(ours), "requests", floor=failed(floor))
    for name, share in (("p50_ms", 0.5), ("p99_ms", 0.99)):
        yield Result(name, percentile(short(ours), share), "ms", floor=percentile(short(floor), share))


def failed(visits: list[Timed[Visited]]) -> int:
    return sum(timed.value.problem is not None for timed in visits)


def short(visits: list[Timed[Visited]]) -> list[float]:
    return [timed.ms for timed in visits if not timed.value.long]


def tell_problems(visits: list[Timed[Visited]]) -> None:
    problems = Counter(timed.value.problem for timed in visits if timed.value.problem is not None)
    for problem, times in problems.most_common(10):
        print(f"failed, {times} times: {problem}", file=sys.stderr)


def broken(results: Mapping[str, float]) -> str | None:
    if results["failed_requests"]:
        return f"{results['failed_requests']:g} requests failed; none may"
    return None if results["versions"] > 1 else "visitors have seen no switch"


if __name__ == "__main__":
    present("switch", measure, broken=broken)
