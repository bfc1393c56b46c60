"""The composition root: puts the engine's process together and runs it.

One process holds doors, engine, API and dashboard. What serves visitors, the front and the apps, runs in
processes of its own: they are started or found here, and stay when this process ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import getpass
import json
import logging
import os
import secrets
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from pythonjsonlogger.json import JsonFormatter
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as Request

from penstock_pool.compute import ComputePool

from . import __version__, front
from .api import Api, problems
from .api import router as api_router
from .cdn.embedded import EmbeddedEdge
from .cdn.folder import FolderOrigin
from .dashboard import View
from .dashboard import router as dashboard_router
from .dashboard.view import Streams
from .durable import aside
from .engine import Engine
from .errors import Conflict, Invalid, Unavailable
from .images.layout import OciLayout
from .model import App
from .orders import Orders
from .receiver.forges import FORGES
from .receiver.git import GitDoor
from .receiver.pushes import Pushes, install_hooks
from .receiver.webhooks import WebhookDoor
from .repositories import Repositories
from .room import Room, open_files
from .runtimes import sandbox
from .runtimes.local import LocalRuntime
from .runtimes.process import Identity, alive, identify
from .runtimes.routing import RouterClient
from .serving import GRACE, Server
from .settings import Settings
from .stages import Parts
from .store import SqliteStore, registry
from .store.logs import Logs
from .subscribers.courier import Courier
from .subscribers.deliveries import Deliveries
from .subscribers.registry import Subscribers
from .tokens import Scope, Tokens
from .vault import Vault

log = logging.getLogger("penstock_pipeline")


Ready = Callable[[Settings, str], None]
"""Called with the settings in force, every port known, and an invitation to the dashboard."""


async def serve(settings: Settings, *, ready: Ready | None = None) -> None:
    """Runs Penstock until SIGTERM or SIGINT. `ready` is called once everything answers. Raises `Conflict`
    where one runs already over this state, `Unavailable` where a port is taken, `Invalid` where the machine
    cannot do the sandbox that is demanded."""
    settings.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _alone(settings.state):
        settings = _with_ports(settings)
        _log_to(settings.state / "engine.log")
        log.info("what apps bring along runs under %s", sandbox.choose(settings.sandbox))
        # The port comes first: where it is taken, no router and no edge is left to hold theirs.
        with contextlib.closing(_listen(settings.address, settings.port)) as listener:
            async with _open(settings) as house:
                await _run(house, listener, ready)


async def stop(state: Path) -> None:
    """Ends the engine over a state folder, if one runs, then every app, the router and the edges."""
    if (pid := _engine_pid(state)) is not None:
        os.kill(pid, signal.SIGTERM)
        await _ended(state)
    with _alone(state):
        async with _open(Settings(state=state), serving=False) as house:
            await house.runtime.stop()
        await front.stop(state)


@dataclass(frozen=True, slots=True)
class House:
    """Everything put together."""

    settings: Settings
    parts: Parts
    runtime: LocalRuntime
    engine: Engine
    pushes: Pushes
    deliveries: Deliveries
    tokens: Tokens
    web: ASGIApp
    streams: Streams


@asynccontextmanager
async def _open(settings: Settings, *, serving: bool = True) -> AsyncIterator[House]:
    """The store, the ports' adapters and what stands on them; closed in reverse order."""
    state = settings.state
    async with contextlib.AsyncExitStack() as closing:
        store, vault = SqliteStore(state / "penstock.db"), Vault(state / "secrets.key")
        closing.push_async_callback(store.close)
        await store.open(new=not _has_pushes(state), vault=vault, writable=serving)
        if serving:
            await front.ensure(*_front(settings))
        router = RouterClient(front.router_socket(state))
        closing.push_async_callback(router.close)
        edges = tuple(_edge(settings, number) for number in range(len(settings.edge_ports)))
        for edge in edges:
            closing.push_async_callback(edge.close)
        courier = Courier()
        closing.push_async_callback(courier.close)
        packing = ComputePool(name="packing")  # a worker a processor; as many wait as runs may move at once
        closing.push_async_callback(asyncio.to_thread, packing.shutdown)
        yield _put_together(settings, store, vault, router, edges, courier, packing)


def _has_pushes(state: Path) -> bool:
    """Then there was a database: an empty one in its place would forget apps that are live."""
    return any((state / "repositories").glob("*/objects/pack/*.pack"))


def _edge(settings: Settings, number: int) -> EmbeddedEdge:
    url = f"http://{settings.address}:{settings.edge_ports[number]}"
    return EmbeddedEdge(f"edge-{number + 1}", url, front.purge_token(settings.state))


