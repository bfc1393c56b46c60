"""A client's connection as its server holds it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import Callable
from typing import Literal, TypeVar

T = TypeVar("T")

How = Literal["fin", "rst"]
"""How a connection ends: politely, or as if the machine did not know it."""

_CHUNK = 1 << 16


def hang_up(sock: socket.socket, how: How) -> None:
    """Closes a socket at once. Nobody may be waiting for it any more."""
    with contextlib.suppress(OSError):
        if how == "rst":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            sock.shutdown(socket.SHUT_WR)  # seen even where unread bytes turn the close into a reset
    sock.close()


class Channel:
    """Exact reads from a socket: what follows a request for TLS is left to TLS. One task reads and writes."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._tls: ssl.SSLObject | None = None
        self._received, self._unsent = ssl.MemoryBIO(), ssl.MemoryBIO()

    @property
    def encrypted(self) -> bool:
        return self._tls is not None

    async def read(self, size: int) -> bytes:
        """Exactly `size` bytes. Raises `EOFError` where the stream ends before, `OSError` where it breaks."""
        data = bytearray()
        while len(data) < size:
            data += await self._some(size - len(data))
        return bytes(data)

    async def write(self, data: bytes) -> None:
        if self._tls is None:
            await self._loop.sock_sendall(self._sock, data)
        elif data:
            self._tls.write(data)
            await self._flush()

    async def swallow(self) -> None:
        """Reads and forgets until the peer has left."""
        with contextlib.suppress(EOFError):
            while True:
                await self._some(_CHUNK)

    async def encrypt(self, context: ssl.SSLContext) -> None:
        """Goes on in TLS, as the server. Raises `ssl.SSLError`, also for a client that refuses."""
        tls = context.wrap_bio(self._received, self._unsent, server_side=True)
        await self._through_tls(tls.do_handshake)
        self._tls = tls

    def say(self, data: bytes) -> None:
        """Sends as much as goes out without waiting."""
        with contextlib.suppress(OSError):
            if self._tls is not None:
                self._tls.write(data)
                data = self._unsent.read()
            self._sock.send(data)

    def close(self, how: How) -> None:
        hang_up(self._sock, how)

    async def _some(self, size: int) -> bytes:
        if self._tls is not None:
            tls = self._tls
            data = await self._through_tls(lambda: tls.read(size))
        else:
            data = await self._loop.sock_recv(self._sock, size)
        if not data:
            raise EOFError("the client has left")
        return data

    async def _through_tls(self, step: Callable[[], T]) -> T:
        """What `step` returns, once TLS has all that it waits for."""
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                await self._flush()
                if data := await self._loop.sock_recv(self._sock, _CHUNK):
                    self._received.write(data)
                else:
                    self._received.write_eof()
            finally:
                await self._flush()

    async def _flush(self) -> None:
        if data := self._unsent.read():
            await self._loop.sock_sendall(self._sock, data)
