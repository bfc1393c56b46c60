"""The proxy breaks connections in the ways it is told to, and no others."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import asyncmy
import pytest
from asyncmy.errors import MySQLError
from plugins.house import eventually
from plugins.mariadb import MariaDB

from penstock_pool.testing import FakeMySQL, FaultProxy


class Client:
    """A socket that is told apart: refused, silent, ended, reset."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.setblocking(False)

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def hears(self, size: int) -> bytes:
        """The next `size` bytes, or fewer before the end."""
        heard = b""
        while len(heard) < size and (data := await self._receive(size - len(heard))):
            heard += data
        return heard

    async def says(self, data: bytes) -> bytes:
        """What the echo answers."""
        await self.send(data)
        return await self.hears(len(data))

    async def is_silent(self) -> bool:
        done, _ = await asyncio.wait([task := asyncio.create_task(self._receive(1))], timeout=0.1)
        task.cancel()
        return not done

    async def is_reset(self) -> bool:
        try:
            await self._receive(1)
        except ConnectionResetError:
            return True
        return False

    async def is_ended(self) -> bool:
        return await self._receive(1) == b""

    async def _receive(self, size: int) -> bytes:
        return await asyncio.get_running_loop().sock_recv(self.sock, size)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


Enter = Callable[[], Client]


@asynccontextmanager
async def proxied() -> AsyncIterator[tuple[FaultProxy, Enter]]:
    """A proxy before an echo, and a way to connect to it."""
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    sockets: list[socket.socket] = []

    def enter() -> Client:
        sockets.append(socket.create_connection((proxy.host, proxy.port)))
        return Client(sockets[-1])

    async with FaultProxy(*server.sockets[0].getsockname()) as proxy:
        yield proxy, enter
    for sock in sockets:
        sock.close()
    server.close()
    await server.wait_closed()


async def test_it_forwards_and_counts() -> None:
    async with proxied() as (proxy, enter):
        clients = [enter(), enter()]
        for client in clients:
            assert await client.says(b"abc" * 100_000) == b"abc" * 100_000
        assert (proxy.opened, proxy.open) == (2, 2)
        assert proxy.passed == {"up": 600_000, "down": 600_000}


async def test_an_end_of_one_side_is_passed_on() -> None:
    async with proxied() as (proxy, enter):
        client = enter()
        await client.send(b"last words")
        client.sock.shutdown(socket.SHUT_WR)
        assert await client.hears(100) == b"last words"
        await eventually(lambda: proxy.open == 0)


async def test_it_stops_listening_and_starts_on_the_same_port() -> None:
    async with proxied() as (proxy, enter):
        client, port = enter(), proxy.port
        assert await client.says(b"1") == b"1"
        await proxy.stop()
        with pytest.raises(ConnectionRefusedError):
            enter()
        assert await client.says(b"2") == b"2"
        await proxy.start()
        assert await enter().says(b"3") == b"3"
        assert proxy.port == port


async def test_a_deaf_proxy_accepts_and_no_more() -> None:
    async with proxied() as (proxy, enter):
        before = enter()
        assert await before.says(b"1") == b"1"
        proxy.deaf()
        during = enter()
        await during.send(b"2")
        assert await during.is_silent()
        assert await before.says(b"3") == b"3"
        proxy.heal()
        assert await during.is_silent()
        assert await enter().says(b"4") == b"4"


async def test_what_is_frozen_comes_after_the_thaw() -> None:
    async with proxied() as (proxy, enter):
        old = enter()
        assert await old.says(b"1") == b"1"
        proxy.freeze()
        new = enter()
        for client in (old, new):
            await client.send(b"held")
            assert await client.is_silent()
        proxy.thaw()
        for client in (old, new):
            assert await client.hears(4) == b"held"


async def test_what_is_dropped_is_lost_for_ever() -> None:
    async with proxied() as (proxy, enter):
        forgotten = enter()
        assert await forgotten.says(b"1") == b"1"
        proxy.drop()
        await forgotten.send(b"lost")
        assert await forgotten.is_silent()
        proxy.heal()
        await forgotten.send(b"lost, too")
        assert await forgotten.is_silent()
        assert await enter().says(b"2") == b"2"


async def test_open_connections_are_ended_politely_or_not() -> None:
    async with proxied() as (proxy, enter):
        first, second = enter(), enter()
        for client in (first, second):
            assert await client.says(b"1") == b"1"
        await proxy.close()
        assert await first.is_ended()
        third = enter()
        assert await third.says(b"1") == b"1"
        await proxy.reset()
        assert await third.is_reset()
        assert proxy.open == 0


@pytest.mark.parametrize("direction", ["up", "down"])
async def test_a_connection_is_cut_after_so_many_bytes(direction: str) -> None:
    async with proxied() as (proxy, enter):
        old = enter()
        assert await old.says(b"12345") == b"12345"
        proxy.cut(after=3, direction=direction, how="fin")
        new = enter()
        for client in (old, new):
            await client.send(b"12345")
            assert await client.hears(5) == (b"123" if direction == "down" else b"")
            assert await client.is_ended()


async def test_a_cut_can_be_a_reset_and_happen_once() -> None:
    async with proxied() as (proxy, enter):
        proxy.cut(how="rst", times=1)
        first = enter()
        await first.send(b"1")
        assert await first.is_reset()
        assert await enter().says(b"2") == b"2"


async def test_a_cut_that_has_not_happened_is_healed() -> None:
    async with proxied() as (proxy, enter):
        client = enter()
        assert await client.says(b"1") == b"1"
        proxy.cut(after=3)
        proxy.heal()
        for open in (client, enter()):
            assert await open.says(b"12345") == b"12345"


async def test_a_slow_connection_takes_its_time_and_loses_nothing() -> None:
    loop = asyncio.get_running_loop()
    async with proxied() as (proxy, enter):
        client = enter()
        assert await client.says(b"quick") == b"quick"
        proxy.slow(latency=0.05, bytes_per_second=100)
        said = loop.time()
        assert await client.says(b"slow") == b"slow"
        assert loop.time() - said >= 2 * (0.05 + 4 / 100)  # there and back


async def test_a_server_that_is_not_there_is_a_reset(unused_tcp_port: int) -> None:
    async with FaultProxy("127.0.0.1", unused_tcp_port) as proxy:
        client = Client(socket.create_connection((proxy.host, proxy.port)))
        assert await client.is_reset()
        client.sock.close()


async def test_leaving_it_ends_everything() -> None:
    tasks = asyncio.all_tasks()
    async with FakeMySQL() as server, FaultProxy(server.host, server.port) as proxy:
        connections = [await asyncmy.connect(host=proxy.host, port=proxy.port, user="app") for _ in range(3)]
        proxy.freeze()
    for connection in connections:
        with pytest.raises(MySQLError):
            await connection.ping(reconnect=False)
    assert asyncio.all_tasks() == tasks


async def test_a_real_session_can_be_cut_at_every_byte(mariadb: MariaDB) -> None:
    """Of greeting, authentication, OK, columns, row and end; as it is asked of whoever survives it."""
    async with FaultProxy("127.0.0.1", mariadb.port) as proxy:
        address = {**mariadb.address, "port": proxy.port}

        async def visit() -> object:
            async with asyncmy.connect(**address) as connection, connection.cursor() as cursor:
                await cursor.execute("SELECT 'a pipe'")
                return await cursor.fetchone()

        assert await visit() == ("a pipe",)
        total = proxy.passed["down"]
        for after in range(total):
            proxy.cut(after, times=1)
            with pytest.raises((MySQLError, IndexError)):
                await visit()
            assert await visit() == ("a pipe",)
