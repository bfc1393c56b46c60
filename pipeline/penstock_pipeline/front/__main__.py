"""The processes of the front: a parent that opens the listeners, and forks and restarts those who serve."""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple, NoReturn

import uvloop

from ..cdn.edge import Edge
from ..durable import aside
from ..errors import Conflict, Invalid, PenstockError
from ..relay import bind
from ..room import open_files
from ..runtimes.process import identify
from ..runtimes.router import Router
from ..runtimes.shelf import Shelf
from . import DRAIN, Front, dialled, folder, has_ended, purge_token

log = logging.getLogger("penstock_pipeline.front")

_BIND_PATIENCE = 2.0
"""Seconds to wait for the listeners of children whose parent was killed: they close them at once."""

_LONGEST_PAUSE = 5.0

# The parent


@dataclass
class Child:
    """A child of the front: what it serves, on which listeners, and when it is to be started again."""

    name: str
    make: Callable[[Shelf], Router | Edge]
    listeners: tuple[socket.socket, ...]
    shelf: Shelf = field(default_factory=Shelf)
    pid: int | None = None
    started: float = 0.0
    pause: float = 0.0


def run(state: Path, address: str, router_port: int, edge_ports: Sequence[int]) -> None:
    """Be the front until SIGTERM. Raises `Conflict` when a port is taken."""
    open_files()  # and so do the children
    children = _open(state, address, router_port, edge_ports)
    read_end, write_end = os.pipe()
    me = identify(os.getpid())

    def tell() -> None:
        pids = {child.name: child.pid for child in children if child.pid}
        front = Front(me.pid, me.birth, address, router_port, tuple(edge_ports), pids)
        try:
            with aside(folder(state)) as new:
                new.file.write(json.dumps(asdict(front), indent=1).encode())
                new.become(folder(state) / "front.json")
        except OSError as error:  # visitors are served all the same
            log.error("front.json cannot be written: %s", error.strerror)

    gc.collect()
    gc.freeze()
    _supervise(children, Lifeline(read_end, write_end), tell)


def _open(state: Path, address: str, router_port: int, edge_ports: Sequence[int]) -> list[Child]:
    home = folder(state)
    token = purge_token(state)
    deadline = time.monotonic() + _BIND_PATIENCE
    visitors = _bind(address, router_port, deadline)
    router = Child("router", lambda shelf: Router(home, address, shelf), (visitors, _bind_control(home)))
    upstream = f"{dialled(address)}:{router_port}"
    edges = [
        Child(f"edge-{port}", lambda _: Edge(upstream, token), (_bind(address, port, deadline),))
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


def _bind_control(home: Path) -> socket.socket:
    """The router's control socket; it appears once it can be connected to, by this user alone."""
    path = home / "router.sock"
    new = home / "router.new"
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


_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGALRM, signal.SIGIO})


def _supervise(children: Sequence[Child], lifeline: Lifeline, tell: Callable[[], None]) -> None:
    """Keep every child running until told to end, then let them finish. No event loop and no thread here:
    both would be unsafe to fork."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    for child in children:
        child.shelf.signal()
    told = None
    while told not in (signal.SIGTERM, signal.SIGINT):
        _start_due(children, lifeline)
        tell()
        told = signal.sigwait(_SIGNALS)
        _reap(children)
        for child in children:
            child.shelf.collect()
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
        if child.pid is None or not has_ended(child.pid):
            continue
        lived = time.monotonic() - child.started
        child.pause = 0.0 if lived > _LONGEST_PAUSE else min(_LONGEST_PAUSE, 2 * child.pause or 0.1)
        log.warning("%s (pid %s) ended after %.1f s; started again", child.name, child.pid, lived)
        child.pid = None


def _end(children: Sequence[Child]) -> None:
    for child in children:
        for listener in child.listeners:
            listener.close()
        child.shelf.close()
    _signal(children, signal.SIGTERM)
    signal.setitimer(signal.ITIMER_REAL, DRAIN + 2)
    while any(child.pid for child in children):
        if signal.sigwait(_SIGNALS) == signal.SIGALRM:
            _signal(children, signal.SIGKILL)
        for child in children:
            if child.pid and has_ended(child.pid):
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
            if other is not child:
                for listener in other.listeners:
                    listener.close()
                other.shelf.close()
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
    service = child.make(child.shelf)
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
    try:
        run(options.state.absolute(), options.address, options.router_port, options.edge_ports)
    except PenstockError as error:
        log.error("the front cannot start: %s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
