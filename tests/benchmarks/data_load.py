"""Those who ask: connections that do nothing but send the same bytes again and look whether the answer is a
good one. Each function runs in a process of its own and measures that of the service from outside."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import psutil

TICK = 0.01
"""Seconds: no shorter time of a processor is told by the kernel."""

SAMPLED_EVERY = 0.02
"""Seconds between two looks at a process's memory."""


@dataclass(frozen=True, slots=True)
class Load:
    """What came of a time under load."""

    seconds: float
    cpu: float
    """Seconds of a core that the service's process took."""
    waits: list[float]
    """Seconds of each answer."""

    @property
    def rate(self) -> float:
        return len(self.waits) / self.seconds

    @property
    def rate_per_core(self) -> float:
        return len(self.waits) / self.cpu


class _User(asyncio.Protocol):
    """Asks, and asks again when it was answered."""

    def __init__(
        self, request: bytes, expected: bytes, waits: list[float], wrong: Callable[[bytes], None]
    ) -> None:
        self._request, self._expected, self._waits, self._wrong = request, expected, waits, wrong
        self._got = b""
        self._length = 0

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._ask()

    def _ask(self) -> None:
        self._since, self._got, self._length = perf_counter(), b"", 0
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._got += data
        if not self._length and (head := self._got.find(b"\r\n\r\n")) > 0:
            self._length = head + 4 + _content_length(self._got[:head])
        if not self._length or len(self._got) < self._length:
            return
        if not self._got.startswith(b"HTTP/1.1 200") or self._expected not in self._got:
            self._wrong(self._got)
            return
        self._waits.append(perf_counter() - self._since)
        self._ask()

    def connection_lost(self, error: Exception | None) -> None:
        self._wrong(b"hung up")


def _content_length(head: bytes) -> int:
    name = b"content-length: "
    found = head.lower().index(name) + len(name)
    return int(head[found:].split(b"\r", 1)[0])


async def load(
    _: object, port: int, pid: int, requests: Sequence[bytes], expected: bytes, warm_up: float, seconds: float
) -> Load:
    """As many connections as requests, each with its own, as fast as the answers come."""
    loop, process = asyncio.get_running_loop(), psutil.Process(pid)
    waits: list[float] = []
    wrong: asyncio.Future[bytes] = loop.create_future()

    def told(answer: bytes) -> None:
        if not wrong.done():
            wrong.set_result(answer)

    for request in requests:
        await loop.create_connection(
            lambda request=request: _User(request, expected, waits, told), "127.0.0.1", port
        )
    await asyncio.wait([wrong], timeout=warm_up)
    waits.clear()
    began, before = perf_counter(), _cpu(process)
    await asyncio.wait([wrong], timeout=seconds)
    load = Load(perf_counter() - began, max(TICK, _cpu(process) - before), list(waits))
    assert not wrong.done(), wrong.result()
    assert load.waits, "not one answer came"
    return load


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


# -- streams


@dataclass(frozen=True, slots=True)
class Streamed:
    """What came of one stream."""

    lines: int
    bytes: int
    seconds: float
    cpu: float
    memory: float
    """Most megabytes (RSS) that the service's process had."""
    memory_before: float


class _Reader(asyncio.Protocol):
    """Takes a stream, and counts. It stands still after each `piece` bytes, for `rest` seconds."""

    def __init__(self, request: bytes, piece: float, rest: float) -> None:
        self._request, self._piece, self._rest = request, piece, rest
        self._until = piece
        self.lines = self.bytes = 0
        self._end = b""
        self._loop = asyncio.get_running_loop()
        self.stands = asyncio.Event()
        """It has stood still, or it is over."""
        self.over = asyncio.Event()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self.bytes += len(data)
        self.lines += data.count(b"\n")
        self._end = (self._end + data)[-7:]
        if self._end.endswith(b"\r\n0\r\n\r\n"):
            self._transport.abort()
        elif self.bytes > self._until:
            self._stand_still()

    def _stand_still(self) -> None:
        self._until = self.bytes + self._piece
        self._transport.pause_reading()
        self._loop.call_later(self._rest, self._transport.resume_reading)
        self.stands.set()

    def connection_lost(self, error: Exception | None) -> None:
        self.over.set()
        self.stands.set()


async def stream(
    _: object, port: int, pid: int, request: bytes, *, piece: float = math.inf, rest: float = 0.0
) -> Streamed:
    """All of a stream; the reader rests after each `piece` bytes."""
    async with _reading(port, pid, request, piece, rest) as (reader, done):
        await reader.over.wait()
        return done()


async def stopped(
    _: object, port: int, pid: int, request: bytes, *, after: float, seconds: float
) -> Streamed:
    """A reader that stops after so many bytes, and stays."""
    async with _reading(port, pid, request, after, 10 * seconds) as (reader, done):
        await reader.stands.wait()
        await asyncio.sleep(seconds)
        return done()


@contextlib.asynccontextmanager
async def _reading(
    port: int, pid: int, request: bytes, piece: float, rest: float
) -> AsyncIterator[tuple[_Reader, Callable[[], Streamed]]]:
    loop, process = asyncio.get_running_loop(), psutil.Process(pid)
    before, cpu, began = _memory(process), _cpu(process), perf_counter()
    memory = [before]
    async with asyncio.TaskGroup() as group:
        sampling = group.create_task(_sample(process, memory), name="samples")
        transport, reader = await loop.create_connection(
            lambda: _Reader(request, piece, rest), "127.0.0.1", port
        )

        def done() -> Streamed:
            took = perf_counter() - began, max(TICK, _cpu(process) - cpu)
            return Streamed(reader.lines, reader.bytes, *took, max(memory), before)

        try:
            yield reader, done
        finally:
            sampling.cancel()
            transport.abort()


async def _sample(process: psutil.Process, memory: list[float]) -> None:
    while True:
        memory.append(_memory(process))
        await asyncio.sleep(SAMPLED_EVERY)


def _memory(process: psutil.Process) -> float:
    return process.memory_info().rss / 1e6
