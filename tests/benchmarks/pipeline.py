"""What Penstock itself costs, from the hook to the end of a run, and what it takes while nothing happens,
beside a Buildbot and shell scripts that do the same.

python tests/benchmarks/pipeline.py [--json] [--quick]
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from statistics import fmean, median
from typing import Literal, Protocol

from by_buildbot import ByBuildbot, buildbot
from by_penstock import ByPenstock, Service, hooked, memory
from by_script import ByScript, PushedByHand, door, post_receive
from deliveries import Hook, delivered, per_second, refused
from harness import Result, Timed, folder, fsyncs, in_turns, penstock, percentile, present
from plugins.penstock import Penstock
from repositories import Upstream, bare

HOOKS_PER_SECOND = 200
BUILDBOT_HOOKS_PER_SECOND = 20
"""It takes about 60: at 200 a second the figure would say only for how long they have come."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured."""

    rounds: int
    """Turns of deliveries."""
    hooks: int
    """Deliveries a turn."""
    burst: int
    """Deliveries in the closed loop."""
    buildbot_burst: int
    runs: int
    """Runs without work, one after the other."""
    apps: int
    queue: int
    """Runs without work a turn for each of the apps, all apps at once."""
    turns: int
    pushes: int
    idle: float
    """Seconds of nothing before memory is read."""
    buildbot: bool
    """Whether there is time for this peer."""


FULL = Size(5, 400, 5000, 300, runs=20, apps=16, queue=3, turns=2, pushes=7, idle=5, buildbot=True)
QUICK = Size(1, 20, 50, 0, runs=2, apps=2, queue=1, turns=1, pushes=1, idle=0.1, buildbot=False)


def measure(quick: bool) -> Iterator[Result]:
    """One Penstock for all. Its memory is read before a peer is there to share pages with; the floods come
    last."""
    size = QUICK if quick else FULL
    with penstock() as running, folder() as here:
        yield from push_and_rollback(running, here, size)
        parts = idle_memory(running, size)
        apps = [Upstream(f"app{number}", here, 1 + size.turns * size.queue) for number in range(size.apps)]
        lone = Upstream("lone", here, 1 + size.runs)
        with beside(here, [lone, *apps], size) as peer:
            carriers = all_carriers(running, here, [lone, *apps], peer)
            yield noop_overhead(carriers, lone, size)
            yield noop_rate(carriers, apps, size)
            yield from memory_results(parts, peer, size)
            yield from hooks(running, here, peer, size)


@contextlib.contextmanager
def beside(here: Path, apps: list[Upstream], size: Size) -> Iterator[ByBuildbot | None]:
    if not size.buildbot:
        print("peer buildbot: left out, it takes longer than --quick may", file=sys.stderr)
        yield None
        return
    with buildbot(here, apps) as peer:
        yield peer


def compared(
    name: str, unit: str, values: Mapping[str, float], better: Literal["lower", "higher"] = "lower"
) -> Result:
    """`values` by who was measured; a peer that was not is null."""
    peers = {peer: values.get(peer) for peer in ("buildbot", "script")}
    return Result(name, values["ours"], unit, better, values.get("floor"), peers)


# -- a push and a rollback, as a person waits for them


def push_and_rollback(running: Penstock, here: Path, size: Size) -> Iterator[Result]:
    ours, floor = Service(running), PushedByHand(here)

    def there_and_back(number: int) -> tuple[float, ...]:
        return ours.push(number), ours.roll_back(to=-1)

    def by_hand(number: int) -> tuple[float, ...]:
        return floor.push(number), floor.start()

    with post_receive(here) as script:
        calls = {"ours": there_and_back, "floor": by_hand, "script": lambda number: (script.push(number),)}
        turns = in_turns(range(size.pushes), calls)
    middle = {name: [median(each) for each in zip(*times, strict=True)] for name, times in turns.items()}
    (push, rollback), (bare_push, start), (script_push,) = middle["ours"], middle["floor"], middle["script"]
    yield compared("push_to_live_s", "s", {"ours": push, "floor": bare_push + start, "script": script_push})
    yield Result("app_start_s", start, "s")
    yield Result("rollback_s", rollback, "s", floor=start)


# -- memory


def idle_memory(running: Penstock, size: Size) -> Mapping[str, float]:
    """After some deploys of a service, none of which is still draining."""
    time.sleep(size.idle)
    return memory(running)


def memory_results(parts: Mapping[str, float], peer: ByBuildbot | None, size: Size) -> Iterator[Result]:
    """The peer's is read after its builds."""
    time.sleep(size.idle)
    theirs = {"buildbot": peer.memory()} if peer else {}
    yield compared("idle_pss_mb", "MB", {"ours": sum(parts.values()), **theirs})
    for name, mb in parts.items():
        yield Result(f"idle_pss_{name}_mb", mb, "MB")


