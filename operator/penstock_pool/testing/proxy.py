"""A TCP proxy between a client and any server that breaks in the ways networks do."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import Counter
from dataclasses import dataclass
from typing import Literal

from penstock_pool.testing.channel import How, hang_up
from penstock_pool.testing.listener import Listener, ended

Direction = Literal["up", "down"]
"""Up is from the client to the server."""

_CHUNK = 1 << 16


@dataclass
class _Cut:
    """An order to end connections, `left` of them."""

    after: int
    how: How
    left: float


class _Over(Exception):
    """The connection is to end."""

    def __init__(self, how: How) -> None:
        self.how: How = how


class FaultProxy:
    """Forwards what comes to its `port` on loopback, unless it is told otherwise. Use as an async context
    manager.

    Orders hold for connections that are open and for those that come, if nothing else is said, and until
    `heal`. A server that cannot be reached is a reset to the client.
    """

    def __init__(self, host: str, port: int, *, listen_port: int = 0) -> None:
        """`host` and `port` are those of the server."""
        self.server = (host, port)
        self.opened = 0
        """Connections that were accepted."""
        self.passed: Counter[Direction] = Counter()
        """Bytes that were sent on."""
        self._links: dict[_Link, asyncio.Task[None]] = {}
        self._listener = Listener(self._serve, "127.0.0.1", listen_port)
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._deaf = False
        self._latency = 0.0
        self._rate = float("inf")
        self._cuts: dict[Direction, _Cut] = {}

    async def __aenter__(self) -> FaultProxy:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._listener.close()

    @property
    def host(self) -> str:
        return self._listener.host

    @property
    def port(self) -> int:
        """Stays the same over `stop` and `start`."""
        return self._listener.port

    @property
    def open(self) -> int:
        """Connections that are open now."""
        return len(self._links)

    async def start(self) -> None:
        """Listens again after `stop`."""
        await self._listener.start()

    async def stop(self) -> None:
        """Listens no more: who connects is refused by the system. Open connections stay."""
        await self._listener.stop()

    async def close(self) -> None:
        """Ends the open connections on both sides, politely (FIN)."""
        await self._end_all("fin")

    async def reset(self) -> None:
        """Ends the open connections on both sides by RST."""
        await self._end_all("rst")

    def deaf(self) -> None:
        """Connections that come from now on are accepted and nothing else: no byte is forwarded, ever."""
        self._deaf = True

    def drop(self) -> None:
        """Open connections lose every byte from now on, and nobody is told: as when a firewall forgets them.
        `heal` does not bring them back."""
        for link in self._links:
            link.dropped = True

    def freeze(self) -> None:
        """Nothing is forwarded until `thaw`; nothing is lost either."""
        self._flowing.clear()

    def thaw(self) -> None:
        self._flowing.set()

    def slow(self, *, latency: float = 0.0, bytes_per_second: float = float("inf")) -> None:
        """What comes in one piece goes on so many seconds later, and no faster."""
        self._latency, self._rate = latency, bytes_per_second

    def cut(
        self, after: int = 0, *, direction: Direction = "down", how: How = "fin", times: int | None = None
    ) -> None:
        """Connections end once so many bytes more have passed in this direction (0: when the first would):
        so many connections, or all. The last order for a direction holds."""
        cut = _Cut(after, how, float("inf") if times is None else times)
        self._cuts[direction] = cut
        for link in self._links:
            link.limit(direction, cut)

    def heal(self) -> None:
        """Withdraws all orders, but does not start listening."""
        for cut in self._cuts.values():
            cut.left = 0
        self._deaf = False
        self.slow()
        self.thaw()

    # For its connections.

    async def hold(self, data: bytes) -> None:
        """Returns when this piece may go on."""
        if delay := self._latency + len(data) / self._rate:
            await asyncio.sleep(delay)
        await self._flowing.wait()

    async def _end_all(self, how: How) -> None:
        links, tasks = list(self._links), list(self._links.values())
        for link in links:
            link.how = how
        await ended(*tasks)

    async def _serve(self, client: socket.socket) -> None:
        self.opened += 1
        link = _Link(self, client, dropped=self._deaf)
        for direction, cut in self._cuts.items():
            link.limit(direction, cut)
        task = asyncio.current_task()
        assert task is not None
        self._links[link] = task
        try:
            await link.serve()
        finally:
            del self._links[link]


class _Link:
    """One client's connection and the one to the server."""

    def __init__(self, proxy: FaultProxy, client: socket.socket, *, dropped: bool) -> None:
        self.dropped = dropped
        self.how: How = "fin"
        self._proxy = proxy
        self._client = client
        self._sockets = [client]
        self._passed: Counter[Direction] = Counter()
        self._limits: dict[Direction, tuple[int, _Cut]] = {}

    def limit(self, direction: Direction, cut: _Cut) -> None:
        """`cut` happens so many bytes from now."""
        self._limits[direction] = (self._passed[direction] + cut.after, cut)

    async def serve(self) -> None:
        """From accepting to the end of both sides."""
        try:
            await (self._swallow() if self.dropped else self._connect())
        except* OSError:
            self.how = "rst"
        except* _Over as over:
            self.how = next(error.how for error in over.exceptions if isinstance(error, _Over))
        finally:
            for sock in self._sockets:
                hang_up(sock, self.how)

    async def _swallow(self) -> None:
        while await asyncio.get_running_loop().sock_recv(self._client, _CHUNK):
            pass

    async def _connect(self) -> None:
        await self._proxy.hold(b"")
        server = socket.socket()
        self._sockets.append(server)
        server.setblocking(False)
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(server, self._proxy.server)
        await self._forward_both(server)

    async def _forward_both(self, server: socket.socket) -> None:
        async with asyncio.TaskGroup() as both:
            both.create_task(self._forward("up", self._client, server), name="forwarding up")
            both.create_task(self._forward("down", server, self._client), name="forwarding down")

    async def _forward(self, direction: Direction, source: socket.socket, target: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while data := await loop.sock_recv(source, _CHUNK):
            await self._proxy.hold(data)
            if self.dropped:
                continue
            passing, cut = self._allowed(direction, data)
            await loop.sock_sendall(target, passing)
            self._passed[direction] += len(passing)
            self._proxy.passed[direction] += len(passing)
            if cut:
                raise _Over(cut.how)
        await self._proxy.hold(b"")
        if not self.dropped:
            with contextlib.suppress(OSError):
                target.shutdown(socket.SHUT_WR)

    def _allowed(self, direction: Direction, data: bytes) -> tuple[bytes, _Cut | None]:
        """What of it may pass, and the cut that happens then."""
        limit, cut = self._limits.get(direction, (None, None))
        if limit is None or cut is None or cut.left <= 0 or self._passed[direction] + len(data) < limit:
            return data, None
        cut.left -= 1
        return data[: max(0, limit - self._passed[direction])], cut
