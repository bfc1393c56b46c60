"""The router, over real sockets: apps that answer, die, refuse and stall, and visitors who do the same."""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
from aiohttp import web
from plugins.house import eventually
from plugins.ports import free_port
from plugins.routers import Running, inflight_is, router_over
from plugins.upstreams import app_that, listener, saying, socket_that

from penstock_pipeline.relay import Forwarder
from penstock_pipeline.runtimes.router import Router, Target
from penstock_pipeline.runtimes.shelf import Shelf


@pytest.fixture
async def router(short_tmp: Path) -> AsyncIterator[Running]:
    async with router_over(short_tmp) as running:
        yield running


# Finding the app


async def test_an_app_is_reached_by_host_whatever_case_and_port_and_by_its_own_port(router: Running) -> None:
    async with app_that(saying("hello")) as upstream:
        await router.put(upstream)
        for host in ("shop.localhost", "SHOP.localhost:9999"):
            status, body, headers = await router.get("/", host=host)
            assert (status, body, headers["X-Penstock-Release"]) == (200, b"hello", "v1")
        status, body, _ = await router.get("/", host="whatever", port=router.app_port)
        assert (status, body) == (200, b"hello")


async def test_an_unknown_host_is_told_its_name_and_what_to_do(router: Running) -> None:
    status, body, _ = await router.get("/", host="nobody.localhost")
    assert status == 404
    assert b"'nobody.localhost'" in body
    assert b"penstock apps" in body


async def test_a_deleted_route_is_gone_and_its_port_closed(router: Running) -> None:
    async with app_that(saying("hello")) as upstream:
        await router.put(upstream)
        assert (await router.control("DELETE", "/routes/shop"))[0] == 204
        assert (await router.control("DELETE", "/routes/shop"))[0] == 204
        assert (await router.get("/"))[0] == 404
        with pytest.raises(aiohttp.ClientConnectorError):
            await router.get("/", port=router.app_port)
        assert await router.control("GET", "/routes") == (200, {})


async def test_every_route_answers_its_release(router: Running) -> None:
    await router.put(None, release="v7")
    status, body, headers = await router.get("/.well-known/penstock/release")
    assert (status, body.strip(), headers["Cache-Control"]) == (200, b"v7", "no-store")


@pytest.mark.parametrize(
    "wrong",
    [
        {"port": "80"},
        {"port": 0},
        {"port": True},
        {"host": ""},
        {"host": "a\r\nb"},
        {"release": 7},
        {"release": "v1\r\nSet-Cookie: a"},
        {"upstream": "127.0.0.1"},
        {"upstream": "a/b:80"},
        {"origin": "relative"},
        {"extra": 1},
    ],
)
async def test_a_wrong_route_is_refused_and_changes_nothing(router: Running, wrong: dict[str, Any]) -> None:
    status, text = await router.control("PUT", "/routes/shop", {**router.route(None), **wrong})
    assert status == 400
    assert next(iter(wrong)) in text or "keys" in text
    assert await router.control("GET", "/routes") == (200, {})


async def test_what_is_not_json_is_refused(router: Running) -> None:
    assert (await router.control("PUT", "/routes/shop", data=b"{"))[0] == 400
    assert (await router.control("PUT", "/routes/shop", data=b"[1]"))[0] == 400


async def test_a_port_in_use_is_refused_and_the_old_route_stays(router: Running) -> None:
    taken, port = listener()
    async with app_that(saying("hello")) as upstream:
        await router.put(upstream)
        status, text = await router.control("PUT", "/routes/shop", router.route(upstream, port=port))
        assert status == 409
        assert str(port) in text
        assert (await router.get("/", port=router.app_port))[1] == b"hello"
    taken.close()


async def test_host_and_port_of_another_app_are_refused(router: Running) -> None:
    await router.put(None)
    for more in ({"host": "other.localhost"}, {"port": free_port()}):
        status, text = await router.control("PUT", "/routes/other", router.route(None, **more))
        assert status == 409
        assert "belongs to app shop" in text


async def test_a_restarted_router_serves_at_once(short_tmp: Path) -> None:
    async with app_that(saying("hello")) as upstream:
        async with router_over(short_tmp) as router:
            await router.put(upstream)
        async with router_over(short_tmp) as again:
            assert (await again.get("/"))[1] == b"hello"
            assert (await again.get("/", port=router.app_port))[1] == b"hello"


