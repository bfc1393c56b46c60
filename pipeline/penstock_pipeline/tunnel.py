"""WebSockets (RFC 6455), carried as bytes.

The handshake is HTTP and goes the way of every request (`relay`). Once the app has switched protocols, what
one side sends is given to the other as it is, with back-pressure: no frame is read here, so text, binary,
pings, close codes, extensions and messages of any size are the app's and the visitor's own affair.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import aiohttp
from aiohttp import web
from aiohttp.http import HttpVersion11, StreamWriter
from multidict import CIMultiDictProxy

if TYPE_CHECKING:
    from aiohttp.base_protocol import BaseProtocol

SWITCH: Final = {"Connection": "Upgrade", "Upgrade": "websocket"}
"""What handshake and answer say of this one connection."""

_BUFFER = 64 * 1024
"""Bytes that may wait for a slow side; up to twice as many for a moment."""


def is_asked_for(request: web.BaseRequest) -> bool:
    """Whether the request is a WebSocket handshake (RFC 6455, 4.1)."""
    return (
        request.method == "GET"
        and request.version >= HttpVersion11
        and not request.can_read_body
        and "Sec-WebSocket-Key" in request.headers
        and _switches(request.headers)
    )


def is_open(answer: aiohttp.ClientResponse) -> bool:
    """Whether the app has accepted a handshake."""
    return answer.status == 101 and _switches(answer.headers)


def _switches(headers: CIMultiDictProxy[str]) -> bool:
    options = ",".join(headers.getall("Connection", [])).lower().split(",")
    return "upgrade" in map(str.strip, options) and headers.get("Upgrade", "").lower() == "websocket"


async def carry(request: web.BaseRequest, answer: aiohttp.ClientResponse) -> None:
    """Hand bytes both ways until the app ends its connection; cancelled when the visitor ends theirs."""
    if request.protocol is None or answer.connection is None or answer.connection.protocol is None:
        return
    visitor, app = _Side(request.protocol), _Side(answer.connection.protocol)
    request.protocol.set_parser(visitor)  # type: ignore[arg-type]
    answer.connection.protocol.set_parser(app, app.arrived)
    try:
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(visitor.pour_into(app), name="WebSocket to the app")
            await app.pour_into(visitor)
            sending.cancel()
    finally:
        visitor.pour_rest_into(app)


class _Side:
    """One end of a tunnel. It stands where aiohttp otherwise has its own reader of WebSockets."""

    def __init__(self, protocol: BaseProtocol) -> None:
        loop = asyncio.get_running_loop()
        self.arrived = aiohttp.StreamReader(protocol, _BUFFER, loop=loop)
        self._writer = StreamWriter(protocol, loop)

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self.arrived.feed_data(data)
        return False, b""

    def feed_eof(self) -> None:
        self.arrived.feed_eof()

    async def pour_into(self, other: _Side) -> None:
        """Until this side ends its connection, or the other cannot be written to any more."""
        with suppress(OSError):
            async for chunk in self.arrived.iter_any():
                await other._writer.write(chunk)

    def pour_rest_into(self, other: _Side) -> None:
        """What came just before the end."""
        transport = other._writer.transport
        if transport is not None and not transport.is_closing():
            transport.write(self.arrived.read_nowait())
