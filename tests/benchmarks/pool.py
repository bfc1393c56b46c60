"""The connection pool beside others, and beside none: what does a checkout cost, who waits, what breaks?

python tests/benchmarks/pool.py [--json] [--quick] [--plot FILE]
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import median
from time import perf_counter
from typing import Any

import uvloop
from harness import Beside, Result, percentile, present
from plugins.mariadb import MariaDB
from pool_gate import Gate
from pool_peers import (
    ON_ASYNCMY,
    PEERS,
    STATEMENT,
    Ours,
    OursPolled,
    Peer,
    Place,
    from_a_bare_shelf,
    from_a_shelf,
    reached,
    server_at,
)
from pool_plot import plot
from pool_postgres import Postgres

from penstock_pool.asyncmy_driver import AsyncmyDriver, AsyncmySession

CONNECTIONS = 20
USERS = 200

LOOPS: dict[str, Callable[[Coroutine[Any, Any, Any]], Any]] = {"uvloop": uvloop.run, "asyncio": asyncio.run}


@dataclass(frozen=True, slots=True)
class Effort:
    """How long and how often."""

    rounds: int = 5
    batch: int = 20_000
    """Checkouts at a time."""
    seconds: float = 2.0
    """Of load."""
    warm_up: float = 0.5
    connect_ms: float = 50.0
    outage: float = 5.0
    outages: int = 2
    within: float = 5.0
    """Seconds in which the rate must be back, or something has hung."""


QUICK = Effort(1, 200, 0.1, 0.05, 50.0, 0.3, 1, 2.0)


def rotated(names: Iterable[str], number: int) -> list[str]:
    """Another one first each time."""
    order = deque(names)
    order.rotate(-number)
    return list(order)


def ours_and(place: Place, names: Sequence[str] = tuple(PEERS)) -> dict[str, type[Peer]]:
    return {"ours": Ours, **{name: PEERS[name] for name in names if name in place.peers}}


@contextlib.asynccontextmanager
async def opened(kind: type[Peer], place: Place, least: int, most: int) -> Any:
    peer = kind(place)
    await peer.open(least, most)
    try:
        yield peer
    finally:
        with contextlib.suppress(TimeoutError):
            await peer.close()


# -- a checkout of an idle connection


async def idle_checkouts(_: object, number: int, effort: Effort, place: Place) -> dict[str, float]:
    """Nanoseconds of a checkout and its return, by name. In a process of its own."""
    took = {}
    pools: dict[str, type[Peer]] = {**ours_and(place), "polled": OursPolled}
    floors = {"floor": from_a_shelf, "bare": from_a_bare_shelf}
    for name in rotated([*floors, *pools], number):
        if name in floors:
            took[name] = await _checkout_ns(floors[name], effort.batch)
            continue
        async with opened(pools[name], place, CONNECTIONS, CONNECTIONS) as peer:
            took[name] = await _checkout_ns(peer.checkouts, effort.batch)
    return took


async def _checkout_ns(checkouts: Callable[[int], Awaitable[None]], batch: int) -> float:
    await checkouts(batch // 4)
    took = []
    for _ in range(5):
        began = perf_counter()
        await checkouts(batch)
        took.append((perf_counter() - began) / batch * 1e9)
    return median(took)


def idle(place: Place, effort: Effort) -> Iterator[Result]:
    for loop, rounds in by_loops(idle_checkouts, effort, place).items():
        of = {name: median(took[name] for took in rounds) for name in rounds[0]}
        named = "" if loop == "uvloop" else f"_{loop}"
        peers = {name: of.get(name) for name in PEERS}
        yield Result(f"idle_checkout{named}_ns", of["ours"], "ns", "lower", of["floor"], peers)
        yield Result(f"idle_checkout_polled{named}_ns", of["polled"], "ns", "lower", of["floor"])
        ratio = median(took["ours"] / took["floor"] for took in rounds)
        yield Result(f"idle_checkout{named}_vs_floor", ratio, "times")
        yield Result(f"idle_checkout{named}_floor_without_object_ns", of["bare"], "ns")


def by_loops(function: Callable[..., Any], effort: Effort, place: Place) -> dict[str, list[Any]]:
    """The answers of the rounds on each kind of event loop, in turns, each in a new process."""
    answers: dict[str, list[Any]] = {loop: [] for loop in LOOPS}
    for number in range(effort.rounds):
        for loop in rotated(LOOPS, number):
            with Beside(function, number, effort, place, run=LOOPS[loop]) as process:
                answers[loop].append(process.result())
    return answers


# -- many users, few connections


@dataclass(frozen=True, slots=True)
class Load:
    """What came of a time under load."""

    rate: float
    """Statements a second."""
    counts: list[int]
    """Of each user."""
    waits: list[float]
    """Seconds for a connection, those included that had not ended."""
    ends: list[float]
    """When each statement ended."""

    @property
    def max_min(self) -> float:
        """A user that was not served at all counts as served once."""
        return max(self.counts) / max(1, min(self.counts))

    @property
    def jain(self) -> float:
        """1 when all are served alike, 1/n when one has it all."""
        return sum(self.counts) ** 2 / (len(self.counts) * sum(count**2 for count in self.counts))

    @property
    def even_wait(self) -> float:
        """Seconds that everybody would wait if statements ended at even intervals: at any time all users wait
        but one for each connection."""
        return (USERS - CONNECTIONS) / self.rate

    @property
    def ideal_p99(self) -> float:
        """The 99th percentile of the waits in a queue that costs nothing over the statements that ended here:
        who joins when one ends is served when those before it have ended."""
        later = self.ends[USERS - CONNECTIONS :]
        return percentile((end - joined for joined, end in zip(self.ends, later, strict=False)), 0.99)

    @property
    def wait_p99(self) -> float:
        return percentile(self.waits, 0.99)


async def loads(_: object, number: int, effort: Effort, place: Place) -> dict[str, Load]:
    """By name; `raw …` is with the same barest call of the driver for all. In a process of its own."""
    measured: dict[str, Load] = {}
    pools = ours_and(place)
    raw = {f"raw {name}": kind for name, kind in ours_and(place, ON_ASYNCMY).items()}
    # What is compared as a ratio stands side by side: a shared machine gets faster and slower by the second.
    names = dict.fromkeys(["raw ours", "alone", *pools, *raw, "dirty", "alone dirty"])
    for name in rotated(names, number * 3):
        if name.startswith("alone"):
            measured[name] = await _without_a_pool(place, effort, dirty=name.endswith("dirty"))
            continue
        async with opened({**pools, **raw, "dirty": Ours}[name], place, CONNECTIONS, CONNECTIONS) as peer:
            ask = peer.ask_raw if name in raw else peer.ask_dirty if name == "dirty" else peer.ask
            measured[name] = await _load([ask] * USERS, effort)
    return measured


async def _without_a_pool(place: Place, effort: Effort, *, dirty: bool) -> Load:
    """As many users as connections, each with its own."""
    sessions = [await _session(place) for _ in range(CONNECTIONS)]
    try:
        return await _load([_asks_alone(session, dirty) for session in sessions], effort)
    finally:
        for session in sessions:
            session.abort()


async def _session(place: Place) -> AsyncmySession:
    return await AsyncmyDriver(server_at(place)).open()


def _asks_alone(session: AsyncmySession, dirty: bool) -> Callable[[], Awaitable[float]]:
    raw = session.raw

    async def ask() -> float:
        got = perf_counter()
        await raw.query(STATEMENT)
        return got

    async def ask_dirty() -> float:
        got = perf_counter()
        await raw.query("SET @a = 1")
        await session.reset()
        return got

    return ask_dirty if dirty else ask


async def _load(asks: list[Callable[[], Awaitable[float]]], effort: Effort) -> Load:
    since, counts = [0.0] * len(asks), [0] * len(asks)
    waits: list[float] = []
    ends: list[float] = []
    over = False

    async def user(number: int) -> None:
        ask = asks[number]
        while not over:
            since[number] = perf_counter()
            got = await ask()
            waits.append(got - since[number])
            ends.append(perf_counter())
            counts[number] += 1

    async with asyncio.TaskGroup() as group:
        for number in range(len(asks)):
            group.create_task(user(number), name=f"user-{number}")
        await asyncio.sleep(effort.warm_up)
        waits.clear()
        ends.clear()
        before, began = list(counts), perf_counter()
        await asyncio.sleep(effort.seconds)
        ended = perf_counter()
        served = [count - earlier for count, earlier in zip(counts, before, strict=True)]
        waited = waits + [ended - asked for asked in since]
        over = True
    return Load(sum(served) / (ended - began), served, waited, ends)


def contended(place: Place, effort: Effort) -> Iterator[Result]:
    for loop, rounds in by_loops(loads, effort, place).items():
        named = "" if loop == "uvloop" else f"_{loop}"
        yield from _rates(named, rounds)
        for name, of in FAIRNESS.items():
            if loop == "uvloop":
                ours, peers = _compared(rounds, of)
                yield Result(name, ours, "times", "higher" if name == "jain_index" else "lower", 1.0, peers)
        ideal = _figures(rounds, lambda load, alone: load.wait_p99 / alone.ideal_p99)
        same_driver = {name: ideal.get(name) if name in ON_ASYNCMY else None for name in PEERS}
        yield Result(f"wait_p99{named}_vs_ideal", ideal["ours"], "times", "lower", 1.0, same_driver)
        uneven = median(each["alone"].ideal_p99 / each["alone"].even_wait for each in rounds)
        yield Result(f"ideal_p99{named}_vs_even", uneven, "times", "lower", 1.0)


def _rates(named: str, rounds: list[dict[str, Load]]) -> Iterator[Result]:
    rates = _figures(rounds, lambda load, _: load.rate)
    shares = _figures(rounds, lambda load, alone: load.rate / alone.rate)
    peers = {name: rates.get(name) for name in PEERS}
    raw = {name: rates.get(f"raw {name}") for name in PEERS}
    dirty = median(each["dirty"].rate / each["alone dirty"].rate for each in rounds)
    yield Result(f"contended{named}_qps", rates["ours"], "1/s", "higher", rates["alone"], peers)
    yield Result(f"contended{named}_vs_alone", shares["ours"], "times", "higher")
    yield Result(f"contended_raw{named}_qps", rates["raw ours"], "1/s", "higher", rates["alone"], raw)
    yield Result(f"contended_raw{named}_vs_alone", shares["raw ours"], "times", "higher")
    yield Result(f"contended_dirty{named}_qps", rates["dirty"], "1/s", "higher", rates["alone dirty"])
    yield Result(f"contended_dirty{named}_vs_alone", dirty, "times", "higher")


FAIRNESS: dict[str, Callable[[Load], float]] = {
    "queries_per_task_max_min": lambda load: load.max_min,
    "jain_index": lambda load: load.jain,
    "wait_p99_vs_own_pace": lambda load: load.wait_p99 / load.even_wait,
}


def _figures(rounds: list[dict[str, Load]], of: Callable[[Load, Load], float]) -> dict[str, float]:
    """The medians, by name; `of` gets the load, and that without a pool in the same round."""
    return {name: median(of(each[name], each["alone"]) for each in rounds) for name in rounds[0]}


def _compared(
    rounds: list[dict[str, Load]], of: Callable[[Load], float]
) -> tuple[float, dict[str, float | None]]:
    figures = _figures(rounds, lambda load, _: of(load))
    return figures["ours"], {name: figures.get(name) for name in PEERS}


# -- connections are killed


def kill(place: Place, effort: Effort, db: MariaDB) -> Iterator[Result]:
    """Errors of 100 users who come at once when all connections were killed a moment ago."""
    pools = ours_and(place, ("asyncmy", "aiomysql", "sqlalchemy"))
    errors: dict[str, list[int]] = {name: [] for name in pools}
    for number in range(effort.rounds):
        for name in rotated(pools, number):
            for run in LOOPS.values():
                errors[name].append(run(_killed(pools[name], place, effort, db)))
    worst = {name: max(each) for name, each in errors.items()}
    yield Result(
        "kill_all_user_errors", worst["ours"], "errors", "lower", 0, {name: worst.get(name) for name in PEERS}
    )


async def _killed(kind: type[Peer], place: Place, effort: Effort, db: MariaDB) -> int:
    async with opened(kind, place, CONNECTIONS, CONNECTIONS) as peer:
        await peer.all_open(CONNECTIONS)
        _kill_all(db)
        return sum(await asyncio.gather(*(_fails(peer, effort) for _ in range(100))))


async def _fails(peer: Peer, effort: Effort) -> bool:
    try:
        async with asyncio.timeout(effort.within):
            await peer.ask()
    except Exception:
        return True
    return False


def _kill_all(db: MariaDB) -> None:
    """Blocks the event loop: it must not see that the connections are closed before anybody wants one."""
    db.admin(";".join(f"KILL {number}" for number in db.connections()))
    deadline = time.monotonic() + 5
    while db.connections():
        assert time.monotonic() < deadline, "the server keeps connections that were killed"


# -- connections are opened


def fill(place: Place, effort: Effort) -> Iterator[Result]:
    """Connecting takes 50 ms: a gate lets everybody wait."""
    with contextlib.ExitStack() as gates:
        slow = _behind_gates(place, effort, gates)
        took: dict[str, list[float]] = {name: [] for name in ["alone", *ours_and(place)]}
        filling = ours_and(place, ("asyncmy", "aiomysql", "psycopg_pool"))  # SQLAlchemy's does not fill
        waited: dict[str, list[float]] = {name: [] for name in filling}
        for number in range(effort.rounds):
            for name in rotated(took, number):
                took[name].append(uvloop.run(_fill_ms(name, slow)))
            for name in rotated(waited, number):
                waited[name].append(uvloop.run(_wait_ms(name, slow)))
    medians = {name: median(each) for name, each in took.items()}
    yield Result(
        "fill_20_ms",
        medians["ours"],
        "ms",
        "lower",
        medians["alone"],
        {name: medians.get(name) for name in PEERS},
    )
    worst = {name: max(each) for name, each in waited.items()}
    yield Result(
        "idle_wait_during_fill_ms",
        worst["ours"],
        "ms",
        "lower",
        0.0,
        {name: worst.get(name) for name in PEERS},
    )


def _behind_gates(place: Place, effort: Effort, gates: contextlib.ExitStack) -> Place:
    delay = effort.connect_ms / 1000
    mysql = gates.enter_context(Gate(place.mysql["port"], delay=delay))
    if place.postgres is not None:
        postgres = gates.enter_context(Gate(place.postgres, delay=delay))
        place = replace(place, postgres=postgres.port)
    return replace(place, mysql={**place.mysql, "port": mysql.port})


async def _fill_ms(name: str, place: Place) -> float:
    """Until 20 users have a connection each. `alone`: one connection."""
    began = perf_counter()
    if name == "alone":
        (await _session(place)).abort()
        return 1000 * (perf_counter() - began)
    async with opened(ours_and(place)[name], place, CONNECTIONS, CONNECTIONS) as peer:
        await peer.all_open(CONNECTIONS)
        return 1000 * (perf_counter() - began)


async def _wait_ms(name: str, place: Place) -> float:
    """The longest wait of a user who asks over and over while a pool with one connection grows to 20."""
    async with opened(ours_and(place)[name], place, 1, CONNECTIONS) as peer:
        growing = asyncio.create_task(peer.grow(CONNECTIONS), name="grows")
        longest = 0.0
        while not growing.done():
            began = perf_counter()
            async with peer.borrowed():
                longest = max(longest, perf_counter() - began)
            await asyncio.sleep(0.001)
        await growing
        return 1000 * longest


# -- the pool's size is changed


def resize(place: Place, effort: Effort) -> Iterator[Result]:
    """20, 50, 5, 20 connections under load."""
    pools = ours_and(place, ("psycopg_pool",))
    done: dict[str, list[Resized]] = {name: [] for name in pools}
    for number in range(effort.rounds):
        for name in rotated(pools, number):
            done[name].append(uvloop.run(_resized(pools[name], place, effort)))
    errors = {name: sum(each.errors for each in done[name]) for name in pools}
    late = {name: max(each.late_ms for each in done[name]) for name in pools}
    yield Result(
        "resize_errors", errors["ours"], "errors", "lower", 0, {name: errors.get(name) for name in PEERS}
    )
    yield Result("resize_late_ms", late["ours"], "ms", "lower", 0.0, {name: late.get(name) for name in PEERS})


@dataclass(frozen=True, slots=True)
class Resized:
    errors: int
    late_ms: float
    """From the end of the last statement that was under way at the reduction, until the server counts no more
    than the new maximum."""


async def _resized(kind: type[Peer], place: Place, effort: Effort) -> Resized:
    async with opened(kind, place, CONNECTIONS, CONNECTIONS) as peer, peer.counting() as count:
        sleepers = Sleepers(peer)
        async with asyncio.TaskGroup() as group:
            for number in range(3 * CONNECTIONS):
                group.create_task(sleepers.user(), name=f"user-{number}")
            for size in (50, 5, 20):
                await asyncio.sleep(0.2)
                under_way = set(sleepers.running)
                await peer.resize(size)
                if size == 5:
                    await sleepers.ended(under_way)
                    late = await _late_ms(count, size, effort)
            await asyncio.sleep(0.2)
            sleepers.over = True
    return Resized(sleepers.errors, late)


async def _late_ms(count: Callable[[], Awaitable[int]], most: int, effort: Effort) -> float:
    began = perf_counter()
    while await count() > most and perf_counter() - began < effort.within:
        pass
    return 1000 * (perf_counter() - began)


class Sleepers:
    """Users whose statements take 10 ms, one after the other."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self.running: set[object] = set()
        """The statements that are under way."""
        self.errors = 0
        self.over = False

    async def ended(self, statements: set[object]) -> None:
        await reached(lambda: not statements & self.running)

    async def user(self) -> None:
        while not self.over:
            statement = object()
            try:
                async with self._peer.borrowed() as connection:
                    self.running.add(statement)
                    await self._peer.sleep(connection, 0.01)
            except Exception:
                self.errors += 1
            finally:
                self.running.discard(statement)