# Carrying requests


async def test_a_request_goes_on_as_it_came(router: Running) -> None:
    seen: list[tuple[str, str, list[tuple[str, str]]]] = []

    async def handler(request: web.BaseRequest) -> web.Response:
        seen.append((request.method, request.raw_path, list(request.headers.items())))
        return web.Response(text="ok")

    async with app_that(handler) as upstream:
        await router.put(upstream)
        answer = await router.raw(
            b"GET //a%2Fb/../c%20d?q=%41&x=1+2 HTTP/1.1\r\nHost: shop.localhost:81\r\n"
            b"Cookie: a=1\r\nX-Twice: 1\r\nX-Twice: 2\r\nX-Hop: gone\r\nKeep-Alive: 5\r\n"
            b"X-Forwarded-Proto: https\r\nX-Forwarded-For: 192.0.2.7\r\nX_Forwarded_For: 6.6.6.6\r\n"
            b"X-Forwarded-Prefix: /evil\r\nX-Original-URL: /admin\r\nX-Rewrite-URL: /admin\r\n"
            b"Connection: close, X-Hop\r\n\r\n"
        )
    assert answer.startswith(b"HTTP/1.1 200")
    [(method, path, headers)] = seen
    assert (method, path) == ("GET", "//a%2Fb/../c%20d?q=%41&x=1+2")
    assert sorted(headers) == [
        ("Cookie", "a=1"),
        ("Host", "shop.localhost:81"),
        ("X-Forwarded-For", "192.0.2.7, 127.0.0.1"),
        ("X-Forwarded-Host", "shop.localhost:81"),
        ("X-Forwarded-Proto", "https"),
        ("X-Twice", "1"),
        ("X-Twice", "2"),
    ]


async def test_what_an_edge_says_of_a_visit_is_believed_on_an_address_of_the_network_too(
    short_tmp: Path,
) -> None:
    seen: list[str] = []

    async def handler(request: web.BaseRequest) -> web.Response:
        seen.append(request.headers["X-Forwarded-For"])
        return web.Response()

    async with router_over(short_tmp, _address()) as router, app_that(handler) as upstream:
        await router.put(upstream)
        await router.get("/", headers={"X-Forwarded-For": "198.51.100.7"})
    assert seen == [f"198.51.100.7, {_address()}"]


def _address() -> str:
    """One of this machine's that is not loopback, if it has any."""
    of_interfaces = (one for interface in psutil.net_if_addrs().values() for one in interface)
    addresses = [one.address for one in of_interfaces if one.family == socket.AF_INET]
    return next((one for one in addresses if not one.startswith("127.")), "127.0.0.1")


async def test_an_answer_comes_back_as_it_was(router: Running) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(
            b"HTTP/1.1 418 Short And Stout\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n"
            b"Content-Encoding: gzip\r\nX-Penstock-Release: forged\r\nX-Hop: gone\r\n"
            b"Connection: close, X-Hop\r\nContent-Length: 3\r\n\r\nabc"
        )

    async with socket_that(talk) as upstream:
        await router.put(upstream)
        async with router.ask("GET", "/") as response:
            assert (response.status, response.reason) == (418, "Short And Stout")
            assert response.headers.getall("Set-Cookie") == ["a=1", "b=2"]
            assert response.headers["X-Penstock-Release"] == "v1"
            assert response.headers["Content-Encoding"] == "gzip"
            assert not {"X-Hop", "Server", "Content-Type"} & response.headers.keys()
            assert await response.read() == b"abc"


