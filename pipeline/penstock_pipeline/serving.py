"""The engine's HTTP server: uvicorn, but it lets in no more connections than leave room for its work. Others
wait in the listener's queue, and who connects and does not get on with a request is let go.

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
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

log = logging.getLogger(__name__)

GRACE = 3
"""Seconds that open requests get when the server stops; pushes under way are told and go on later."""

HEAD_LIMIT = 64 * 1024
"""Bytes that a head may have, and what follows a body's last byte: nobody knows yet who asks, and uvicorn
bounds neither with this parser."""

_PIECE = 16 * 1024

PAUSE = 0.1
"""Seconds until it is seen whether there is room again."""

CALM = 60.0
"""Seconds after which the same trouble is told again."""

_NO_FILES = "socket.accept() out of system resource"


@dataclass(frozen=True, slots=True)
class Patience:
    """How long who asks may take. Who is not read on, by git for one, is not hurried either."""

    head: float = 20.0
    """Seconds that the head of a request may take to arrive."""

    body: float = 30.0
    """Seconds that a body may stay away. So a push may take hours, but is never idle for longer."""

    rate: float = 1024.0
    """Bytes of a body that count for a second: one that drips is away too, and a short one is whole soon."""

    crowded: float = 5.0
    """Seconds in the place of `head` and `body` as long as others find no room."""


class Connection(HttpToolsProtocol):
    """Closed when the head of a request or its body does not come in time, or a head goes on and on."""

    _unheard = 0
    """Bytes since the last one that belonged to a body or ended a head."""

    _in_body = False
    _was_paused = False
    _late: asyncio.TimerHandle | None = None

    def __init__(self, config: uvicorn.Config, state: ServerState, patience: Patience) -> None:
        super().__init__(config, state, {})
        self._patience = patience
        self._given = self._due = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await(self._patience.head)

    def data_received(self, data: bytes) -> None:
        if self._late is None and self._is_answered():  # empty lines begin no request
            self._await(self._patience.head)
        for at in range(0, len(data), _PIECE):
            piece = data[at : at + _PIECE]
            self._unheard += len(piece)
            super().data_received(piece)
            if self.transport.is_closing():
                return
            if self._unheard > HEAD_LIMIT:
                self._refuse(_TOO_MUCH if self._in_body else _TOO_LONG)
                return

    def on_message_begin(self) -> None:
        self._await(self._patience.head)
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._unheard = 0
        self._in_body = True
        self._await(self._patience.body)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unheard = 0
        super().on_body(body)
        if not self._is_answered():  # the rest of what was answered already is not waited for
            worth = len(body) / self._patience.rate
            self._due = min(self._due + worth, self.loop.time() + self._patience.body)
        self._was_paused |= self.flow.read_paused

    def on_message_complete(self) -> None:
        self._in_body = False
        self._rest()
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._rest()
        super().connection_lost(exc)

    def hurry(self) -> None:
        """Others wait: who has been away for `Patience.crowded` is let go."""
        if self._late is not None and not self.transport.is_closing():
            self._look(spare=max(0.0, self._given - self._patience.crowded))

    def _await(self, seconds: float) -> None:
        self._rest()
        self._given, self._due = seconds, self.loop.time() + seconds
        self._late = self.loop.call_at(self._due, self._look)

    def _rest(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _look(self, spare: float = 0.0) -> None:
        """Whether it has been too long, by so many seconds earlier than usual."""
        if self._in_body and self._waits_for_us():
            self._await(self._patience.body)
        elif self._due - spare > self.loop.time():
            self._rest()
            self._late = self.loop.call_at(self._due, self._look)
        elif self._in_body:
            self._refuse(_TOO_SLOW)
        else:
            self.transport.close()

    def _waits_for_us(self) -> bool:
        """It may not send, or was not let until just now, because nobody reads yet."""
        paused, self._was_paused = self._was_paused or self.flow.read_paused, self.flow.read_paused
        return paused or bool(self.cycle.waiting_for_100_continue and not self._is_answered())

    def _is_answered(self) -> bool:
        cycle: Any = self.cycle
        return cycle is not None and cycle.response_complete

    def _refuse(self, answer: bytes) -> None:
        """Says why, unless an answer is on its way that it would spoil."""
        cycle: Any = self.cycle
        if cycle is None or (not cycle.response_started if self._in_body else cycle.response_complete):
            self.transport.write(answer)
        if self.flow.write_paused:  # it does not read either
            self.transport.abort()
        self.transport.close()


class Server(uvicorn.Server):
    """Serves one listener, with `most` connections at once. Signals are the composition root's business."""

    def __init__(self, web: ASGIApp, *, most: int, patience: Patience | None = None) -> None:
        super().__init__(_config(web))
        self._most = most
        self._patience = patience or Patience()
        self._hurried = -math.inf
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
            self._hurry()
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
        return Connection(self.config, self.server_state, self._patience)

    def _wait(self, why: str) -> None:
        self._calm.tell(why)
        self._loop.remove_reader(self._listener)
        self._rest = self._loop.call_later(PAUSE, self._listen)

    def _hurry(self) -> None:
        now = self._loop.time()
        if now - self._hurried >= self._patience.crowded / 5:
            self._hurried = now
            for connection in [*self.server_state.connections]:
                if isinstance(connection, Connection):
                    connection.hurry()

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


def _refusal(status: HTTPStatus, why: str) -> bytes:
    return (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(why)}\r\nConnection: close\r\n\r\n{why}"
    ).encode()


_TOO_LONG = _refusal(
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"the request's head is longer than {HEAD_LIMIT:,} bytes\n"
)
_TOO_MUCH = _refusal(
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"more than {HEAD_LIMIT:,} bytes came that are no body\n"
)
_TOO_SLOW = _refusal(HTTPStatus.REQUEST_TIMEOUT, "the request's body came too slowly, or stayed away\n")


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
