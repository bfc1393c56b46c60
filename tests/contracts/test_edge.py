"""What every Edge does, asked of the fake and of the embedded one over a real socket."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import pytest
from aiohttp import web
from plugins.ports import free_port
from plugins.upstreams import app_that, listener, socket_that

from penstock_pipeline import cdn
from penstock_pipeline.cdn.edge import Edge
from penstock_pipeline.cdn.embedded import EmbeddedEdge
from penstock_pipeline.cdn.fake import FakeEdge
from penstock_pipeline.errors import EdgeUnavailable

HOST = "shop.localhost"


@dataclass
class Behind:
    """What the edge fetches from; `files` may change at any time."""

    files: dict[str, bytes] = field(default_factory=dict)
    release: str = "v1"

    def __call__(self, host: str, path: str) -> tuple[int, bytes, str | None]:
        if host != HOST or path not in self.files:
            return 404, b"", None
        return 200, self.files[path], self.release

    async def serve(self, request: web.BaseRequest) -> web.Response:
        status, body, release = self(request.headers["Host"], request.path)
        headers = {"Cache-Control": "s-maxage=1000"} | ({"X-Penstock-Release": release} if release else {})
        return web.Response(status=status, body=body, headers=headers)


@dataclass
class Case:
    edge: cdn.Edge
    behind: Behind
    take_down: Callable[[], Awaitable[None]]


@pytest.fixture(params=["fake", "embedded"])
async def case(request: pytest.FixtureRequest) -> AsyncIterator[Case]:
    behind = Behind({"/": b"one", "/a b.js": b"js"})
    async for made in (_fake if request.param == "fake" else _embedded)(behind):
        yield made


async def _fake(behind: Behind) -> AsyncIterator[Case]:
    edge = FakeEdge("edge-1", behind)

    async def take_down() -> None:
        edge.down = True

    yield Case(edge, behind, take_down)


async def _embedded(behind: Behind) -> AsyncIterator[Case]:
    sock, port = listener()
    async with app_that(behind.serve) as upstream:
        server = Edge(upstream, "token")
        await server.start(sock)
        edge = EmbeddedEdge("edge-1", f"http://127.0.0.1:{port}", "token")
        yield Case(edge, behind, lambda: server.drain(0))
        await edge.close()
        await server.drain(0)


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


async def test_it_has_a_name_and_an_address(case: Case) -> None:
    assert case.edge.name == "edge-1"
    assert case.edge.url.startswith("http://")


async def test_it_tells_status_bytes_and_release(case: Case) -> None:
    assert await case.edge.fetch(HOST, "/") == cdn.Answer(200, sha256(b"one"), "v1")
    assert await case.edge.fetch(HOST, "/a b.js") == cdn.Answer(200, sha256(b"js"), "v1")
    assert await case.edge.fetch(HOST, "/none") == cdn.Answer(404, sha256(b""), None)


async def test_it_keeps_what_it_served_until_that_is_purged(case: Case) -> None:
    await case.edge.fetch(HOST, "/")
    case.behind.files["/"] = b"two"
    assert (await case.edge.fetch(HOST, "/")).sha256 == sha256(b"one")
    await case.edge.purge(HOST, ["/"])
    assert (await case.edge.fetch(HOST, "/")).sha256 == sha256(b"two")


async def test_a_purge_touches_its_paths_and_its_host_alone(case: Case) -> None:
    await case.edge.fetch(HOST, "/")
    case.behind.files["/"] = b"two"
    await case.edge.purge(HOST, ["/index.html"])
    await case.edge.purge("other.localhost", ["/"])
    assert (await case.edge.fetch(HOST, "/")).sha256 == sha256(b"one")


async def test_many_paths_and_none_can_be_purged_and_repeated(case: Case) -> None:
    paths = [f"/{number}.js" for number in range(1201)]
    case.behind.files |= dict.fromkeys(paths, b"old")
    for path in (paths[0], paths[-1]):
        await case.edge.fetch(HOST, path)
    case.behind.files |= dict.fromkeys(paths, b"new")
    await case.edge.purge(HOST, [])
    await case.edge.purge(HOST, paths)
    await case.edge.purge(HOST, paths)
    for path in (paths[0], paths[-1]):
        assert (await case.edge.fetch(HOST, path)).sha256 == sha256(b"new")


async def test_paths_as_long_as_they_can_be_are_purged_too(case: Case) -> None:
    await case.edge.purge(HOST, [f"/{'倉/' * 1000}{number}" for number in range(600)])


async def test_out_of_reach_it_says_so(case: Case) -> None:
    await case.take_down()
    with pytest.raises(EdgeUnavailable, match="edge-1"):
        await case.edge.fetch(HOST, "/")
    with pytest.raises(EdgeUnavailable, match="edge-1"):
        await case.edge.purge(HOST, ["/"])


# The embedded one alone


async def test_a_wrong_token_names_the_edge_and_what_to_do() -> None:
    sock, port = listener()
    server = Edge(f"127.0.0.1:{free_port()}", "token")
    await server.start(sock)
    edge = EmbeddedEdge("edge-1", f"http://127.0.0.1:{port}", "wrong")
    with pytest.raises(EdgeUnavailable, match=r"edge-1 .* refuses to purge shop.localhost: 401"):
        await edge.purge(HOST, ["/"])
    with pytest.raises(EdgeUnavailable, match="answers 502"):
        await edge.fetch(HOST, "/")
    await edge.close()
    await server.drain(0)


async def test_an_edge_that_stays_silent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock_pipeline.cdn.embedded.PATIENCE", 0.05)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with socket_that(talk) as address:
        edge = EmbeddedEdge("edge-1", f"http://{address}", "token")
        with pytest.raises(EdgeUnavailable, match="does not answer"):
            await edge.fetch(HOST, "/")
        await edge.close()