@pytest.mark.parametrize(
    ("method", "head"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 77\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", b'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\n\r\n'),
        ("GET", b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        ("GET", b"HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n"),
    ],
)
async def test_answers_without_a_body_end_where_they_end(router: Running, method: str, head: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(head)

    async with socket_that(talk) as upstream:
        await router.put(upstream)
        for _ in range(2):
            async with router.ask(method, "/") as response:
                assert await response.read() == b""
                assert method != "HEAD" or response.headers["Content-Length"] == "77"


# Losing nothing


async def test_no_request_is_lost_while_releases_switch(router: Running) -> None:
    async def visit(number: int) -> tuple[int, bytes]:
        more = {"data": b"x" * 1000} if number % 4 == 0 else {}
        async with router.ask("POST" if more else "GET", "/", **more) as response:
            return response.status, await response.read()

    async with app_that(saying("old")) as upstream:
        await router.put(upstream)
        visits = [asyncio.create_task(visit(number)) for number in range(100)]
        for version in range(2, 8):
            old, port = upstream, free_port()
            await router.put(f"127.0.0.1:{port}", release=f"v{version}")
            visits += [asyncio.create_task(visit(number)) for number in range(40)]
            async with app_that(saying("new"), port):
                await eventually(lambda old=old: inflight_is(router, old, 0))
                await asyncio.gather(*visits)
                upstream = f"127.0.0.1:{port}"
                await router.put(upstream, release=f"v{version}")
                visits += [asyncio.create_task(visit(number)) for number in range(40)]
                await asyncio.gather(*visits)
    answers = [visit.result() for visit in visits]
    assert {status for status, _ in answers} == {200}
    assert {body for _, body in answers} <= {b"old", b"new"}


async def test_once_a_switch_answers_no_request_reaches_the_old_release(router: Running) -> None:
    async with app_that(saying("old")) as old, app_that(saying("new")) as new:
        for _ in range(20):
            await router.put(old)
            assert (await router.get("/"))[1] == b"old"
            await router.put(new, release="v2")
            answers = await asyncio.gather(*(router.get("/") for _ in range(5)))
            assert {body for _, body, _ in answers} == {b"new"}


@pytest.fixture
def attempts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The upstreams that were tried, in order."""
    tried: list[str] = []
    send = Forwarder.send

    async def noted(self: Forwarder, request: Any, upstream: str, headers: Any) -> aiohttp.ClientResponse:
        tried.append(upstream)
        return await send(self, request, upstream, headers)

    monkeypatch.setattr(Forwarder, "send", noted)
    return tried


async def test_a_request_waits_for_an_app_that_is_not_up_yet(router: Running, attempts: list[str]) -> None:
    port = free_port()
    await router.put(f"127.0.0.1:{port}")
    posted = asyncio.create_task(post(router, b"hi"))
    await eventually(lambda: len(attempts) >= 2)
    async with app_that(saying("up"), port):
        assert await posted == (200, b"up")


async def post(router: Running, data: Any) -> tuple[int, bytes]:
    async with router.ask("POST", "/", data=data) as response:
        return response.status, await response.read()


async def test_a_waiting_request_follows_a_switch(router: Running, attempts: list[str]) -> None:
    refused = f"127.0.0.1:{free_port()}"
    await router.put(refused)
    posted = asyncio.create_task(post(router, b"hi"))
    await eventually(lambda: len(attempts) >= 2)
    async with app_that(saying("elsewhere")) as upstream:
        await router.put(upstream)
        assert await posted == (200, b"elsewhere")


async def test_an_app_that_stays_away_is_503_with_retry_after(
    router: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock_pipeline.runtimes.router.PATIENCE", 0.1)
    await router.put(f"127.0.0.1:{free_port()}")
    status, body, headers = await router.get("/")
    assert (status, headers["Retry-After"]) == (503, "1")
    assert b"shop.localhost does not accept connections" in body


async def test_requests_survive_an_app_that_closes_idle_connections(router: Running) -> None:
    """Each answer says that the connection stays, and then it does not."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"POST"):
            await reader.readexactly(2)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await writer.drain()

    async with socket_that(talk) as upstream:
        await router.put(upstream)
        for _ in range(50):
            assert (await router.get("/"))[:2] == (200, b"ok")
            assert await post(router, b"hi") == (200, b"ok")


@pytest.mark.parametrize(("method", "times"), [("GET", 2), ("POST", 1)])
async def test_an_app_that_dies_before_it_answers_is_502_and_a_post_is_sent_once(
    router: Running, method: str, times: int
) -> None:
    requests: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.readuntil(b"\r\n\r\n"))

    async with socket_that(talk) as upstream:
        await router.put(upstream)
        async with router.ask(method, "/", data=b"hi" if method == "POST" else None) as response:
            assert response.status == 502
            assert "ended the connection before it answered" in await response.text()
    assert len(requests) >= times
    assert method == "GET" or len(requests) == times


@pytest.mark.parametrize("framing", [b"Content-Length: 100\r\n", b"Transfer-Encoding: chunked\r\n"])
@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_a_body_that_breaks_off_never_ends_cleanly(
    router: Running, framing: bytes, version: bytes
) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n4\r\nabcd\r\n")
        await writer.drain()

    async with socket_that(talk) as upstream:
        await router.put(upstream)
        request = b"GET / HTTP/%s\r\nHost: shop.localhost\r\n\r\n" % version
        try:
            answer = await router.raw(request)
        except ConnectionResetError:
            return
        assert version == b"1.1", "HTTP/1.0 without a length knows no other broken end than a reset"
        assert not answer.endswith(b"0\r\n\r\n")
        assert b"Content-Length: 100" in answer or b"chunked" in answer


async def test_a_visitor_who_leaves_while_downloading_ends_the_request_at_the_app(router: Running) -> None:
    left = asyncio.Event()

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b"x" * 65536)
        finally:
            left.set()

    async with app_that(handler) as upstream:
        await router.put(upstream)
        response = await router.ask("GET", "/")
        await response.content.readexactly(100_000)
        assert await inflight_is(router, upstream, 1)
        response.close()
        async with asyncio.timeout(5):
            await left.wait()
        await eventually(lambda: inflight_is(router, upstream, 0))


