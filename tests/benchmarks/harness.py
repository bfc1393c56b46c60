"""What the benchmarks share: how they measure, what they print, and that nothing of theirs stays behind."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import http.client
import json
import multiprocessing
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Generic, Literal, NoReturn, TypeVar

import psutil
import uvloop
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))
from plugins.penstock import Penstock

APP_PORTS = 17100
"""From here on apps have ports in order. Free ones by chance (0) could be given to two apps of many."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Result:
    """One figure. `floor` and `peers` were measured in the same run, in turns with ours; a peer that was not
    is None."""

    name: str
    value: float
    unit: str
    better: Literal["lower", "higher"] = "lower"
    floor: float | None = None
    peers: Mapping[str, float | None] | None = None


def percentile(values: Iterable[float], share: float) -> float:
    """The smallest value that at least this share (0 to 1) of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


# -- a program


def present(
    benchmark: str,
    measure: Callable[[bool], Iterable[Result]],
    plot: Callable[[Sequence[Result]], str] | None = None,
    broken: Callable[[Mapping[str, float]], str | None] = lambda _: None,
) -> None:
    """Measures (`measure` is told whether to be quick) and prints, as the command line asks. `plot` draws an
    SVG of the results. `broken` is asked which promise they break, by name: the program says so and exits
    with 1. An interruption ends what was started, then the program."""
    parser = argparse.ArgumentParser(description=f"Measures {benchmark}; see tests/benchmarks/README.md.")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="tiny counts: shows that it works, not how fast")
    if plot is not None:
        parser.add_argument("--plot", metavar="FILE", type=Path, help="draw the results as an SVG")
    options = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupted)
    try:
        told = machine()
        results = list(measure(options.quick))
    except KeyboardInterrupt:
        sys.exit(130)
    (_as_json if options.json else _as_table)(benchmark, told, results)
    if plot is not None and options.plot is not None:
        options.plot.write_text(plot(results))
    if (promise := broken({result.name: result.value for result in results})) is not None:
        print(f"{benchmark}: {promise}", file=sys.stderr)
        sys.exit(1)


def _interrupted(*_: object) -> NoReturn:
    """Once: cleaning up must not be interrupted."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _as_json(benchmark: str, told: Mapping[str, object], results: Sequence[Result]) -> None:
    shown = {"benchmark": benchmark, "machine": told, "results": [asdict(result) for result in results]}
    print(json.dumps(shown, indent=1))


def _as_table(benchmark: str, told: Mapping[str, object], results: Sequence[Result]) -> None:
    table = Table("", "value", "unit", "better", "floor", title=benchmark, title_justify="left")
    for result in results:
        floor = "" if result.floor is None else f"{result.floor:,.4g}"
        table.add_row(result.name, f"{result.value:,.6g}", result.unit, result.better, floor)
        for name, value in (result.peers or {}).items():
            if value is not None:
                table.add_row(f"  {name}", f"{value:,.6g}", result.unit)
    console = Console()
    console.print(table)
    console.print(", ".join(f"{name} {value}" for name, value in told.items()))


def machine() -> dict[str, object]:
    """What the figures depend on."""
    with folder() as here:
        fsync = percentile(fsyncs(here, 100), 0.5)
    git = subprocess.run(["git", "--version"], capture_output=True, text=True, check=True).stdout
    return {
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "git": git.split()[2],
        "fsync_p50_ms": round(fsync, 3),
    }


# -- what is started, and ended again


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A new folder, on the file system that Penstock's state is put on as well."""
    made = Path(tempfile.mkdtemp(prefix="pst-"))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


@contextlib.contextmanager
def penstock() -> Iterator[Penstock]:
    """A Penstock of its own, with the settings that everybody has but for its ports."""
    with folder() as here:
        running = Penstock(here, app_ports=APP_PORTS)
        try:
            running.start()
            yield running
        finally:
            if running.process is not None:
                running.stop()
                running.run("down", check=False)