def _put_together(
    settings: Settings,
    store: SqliteStore,
    vault: Vault,
    router: RouterClient,
    edges: tuple[EmbeddedEdge, ...],
    courier: Courier,
    packing: ComputePool,
) -> House:
    state = settings.state
    hook_socket, hooks = state / "hook.sock", state / "hooks"
    install_hooks(hooks, hook_socket)
    logs = Logs(state / "logs", limit=settings.log_limit, changes=store.changes)
    repositories = Repositories(state / "repositories", hooks=hooks, size_limit=settings.repository_limit)
    images = OciLayout(state / "images", packing)
    runtime = LocalRuntime(settings, images, router, state / "origin", vault)
    parts = Parts(
        settings=settings,
        store=store,
        vault=vault,
        logs=logs,
        repositories=repositories,
        runtime=runtime,
        images=images,
        packing=packing,
        origin=FolderOrigin(state / "origin"),
        edges=edges,
    )
    engine = Engine(parts, holder=secrets.token_hex(8))
    tokens, streams = Tokens(state / "token.key"), Streams()
    base = settings.reached_at
    subscribers = Subscribers(store, parts.vault, courier, base=base)
    return House(
        settings=settings,
        parts=parts,
        runtime=runtime,
        engine=engine,
        pushes=Pushes(store, logs, repositories),
        deliveries=Deliveries(store, parts.vault, courier, base=base),
        tokens=tokens,
        web=_web(parts, Orders(parts, engine), subscribers, tokens, streams),
        streams=streams,
    )


def _web(parts: Parts, orders: Orders, subscribers: Subscribers, tokens: Tokens, streams: Streams) -> ASGIApp:
    """The doors stand before the framework: they read their bodies themselves, and most of what it does for
    each request would be in the way of accepting a thousand pushes a second."""
    settings, store = parts.settings, parts.store
    web = FastAPI(title="Penstock", version=__version__, openapi_url=None)

    def urls(app: App) -> dict[str, Any]:
        return _urls(settings, app)

    problems(web)
    api = Api(orders, subscribers, store, parts.logs, tokens, settings, urls)
    web.include_router(api_router(api), prefix="/api")
    web.include_router(dashboard_router(View(orders, tokens, store, parts.logs, settings, urls, streams)))
    git = GitDoor(store, parts.repositories, tokens, most=Room.of(open_files()).pushes)
    webhooks = WebhookDoor(store, parts.vault, body_limit=settings.body_limit)

    async def by_path(scope: Request, receive: Receive, send: Send) -> None:
        path = scope["path"]
        door = git if path.startswith("/git/") else webhooks if path.startswith("/hooks/") else web
        with contextlib.suppress(ClientDisconnect):  # who has left, or was too slow, is told nothing more
            await door(scope, receive, send)

    return by_path


def _urls(settings: Settings, app: App) -> dict[str, Any]:
    host, here = settings.host(app.name), f"http://{settings.address}:{settings.port}"
    webhooks = {forge: f"{settings.reached_at}/hooks/{forge}/{app.name}" for forge in FORGES}
    return {
        "app": f"http://{host}:{settings.router_port}/",
        "port": f"http://{settings.address}:{app.port}/",
        "edges": [f"http://{host}:{port}/" for port in settings.edge_ports],
        "remote": f"{here}/git/{app.name}",
        "webhook": webhooks["github"],
        "webhooks": webhooks,
    }


# -- running


async def _run(house: House, listener: socket.socket, ready: Ready | None) -> None:
    settings = house.settings
    await _mend_repositories(house.parts)
    gc.collect()
    gc.freeze()  # what is there by now stays: it need not be looked through for garbage again and again
    server = Server(house.web, most=Room.of(open_files()).connections)
    ending = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.set)
    async with house.pushes.listening(settings.state / "hook.sock"), asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(house.runtime.supervise(), name="supervise"),
            group.create_task(house.engine.run(), name="engine"),
            group.create_task(_keep_front(settings), name="front"),
            group.create_task(house.deliveries.run(), name="deliveries"),
        ]
        web = group.create_task(server.serve([listener]), name="web")
        token = house.tokens.issue(getpass.getuser(), Scope.MANAGE)
        _write_client_file(settings, token)
        if ready is not None:
            ready(settings, house.tokens.invite(house.tokens.verify(token)))
        log.info("Penstock %s is ready", __version__, extra={"port": settings.port, "pid": os.getpid()})
        await ending.wait()
        server.should_exit = True
        house.streams.end()
        house.pushes.end()
        await asyncio.wait([web])
        for task in tasks:
            task.cancel()
    log.info("stopped; apps, router and edges go on serving")


