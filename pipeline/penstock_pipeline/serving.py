"""The engine's HTTP server: uvicorn, but it lets in no more connections than leave room for its work. Others
wait in the listener's queue, and who connects and asks nothing is let go.

asyncio's own way to accept would take every file there is; then it logs a line for each connection that it
might have accepted, and does so again every second.
"""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

log = logging.getLogger(__name__)

GRACE = 3
"""Seconds that open requests get when the server stops; pushes under way are told and go on later."""

HEAD = 20.0
"""Seconds that the head of a request may take to arrive."""

HEAD_LIMIT = 64 * 1024
"""Bytes that a head may have, and what follows a body's last byte: nobody knows yet who asks, and uvicorn
bounds neither with this parser."""

_PIECE = 16 * 1024

PAUSE = 0.1
"""Seconds until it is seen whether there is room again."""

CALM = 60.0
"""Seconds after which the same trouble is told again."""

_NO_FILES = "socket.accept() out of system resource"


class Connection(HttpToolsProtocol):
    """Closed when the head of a request does not come in time, or goes on and on."""

    _unheard = 0
    """Bytes since the last one that belonged to a body or ended a head."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._late = self.loop.call_later(HEAD, transport.close)

    def on_message_begin(self) -> None:
        self._late.cancel()
        self._late = self.loop.call_later(HEAD, self.transport.close)
        super().on_message_begin()

    def data_received(self, data: bytes) -> None:
        for at in range(0, len(data), _PIECE):
            piece = data[at : at + _PIECE]
            self._unheard += len(piece)
            super().data_received(piece)
            if self.transport.is_closing():
                return
            if self._unheard > HEAD_LIMIT:
                self._refuse()
                return

    def on_headers_complete(self) -> None:
        self._late.cancel()
        self._unheard = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unheard = 0
        super().on_body(body)

    def connection_lost(self, exc: Exception | None) -> None:
        self._late.cancel()
        super().connection_lost(exc)

    def _refuse(self) -> None:
        """Says why, unless an answer is on its way that it would spoil."""
        answering: Any = self.cycle
        if answering is None or answering.response_complete:
            self.transport.write(_TOO_LONG)
        self.transport.close()


class Server(uvicorn.Server):
    """Serves one listener, with `most` connections at once. Signals are the composition root's business."""

    def __init__(self, web: ASGIApp, *, most: int) -> None:
        super().__init__(_config(web))
        self._most = most
        self._coming: set[asyncio.Task[None]] = set()
        self._rest: asyncio.TimerHandle | None = None
        self._calm = Calm()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup([])
        assert sockets
        self._listener = sockets[0]
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(self._on_trouble)
        self._listen()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop.remove_reader(self._listener)
        if self._rest is not None:
            self._rest.cancel()
        await super().shutdown(sockets)

    def _listen(self) -> None:
        self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        if len(self.server_state.connections) + len(self._coming) >= self._most:
            self._wait(f"{self._most} connections are open; others wait until one is closed")
            return
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            self._wait(f"no connection can be accepted just now: {error.strerror}")
            return
        task = self._loop.create_task(self._take(connection), name="connection")
        self._coming.add(task)
        task.add_done_callback(self._coming.discard)

    async def _take(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        try:
            await self._loop.connect_accepted_socket(self._protocol, connection)
        except OSError:  # it has left
            connection.close()

    def _protocol(self) -> Connection:
        return Connection(self.config, self.server_state, self.lifespan.state)

    def _wait(self, why: str) -> None:
        self._calm.tell(why)
        self._loop.remove_reader(self._listener)
        self._rest = self._loop.call_later(PAUSE, self._listen)

    def _on_trouble(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Of every part of this process; what asyncio says of accepting is said of the hooks' socket."""
        if context.get("message") == _NO_FILES:
            self._calm.tell("hooks of pushes wait: too many files are open")
        else:
            loop.default_exception_handler(context)


class Calm:
    """Tells the same trouble once in a while, however often it comes."""

    def __init__(self) -> None:
        self._told: dict[str, float] = {}

    def tell(self, trouble: str) -> None:
        now = time.monotonic()
        if now - self._told.get(trouble, -math.inf) >= CALM:
            self._told[trouble] = now
            log.warning(trouble)


_WHY = f"the request's head is longer than {HEAD_LIMIT:,} bytes\n"
_TOO_LONG = (
    "HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Type: text/plain; charset=utf-8\r\n"
    f"Content-Length: {len(_WHY)}\r\nConnection: close\r\n\r\n{_WHY}"
).encode()


def _config(web: ASGIApp) -> uvicorn.Config:
    return uvicorn.Config(
        web,
        http=Connection,
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=GRACE,
    )
