"""The front: the processes that serve visitors and outlive the engine.

One parent loads the code once, opens the listeners and forks a child for the router and one for each edge:
each can die alone, yet they share their memory. A child that ends is started anew; its listener stays open in
the parent meanwhile, so visitors wait instead of being refused. Children end when the parent does.

    state/front/front.json     who runs, on which ports
    state/front/front.log      what the processes say
    state/front/router.sock    control of the router (mode 0600)
    state/front/routes.json    where every app is
    state/front/purge-token    what a purge of an edge must show (mode 0600)

The engine calls `ensure` when it starts, and never `stop`.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple, NoReturn

import aiohttp
import psutil
import uvloop
from aiohttp.http_exceptions import HttpProcessingError

from .cdn.edge import Edge
from .durable import aside
from .errors import Conflict, Invalid, PenstockError, RuntimeUnavailable
from .relay import bind
from .runtimes.process import Identity, alive, identify, reap
from .runtimes.router import Router

log = logging.getLogger(__name__)

DRAIN = 30.0
"""Seconds the front's processes have to finish requests once they are told to end."""

START = 10.0
"""Seconds a front has until the router and every edge answer."""

_BIND_PATIENCE = 2.0
"""Seconds to wait for the listeners of children whose parent was killed: they close them at once."""

_LONGEST_PAUSE = 5.0


@dataclass(frozen=True, slots=True)
class Front:
    """A running front: its parent's pid and birth name one process for ever."""

    pid: int
    birth: str
    address: str
    router_port: int
    edge_ports: tuple[int, ...]
    children: dict[str, int] = field(default_factory=dict)
    """Pids by name: `router`, `edge-7081`."""

    @classmethod
    def read(cls, state: Path) -> Front | None:
        """What `front.json` says; None when there is none that can be read."""
        try:
            said = json.loads((_folder(state) / "front.json").read_bytes())
            return cls(**{**said, "edge_ports": tuple(said["edge_ports"])})
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            return None

    def is_alive(self) -> bool:
        parent = Identity(self.pid, self.birth)
        if alive(parent):
            return True
        reap(parent)
        return False

    def serves(self, address: str, router_port: int, edge_ports: Sequence[int]) -> bool:
        wanted = (address, router_port, tuple(edge_ports))
        return wanted == (self.address, self.router_port, self.edge_ports)


# Starting and stopping it, from the engine's process


async def ensure(state: Path, address: str, router_port: int, edge_ports: Sequence[int]) -> Front:
    """The front of this state folder: the one that runs, if it serves these ports, else a new one.

    Returns when the router and every edge answer. Raises `RuntimeUnavailable` with the last lines of the
    front's log when they do not within `START` seconds."""
    running = Front.read(state)
    if running and running.is_alive():
        if running.serves(address, router_port, edge_ports) and await _recovers(state, running):
            return running
        await stop(state)
    return await _start(state, address, router_port, edge_ports)


async def _recovers(state: Path, front: Front) -> bool:
    """Whether it answers; what of it has just ended is started again in a moment, and visitors wait."""
    deadline = time.monotonic() + START
    while front.is_alive() and time.monotonic() < deadline:
        if await _answers(state, front):
            return True
        await asyncio.sleep(0.05)
    return False


async def stop(state: Path) -> None:
    """End the front, letting it finish its requests. Nothing to do when none runs."""
    front = Front.read(state)
    if front is None or not front.is_alive():
        return
    os.kill(front.pid, signal.SIGTERM)
    if not await _until(lambda: not front.is_alive(), DRAIN + 5):
        os.kill(front.pid, signal.SIGKILL)
        await _until(lambda: not front.is_alive(), 5)


def purge_token(state: Path) -> str:
    """The secret that edges ask of whoever purges them; made when there is none yet."""
    folder = _folder(state)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / "purge-token"
    with suppress(FileExistsError):
        made = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(made, "w") as file:
            file.write(secrets.token_urlsafe(32))
    return path.read_text()


def router_socket(state: Path) -> Path:
    """Where the router takes its orders."""
    return _folder(state) / "router.sock"


def _folder(state: Path) -> Path:
    return state / "front"


