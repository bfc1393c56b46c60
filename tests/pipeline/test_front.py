"""The front as real processes: it starts, survives the death of its parts, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
from aiohttp import web
from plugins.house import eventually
from plugins.ports import free_port
from plugins.upstreams import app_that, listener, saying

from penstock_pipeline import front
from penstock_pipeline.cdn.embedded import EmbeddedEdge
from penstock_pipeline.errors import RuntimeUnavailable
from penstock_pipeline.front import Front
from penstock_pipeline.relay import bind

HOST = "shop.localhost"


@dataclass
class House:
    """A state folder with its ports, and a visitor."""

    state: Path
    router_port: int
    edge_ports: tuple[int, int]
    app_port: int
    session: aiohttp.ClientSession

    async def ensure(self) -> Front:
        return await front.ensure(self.state, "127.0.0.1", self.router_port, self.edge_ports)

    async def put(self, upstream: str | None, release: str = "v1") -> None:
        said = {"host": HOST, "port": self.app_port, "release": release, "upstream": upstream, "origin": None}
        connector = aiohttp.UnixConnector(str(front.router_socket(self.state)))
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.put("http://router/routes/shop", json=said) as response,
        ):
            assert response.status == 204, await response.text()

    def ask(self, method: str, port: int, path: str = "/", **more: Any) -> Any:
        return self.session.request(method, f"http://127.0.0.1:{port}{path}", headers={"Host": HOST}, **more)

    async def get(self, port: int, path: str = "/") -> tuple[int, str]:
        async with self.ask("GET", port, path) as response:
            return response.status, await response.text()

    def child(self, name: str) -> int:
        running = Front.read(self.state)
        assert running is not None
        return running.children.get(name, 0)


@pytest.fixture
async def house(short_tmp: Path) -> AsyncIterator[House]:
    ports = [free_port() for _ in range(4)]
    async with aiohttp.ClientSession() as session:
        yield House(short_tmp, ports[0], (ports[1], ports[2]), ports[3], session)
    running = Front.read(short_tmp)
    await front.stop(short_tmp)
    for pid in running.children.values() if running else ():
        await eventually(lambda pid=pid: is_gone(pid), within=40)


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def test_it_serves_visitors_by_router_edge_and_app_port(house: House) -> None:
    await house.ensure()
    async with app_that(saying("hello")) as upstream:
        await house.put(upstream)
        for port in (house.router_port, *house.edge_ports, house.app_port):
            assert await house.get(port) == (200, "hello")


async def test_its_files_are_for_its_user_alone(house: House) -> None:
    await house.ensure()
    for name in ("router.sock", "purge-token", "front.log"):
        assert (house.state / "front" / name).stat().st_mode & 0o077 == 0, name


async def test_the_token_it_made_purges_every_edge(house: House) -> None:
    await house.ensure()
    for port in house.edge_ports:
        edge = EmbeddedEdge("edge", f"http://127.0.0.1:{port}", front.purge_token(house.state))
        await edge.purge(HOST, ["/"])
        await edge.close()


async def test_a_running_one_is_adopted(house: House) -> None:
    assert await house.ensure() == await house.ensure()


async def test_one_that_is_out_of_breath_is_adopted_and_not_ended(house: House) -> None:
    running = await house.ensure()
    os.kill(house.child("router"), signal.SIGSTOP)
    try:
        assert (await house.ensure()).pid == running.pid
    finally:
        os.kill(house.child("router"), signal.SIGCONT)


async def test_other_ports_make_a_new_one(house: House) -> None:
    old = await house.ensure()
    house.router_port = free_port()
    new = await house.ensure()
    assert new.pid != old.pid
    assert not old.is_alive()


async def test_a_pid_that_belongs_to_another_process_is_not_adopted(house: House) -> None:
    stranger = Front(os.getpid(), "another birth", "127.0.0.1", house.router_port, house.edge_ports)
    (house.state / "front").mkdir()
    (house.state / "front" / "front.json").write_text(json.dumps(asdict(stranger)))
    assert not stranger.is_alive()
    await front.stop(house.state)
    assert (await house.ensure()).pid != os.getpid()


async def test_a_port_in_use_is_told(house: House) -> None:
    taken, house.router_port = listener()
    with pytest.raises(RuntimeUnavailable, match=f"port {house.router_port} on 127.0.0.1 cannot be opened"):
        await house.ensure()
    taken.close()


async def test_a_killed_router_comes_back_with_its_routes_and_refuses_nobody(house: House) -> None:
    """By the app's own port neither, which the router has opened itself."""
    await house.ensure()
    async with app_that(saying("hello")) as upstream:
        await house.put(upstream)
        for _ in range(3):
            router = house.child("router")
            os.kill(router, signal.SIGKILL)
            for port in (house.app_port, house.router_port) * 5:
                assert await asked_anew(port) == b"hello"
            await eventually(lambda router=router: house.child("router") not in (0, router))