@contextlib.contextmanager
def process(command: Sequence[str], *, at: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """An app's process, started by hand: there once it answers on this port."""
    env = {**os.environ, "PORT": str(port)}
    started = subprocess.Popen(command, cwd=at, env=env, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        _wait_for(port)
        yield started
    finally:
        _end(started)


def _end(started: subprocess.Popen[bytes]) -> None:
    started.terminate()
    try:
        started.wait(10)
    except subprocess.TimeoutExpired:
        started.kill()
        started.wait()


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 20
    while not _answers(port):
        assert time.monotonic() < deadline, "the app does not start"
        time.sleep(0.005)


def _answers(port: int) -> bool:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
        try:
            connection.request("GET", "/")
            connection.getresponse().read()
        except ConnectionError:
            return False
        return True


class Beside(Generic[T]):
    """A coroutine function in a process of its own, so that what it measures is not slowed by this one. It is
    called with a function that says whether `end` was called, and with the arguments. `run` makes its event
    loop."""

    def __init__(
        self,
        function: Callable[..., Coroutine[Any, Any, T]],
        *arguments: object,
        run: Callable[[Coroutine[Any, Any, T]], T] = uvloop.run,
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, there = context.Pipe()
        self._process = context.Process(target=_alone, args=(there, run, function, arguments), daemon=True)
        self._process.start()
        there.close()

    def __enter__(self) -> Beside[T]:
        self._pipe.recv()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.join()

    def end(self) -> None:
        self._pipe.send("end")

    def result(self) -> T:
        answer: T = self._pipe.recv()
        return answer


def _alone(
    pipe: Connection,
    run: Callable[[Coroutine[Any, Any, T]], T],
    function: Callable[..., Coroutine[Any, Any, T]],
    arguments: Sequence[object],
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the program ends this process
    gc.freeze()
    pipe.send("ready")
    pipe.send(run(function(pipe.poll, *arguments)))


# -- measuring


@dataclass(frozen=True, slots=True)
class Timed(Generic[T]):
    """A call that has ended. `ms` counts from when it was due."""

    ms: float
    value: T


async def open_loop(
    rate: float, call: Callable[[int], Awaitable[T]], ends: Callable[[int], bool]
) -> list[Timed[T]]:
    """Calls `rate` times a second on a fixed schedule, however slow the answers are, until `ends(number)`."""
    loop = asyncio.get_running_loop()
    timed: list[Timed[T]] = []

    async def one(number: int, due: float) -> None:
        value = await call(number)
        timed.append(Timed(1000 * (time.perf_counter() - due), value))

    async with asyncio.TaskGroup() as group:

        def arrive(number: int, due: float) -> None:
            group.create_task(one(number, due), name=f"arrival-{number}")

        def tell(number: int, due: float) -> None:
            loop.call_soon_threadsafe(arrive, number, due)

        await asyncio.to_thread(_keep_schedule, rate, tell, ends)
    return timed


def _keep_schedule(rate: float, tell: Callable[[int, float], None], ends: Callable[[int], bool]) -> None:
    """In a thread: an event loop's timers are a millisecond coarse, which would count as latency."""
    start = time.perf_counter()
    for number in count():
        if ends(number):
            return
        due = start + number / rate
        time.sleep(max(0.0, due - time.perf_counter()))
        tell(number, due)


async def closed_loop(connections: int, calls: int, call: Callable[[int], Awaitable[T]]) -> list[Timed[T]]:
    """Calls as fast as the answers come, with so many under way at a time."""
    numbers = iter(range(calls))
    timed: list[Timed[T]] = []

    async def one() -> None:
        for number in numbers:
            began = time.perf_counter()
            value = await call(number)
            timed.append(Timed(1000 * (time.perf_counter() - began), value))

    async with asyncio.TaskGroup() as group:
        for number in range(connections):
            group.create_task(one(), name=f"connection-{number}")
    return timed


def in_turns(numbers: Iterable[int], calls: Mapping[str, Callable[[int], T]]) -> dict[str, list[T]]:
    """Every call with each number, another first each time: what else the machine does meets all alike."""
    answers: dict[str, list[T]] = {name: [] for name in calls}
    order = deque(calls)
    for number in numbers:
        for name in order:
            answers[name].append(calls[name](number))
        order.rotate()
    return answers


def seconds(call: Callable[[], object]) -> float:
    """How long a call takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def pss(pid: int) -> float:
    """Megabytes of a process: what is its own, and its share of what it shares with others."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    (kib,) = (int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return kib * 1024 / 1e6


def fsyncs(here: Path, times: int) -> list[float]:
    """Milliseconds of appending 4 KiB to a file and making them durable."""
    block = os.urandom(4096)

    def append() -> None:
        os.write(file, block)
        os.fsync(file)

    file = os.open(here / "appended", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        return [1000 * seconds(append) for _ in range(times)]
    finally:
        os.close(file)
