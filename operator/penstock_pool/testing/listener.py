"""A listening port that can be closed and opened again, and the tasks that serve who came."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

log = logging.getLogger(__name__)

_BACKLOG = 1024
_OUT_OF_FILES = 0.01
"""Seconds until accepting is tried again where the process has no file descriptor left."""


class Listener:
    """Accepts TCP connections and gives each to a task of its own, which owns the socket."""

    def __init__(self, serve: Callable[[socket.socket], Coroutine[Any, Any, None]], host: str, port: int):
        self._serve = serve
        self.host = host
        self.port = port
        """0 until the first `start` has found a free one; then always the same."""
        self._accepting: asyncio.Task[None] | None = None
        self._serving: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listens, if it does not already."""
        if self._accepting is not None:
            return
        listening = socket.create_server((self.host, self.port), backlog=_BACKLOG)
        listening.setblocking(False)
        self.port = listening.getsockname()[1]
        self._accepting = asyncio.create_task(self._accept(listening), name=f"accepting on port {self.port}")

    async def stop(self) -> None:
        """Listens no more: who connects is refused. Connections that are open stay."""
        if self._accepting is not None:
            await ended(self._accepting)
            self._accepting = None

    async def close(self) -> None:
        """Stops, and ends every task."""
        await self.stop()
        await ended(*self._serving)

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with listening:
            while True:
                try:
                    sock, peer = await loop.sock_accept(listening)
                except OSError:
                    await asyncio.sleep(_OUT_OF_FILES)
                    continue
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._begin(sock, peer[1])

    def _begin(self, sock: socket.socket, peer: int) -> None:
        task = asyncio.create_task(self._serve(sock), name=f"serving {peer} on port {self.port}")
        self._serving.add(task)
        task.add_done_callback(partial(self._end, sock))

    def _end(self, sock: socket.socket, task: asyncio.Task[None]) -> None:
        sock.close()  # by itself only where the task was cancelled before it began
        self._serving.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("%s failed", task.get_name(), exc_info=error)


async def ended(*tasks: asyncio.Task[Any]) -> None:
    """Cancels tasks and waits for their end."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
