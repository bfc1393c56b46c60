"""The front: the processes that serve visitors and outlive the engine.

One parent loads the code once, opens the listeners and forks a child for the router and one for each edge:
each can die alone, yet they share their memory. A child that ends is started anew; its listeners, those it
has opened itself too, stay open in the parent meanwhile, so visitors wait instead of being refused. Children
end when the parent does.

    state/front/front.json     who runs, on which ports
    state/front/front.log      what the processes say
    state/front/router.sock    control of the router (mode 0600)
    state/front/routes.json    where every app is
    state/front/purge-token    what a purge of an edge must show (mode 0600)

The engine calls `ensure` when it starts, `keep` while it runs, and never `stop`. Here is its side; the
processes themselves are in `__main__`.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import aiohttp
import psutil

from ..durable import secret
from ..errors import RuntimeUnavailable
from ..runtimes.process import Identity, alive, ended, reap

DRAIN = 30.0
"""Seconds the front's processes have to finish requests once they are told to end."""

START = 10.0
"""Seconds a front has until the router and every edge answer."""


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
            said = json.loads((folder(state) / "front.json").read_bytes())
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


async def ensure(state: Path, address: str, router_port: int, edge_ports: Sequence[int]) -> Front:
    """The front of this state folder: the one that runs, if it serves these ports, else a new one.

    One that runs is never asked whether it answers: it brings its own children back, and if it is only out of
    breath, to end it would fail every visitor it has. A new one is returned when the router and every edge
    answer. Raises `RuntimeUnavailable` with the last lines of its log when they do not within `START`
    seconds."""
    running = Front.read(state)
    if running and running.is_alive():
        if running.serves(address, router_port, edge_ports):
            return running
        await stop(state)
    return await _start(state, address, router_port, edge_ports)


async def keep(state: Path, address: str, router_port: int, edge_ports: Sequence[int]) -> NoReturn:
    """Starts the front anew whenever it ends, until cancelled; it never should. Raises as `ensure` does."""
    while True:
        front = await ensure(state, address, router_port, edge_ports)
        await ended(Identity(front.pid, front.birth))


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
    return secret(folder(state) / "purge-token", lambda: secrets.token_urlsafe(32).encode()).decode()


def router_socket(state: Path) -> Path:
    """Where the router takes its orders."""
    return folder(state) / "router.sock"


def folder(state: Path) -> Path:
    return state / "front"


async def _start(state: Path, address: str, router_port: int, edge_ports: Sequence[int]) -> Front:
    purge_token(state)
    log_file = folder(state) / "front.log"
    said_before = log_file.stat().st_size if log_file.exists() else 0
    pid = _spawn(state, address, router_port, edge_ports, log_file)
    deadline = time.monotonic() + START
    while time.monotonic() < deadline and not has_ended(pid):
        front = Front.read(state)
        if front and front.pid == pid and await _answers(state, front):
            return front
        await asyncio.sleep(0.02)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    await _until(lambda: has_ended(pid), 5)
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


def has_ended(pid: int) -> bool:
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
                await _get(visitor, f"http://{dialled(front.address)}:{port}/")
    except (aiohttp.ClientError, OSError):
        return False
    return True


async def _get(session: aiohttp.ClientSession, url: str) -> None:
    async with session.get(url) as response:
        await response.read()


def dialled(address: str) -> str:
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
