"""The router: visitors reach every app through it, by host name and by the app's own port.

It runs in a process of its own and outlives the engine, which tells it over a unix socket where each app is:

    PUT    /routes/{app}         {"host", "port", "release", "upstream", "origin"} -> 204, 400, 409
    DELETE /routes/{app}         -> 204
    GET    /routes               every route by app
    GET    /inflight/{host:port} {"requests": N} that travel to that upstream, those still streaming included

When a PUT answers, the route is durable and no new request reaches another upstream. A restarted router
reads its routes back and serves at once.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from ..cdn import RELEASE_PATH
from ..durable import aside, sync
from ..errors import Conflict, Invalid
from ..relay import (
    NO_HOST,
    Broken,
    Forwarder,
    NotReached,
    Server,
    bare_host,
    bind,
    body_broke_off,
    onward,
    relay,
    says,
)
from . import static
from .shelf import Shelf

log = logging.getLogger(__name__)

RELEASE = "X-Penstock-Release"
PATIENCE = 3.0
"""Seconds a request waits for an upstream that refuses connections, following every switch meanwhile."""

_RETRY_EVERY = 0.05


@dataclass(frozen=True, slots=True)
class Target:
    """Where an app's requests go: files of `origin` first, the rest to `upstream` (`host:port`)."""

    host: str
    port: int
    release: str
    upstream: str | None
    origin: str | None

    @classmethod
    def parse(cls, said: object) -> Target:
        """Raises ValueError with a text for whoever sent it."""
        if not isinstance(said, dict) or set(said) != set(cls.__slots__):
            raise ValueError(f"a route is a JSON object with exactly the keys {', '.join(cls.__slots__)}")
        for name in ("host", "release"):
            if not isinstance(said[name], str) or not said[name].isprintable() or not said[name]:
                raise ValueError(f"{name} must be a string that is not empty")
        if type(said["port"]) is not int or not 0 < said["port"] < 65536:
            raise ValueError("port must be a number from 1 to 65535")
        if said["upstream"] is not None and not _is_address(said["upstream"]):
            raise ValueError("upstream must be null or such as 127.0.0.1:40123")
        if said["origin"] is not None and not _is_absolute(said["origin"]):
            raise ValueError("origin must be null or the absolute path of a folder")
        return cls(**{**said, "host": bare_host(said["host"])})


def _is_address(said: object) -> bool:
    if not isinstance(said, str):
        return False
    host, _, port = said.rpartition(":")
    return bool(host) and not set(host) & set("/?#@ ") and port.isdecimal() and 0 < int(port) < 65536


def _is_absolute(said: object) -> bool:
    return isinstance(said, str) and Path(said).is_absolute()


class Routes:
    """Every app's target, found by host or by port."""

    def __init__(self, targets: Mapping[str, Target]) -> None:
        self.targets = targets
        self._by_host = {target.host: target for target in targets.values()}
        self._by_port = {target.port: target for target in targets.values()}

    def find(self, port: int, host: str) -> Target | None:
        return self._by_port.get(port) or self._by_host.get(host)


