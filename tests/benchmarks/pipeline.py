"""What Penstock itself costs, from the hook to the end of a run, and what it takes while nothing happens.

python tests/benchmarks/pipeline.py [--json] [--quick]
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import Any

import aiohttp
from harness import (
    Beside,
    Result,
    Timed,
    closed_loop,
    folder,
    free_port,
    fsyncs,
    in_turns,
    open_loop,
    penstock,
    percentile,
    present,
    seconds,
)
from harness import process as started
from plugins.penstock import Penstock, Repository, service, static

SECRET = "a secret of the benchmark"
NOOP = Path(__file__).with_name("noop.sh")

HOOKS_PER_SECOND = 200
CONNECTIONS = 16
PARALLEL_RUNS = 4
"""As many as Penstock moves at once by default; as many scripts run at once for the floor."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured."""

    rounds: int
    """Turns of Penstock and floor."""
    hooks: int
    """Deliveries a round."""
    burst: int
    """Deliveries in the closed loop."""
    runs: int
    """Runs without work, one after the other."""
    apps: int
    queue: int
    """Runs without work for each of the apps, all apps at once."""
    pushes: int
    idle: float
    """Seconds of nothing before memory is read."""


FULL = Size(rounds=5, hooks=400, burst=5000, runs=30, apps=16, queue=6, pushes=7, idle=5)
QUICK = Size(rounds=1, hooks=20, burst=50, runs=2, apps=2, queue=1, pushes=1, idle=0.1)


def measure(quick: bool) -> Iterator[Result]:
    """One Penstock for all; the floods come last."""
    size = QUICK if quick else FULL
    with penstock() as running, folder() as here:
        for part in (push_and_rollback, idle_memory, noop_overhead, noop_rate, hooks):
            yield from part(running, here / part.__name__, size)


# -- webhooks


@dataclass(frozen=True, slots=True)
class Hook:
    """Where an app takes deliveries of GitHub's."""

    url: str

    def delivery(self, commit: str) -> tuple[bytes, dict[str, str]]:
        """Body and headers of a push of this commit; the delivery's id is a new one each time."""
        body = _payload(commit)
        return body, {
            "Content-Type": "application/json",
            "X-GitHub-Event": "push",
            "X-GitHub-Delivery": secrets.token_hex(16),
            "X-Hub-Signature-256": f"sha256={hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()}",
        }


def _payload(commit: str) -> bytes:
    """As long as GitHub's for a push of one commit (about 7 KiB), most of it links that nobody follows."""
    links = {f"{name}_url": f"https://api.github.com/repos/ann/shop/{name}{{/sha}}" for name in range(80)}
    one = {"id": commit, "message": "a change", "author": {"name": "Ann"}, "modified": ["index.html"]}
    push = {"ref": "refs/heads/main", "after": commit, "pusher": {"name": "ann"}, "commits": [one]}
    return json.dumps({**push, "repository": links, "head_commit": one}).encode()


def hooked(running: Penstock, name: str, upstream: Path) -> Hook:
    running.api("/apps", {"name": name, "repository": str(upstream), "webhook_secret": SECRET})
    return Hook(running.urls(name)["webhook"])


def empty_upstream(where: Path) -> Path:
    """A repository that has no commit: what deliveries name is never found, so runs fail or are superseded
    and nothing is built."""
    git("init", "--quiet", "--bare", str(where))
    return where


def git(*arguments: str) -> None:
    subprocess.run(["git", *arguments], check=True, capture_output=True)


async def deliver(_ended: object, url: str, calls: int, rate: float | None) -> list[Timed[int]]:
    """The statuses of so many deliveries: `rate` a second, or (None) as fast as they are answered."""
    made = [Hook(url).delivery(secrets.token_hex(20)) for _ in range(calls)]
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def one(number: int) -> int:
            body, headers = made[number]
            async with session.post(url, data=body, headers=headers) as answer:
                await answer.read()
                return answer.status

        if rate is None:
            return await closed_loop(CONNECTIONS, calls, one)
        return await open_loop(rate, one, lambda number: number == calls)