async def _start(state: Path, address: str, router_port: int, edge_ports: Sequence[int]) -> Front:
    purge_token(state)
    log_file = _folder(state) / "front.log"
    said_before = log_file.stat().st_size if log_file.exists() else 0
    pid = _spawn(state, address, router_port, edge_ports, log_file)
    deadline = time.monotonic() + START
    while time.monotonic() < deadline and not _has_ended(pid):
        front = Front.read(state)
        if front and front.pid == pid and await _answers(state, front):
            return front
        await asyncio.sleep(0.02)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    await _until(lambda: _has_ended(pid), 5)
    said = log_file.read_bytes()[said_before:].decode(errors="replace").strip()
    tail = "\n".join(said.splitlines()[-5:]) or "it said nothing"
    raise RuntimeUnavailable(f"the front, which serves visitors, did not start ({log_file}):\n{tail}")


def _spawn(state: Path, address: str, router_port: int, edge_ports: Sequence[int], log_file: Path) -> int:
    """Start the front in a session of its own, with no object here that would have to be waited for."""
    ports = [f"--edge-port={port}" for port in edge_ports]
    options = [f"--state={state}", f"--address={address}", f"--router-port={router_port}", *ports]
    return os.posix_spawn(
        sys.executable,
        [sys.executable, "-P", "-m", "penstock_pipeline.front", *options],
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log_file), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )


def _has_ended(pid: int) -> bool:
    """Whether a child of this process has ended; its entry in the process table goes with the answer."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return not psutil.pid_exists(pid)


async def _answers(state: Path, front: Front) -> bool:
    """Whether the router's control socket answers, and the router through each edge."""
    connector = aiohttp.UnixConnector(str(router_socket(state)))
    timeout = aiohttp.ClientTimeout(total=2)
    ports = (front.router_port, *front.edge_ports)
    try:
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as control:
            await _get(control, "http://router/routes")
        async with aiohttp.ClientSession(timeout=timeout) as visitor:
            for port in ports:
                await _get(visitor, f"http://{_dialled(front.address)}:{port}/")
    except (aiohttp.ClientError, OSError):
        return False
    return True


async def _get(session: aiohttp.ClientSession, url: str) -> None:
    async with session.get(url) as response:
        await response.read()


def _dialled(address: str) -> str:
    """How to reach from this machine what listens on `address`."""
    reached = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)  # noqa: S104
    return f"[{reached}]" if ":" in reached else reached


async def _until(probe: Callable[[], bool], within: float) -> bool:
    deadline = time.monotonic() + within
    while not probe():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.02)
    return True


# The parent


@dataclass
class Child:
    """A child of the front: what it serves, on which listeners, and when it is to be started again."""

    name: str
    make: Callable[[], Router | Edge]
    listeners: tuple[socket.socket, ...]
    pid: int | None = None
    started: float = 0.0
    pause: float = 0.0


def run(state: Path, address: str, router_port: int, edge_ports: Sequence[int]) -> None:
    """Be the front until SIGTERM. Raises `Conflict` when a port is taken."""
    children = _open(state, address, router_port, edge_ports)
    read_end, write_end = os.pipe()
    me = identify(os.getpid())

    def tell() -> None:
        pids = {child.name: child.pid for child in children if child.pid}
        front = Front(me.pid, me.birth, address, router_port, tuple(edge_ports), pids)
        with aside(_folder(state)) as new:
            new.file.write(json.dumps(asdict(front), indent=1).encode())
            new.become(_folder(state) / "front.json")

    gc.collect()
    gc.freeze()
    _supervise(children, Lifeline(read_end, write_end), tell)


def _open(state: Path, address: str, router_port: int, edge_ports: Sequence[int]) -> list[Child]:
    folder = _folder(state)
    token = purge_token(state)
    deadline = time.monotonic() + _BIND_PATIENCE
    visitors = _bind(address, router_port, deadline)
    router = Child("router", lambda: Router(folder, address), (visitors, _bind_control(folder)))
    upstream = f"{_dialled(address)}:{router_port}"
    edges = [
        Child(f"edge-{port}", lambda: Edge(upstream, token), (_bind(address, port, deadline),))
        for port in edge_ports
    ]
    return [router, *edges]