class Router:
    """Serves visitors on the main listener and on one port for each app, and the control API."""

    def __init__(self, folder: Path, address: str, shelf: Shelf) -> None:
        """`shelf` has the ports that the router before this one opened, and gets those this one opens."""
        self._file = folder / "routes.json"
        self._shelf = shelf
        self._address = address
        self._routes = Routes({})
        self._ports: dict[int, tuple[socket.socket, asyncio.Server]] = {}
        self._travelling: Counter[str] = Counter()
        self._changing = asyncio.Lock()
        self._visitors = Server(self._visit)
        self._control = Server(self._command, finish=True)

    async def start(self, visitors: socket.socket, control: socket.socket) -> None:
        """Serve on two bound sockets. Routes kept from before are served at once; a port that somebody else
        has taken meanwhile is told in the log, its app stays reachable by host name."""
        self._forwarder = Forwarder()
        self._routes = _read(self._file)
        await self._visitors.start()
        await self._control.start()
        for app, target in self._routes.targets.items():
            try:
                await self._open(target.port)
            except Conflict as error:
                log.error("app %s cannot be reached on port %s: %s", app, target.port, error)
        for port in [*self._shelf.held]:
            self._shelf.drop(port, self._shelf.held.pop(port))
        await self._visitors.listen(visitors)
        await self._control.listen(control)

    async def drain(self, timeout: float) -> None:
        """Accept no more and finish what travels, for `timeout` seconds at most."""
        await asyncio.gather(self._visitors.drain(timeout), self._control.drain(timeout))
        await self._forwarder.close()

    # Visitors

    async def _visit(self, request: web.BaseRequest) -> web.StreamResponse:
        target = self._find(request)
        if target is None:
            return _nobody(request)
        if request.path == RELEASE_PATH:
            return says(200, target.release, {RELEASE: target.release})
        answer = await _file(request, target)
        return answer if answer is not None else await self._carry(request)

    def _find(self, request: web.BaseRequest) -> Target | None:
        """By the port the visitor came to, else by host name."""
        sockname = request.get_extra_info("sockname")
        port = sockname[1] if sockname else 0
        return self._routes.find(port, bare_host(request.headers.get("Host", "")))

    async def _carry(self, request: web.BaseRequest) -> web.StreamResponse:
        """Take a request to its app, wherever that is by now: the route is read anew before each attempt."""
        deadline = asyncio.get_running_loop().time() + PATIENCE
        while (target := self._find(request)) and target.upstream:
            with self._travels(target.upstream):
                try:
                    headers = onward(request)
                    headers["Host"] = headers.get("Host") or target.host  # HTTP/1.0 may do without
                    answer = await self._forwarder.send(request, target.upstream, headers)
                except NotReached as error:
                    reason = error
                except Broken as error:
                    return _broken(request, target, error)
                else:
                    return await relay(request, answer, {RELEASE: target.release})
            if asyncio.get_running_loop().time() > deadline:
                log.warning("%s cannot be reached: %s", target.host, reason)
                text = f"{target.host} does not accept connections just now; try again in a moment"
                return says(503, text, {"Retry-After": "1", RELEASE: target.release})
            await asyncio.sleep(_RETRY_EVERY)
        return _nothing_there(request, target)

    @contextmanager
    def _travels(self, upstream: str) -> Iterator[None]:
        self._travelling[upstream] += 1
        try:
            yield
        finally:
            self._travelling[upstream] -= 1
            if not self._travelling[upstream]:
                del self._travelling[upstream]

    # Control

    async def _command(self, request: web.BaseRequest) -> web.StreamResponse:
        collection, _, name = request.path[1:].partition("/")
        match request.method, collection, name:
            case "GET", "routes", "":
                return web.json_response(_told(self._routes.targets))
            case "GET", "inflight", upstream if upstream:
                return web.json_response({"requests": self._travelling[upstream]})
            case "PUT", "routes", app if app:
                return await self._put(app, await request.read())
            case "DELETE", "routes", app if app:
                return await self._change(app, None)
        return says(
            404, "the router knows PUT and DELETE /routes/APP, GET /routes and GET /inflight/HOST:PORT"
        )

    async def _put(self, app: str, body: bytes) -> web.Response:
        try:
            target = Target.parse(json.loads(body))
        except ValueError as error:
            return says(400, str(error))
        return await self._change(app, target)

    async def _change(self, app: str, target: Target | None) -> web.Response:
        try:
            async with self._changing:
                await self._switch(_changed(self._routes.targets, app, target), target)
        except Conflict as error:
            return says(409, str(error))
        except OSError as error:
            return says(500, f"{self._file} cannot be written: {error.strerror}")
        return web.Response(status=204)

    async def _switch(self, targets: Mapping[str, Target], new: Target | None) -> None:
        """Durable first, then true: from the assignment on no request reaches another upstream."""
        try:
            if new:
                await self._open(new.port)
            await asyncio.to_thread(_write, self._file, targets)
            self._routes = Routes(targets)
        finally:
            self._close_unused()

    async def _open(self, port: int) -> None:
        if port in self._ports:
            return
        listener = self._shelf.held.pop(port, None)
        if listener is None:
            listener = bind(self._address, port)
            self._shelf.put(port, listener)
        self._ports[port] = listener, await self._visitors.listen(listener)

    def _close_unused(self) -> None:
        ports = {target.port for target in self._routes.targets.values()}
        for port in self._ports.keys() - ports:
            listener, server = self._ports.pop(port)
            self._shelf.drop(port, listener)
            self._visitors.unlisten(server)


async def _file(request: web.BaseRequest, target: Target) -> web.StreamResponse | None:
    """The answer from the app's static files, if one of them is asked for."""
    if target.origin is None or request.method not in ("GET", "HEAD"):
        return None
    origin = Path(target.origin)
    try:
        found = static.find(origin, request.path)
        if found is None and target.upstream is None:
            found = static.find_404(origin)
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.error("static files of %s: %s", target.host, error)
        text = f"the static files of {target.host} cannot be read just now"
        return says(503, text, {"Retry-After": "1", RELEASE: target.release})
    if found is None:
        return None
    return await static.serve(request, found, {RELEASE: target.release})


def _nobody(request: web.BaseRequest) -> web.Response:
    host = request.headers.get("Host", "")[:255]
    if not host:
        return says(400, NO_HOST)
    return says(
        404,
        f"No app is served as {host!r} here. Check the address; `penstock apps` lists what there is, "
        "and an app is first reachable once a push of it went live.",
    )


def _nothing_there(request: web.BaseRequest, target: Target | None) -> web.Response:
    if target is None:
        return _nobody(request)
    headers = {"Cache-Control": "no-cache", RELEASE: target.release}
    return says(404, f"{target.host} has no {request.path[:255]}", headers)


def _broken(request: web.BaseRequest, target: Target, error: Broken) -> web.Response:
    if broken_off := body_broke_off(request):
        return broken_off
    cause = error.__cause__ or "it was refused"
    log.warning("%s %s: %s %s: %s", request.method, request.path, target.host, error, cause)
    return says(502, f"{target.host} {error}", {RELEASE: target.release})


def _changed(targets: Mapping[str, Target], app: str, target: Target | None) -> Mapping[str, Target]:
    """The routes with one put or taken away. Raises `Conflict` when host or port belong to another app."""
    others = {name: other for name, other in targets.items() if name != app}
    if target is None:
        return others
    for name, other in others.items():
        if other.host == target.host:
            raise Conflict(f"host {target.host} belongs to app {name}")
        if other.port == target.port:
            raise Conflict(f"port {target.port} belongs to app {name}")
    return {**others, app: target}


def _told(targets: Mapping[str, Target]) -> dict[str, Any]:
    return {app: asdict(target) for app, target in targets.items()}


def _read(file: Path) -> Routes:
    try:
        kept = json.loads(file.read_bytes())
        return Routes({app: Target.parse(said) for app, said in kept.items()})
    except FileNotFoundError:
        return Routes({})
    except ValueError as error:
        raise Invalid(f"{file} is damaged: {error}. Remove it, and deploy each app again") from error


def _write(file: Path, targets: Mapping[str, Target]) -> None:
    with aside(file.parent) as new:
        new.file.write(json.dumps(_told(targets), indent=1).encode())
        new.become(file)
    sync(file.parent)