def hooks(running: Penstock, here: Path, size: Size) -> Iterator[Result]:
    url = hooked(running, "latency", empty_upstream(here)).url
    rounds, floors = in_turns(
        size.rounds,
        lambda _: delivered(url, size.hooks, HOOKS_PER_SECOND),
        lambda _: fsyncs(here, size.hooks // 4),
    )
    spread, floor = list(chain(*rounds)), list(chain(*floors))
    burst = delivered(hooked(running, "rate", here).url, size.burst, None)
    busy = sum(timed.ms for timed in burst) / 1000 / CONNECTIONS
    for name, share in (("hook_accept_p50_ms", 0.5), ("hook_accept_p99_ms", 0.99)):
        ours = percentile([timed.ms for timed in spread], share)
        yield Result(name, ours, "ms", floor=percentile(floor, share))
    yield Result("hook_accept_rate", len(burst) / busy, "1/s", "higher", floor=1000 * len(floor) / sum(floor))
    yield Result("hook_accept_errors", errors(spread + burst), "deliveries")


def delivered(url: str, calls: int, rate: float | None) -> list[Timed[int]]:
    with Beside(deliver, url, calls, rate) as sender:
        return sender.result()


def errors(deliveries: list[Timed[int]]) -> int:
    """Only 202 says that a new push is on the disk."""
    return sum(timed.value != 202 for timed in deliveries)


# -- runs without work


class Upstream:
    """A registered repository, and the commits that will be pushed to it one by one."""

    def __init__(self, here: Path, commits: int) -> None:
        work = Repository(here / "work")
        self.path = here / "upstream"
        self._commits = [work.commit(static(f"version {number}", test="true")) for number in range(commits)]
        git("clone", "--quiet", "--bare", str(work.folder), str(self.path))

    def advance(self, number: int) -> str:
        """Its branch is at this commit from now on."""
        commit = self._commits[number]
        git("--git-dir", str(self.path), "update-ref", "refs/heads/main", commit)
        return commit


def tell(running: Penstock, hook: Hook, commit: str) -> int:
    """The run that a delivery sets off."""
    body, headers = hook.delivery(commit)
    answer = running.ask(hook.url, body, headers=headers)
    assert answer.status == 202, answer.body
    run: int = answer.json()["run"]
    return run


def lasted(run: dict[str, Any]) -> float:
    """Seconds from a run's acceptance to its end, as its record has it."""
    assert run["status"] == "succeeded", run
    ended, began = (datetime.fromisoformat(run[name]) for name in ("ended_at", "created_at"))
    return (ended - began).total_seconds()


@dataclass(frozen=True, slots=True)
class Script:
    """The floor: a script that does by hand what a run does."""

    upstream: Upstream
    home: Path

    def prepare(self) -> Script:
        (self.home / "origin").mkdir(parents=True)
        git("init", "--quiet", "--bare", str(self.home / "repository"))
        git("--git-dir", str(self.home / "repository"), "config", "core.fsync", "all")
        return self

    def run(self, number: int) -> None:
        commit = self.upstream.advance(number)
        paths = (self.upstream.path, self.home / "repository", commit, self.home / "origin")
        subprocess.run(["sh", str(NOOP), *map(str, paths)], check=True)


def noop_overhead(running: Penstock, here: Path, size: Size) -> Iterator[Result]:
    upstream = Upstream(here, size.runs + 1)
    hook, script = hooked(running, "noop", upstream.path), Script(upstream, here / "by-hand").prepare()

    def ours(number: int) -> float:
        run = tell(running, hook, upstream.advance(number))
        time.sleep(0.1)  # not asked while it moves
        return 1000 * lasted(running.finished(run)["run"])

    def by_hand(number: int) -> float:
        return 1000 * seconds(lambda: script.run(number))

    (_, *times), (_, *floors) = in_turns(size.runs + 1, ours, by_hand)  # the first is all cold
    yield Result("noop_run_overhead_p50_ms", percentile(times, 0.5), "ms", floor=percentile(floors, 0.5))


def noop_rate(running: Penstock, here: Path, size: Size) -> Iterator[Result]:
    upstreams = [Upstream(here / f"app{number}", size.queue + 1) for number in range(size.apps)]
    hooks = [hooked(running, f"app{number}", each.path) for number, each in enumerate(upstreams)]
    queues = [Queue(running, *pair) for pair in zip(hooks, upstreams, strict=True)]
    carry(running, queues, range(1))  # the first of each app is cold
    ours = size.apps * size.queue / seconds(lambda: carry(running, queues, range(1, size.queue + 1)))
    floor = size.apps * size.queue / by_hand_at_once(upstreams, here, size.queue)
    yield Result("noop_runs_per_s", ours, "1/s", "higher", floor=floor)


@dataclass(frozen=True, slots=True)
class Queue:
    """Commits that are pushed to an app, each when the one before is live."""

    running: Penstock
    hook: Hook
    upstream: Upstream

    def push(self, number: int) -> int:
        return tell(self.running, self.hook, self.upstream.advance(number))


def carry(running: Penstock, queues: list[Queue], numbers: range) -> None:
    """Pushes each of these commits of every queue, and returns when all runs have ended."""
    moving = {queue.push(numbers[0]): (queue, iter(numbers[1:])) for queue in queues}
    while moving:
        time.sleep(0.1)  # asking costs the engine as well; the other apps have runs enough meanwhile
        for run in running.api(f"/runs?limit={2 * len(queues)}"):
            if run["id"] in moving and run["status"] not in ("queued", "running"):
                lasted(run)
                queue, rest = moving.pop(run["id"])
                if (following := next(rest, None)) is not None:
                    moving[queue.push(following)] = (queue, rest)


def by_hand_at_once(upstreams: list[Upstream], here: Path, times: int) -> float:
    """Seconds that the script takes for every app so many times, some apps at once."""
    scripts = [Script(each, here / f"by-hand{n}").prepare() for n, each in enumerate(upstreams)]

    def all_of(script: Script) -> None:
        for number in range(1, times + 1):
            script.run(number)

    for script in scripts:
        script.run(0)
    with ThreadPoolExecutor(PARALLEL_RUNS) as pool:
        return seconds(lambda: list(pool.map(all_of, scripts)))


# -- a push and a rollback, as a person waits for them


def push_and_rollback(running: Penstock, here: Path, size: Size) -> Iterator[Result]:
    repository = running.add("service")
    by_hand = ByHand(here)
    repository.commit(service("version -1"))
    push(repository)

    def ours(number: int) -> tuple[float, float]:
        repository.commit(service(f"version {number}"))
        pushed = seconds(lambda: push(repository))
        assert serves(running) == f"version {number}"
        return pushed, seconds(lambda: roll_back(running, to=number - 1))

    def floor(number: int) -> tuple[float, float]:
        return by_hand.push(number), by_hand.start()

    changes, floors = in_turns(size.pushes, ours, floor)
    pushes, rollbacks = (percentile(each, 0.5) for each in zip(*changes, strict=True))
    pushed, start = (percentile(each, 0.5) for each in zip(*floors, strict=True))
    yield Result("push_to_live_s", pushes, "s", floor=pushed + start)
    yield Result("app_start_s", start, "s")
    yield Result("rollback_s", rollbacks, "s", floor=start)


def push(repository: Repository) -> None:
    pushed = repository.push()
    assert pushed.code == 0, pushed.said


def roll_back(running: Penstock, *, to: int) -> None:
    """Returns when the run has ended and visitors get that version."""
    run = running.api("/apps/service/rollback", {})["id"]
    lasted(running.finished(run)["run"])
    assert serves(running) == f"version {to}"


def serves(running: Penstock) -> str:
    return running.ask(f"{running.urls('service')['app']}version").body.decode()


class ByHand:
    """The floor: commits like ours pushed to a repository that does nothing, the app started by hand."""

    def __init__(self, here: Path) -> None:
        self._work = Repository(here / "by-hand")
        git("init", "--quiet", "--bare", str(here / "bare"))
        git("--git-dir", str(here / "bare"), "config", "core.fsync", "all")
        self._work.git("remote", "add", "bare", str(here / "bare"))

    def push(self, number: int) -> float:
        self._work.commit(service(f"version {number}"))
        return seconds(lambda: self._work.push("bare", "main"))

    def start(self) -> float:
        began, port = time.perf_counter(), free_port()
        with started([sys.executable, "serve.py"], at=self._work.folder, port=port):
            return time.perf_counter() - began


# -- memory


def idle_memory(running: Penstock, here: Path, size: Size) -> Iterator[Result]:
    """After some deploys of a service, none of which is still draining."""
    time.sleep(size.idle)
    parts = {name: sum(map(pss, pids)) for name, pids in processes(running).items()}
    yield Result("idle_pss_mb", sum(parts.values()), "MB")
    for name, mb in parts.items():
        yield Result(f"idle_pss_{name}_mb", mb, "MB")


def processes(running: Penstock) -> dict[str, list[int]]:
    """The pids of everything of Penstock's own; apps are not."""
    front = json.loads((running.state / "front" / "front.json").read_text())
    children: dict[str, int] = front["children"]
    return {
        "engine": [running.client["pid"]],
        "front": [front["pid"]],
        "router": [children.pop("router")],
        "edges": list(children.values()),
    }


def pss(pid: int) -> float:
    """Megabytes of a process: what is its own, and its share of what it shares with others."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    (kib,) = (int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return kib * 1024 / 1e6


if __name__ == "__main__":
    present("pipeline", measure)
