"""A local runtime on a bench: a stand-in for the router, images from a dict, a small server as the app."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from aiohttp import web

from penstock_pipeline.config import Command, Health
from penstock_pipeline.runtimes import Candidate, Route, sandbox
from penstock_pipeline.runtimes.local import LocalRuntime
from penstock_pipeline.runtimes.process import MARK
from penstock_pipeline.runtimes.routing import RouterClient
from penstock_pipeline.settings import Settings
from penstock_pipeline.vault import Vault

IMAGE = "sha256:a-small-server"

SERVER = """
import os, signal, socketserver, sys, time
from http.server import BaseHTTPRequestHandler

mode = os.environ.get("MODE", "well")
print("begins", mode, flush=True)
if mode == "dies":
    sys.exit("it cannot start")
if mode == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if mode == "daemon" and os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(600)
    os._exit(0)
if mode == "deaf":
    time.sleep(600)

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/exit":
            os._exit(3)
        self.send_response(500 if mode == "red" else 200)
        self.end_headers()
        self.wfile.write(self.headers["Host"].encode())

socketserver.TCPServer.allow_reuse_address = True
socketserver.TCPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""

SERVE = "exec python serve.py"


class Images:
    """Every image holds the small server."""

    async def unpack(self, digest: str, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "serve.py").write_text(SERVER)


class RouterStandIn:
    """Keeps routes as the router does; `travelling` says what is on its way to an upstream."""

    def __init__(self) -> None:
        self.routes: dict[str, Any] = {}
        self.puts: list[tuple[str, str | None]] = []
        self.travelling: dict[str, int] = {}
        self.asked: list[str] = []
        self.refuses = False

    @contextlib.asynccontextmanager
    async def serving(self, socket: Path) -> AsyncIterator[None]:
        app = web.Application()
        app.router.add_put("/routes/{app}", self._put)
        app.router.add_get("/routes", self._list)
        app.router.add_get("/inflight/{upstream}", self._inflight)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.UnixSite(runner, str(socket)).start()
        try:
            yield
        finally:
            await runner.cleanup()

    async def _put(self, request: web.Request) -> web.Response:
        app, target = request.match_info["app"], await request.json()
        if self.refuses:
            return web.Response(status=409, text=f"port {target['port']} is taken")
        self.routes[app] = target
        self.puts.append((app, target["upstream"]))
        return web.Response(status=204)

    async def _list(self, request: web.Request) -> web.Response:
        return web.json_response(self.routes)

    async def _inflight(self, request: web.Request) -> web.Response:
        upstream = request.match_info["upstream"]
        self.asked.append(upstream)
        return web.json_response({"requests": self.travelling.get(upstream, 0)})


@dataclass
class Bench:
    """`engine()` makes a runtime as another engine on the same state would."""

    settings: Settings
    router: RouterStandIn
    client: RouterClient
    images: Images = field(default_factory=Images)

    def engine(self) -> LocalRuntime:
        state = self.settings.state
        vault = Vault(state / "secrets.key")
        return LocalRuntime(self.settings, self.images, self.client, state / "origin", vault)

    def processes(self) -> list[psutil.Process]:
        """Everything that runs under a mark of this bench."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(MARK, "").startswith(f"{self.settings.state}/"):
                    found.append(process)
        return found

    def servers(self) -> list[psutil.Process]:
        """Those of them that serve: not what they run in."""
        return [process for process in self.processes() if "serve.py" in process.cmdline()[1:2]]


@contextlib.asynccontextmanager
async def bench(state: Path, **settings: Any) -> AsyncIterator[Bench]:
    """Ends what it has started, and fails if anything is left."""
    chosen = Settings(state=state, **{"stop_timeout": 0.3, "drain_timeout": 0.3, **settings})
    router, client = RouterStandIn(), RouterClient(state / "router.sock")
    async with router.serving(state / "router.sock"):
        made = Bench(chosen, router, client)
        try:
            yield made
            router.travelling.clear()
            engine = made.engine()
            for app in {state.app for state in await engine.observe()}:
                await engine.retire(app, keep=None)
            assert made.processes() == []
        finally:
            for process in made.processes():
                process.kill()
            await client.close()


def needs_bubblewrap() -> None:
    """Skips where the machine has none, but never where CI checks."""
    isolation = sandbox.choose("auto")
    if isolation.bwrap is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(isolation.why_not)


def candidate(
    name: str = "shop-1",
    *,
    mode: str = "well",
    path: str | None = "/healthz",
    within: float = 20,
    processes: dict[str, Command] | None = None,
    **env: str,
) -> Candidate:
    return Candidate(
        app=name.rpartition("-")[0],
        name=name,
        image=IMAGE,
        commit=f"commit-of-{name}",
        processes={"web": SERVE} if processes is None else processes,
        health=Health(path=path, within=within),
        env={"MODE": mode, **env},
    )


def route(candidate: Candidate) -> Route:
    return Route(
        app=candidate.app,
        host=f"{candidate.app}.localhost",
        port=7100,
        release="v1",
        candidate=candidate.name if candidate.processes else None,
    )