async def asked_anew(port: int) -> bytes:
    """By a connection of its own, which must not be refused."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nHost: shop.localhost\r\nConnection: close\r\n\r\n")
    answer = await reader.read()
    writer.close()
    return answer.rpartition(b"\r\n\r\n")[2]


async def test_the_port_of_an_app_that_is_gone_is_closed_for_good(house: House) -> None:
    await house.ensure()
    await house.put(None)
    old, house.app_port = house.app_port, free_port()
    await house.put(None)
    assert await refuses(old)
    router = house.child("router")
    os.kill(router, signal.SIGKILL)
    assert await asked_anew(house.app_port)
    assert await refuses(old)
    bind("127.0.0.1", old).close()


async def test_a_killed_edge_comes_back(house: House) -> None:
    await house.ensure()
    name = f"edge-{house.edge_ports[0]}"
    edge = house.child(name)
    os.kill(edge, signal.SIGKILL)
    assert (await house.get(house.edge_ports[0]))[0] == 404
    await eventually(lambda: house.child(name) not in (0, edge))


async def test_when_the_parent_is_killed_its_children_end_and_ensure_starts_anew(house: House) -> None:
    old = await house.ensure()
    async with app_that(saying("hello")) as upstream:
        await house.put(upstream)
        os.kill(old.pid, signal.SIGKILL)
        await eventually(lambda: not old.is_alive())
        new = await house.ensure()
        assert new.pid != old.pid
        for pid in old.children.values():
            await eventually(lambda pid=pid: is_gone(pid))
        assert await house.get(house.router_port) == (200, "hello")


async def test_told_to_stop_it_finishes_requests_and_nothing_stays(house: House) -> None:
    running = await house.ensure()
    asked, answer = asyncio.Event(), asyncio.Event()

    async def handler(request: web.BaseRequest) -> web.Response:
        asked.set()
        await answer.wait()
        return web.Response(text="late")

    async with app_that(handler) as upstream:
        await house.put(upstream)
        visits = [asyncio.create_task(house.get(port)) for port in (house.router_port, house.edge_ports[0])]
        await asked.wait()
        stopping = asyncio.create_task(front.stop(house.state))
        await eventually(lambda: refuses(house.router_port))
        answer.set()
        assert await asyncio.gather(*visits) == [(200, "late")] * 2
        await stopping
    assert is_gone(running.pid)
    for pid in running.children.values():
        assert is_gone(pid)


async def refuses(port: int) -> bool:
    with suppress(ConnectionRefusedError, ConnectionResetError):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()
        return False
    return True


async def test_no_request_fails_while_releases_switch_under_load(house: House) -> None:
    await house.ensure()
    failed: list[tuple[int, str]] = []
    stop = asyncio.Event()
    asked = 0

    async def visit(number: int) -> None:
        nonlocal asked
        while not stop.is_set():
            port = (house.router_port, house.app_port)[number % 2]
            data = b"x" * 10_000 if number % 4 == 0 else None
            async with house.ask("POST" if data else "GET", port, data=data) as response:
                asked += 1
                if response.status != 200:
                    failed.append((response.status, await response.text()))

    async with app_that(saying("v1")) as upstream:
        await house.put(upstream)
        visits = [asyncio.create_task(visit(number)) for number in range(12)]
        for version in range(2, 12):
            async with app_that(saying("x")) as candidate:
                await house.put(candidate, release=f"v{version}")
                seen = asked
                await eventually(lambda seen=seen: asked > seen + 20)
                await house.put(upstream, release="v1")
                await eventually(lambda candidate=candidate: is_idle(house, candidate))
        stop.set()
        await asyncio.gather(*visits)
    assert failed == []
    assert asked > 200


async def is_idle(house: House, upstream: str) -> bool:
    connector = aiohttp.UnixConnector(str(front.router_socket(house.state)))
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.get(f"http://router/inflight/{upstream}") as response,
    ):
        return (await response.json())["requests"] == 0


LARGE = 128 * 1024 * 1024
"""Bytes of a body; tried with 1 GiB too."""


async def test_large_bodies_stream_through_edge_and_router_without_filling_memory(house: House) -> None:
    """Up and down, with a length and in chunks."""
    part = bytes(1024 * 1024)

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        if request.method == "POST":
            return web.Response(text=str(sum([len(part) async for part in request.content.iter_any()])))
        response = web.StreamResponse()
        response.content_length = LARGE if request.path == "/length" else None
        await response.prepare(request)
        for _ in range(LARGE // len(part)):
            await response.write(part)
        return response

    async def upload() -> AsyncIterator[bytes]:
        for _ in range(LARGE // len(part)):
            yield part

    running = await house.ensure()
    before = {name: peak(pid) for name, pid in running.children.items()}
    async with app_that(handler) as upstream:
        await house.put(upstream)
        for path, length in (("/length", {"Content-Length": str(LARGE)}), ("/chunks", {})):
            async with house.ask("GET", house.edge_ports[0], path) as response:
                assert sum([len(part) async for part in response.content.iter_any()]) == LARGE
            headers = {"Host": HOST, **length}
            async with house.session.post(
                f"http://127.0.0.1:{house.edge_ports[0]}{path}", data=upload(), headers=headers
            ) as response:
                assert await response.text() == str(LARGE)
    grown = {name: (peak(pid) - before[name]) // 1024**2 for name, pid in running.children.items()}
    print(f"four bodies of {LARGE // 1024**2} MB; memory grew by MB: {grown}")
    assert max(grown.values()) < 50


def peak(pid: int) -> int:
    """The most memory a process ever had, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def test_the_front_loads_nothing_heavy() -> None:
    """Its idle memory is a promise; these alone would break it."""
    code = "import sys, penstock_pipeline.front.__main__; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"pydantic", "fastapi", "sqlalchemy", "rich"} & set(loaded.split())
