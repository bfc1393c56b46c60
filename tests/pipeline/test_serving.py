"""The engine's HTTP server lets in what there is room for."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from plugins.house import eventually

from penstock_pipeline import serving
from penstock_pipeline.room import RESERVE, Room
from penstock_pipeline.serving import Server


async def hello(_scope: object, _receive: object, send: object) -> None:
    assert callable(send)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"hello"})


@asynccontextmanager
async def serving_at_most(most: int) -> AsyncIterator[tuple[Server, int]]:
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    server = Server(hello, most=most)
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


async def test_who_finds_no_room_is_served_once_the_silent_were_let_go(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(serving, "HEAD", 0.2)
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


async def test_a_kept_connection_is_not_taken_for_a_silent_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "HEAD", 0.2)
    async with serving_at_most(2) as (server, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(2):
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert await reader.readuntil(b"hello")
            (connection,) = server.server_state.connections
            await eventually(lambda kept=connection: kept._late.cancelled())  # type: ignore[misc]
        assert not connection.transport.is_closing()
        writer.close()


def test_connections_and_pushes_leave_room_for_everything_else() -> None:
    for files in (200, 1024, 20_000):
        room = Room.of(files)
        assert room.connections + 4 * room.pushes + RESERVE <= files