async def _mend_repositories(parts: Parts) -> None:
    """Their settings are those of this version, and name where the state folder is now."""
    for app in await parts.store.read(registry.all_apps):
        await parts.repositories.create(app.name, branch=app.branch)


def _front(settings: Settings) -> tuple[Path, str, int, tuple[int, ...]]:
    return settings.state, settings.address, settings.router_port, settings.edge_ports


async def _keep_front(settings: Settings) -> None:
    while True:
        try:
            await front.keep(*_front(settings))
        except (Unavailable, OSError) as error:
            log.error("what serves visitors cannot be started, trying again: %s", error)
            await asyncio.sleep(1)


def _listen(address: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # asyncio sets this only on sockets that name their protocol; without it answers wait 40 ms for an ACK.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        listener.bind((address, port))
    except OSError as error:
        listener.close()
        raise Unavailable(
            f"cannot listen on {address}:{port}: {error.strerror}; choose another --port"
        ) from error
    listener.setblocking(False)
    listener.listen(1024)
    return listener


# -- the state folder


@contextmanager
def _alone(state: Path) -> Iterator[None]:
    """Holds the folder's lock: one engine a state, and none is left behind by a crash."""
    with (state / "engine.lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            pid = _engine_pid(state) or "not told yet"
            raise Conflict(f"a Penstock runs already over {state} (pid {pid})") from error
        yield


def _engine_pid(state: Path) -> int | None:
    """The engine that runs over this state, by pid and birth; None where none does."""
    try:
        client = json.loads((state / "client.json").read_text())
        engine = Identity(client["pid"], client["birth"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return engine.pid if alive(engine) else None


async def _ended(state: Path) -> None:
    """Returns when no engine runs over this state any more, or after the time it may take to stop."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(GRACE + 10):
            while _engine_pid(state) is not None:  # noqa: ASYNC110 - another process's end sets no event
                await asyncio.sleep(0.02)


def _with_ports(settings: Settings) -> Settings:
    """The settings with every port chosen; one that was left open is chosen once and remembered, because the
    processes that serve visitors outlive this one."""
    file = settings.state / "ports.json"
    kept = _kept_ports(file)
    wanted = {"port": settings.port, "router_port": settings.router_port}
    wanted |= {f"edge_{number}": port for number, port in enumerate(settings.edge_ports)}
    with contextlib.ExitStack() as held:
        ports = {
            name: port or kept.get(name) or _any_port(settings.address, held) for name, port in wanted.items()
        }
    if ports != kept:
        with aside(settings.state) as new:
            new.file.write(json.dumps(ports).encode())
            new.become(file)
    edges = tuple(ports[f"edge_{number}"] for number in range(len(settings.edge_ports)))
    return settings.model_copy(
        update={"port": ports["port"], "router_port": ports["router_port"], "edge_ports": edges}
    )


def _kept_ports(file: Path) -> dict[str, int]:
    try:
        return dict(json.loads(file.read_text())) if file.exists() else {}
    except (ValueError, TypeError) as error:
        raise Invalid(f"{file} cannot be read: {error}\nremove it; open ports are chosen anew") from error


def _any_port(address: str, held: contextlib.ExitStack) -> int:
    probe = held.enter_context(socket.socket())
    try:
        probe.bind((address, 0))
    except OSError as error:
        raise Unavailable(
            f"cannot listen on {address}: {error.strerror}; choose another --address"
        ) from error
    return int(probe.getsockname()[1])


def _write_client_file(settings: Settings, token: str) -> None:
    """What the command line on this machine needs to reach the engine; only its owner can read it."""
    birth = identify(os.getpid()).birth
    told = {"url": f"http://{settings.address}:{settings.port}", "token": token}
    with aside(settings.state) as new:
        new.file.write(json.dumps({**told, "pid": os.getpid(), "birth": birth}).encode())
        new.become(settings.state / "client.json", mode=0o600)


LOG_SIZE = 10 * 1024 * 1024
"""Bytes of engine.log, and of the one before it."""


class _LogFile(RotatingFileHandler):
    """Past `LOG_SIZE` it begins anew, and what was is `.1`. What the disk does not take is said where
    Penstock was started."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, maxBytes=LOG_SIZE, backupCount=1)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        print(f"{self.baseFilename} cannot be written: {record.getMessage()}", file=sys.stderr)  # noqa: T201


def _log_to(path: Path) -> None:
    """Everything this process has to say goes to one file as JSON lines, the libraries' words included."""
    handler = _LogFile(path)
    fields = {"asctime": "at", "levelname": "level", "name": "logger"}
    format_of = "%(asctime)s %(levelname)s %(name)s %(message)s"
    handler.setFormatter(JsonFormatter(format_of, rename_fields=fields))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    log.setLevel(logging.INFO)