def _bind(address: str, port: int, deadline: float) -> socket.socket:
    while True:
        try:
            return bind(address, port)
        except Conflict:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _bind_control(folder: Path) -> socket.socket:
    """The router's control socket; it appears once it can be connected to, by this user alone."""
    path = folder / "router.sock"
    new = folder / "router.new"
    new.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(str(new))
    except OSError as error:
        raise Invalid(f"{path} cannot be opened: {error}. A shorter state folder may help") from error
    new.chmod(0o600)
    listener.listen(128)
    new.replace(path)
    return listener


class Lifeline(NamedTuple):
    """A pipe that only the parent writes to, and never does: to its children its end is the parent's end."""

    read_end: int
    write_end: int


_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGALRM})


def _supervise(children: Sequence[Child], lifeline: Lifeline, tell: Callable[[], None]) -> None:
    """Keep every child running until told to end, then let them finish. No event loop and no thread here:
    both would be unsafe to fork."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    told = None
    while told not in (signal.SIGTERM, signal.SIGINT):
        _start_due(children, lifeline)
        tell()
        told = signal.sigwait(_SIGNALS)
        _reap(children)
    _end(children)


def _start_due(children: Sequence[Child], lifeline: Lifeline) -> None:
    """Start what is down, each after its pause; an alarm is set for those whose pause is not over."""
    now = time.monotonic()
    for child in children:
        if child.pid is None and now >= child.started + child.pause:
            child.started = now
            child.pid = os.fork() or _be(child, children, lifeline)
    pending = [child.started + child.pause - now for child in children if child.pid is None]
    signal.setitimer(signal.ITIMER_REAL, max(0.001, min(pending)) if pending else 0)


def _reap(children: Sequence[Child]) -> None:
    for child in children:
        if child.pid is None or not _has_ended(child.pid):
            continue
        lived = time.monotonic() - child.started
        child.pause = 0.0 if lived > _LONGEST_PAUSE else min(_LONGEST_PAUSE, 2 * child.pause or 0.1)
        log.warning("%s (pid %s) ended after %.1f s; started again", child.name, child.pid, lived)
        child.pid = None


def _end(children: Sequence[Child]) -> None:
    for child in children:
        for listener in child.listeners:
            listener.close()
    _signal(children, signal.SIGTERM)
    signal.setitimer(signal.ITIMER_REAL, DRAIN + 2)
    while any(child.pid for child in children):
        if signal.sigwait(_SIGNALS) == signal.SIGALRM:
            _signal(children, signal.SIGKILL)
        for child in children:
            if child.pid and _has_ended(child.pid):
                child.pid = None


def _signal(children: Sequence[Child], number: signal.Signals) -> None:
    for child in children:
        if child.pid:
            os.kill(child.pid, number)


# A child


def _be(child: Child, children: Sequence[Child], lifeline: Lifeline) -> NoReturn:
    """What a forked process does; it never returns into the parent's code."""
    code = 1
    try:
        os.close(lifeline.write_end)
        for other in children:
            for listener in other.listeners if other is not child else ():
                listener.close()
        uvloop.run(_serve(child, lifeline.read_end))
        code = 0
    except PenstockError as error:
        log.error("%s: %s", child.name, error)
    except BaseException:
        log.exception("%s ended", child.name)
    finally:
        os._exit(code)


async def _serve(child: Child, lifeline: int) -> None:
    """Serve until SIGTERM or the parent's end, then drain."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    loop.add_reader(lifeline, ended.set)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    service = child.make()
    await service.start(*child.listeners)
    await ended.wait()
    loop.remove_reader(lifeline)
    await service.drain(DRAIN)


def main() -> int:
    parser = argparse.ArgumentParser(prog="penstock_pipeline.front")
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--address", required=True)
    parser.add_argument("--router-port", type=int, required=True)
    parser.add_argument("--edge-port", type=int, action="append", default=[], dest="edge_ports")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s [%(process)d] %(message)s")
    logging.getLogger("aiohttp.server").addFilter(_is_worth_telling)
    try:
        run(options.state.absolute(), options.address, options.router_port, options.edge_ports)
    except PenstockError as error:
        log.error("the front cannot start: %s", error)
        return 1
    return 0


def _is_worth_telling(record: logging.LogRecord) -> bool:
    """Malformed requests are answered with 400; the world sends them all day."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


if __name__ == "__main__":
    sys.exit(main())