# -- the database is away


def outage(place: Place, effort: Effort) -> Iterator[Result]:
    pools = ours_and(place)
    done: dict[str, list[Outage]] = {name: [] for name in pools}
    for number in range(effort.outages):
        for name in rotated(pools, number):
            port = place.mysql["port"] if name != "psycopg_pool" else place.postgres
            assert port is not None
            with Gate(port) as gate:
                gated = Place({**place.mysql, "port": gate.port}, gate.port)
                done[name].append(uvloop.run(_away(pools[name], gated, gate, effort)))
    attempts = {name: max(each.attempts for each in done[name]) for name in pools}
    recovery = {name: median(each.recovery for each in done[name]) for name in pools}
    yield Result(
        "outage_connect_attempts",
        attempts["ours"],
        "connects",
        "lower",
        None,
        {name: attempts.get(name) for name in PEERS},
    )
    yield Result(
        "recovery_s", recovery["ours"], "s", "lower", None, {name: recovery.get(name) for name in PEERS}
    )


@dataclass(frozen=True, slots=True)
class Outage:
    attempts: int
    recovery: float


async def _away(kind: type[Peer], place: Place, gate: Gate, effort: Effort) -> Outage:
    """Users ask every 50 ms, so that the rate is not the processor's; who meets an error, 10 ms later."""
    done: list[float] = []
    over = False

    async def user() -> None:
        while not over:
            try:
                async with asyncio.timeout(2):
                    await peer.ask()
                done.append(perf_counter())
                await asyncio.sleep(0.05)
            except Exception:
                await asyncio.sleep(0.01)

    async with opened(kind, place, CONNECTIONS, CONNECTIONS) as peer, asyncio.TaskGroup() as group:
        for number in range(USERS):
            group.create_task(user(), name=f"user-{number}")
        await asyncio.sleep(effort.warm_up)
        began = perf_counter()
        await asyncio.sleep(effort.seconds / 2)
        rate = sum(when >= began for when in done) / (perf_counter() - began)
        gate.shut()
        await asyncio.sleep(effort.outage)
        attempts, back = gate.open(), perf_counter()
        recovery = await _recovered(done, rate, back, effort.within)
        over = True
    return Outage(attempts, recovery)


WINDOW = 0.1


async def _recovered(done: list[float], rate: float, back: float, within: float) -> float:
    """Seconds from `back` to the end of the first tenth of a second in which 90 % of the rate is reached."""
    start = back
    while start < back + within:
        await asyncio.sleep(max(0.0, start + WINDOW - perf_counter()))
        if sum(start <= when < start + WINDOW for when in done) >= 0.9 * rate * WINDOW:
            break
        start += WINDOW / 10
    return start + WINDOW - back


# -- the program


def measure(quick: bool) -> Iterator[Result]:
    logging.disable(logging.WARNING)  # pools whose database is away say so
    effort = QUICK if quick else Effort()
    with MariaDB(max_connections=500) as db, Postgres() as postgres:
        place = Place(db.address, postgres.port)
        yield from idle(place, effort)
        yield from contended(place, effort)
        yield from kill(place, effort, db)
        yield from fill(place, effort)
        yield from resize(place, effort)
        yield from outage(place, effort)


if __name__ == "__main__":
    present("pool", measure, plot)