async def test_a_visitor_who_leaves_while_waiting_ends_the_request_at_the_app(router: Running) -> None:
    came, left = asyncio.Event(), asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        came.set()
        assert await reader.read() == b""
        left.set()

    async with socket_that(talk) as upstream:
        await router.put(upstream)
        waiting = asyncio.create_task(router.get("/"))
        await came.wait()
        waiting.cancel()
        async with asyncio.timeout(5):
            await left.wait()


MOST_ON_THE_WAY = 32 * 1024 * 1024
"""Bytes that may be anywhere between two who do not read: in the kernel's buffers and in the router's."""


async def test_a_visitor_who_does_not_read_holds_the_app_back(router: Running) -> None:
    sent = 0

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(bytes(65536))
            sent += 65536

    async with app_that(handler) as upstream:
        await router.put(upstream)
        response = await router.ask("GET", "/")
        await eventually(lambda: is_still(lambda: sent))
        assert sent < MOST_ON_THE_WAY
        assert len(await response.content.readexactly(MOST_ON_THE_WAY)) == MOST_ON_THE_WAY
        response.close()


async def test_an_app_that_does_not_read_holds_the_visitor_back(router: Running) -> None:
    sent = 0
    reading = asyncio.Event()

    async def handler(request: web.BaseRequest) -> web.Response:
        await reading.wait()
        return web.Response(text=str(sum([len(part) async for part in request.content.iter_any()])))

    async def upload() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 2 * MOST_ON_THE_WAY:
            yield bytes(65536)
            sent += 65536

    async with app_that(handler) as upstream:
        await router.put(upstream)
        posted = asyncio.create_task(post(router, upload()))
        await eventually(lambda: is_still(lambda: sent))
        assert 0 < sent < MOST_ON_THE_WAY
        reading.set()
        assert await posted == (200, str(2 * MOST_ON_THE_WAY).encode())


async def is_still(number: Callable[[], int]) -> bool:
    """Whether it has begun to grow, and does not for a while."""
    before = number()
    await asyncio.sleep(0.2)
    return 0 < before == number()


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 100\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n4\r\n"]
)
async def test_an_upload_that_breaks_off_never_looks_whole_to_the_app(
    router: Running, framing: bytes
) -> None:
    got: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"abcd")
        try:
            got.set_result(head + await reader.read())
        except ConnectionResetError:
            got.set_result(head)

    async with socket_that(talk) as upstream:
        await router.put(upstream)
        _, writer = await asyncio.open_connection("127.0.0.1", router.port)
        writer.write(b"POST / HTTP/1.1\r\nHost: shop.localhost\r\n" + framing + b"abcd")
        await eventually(lambda: inflight_is(router, upstream, 1))
        writer.close()
        async with asyncio.timeout(5):
            received = await got
        assert not received.endswith(b"0\r\n\r\n")
        assert b"Content-Length: 100" in received or b"chunked" in received


async def test_draining_finishes_an_upload_under_way_and_accepts_nothing_new(short_tmp: Path) -> None:
    shelf = Shelf()
    router = Router(short_tmp, "127.0.0.1", shelf)
    visitors, port = listener()
    control, _ = listener()
    await router.start(visitors, control)
    async with app_that(saying("whole")) as upstream:
        running = Running(short_tmp, "127.0.0.1", port, aiohttp.ClientSession())
        await router._change("shop", Target(**running.route(upstream)))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nHost: shop.localhost\r\nContent-Length: 4\r\n\r\nab")
        await eventually(lambda: router._travelling[upstream] == 1)
        draining = asyncio.create_task(router.drain(5))
        await eventually(lambda: visitors.fileno() == -1)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"cd")
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 200")
        assert answer.endswith(b"whole")
        writer.close()
        await draining
        await running.session.close()
    shelf.close()


