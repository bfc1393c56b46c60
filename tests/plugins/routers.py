"""A router under test, in this process, over real sockets."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from plugins.ports import free_port
from plugins.upstreams import listener

from penstock_pipeline.cdn.edge import Edge
from penstock_pipeline.relay import bind
from penstock_pipeline.runtimes.router import Router
from penstock_pipeline.runtimes.shelf import Shelf


class Running:
    """A router under test, and how to reach it."""

    def __init__(self, folder: Path, address: str, port: int, session: aiohttp.ClientSession) -> None:
        self.address = address
        self.port = port
        self.session = session
        self.app_port = free_port()
        self._folder = folder

    async def control(self, method: str, path: str, said: object = None, data: bytes | None = None) -> Any:
        connector = aiohttp.UnixConnector(str(self._folder / "router.sock"))
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.request(method, f"http://router{path}", json=said, data=data) as response,
        ):
            text = await response.text()
            return response.status, json.loads(text) if "json" in response.content_type else text

    def route(self, upstream: str | None, **more: Any) -> dict[str, Any]:
        plain = {"host": "shop.localhost", "port": self.app_port, "release": "v1", "origin": None}
        return {**plain, "upstream": upstream, **more}

    async def put(self, upstream: str | None, **more: Any) -> None:
        status, text = await self.control("PUT", "/routes/shop", self.route(upstream, **more))
        assert status == 204, text

    def ask(self, method: str, path: str, host: str = "shop.localhost", **more: Any) -> Any:
        headers = {"Host": host, **more.pop("headers", {})}
        url = f"http://{self.address}:{more.pop('port', self.port)}{path}"
        return self.session.request(method, url, headers=headers, allow_redirects=False, **more)

    async def get(self, path: str, **more: Any) -> tuple[int, bytes, Any]:
        async with self.ask("GET", path, **more) as response:
            return response.status, await response.read(), response.headers

    async def raw(self, request: bytes) -> bytes:
        """What comes back for these bytes until the router ends the connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(request)
        async with asyncio.timeout(5):
            answer = await reader.read()
        writer.close()
        return answer


@asynccontextmanager
async def router_over(folder: Path, address: str = "127.0.0.1") -> AsyncIterator[Running]:
    shelf = Shelf()
    router = Router(folder, address, shelf)
    visitors = bind(address, 0)
    control = socket.socket(socket.AF_UNIX)
    (folder / "router.sock").unlink(missing_ok=True)
    control.bind(str(folder / "router.sock"))
    control.listen()
    await router.start(visitors, control)
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        yield Running(folder, address, visitors.getsockname()[1], session)
    await router.drain(1)
    shelf.close()


@asynccontextmanager
async def edge_before(router: Running) -> AsyncIterator[Running]:
    """The router, reached through an edge."""
    edge = Edge(f"127.0.0.1:{router.port}", "token")
    sock, router.port = listener()
    await edge.start(sock)
    yield router
    await edge.drain(1)


async def inflight_is(router: Running, upstream: str, number: int) -> bool:
    return bool(await router.control("GET", f"/inflight/{upstream}") == (200, {"requests": number}))