# -- runs without work


class Carrier(Protocol):
    """Whoever takes commits of apps through all that a run without work is."""

    def run(self, app: Upstream, number: int) -> float:
        """Seconds that this commit takes, alone."""

    def carry(self, apps: list[Upstream], numbers: range) -> float:
        """Seconds that these commits of every app take, each app's one after the other."""


def all_carriers(
    running: Penstock, here: Path, apps: list[Upstream], peer: ByBuildbot | None
) -> Mapping[str, Carrier]:
    """Each of them has carried a first commit of every app: that one is all cold."""
    carriers: dict[str, Carrier] = {
        "ours": ByPenstock(running, apps),
        "script": ByScript(here / "by-script", apps),
    }
    if peer:
        carriers["buildbot"] = peer
    for carrier in carriers.values():
        carrier.carry(apps, range(1))
    return carriers


def noop_overhead(carriers: Mapping[str, Carrier], app: Upstream, size: Size) -> Result:
    calls = {name: partial(carrier.run, app) for name, carrier in carriers.items()}
    turns = in_turns(range(1, 1 + size.runs), calls)
    middle = {name: 1000 * median(times) for name, times in turns.items()}
    return compared("noop_run_overhead_p50_ms", "ms", {**middle, "floor": middle["script"]})


def noop_rate(carriers: Mapping[str, Carrier], apps: list[Upstream], size: Size) -> Result:
    def rate(name: str, turn: int) -> float:
        first, queue = 1 + turn * size.queue, 1 if name == "buildbot" else size.queue
        return len(apps) * queue / carriers[name].carry(apps, range(first, first + queue))

    turns = in_turns(range(size.turns), {name: partial(rate, name) for name in carriers})
    rates = {name: fmean(each) for name, each in turns.items()}
    return compared("noop_runs_per_s", "1/s", {**rates, "floor": rates["script"]}, "higher")


# -- webhooks


def hooks(running: Penstock, here: Path, peer: ByBuildbot | None, size: Size) -> Iterator[Result]:
    nothing = bare(here / "nothing.git")  # what deliveries name is never found, so nothing is built
    with door(here) as script:
        theirs = {"script": script, **({"buildbot": peer.flood} if peer else {})}
        steady = steadily({"ours": hooked(running, "latency", nothing), **theirs}, here, size)
        burst = at_full_speed({"ours": hooked(running, "rate", nothing), **theirs}, size)
    for name, share in (("hook_accept_p50_ms", 0.5), ("hook_accept_p99_ms", 0.99)):
        yield compared(name, "ms", {who: percentile(ms(all_of), share) for who, all_of in steady.items()})
    rates = {who: per_second(all_of) for who, all_of in burst.items()}
    fsyncs_a_second = 1000 / fmean(ms(steady["floor"]))
    yield compared("hook_accept_rate", "1/s", {**rates, "floor": fsyncs_a_second}, "higher")
    errors = {who: refused(steady[who] + burst[who]) for who in burst}
    yield compared("hook_accept_errors", "deliveries", errors)


Deliveries = Mapping[str, list[Timed[bool]]]


def steadily(takers: Mapping[str, Hook], here: Path, size: Size) -> Deliveries:
    """On a schedule; beside it what the disk itself needs."""

    def deliver(name: str, _turn: int) -> list[Timed[bool]]:
        if name != "buildbot":
            return delivered(takers[name], size.hooks, HOOKS_PER_SECOND)
        return delivered(takers[name], size.hooks // 10, BUILDBOT_HOOKS_PER_SECOND)

    def append(_turn: int) -> list[Timed[bool]]:
        return [Timed(each, True) for each in fsyncs(here, size.hooks // 4)]

    calls: dict[str, Callable[[int], list[Timed[bool]]]] = {"floor": append}
    calls |= {name: partial(deliver, name) for name in takers}
    turns = in_turns(range(size.rounds), calls)
    return {name: list(chain(*each)) for name, each in turns.items()}


def at_full_speed(takers: Mapping[str, Hook], size: Size) -> Deliveries:
    """From some connections at once, as fast as they are answered."""
    calls = {name: size.buildbot_burst if name == "buildbot" else size.burst for name in takers}
    return {name: delivered(taker, calls[name], None) for name, taker in takers.items()}


def ms(deliveries: list[Timed[bool]]) -> list[float]:
    return [timed.ms for timed in deliveries]


if __name__ == "__main__":
    present("pipeline", measure)
