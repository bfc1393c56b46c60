"""Upstreams for whatever forwards: small web apps, and bare sockets that misbehave as told."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from aiohttp import web

from penstock_pipeline.relay import bind

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


def address(sock: socket.socket) -> str:
    """`host:port` of a bound socket."""
    host, port = sock.getsockname()
    return f"{host}:{port}"


def listener() -> tuple[socket.socket, int]:
    sock = bind("127.0.0.1", 0)
    return sock, sock.getsockname()[1]


@asynccontextmanager
async def app_that(handler: Handler, port: int = 0, **options: Any) -> AsyncIterator[str]:
    """A small web app; yields its `host:port`."""
    runner = web.ServerRunner(web.Server(handler, access_log=None, **options), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    yield f"127.0.0.1:{site.port}"
    await runner.cleanup()


@asynccontextmanager
async def socket_that(
    talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[str]:
    """An upstream that does with its bare socket what `talk` says."""

    talks: set[asyncio.Task[Any]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        talks.add(task)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                await talk(reader, writer)
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield address(server.sockets[0])
    server.close()
    for talking in talks:
        talking.cancel()
    await asyncio.gather(*talks, return_exceptions=True)


def saying(text: str) -> Handler:
    async def handler(request: web.BaseRequest) -> web.Response:
        await request.read()
        return web.Response(text=text)

    return handler