# Static files


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    publish(tmp_path, {"/app.111.js": b"one", "/index.html": b"<1>", "/docs/index.html": b"docs"})
    return tmp_path


def publish(origin: Path, files: dict[str, bytes]) -> None:
    """What the folder origin leaves behind."""
    entries = []
    for path, content in files.items():
        digest = hashlib.sha256(content).hexdigest()
        blob = origin / "blobs" / digest[:2] / digest
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content)
        kind = "text/html; charset=utf-8" if path.endswith("html") else "text/javascript"
        entry = {"path": path, "sha256": digest, "size": len(content), "content_type": kind}
        entries.append({**entry, "fingerprinted": "111" in path or "222" in path})
    text = json.dumps({"digest": "sha256:x", "files": entries})
    manifest = Path("manifests") / f"{hashlib.sha256(text.encode()).hexdigest()}.json"
    (origin / manifest).parent.mkdir(exist_ok=True)
    (origin / manifest).write_text(text)
    if (origin / "live").is_symlink():
        (origin / "live").replace(origin / "previous")
    (origin / "live").symlink_to(manifest)


async def test_static_files_are_served_with_the_headers_edges_need(router: Running, origin: Path) -> None:
    await router.put(None, origin=str(origin))
    status, body, headers = await router.get("/")
    assert (status, body, headers["Content-Type"]) == (200, b"<1>", "text/html; charset=utf-8")
    assert headers["Cache-Control"] == "public, max-age=0, s-maxage=31536000, must-revalidate"
    assert headers["X-Penstock-Release"] == "v1"
    assert (await router.get("/docs/"))[1] == b"docs"
    assert "immutable" in (await router.get("/app.111.js"))[2]["Cache-Control"]
    status, body, _ = await router.get("/", headers={"If-None-Match": headers["ETag"]})
    assert (status, body) == (304, b"")
    async with router.ask("HEAD", "/") as response:
        assert (response.content_length, await response.read()) == (3, b"")


async def test_a_path_is_looked_up_decoded_and_never_leaves_the_bundle(router: Running, origin: Path) -> None:
    publish(origin, {"/ä b.html": b"odd"})
    await router.put(None, origin=str(origin))
    assert (await router.get("/%C3%A4%20b.html"))[1] == b"odd"
    for path in ("/../live", "/%2e%2e/live", "/manifests", "//etc/passwd", "/%00"):
        request = f"GET {path} HTTP/1.1\r\nHost: shop.localhost\r\nConnection: close\r\n\r\n"
        assert b" 404 " in (await router.raw(request.encode())).splitlines()[0], path


async def test_yesterdays_fingerprinted_files_are_still_served(router: Running, origin: Path) -> None:
    await router.put(None, origin=str(origin))
    assert (await router.get("/"))[1] == b"<1>"
    publish(origin, {"/app.222.js": b"two", "/index.html": b"<2>", "/404.html": b"not here"})
    assert (await router.get("/"))[1] == b"<2>"
    assert (await router.get("/app.111.js"))[:2] == (200, b"one")
    status, body, headers = await router.get("/docs/")
    assert (status, body, headers["Cache-Control"]) == (404, b"not here", "no-cache")


async def test_what_is_not_static_goes_to_the_app(router: Running, origin: Path) -> None:
    async with app_that(saying("app")) as upstream:
        await router.put(upstream, origin=str(origin))
        assert (await router.get("/"))[1] == b"<1>"
        assert (await router.get("/api"))[1] == b"app"
        assert await post(router, b"") == (200, b"app")


async def test_a_damaged_bundle_is_told_as_503(router: Running, origin: Path) -> None:
    await router.put(None, origin=str(origin))
    for blob in (origin / "blobs").glob("*/*"):
        blob.write_bytes(b"")
    assert (await router.get("/"))[0] == 503
    (origin / "live").unlink()
    (origin / "live").symlink_to("manifests/gone.json")
    assert (await router.get("/"))[0] == 503
