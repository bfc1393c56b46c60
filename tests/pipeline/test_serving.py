"""The engine's HTTP server lets in what there is room for."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from plugins.house import eventually

from penstock_pipeline.room import RESERVE, Room
from penstock_pipeline.serving import Patience, Server

SHORT = Patience(head=0.2, body=0.4, rate=10_000, crowded=0.4)
EAGER = Patience(crowded=0.2)
GET = b"GET / HTTP/1.1\r\nHost: x\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n"


async def hello(_scope: object, _receive: object, send: Any) -> None:
    """Answers without looking at what there is to read."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"hello"})


async def reading(_scope: object, receive: Any, send: Any) -> None:
    """Answers who has sent a whole body."""
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        more = message["more_body"]
    await hello(_scope, receive, send)


@asynccontextmanager
async def serving_at_most(
    most: int, patience: Patience = SHORT, web: Any = hello
) -> AsyncIterator[tuple[Server, int]]:
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    server = Server(web, most=most, patience=patience)
    task = asyncio.create_task(server.serve([listener]), name="server")
    await eventually(lambda: server.started)
    yield server, listener.getsockname()[1]
    server.should_exit = True
    await task


async def ask(port: int, request: bytes = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n") -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    return answer


async def speak(port: int, first: bytes, piece: bytes = b"", *, every: float = 0.02) -> bytes:
    """Says the first, then a piece again and again until it is hung up on; what was answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(first)
    answer = asyncio.create_task(reader.read(), name="answer")
    while not (await asyncio.wait([answer], timeout=every))[0]:
        writer.write(piece)
    writer.close()
    try:
        return await answer
    except ConnectionResetError:  # it was still saying something
        return b""


async def test_who_finds_no_room_is_served_once_the_silent_were_let_go(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving_at_most(2) as (server, port):
        silent = asyncio.create_task(ask(port, b""), name="silent")
        half = asyncio.create_task(ask(port, b"GET / HTTP/1.1\r\nHost"), name="half a head")
        await eventually(lambda: len(server.server_state.connections) == 2)
        with caplog.at_level(logging.WARNING):
            answers = await asyncio.gather(*(ask(port) for _ in range(5)))
        assert [answer[-5:] for answer in answers] == [b"hello"] * 5
        assert (await silent, await half) == (b"", b"")
    told = [one.message for one in caplog.records if "others wait" in one.message]
    assert told == ["2 connections are open; others wait until one is closed"]


async def test_a_kept_connection_is_not_taken_for_a_silent_one() -> None:
    async with serving_at_most(2) as (server, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(2):
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert await reader.readuntil(b"hello")
            (connection,) = server.server_state.connections
            await eventually(lambda kept=connection: kept._late is None)  # type: ignore[misc]
        assert not connection.transport.is_closing()
        writer.close()


@pytest.mark.parametrize("patience", [SHORT, EAGER], ids=["soon", "when others wait"])
@pytest.mark.parametrize(
    "said",
    [
        pytest.param((POST + b"\r\nhalf",), id="half a body"),
        pytest.param((POST + b"\r\n", b"x"), id="a body that drips"),
        pytest.param((GET + b"Transfer-Encoding: chunked\r\n\r\n1;", b"x"), id="a chunk that never comes"),
        pytest.param((b"GET / HTTP/1.1\r\nHost: x", b"x"), id="a head that drips"),
    ],
)
async def test_a_flood_of_the_slow_leaves_everybody_else_answered(
    patience: Patience, said: Sequence[bytes]
) -> None:
    async with serving_at_most(3, patience, reading) as (server, port):
        flood = [asyncio.create_task(speak(port, *said), name="slow") for _ in range(9)]
        await eventually(lambda: len(server.server_state.connections) == 3)
        answers = await asyncio.gather(*(ask(port) for _ in range(3)))
        assert [answer[-5:] for answer in answers] == [b"hello"] * 3
        for told in await asyncio.gather(*flood):
            assert told == b"" or told.startswith(b"HTTP/1.1 408 Request Timeout\r\n")


async def test_half_a_body_is_told_that_it_was_waited_for_in_vain() -> None:
    async with serving_at_most(3, SHORT, reading) as (_, port):
        told = await speak(port, POST + b"\r\nhalf")
        assert told.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
        assert told.endswith(b"the request's body came too slowly, or stayed away\n")


@pytest.mark.parametrize(
    ("first", "piece"),
    [
        pytest.param(POST + b"\r\n", b"x" * 5000, id="the body of what was answered before it came"),
        pytest.param(GET + b"\r\n", b"\r\n", id="empty lines after a request"),
    ],
)
async def test_who_has_been_answered_is_let_go_whatever_follows(first: bytes, piece: bytes) -> None:
    async with serving_at_most(3) as (server, port):
        assert (await speak(port, first, piece))[-5:] in (b"hello", b"")
        await eventually(lambda: not server.server_state.connections)


async def test_a_long_body_may_take_its_time_as_long_as_it_comes() -> None:
    patience = Patience(body=1.0, rate=10_000, crowded=1.0)
    async with serving_at_most(1, patience, reading) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(POST + b"\r\n")
        others = asyncio.create_task(ask(port), name="who waits")
        began, left = time.monotonic(), 1_000_000
        while time.monotonic() - began < 3:
            left -= 2000
            writer.write(bytes(2000))
            await asyncio.sleep(0.02)
        writer.write(bytes(left))
        assert await reader.readuntil(b"hello")
        writer.close()
        assert await others


@pytest.mark.parametrize("expects", [b"", b"Expect: 100-continue\r\n"], ids=["", "asks whether it may"])
async def test_a_body_that_is_not_read_yet_is_not_late(expects: bytes) -> None:
    reads = asyncio.Event()

    async def busy(scope: object, receive: Any, send: Any) -> None:
        await reads.wait()
        await reading(scope, receive, send)

    async with serving_at_most(3, SHORT, busy) as (server, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(POST + expects + b"\r\n" + (b"" if expects else bytes(1_000_000)))
        await eventually(lambda: server.server_state.connections)
        (connection,) = server.server_state.connections
        looks: list[float] = []
        look = connection._look  # type: ignore[union-attr]
        connection._look = lambda: (looks.append(0), look())  # type: ignore[method-assign, union-attr]
        await eventually(lambda: len(looks) >= 3)
        reads.set()
        if expects:
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(bytes(1_000_000))
        assert await reader.readuntil(b"hello")
        writer.close()


def test_connections_and_pushes_leave_room_for_everything_else() -> None:
    for files in (200, 1024, 20_000):
        room = Room.of(files)
        assert room.connections + 4 * room.pushes + RESERVE <= files
