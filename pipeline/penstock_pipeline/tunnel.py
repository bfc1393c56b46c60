"""WebSockets (RFC 6455), carried as bytes.

The handshake is HTTP and goes the way of every request (`relay`). Once the app has switched protocols, what
one side sends is given to the other as it is, with back-pressure: text, binary, pings, close codes,
extensions and messages of any size are the app's and the visitor's own affair. Of the app's frames no more is
read than where they end: so a visitor whose app goes without a word can be told to come again.
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

_COME_AGAIN = b"\x88\x02" + (1012).to_bytes(2, "big")
"""A close frame that says Service Restart (IANA's registry of close codes): clients reconnect upon it."""

_CLOSE = 0x8

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
    """Hand bytes both ways until the app ends its connection; cancelled when the visitor ends theirs, or when
    this process must end."""
    if request.protocol is None or answer.connection is None or answer.connection.protocol is None:
        return
    frames = Frames()
    visitor, app = _Side(request.protocol), _Side(answer.connection.protocol)
    request.protocol.set_parser(visitor)  # type: ignore[arg-type]
    answer.connection.protocol.set_parser(app, app.arrived)
    try:
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(visitor.pour_into(app), name="WebSocket to the app")
            await app.pour_into(visitor, frames)
            sending.cancel()
    finally:
        visitor.pour_rest_into(app)
        if frames.lack_a_close:
            visitor.say(_COME_AGAIN)


class Frames:
    """Follows a stream of frames to know where they end (RFC 6455, 5.2)."""

    def __init__(self) -> None:
        self._begun = b""
        """The begin of a frame's head."""
        self._left = 0
        """Bytes to come of a frame whose head is known."""
        self._closed = False

    @property
    def lack_a_close(self) -> bool:
        """Whether a close frame would be understood where the stream stands, and was not sent yet."""
        return not (self._begun or self._left or self._closed)

    def follow(self, data: bytes) -> None:
        data = self._begun + data
        at = self._left
        while size := _size(data[at : at + 10]):
            self._closed |= data[at] & 0xF == _CLOSE
            at += size
        self._begun = data[at:]
        self._left = max(0, at - len(data))


def _size(begin: bytes) -> int:
    """Of the frame that begins so; 0 when that is too little to tell."""
    if len(begin) < 2:
        return 0
    masked, length = begin[1] & 0x80, begin[1] & 0x7F
    head = 2 + {126: 2, 127: 8}.get(length, 0)
    if len(begin) < head:
        return 0
    if head > 2:
        length = int.from_bytes(begin[2:head], "big")
    return head + (4 if masked else 0) + length


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

    async def pour_into(self, other: _Side, frames: Frames | None = None) -> None:
        """Until this side ends its connection, or the other cannot be written to any more."""
        with suppress(OSError):
            async for chunk in self.arrived.iter_any():
                if frames is not None:
                    frames.follow(chunk)
                await other._writer.write(chunk)

    def pour_rest_into(self, other: _Side) -> None:
        """What came just before the end."""
        other.say(self.arrived.read_nowait())

    def say(self, last: bytes) -> None:
        transport = self._writer.transport
        if transport is not None and not transport.is_closing():
            transport.write(last)
