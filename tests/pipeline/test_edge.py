"""The embedded edge, over real sockets: what it keeps, for whom, and that a purge is never outrun."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from multidict import CIMultiDict
from plugins.house import eventually
from plugins.ports import free_port
from plugins.upstreams import Handler, app_that, listener, socket_that

from penstock_pipeline.cdn.edge import BODY_LIMIT, Cache, Edge, Kept, Key, lifetime

TOKEN = "let-me-purge"
FRESH = {"Cache-Control": "public, max-age=0, s-maxage=1000"}


class Origin:
    """What stands behind the edge: counts the requests and answers as told; may hold its answers back."""

    def __init__(self) -> None:
        self.requests: list[web.BaseRequest] = []
        self.says = "one"
        self.status = 200
        self.headers: dict[str, str] = FRESH
        self.free = asyncio.Event()
        self.free.set()

    async def __call__(self, request: web.BaseRequest) -> web.Response:
        self.requests.append(request)
        said = self.says
        await self.free.wait()
        headers = {**self.headers, "X-Penstock-Release": "v1"}
        return web.Response(text=said, status=self.status, headers=headers)


class Visitor:
    def __init__(self, port: int, session: aiohttp.ClientSession) -> None:
        self.port = port
        self._session = session

    def ask(self, method: str, path: str, host: str = "shop.localhost", **more: Any) -> Any:
        headers = {"Host": host, **more.pop("headers", {})}
        url = f"http://127.0.0.1:{self.port}{path}"
        return self._session.request(method, url, headers=headers, allow_redirects=False, **more)

    async def get(self, path: str = "/", **more: Any) -> tuple[str, str]:
        """The body, and what the cache says."""
        async with self.ask("GET", path, **more) as response:
            return await response.text(), response.headers["X-Cache"]

    async def purge(self, *paths: str, host: str = "shop.localhost") -> int:
        said = {"host": host, "paths": paths}
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with self.ask("POST", "/.well-known/penstock/purge", json=said, headers=headers) as response:
            assert response.status == 200
            return int((await response.json())["purged"])


@asynccontextmanager
async def edge_before(upstream: str, **options: Any) -> AsyncIterator[Visitor]:
    edge = Edge(upstream, TOKEN, **options)
    sock, port = listener()
    await edge.start(sock)
    async with aiohttp.ClientSession() as session:
        yield Visitor(port, session)
    await edge.drain(1)


@asynccontextmanager
async def edge_before_app(handler: Handler, **options: Any) -> AsyncIterator[Visitor]:
    async with app_that(handler) as upstream, edge_before(upstream, **options) as visitor:
        yield visitor


@pytest.fixture
def origin() -> Origin:
    return Origin()


@pytest.fixture
async def visitor(origin: Origin) -> AsyncIterator[Visitor]:
    async with edge_before_app(origin) as visitor:
        yield visitor


# Keeping


async def test_an_answer_is_kept_and_says_so(visitor: Visitor, origin: Origin) -> None:
    assert await visitor.get() == ("one", "MISS")
    assert await visitor.get() == ("one", "HIT")
    async with visitor.ask("GET", "/") as response:
        assert response.headers["X-Penstock-Release"] == "v1"
        assert int(response.headers["Age"]) < 60
    async with visitor.ask("HEAD", "/") as response:
        assert (response.headers["X-Cache"], response.content_length) == ("HIT", 3)
    assert len(origin.requests) == 1


async def test_the_host_goes_on_and_tells_answers_apart(visitor: Visitor, origin: Origin) -> None:
    await visitor.get()
    origin.says = "other"
    assert await visitor.get(host="other.localhost:7081") == ("other", "MISS")
    assert await visitor.get(host="OTHER.localhost:7081") == ("other", "HIT")
    assert origin.requests[1].headers["Host"] == "other.localhost:7081"
    assert "Accept-Encoding" in origin.requests[0].headers


async def test_query_and_encoding_tell_answers_apart(visitor: Visitor) -> None:
    await visitor.get("/?a")
    assert (await visitor.get("/?b"))[1] == "MISS"
    assert (await visitor.get("/?a", headers={"Accept-Encoding": "identity"}))[1] == "MISS"
    assert (await visitor.get("/?a"))[1] == "HIT"


@pytest.mark.parametrize(
    ("status", "headers", "seconds"),
    [
        (200, [("Cache-Control", "max-age=60"), ("Cache-Control", "private")], 0),
        (200, [("Cache-Control", "public"), ("Cache-Control", "max-age=60")], 60),
        (200, [("Cache-Control", "max-age=60"), ("Vary", "Accept-Encoding"), ("Vary", "Cookie")], 0),
        (200, {"Cache-Control": f"max-age={'9' * 5000}"}, 0),
        (200, {"Cache-Control": "max-age=60"}, 60),
        (200, {"Cache-Control": "max-age=60, s-maxage=5"}, 5),
        (200, {"Cache-Control": 'Public, S-MaxAge="5"'}, 5),
        (200, {"Cache-Control": "max-age=60", "Age": "50"}, 10),
        (200, {"Cache-Control": "max-age=60", "Age": "500"}, 0),
        (301, {"Cache-Control": "max-age=60"}, 60),
        (404, {"Cache-Control": "max-age=60"}, 60),
        (302, {"Cache-Control": "max-age=60"}, 0),
        (500, {"Cache-Control": "max-age=60"}, 0),
        (200, {}, 0),
        (200, {"Cache-Control": "max-age=nonsense"}, 0),
        (200, {"Cache-Control": "s-maxage=60, private"}, 0),
        (200, {"Cache-Control": "s-maxage=60, no-store"}, 0),
        (200, {"Cache-Control": "s-maxage=60, no-cache"}, 0),
        (200, {"Cache-Control": "max-age=60", "Set-Cookie": "a=1"}, 0),
        (200, {"Cache-Control": "max-age=60", "Vary": "accept-encoding"}, 60),
        (200, {"Cache-Control": "max-age=60", "Vary": "Accept-Encoding, Cookie"}, 0),
        (200, {"Cache-Control": "max-age=60", "Vary": "*"}, 0),
    ],
)
def test_only_what_shared_caches_may_keep_is_kept(status: int, headers: Any, seconds: int) -> None:
    assert lifetime(status, CIMultiDict(headers)) == seconds


@pytest.mark.parametrize(
    "more",
    [
        {"method": "POST"},
        {"headers": {"Authorization": "Basic x"}},
        {"headers": {"Range": "bytes=0-1"}},
    ],
)
async def test_other_requests_pass(visitor: Visitor, origin: Origin, more: dict[str, Any]) -> None:
    for count in (1, 2):
        async with visitor.ask(more.get("method", "GET"), "/", headers=more.get("headers", {})) as response:
            assert response.headers["X-Cache"] == "PASS"
        assert len(origin.requests) == count


async def test_a_visitor_who_has_it_is_told_304(visitor: Visitor, origin: Origin) -> None:
    origin.headers = {**FRESH, "ETag": '"abc"'}
    async with visitor.ask("GET", "/", headers={"If-None-Match": '"abc"'}) as response:
        assert (response.status, response.headers["X-Cache"]) == (304, "MISS")
    assert await visitor.get() == ("one", "HIT")
    assert "If-None-Match" not in origin.requests[0].headers


def test_what_outlived_its_time_is_gone() -> None:
    cache = Cache()
    key = Key("h", "/", "/", ())
    cache.put(key, Kept(until=100, since=0, status=200))
    assert cache.get(key, now=99)
    assert cache.get(key, now=100) is None


async def test_large_bodies_pass_through_uncached(visitor: Visitor, origin: Origin) -> None:
    origin.says = "x" * (BODY_LIMIT + 1)
    for _ in range(2):
        body, verdict = await visitor.get()
        assert (len(body), verdict) == (BODY_LIMIT + 1, "MISS")


async def test_a_large_body_of_unknown_length_arrives_whole() -> None:
    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers=FRESH)
        await response.prepare(request)
        for number in range(BODY_LIMIT // 65536 + 3):
            await response.write(bytes([number % 256]) * 65536)
        return response

    async with edge_before_app(handler) as visitor, visitor.ask("GET", "/") as response:
        body = await response.read()
        assert len(body) == BODY_LIMIT + 3 * 65536
        assert all(body[at] == at // 65536 % 256 for at in range(0, len(body), 65536))


def test_the_cache_drops_the_least_recently_used_first() -> None:
    cache = Cache(limit=10_000)
    keys = [Key("h", f"/{number}", f"/{number}", ()) for number in range(4)]
    for key in keys[:3]:
        cache.put(key, Kept(100, 0, 200, body=b"x" * 2000))
    assert cache.get(keys[0], 1)
    cache.put(keys[3], Kept(100, 0, 200, body=b"x" * 2000))
    assert [cache.get(key, 1) is not None for key in keys] == [True, False, True, True]
    assert cache.forget("h", "/0") == 1
    assert cache.get(keys[0], 1) is None


def test_keys_take_room_too() -> None:
    cache = Cache(limit=100_000)
    keys = [Key("h", "/", f"/?{number}{'x' * 20_000}", ()) for number in range(10)]
    for key in keys:
        cache.put(key, Kept(100, 0))
    assert sum(cache.get(key, 1) is not None for key in keys) == 4
    cache.forget("h", "/")
    for number in range(3):
        cache.put(Key("h", "/", str(number), ()), Kept(100, 0, 200, body=b"x" * 30_000))
    assert cache.forget("h", "/") == 3


@pytest.mark.parametrize(
    "other",
    [
        {"headers": {"X-Forwarded-Proto": "https"}},
        {"headers": {"X-Forwarded-Host": "evil.example"}},
        {"host": "shop.localhost:666"},
    ],
)
async def test_what_the_app_is_told_of_a_visit_tells_answers_apart(
    visitor: Visitor, origin: Origin, other: dict[str, Any]
) -> None:
    origin.says = "links to where this visitor says to have come"
    await visitor.get(**other)
    origin.says = "one"
    assert await visitor.get() == ("one", "MISS")
    assert await visitor.purge("/") == 2


async def test_a_request_that_may_change_a_path_makes_it_forgotten(visitor: Visitor, origin: Origin) -> None:
    await visitor.get("/cart?a")
    await visitor.get("/other")
    for origin.status, then in ((422, "HIT"), (200, "MISS")):
        async with visitor.ask("POST", "/cart"):
            pass
        assert (await visitor.get("/cart?a"))[1] == then
    assert (await visitor.get("/other"))[1] == "HIT"


# Waiting for each other


async def test_visitors_who_come_together_cause_one_fetch(visitor: Visitor, origin: Origin) -> None:
    origin.free.clear()
    visits = [asyncio.create_task(visitor.get()) for _ in range(20)]
    await eventually(lambda: len(origin.requests) == 1)
    origin.free.set()
    answers = await asyncio.gather(*visits)
    assert {body for body, _ in answers} == {"one"}
    assert sorted(verdict for _, verdict in answers) == ["HIT"] * 19 + ["MISS"]
    assert len(origin.requests) == 1


async def test_nobody_waits_long_for_what_cannot_be_kept(visitor: Visitor, origin: Origin) -> None:
    origin.headers = {"Cache-Control": "no-store"}
    await visitor.get()
    origin.free.clear()
    visits = [asyncio.create_task(visitor.get()) for _ in range(5)]
    await eventually(lambda: len(origin.requests) == 6)
    origin.free.set()
    assert {verdict for _, verdict in await asyncio.gather(*visits)} == {"MISS"}


async def test_when_the_first_visitor_leaves_another_fetches(visitor: Visitor, origin: Origin) -> None:
    origin.free.clear()
    first = asyncio.create_task(visitor.get())
    await eventually(lambda: len(origin.requests) == 1)
    second = asyncio.create_task(visitor.get())
    first.cancel()
    await eventually(lambda: len(origin.requests) == 2)
    origin.free.set()
    assert await second == ("one", "MISS")


async def test_a_body_that_breaks_off_is_502_and_not_kept() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 9\r\n\r\nabc")

    async with socket_that(talk) as upstream, edge_before(upstream) as visitor:
        for _ in range(2):
            async with visitor.ask("GET", "/") as response:
                assert response.status == 502


async def test_a_router_that_is_away_is_502() -> None:
    async with edge_before(f"127.0.0.1:{free_port()}") as visitor, visitor.ask("GET", "/") as response:
        assert response.status == 502
        assert "router" in await response.text()


# Purging


async def test_a_purge_takes_every_query_and_variant_of_its_paths_and_nothing_else(
    visitor: Visitor, origin: Origin
) -> None:
    await visitor.get("/")
    await visitor.get("/?q")
    await visitor.get("/", headers={"Accept-Encoding": "identity"})
    await visitor.get("/caf%C3%A9")
    await visitor.get("/other")
    await visitor.get("/", host="other.localhost")
    origin.says = "two"
    assert await visitor.purge("/", "/café", "/nothing") == 4
    for path in ("/", "/?q", "/caf%C3%A9"):
        assert await visitor.get(path) == ("two", "MISS")
    assert await visitor.get("/other") == ("one", "HIT")
    assert await visitor.get("/", host="other.localhost") == ("one", "HIT")


async def test_one_path_is_purged_by_the_method_purge(visitor: Visitor, origin: Origin) -> None:
    await visitor.get("/a?q")
    origin.says = "two"
    async with visitor.ask("PURGE", "/a", headers={"Authorization": f"Bearer {TOKEN}"}) as response:
        assert await response.json() == {"purged": 1}
    assert await visitor.get("/a?q") == ("two", "MISS")


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer ä"}])
async def test_a_purge_without_the_token_changes_nothing(visitor: Visitor, headers: dict[str, str]) -> None:
    await visitor.get()
    async with visitor.ask("PURGE", "/", headers=headers) as response:
        assert response.status == 401
    assert (await visitor.get())[1] == "HIT"


@pytest.mark.parametrize("said", [b"{", b"[]", b'{"host": "h"}', b'{"host": "h", "paths": [1]}'])
async def test_a_malformed_purge_is_400(visitor: Visitor, said: bytes) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with visitor.ask("POST", "/.well-known/penstock/purge", data=said, headers=headers) as response:
        assert response.status == 400


async def test_a_fetch_that_straddles_a_purge_is_neither_kept_nor_shared_with_later_visitors(
    visitor: Visitor, origin: Origin
) -> None:
    origin.free.clear()
    before = asyncio.create_task(visitor.get())
    await eventually(lambda: len(origin.requests) == 1)
    origin.says = "two"
    await visitor.purge("/")
    after = asyncio.create_task(visitor.get())
    await eventually(lambda: len(origin.requests) == 2)
    origin.free.set()
    assert await before == ("one", "MISS")
    assert await after == ("two", "MISS")
    assert await visitor.get() == ("two", "HIT")


async def test_a_purge_of_one_path_leaves_fetches_of_others_alone(visitor: Visitor, origin: Origin) -> None:
    origin.free.clear()
    other = asyncio.create_task(visitor.get("/other"))
    await eventually(lambda: len(origin.requests) == 1)
    await visitor.purge("/")
    origin.free.set()
    await other
    assert await visitor.get("/other") == ("one", "HIT")


async def test_a_body_that_straddles_a_purge_is_not_kept() -> None:
    """The head came before the purge, the rest of the body after it."""
    bodies = iter([b"old", b"new"])
    go_on = asyncio.Event()

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        body = next(bodies)
        response = web.StreamResponse(headers=FRESH)
        await response.prepare(request)
        await response.write(body)
        started.set()
        await go_on.wait()
        return response

    started = asyncio.Event()
    async with edge_before_app(handler) as visitor:
        before = asyncio.create_task(visitor.get())
        await started.wait()
        await visitor.purge("/")
        go_on.set()
        assert await before == ("old", "MISS")
        assert await visitor.get() == ("new", "MISS")
        assert await visitor.get() == ("new", "HIT")
