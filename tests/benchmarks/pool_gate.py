"""A door in front of a database, in a process of its own: it lets connections wait, or shuts.

with Gate(port, delay=0.05) as gate:
    connect_to(gate.port)
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from typing import cast

import uvloop


class Gate:
    """The process, and what it is told."""

    def __init__(self, to: int, *, delay: float = 0.0) -> None:
        """Every connection to `port` is led to the port `to` of this machine, after `delay` seconds."""
        self._command = [sys.executable, __file__, str(to), str(delay)]

    def __enter__(self) -> Gate:
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.port = self._answer()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def shut(self) -> None:
        """Cuts what is there, and whoever knocks from now on."""
        self._ask("shut")

    def open(self) -> int:
        """Leads on again; answers how many have knocked meanwhile."""
        return self._ask("open")

    def _ask(self, what: str) -> int:
        assert self._process.stdin is not None
        self._process.stdin.write(what + "\n")
        return self._answer()

    def _answer(self) -> int:
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())


class Door:
    """The other side of that: in the process."""

    def __init__(self, to: int, delay: float) -> None:
        self.to, self.delay = to, delay
        self.is_open = True
        self.knocked = 0
        self.inside: set[End] = set()

    def do(self, what: str) -> None:
        knocked, self.knocked = self.knocked, 0
        self.is_open = what == "open"
        if not self.is_open:
            for end in list(self.inside):
                end.cut()
        print(knocked, flush=True)


class End(asyncio.Protocol):
    """One side of a connection; what comes in goes out at the other."""

    def __init__(self, door: Door, other: End | None = None) -> None:
        self._door, self._other = door, other
        self._transport: asyncio.Transport | None = None
        self._early = b""
        """What came before there was another side."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast(asyncio.Transport, transport)
        if self._other is not None:
            return
        self._door.knocked += 1
        if not self._door.is_open:
            transport.abort()
            return
        self._door.inside.add(self)
        self._entry = asyncio.ensure_future(self._enter())

    async def _enter(self) -> None:
        await asyncio.sleep(self._door.delay)
        other = End(self._door, self)
        try:
            await asyncio.get_running_loop().create_connection(lambda: other, "127.0.0.1", self._door.to)
        except OSError:
            self.cut()
            return
        self._other = other
        other.send(self._early)
        if self not in self._door.inside:
            other.cut()

    def data_received(self, data: bytes) -> None:
        if self._other is None:
            self._early += data
        else:
            self._other.send(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._door.inside.discard(self)
        if self._other is not None:
            self._other.cut()

    def send(self, data: bytes) -> None:
        assert self._transport is not None
        self._transport.write(data)

    def cut(self) -> None:
        if self._transport is not None:
            self._transport.abort()


async def main(to: int, delay: float) -> None:
    loop = asyncio.get_running_loop()
    door = Door(to, delay)
    server = await loop.create_server(lambda: End(door), "127.0.0.1", 0, backlog=1000)
    print(server.sockets[0].getsockname()[1], flush=True)
    ended = asyncio.Event()

    def listen() -> None:
        for line in sys.stdin:
            loop.call_soon_threadsafe(door.do, line.strip())
        loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=listen, name="told", daemon=True).start()
    await ended.wait()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), float(sys.argv[2])))
