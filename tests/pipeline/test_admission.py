"""What two could understand differently is refused, by router and edges alike, and never reaches an app.

The witness is an app that is nothing but a socket: it keeps every byte it is sent.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from plugins.house import eventually
from plugins.ports import free_port
from plugins.routers import Running, edge_before, inflight_is, router_over
from plugins.upstreams import app_that, saying, socket_that

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
GET = b"GET / HTTP/1.1\r\nHost: shop.localhost\r\n"
POST = b"POST / HTTP/1.1\r\nHost: shop.localhost\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
FOLLOW_UP = b"GET /smuggled HTTP/1.1\r\nHost: shop.localhost\r\nConnection: close\r\n\r\n"


@pytest.fixture(params=["router", "edge"])
async def router(request: pytest.FixtureRequest, short_tmp: Path) -> AsyncIterator[Running]:
    """Reached directly, or through an edge."""
    async with router_over(short_tmp) as running:
        if request.param == "router":
            yield running
            return
        async with edge_before(running):
            yield running


@asynccontextmanager
async def witness(router: Running, answer: bytes = OK) -> AsyncIterator[list[bytes]]:
    """What reached the app, by connection; it gives every head the same answer."""
    received: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = len(received)
        received.append(b"")
        while data := await reader.read(65536):
            received[number] += data
            writer.write(answer * data.count(b"\r\n\r\n"))

    async with socket_that(talk) as upstream:
        await router.put(upstream)
        yield received


def answers(raw: bytes) -> list[int]:
    """The statuses of all answers; their texts here have no such lines."""
    return [int(status) for status in re.findall(rb"^HTTP/\d.\d (\d{3}) ", raw, re.MULTILINE)]


def text(raw: bytes) -> str:
    return raw.partition(b"\r\n\r\n")[2].decode()


# Requests


REFUSED = {
    "Content-Length with Transfer-Encoding": POST
    + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "Transfer-Encoding with Content-Length": POST
    + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
    "two lengths": POST + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcd",
    "the same length twice": POST + b"Content-Length: 4\r\nContent-Length: 4\r\n\r\nabcd",
    "lengths in a list": POST + b"Content-Length: 4,4\r\n\r\nabcd",
    "signed length": POST + b"Content-Length: +4\r\n\r\nabcd",
    "negative length": POST + b"Content-Length: -4\r\n\r\nabcd",
    "hexadecimal length": POST + b"Content-Length: 0x4\r\n\r\nabcd",
    "length with underscore": POST + b"Content-Length: 0_4\r\n\r\nabcd",
    "length with space": POST + b"Content-Length: 4 4\r\n\r\nabcd",
    "length with vertical tab": POST + b"Content-Length: \x0b4\r\n\r\nabcd",
    "empty length": POST + b"Content-Length: \r\n\r\nabcd",
    "length that overflows": POST + b"Content-Length: 99999999999999999999999\r\n\r\nabcd",
    "length that just fits": POST + b"Content-Length: 18446744073709551615\r\n\r\nabcd",
    "unknown coding": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunked but not last": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "another coding first": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "identity first": POST + b"Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n",
    "identity alone": POST + b"Transfer-Encoding: identity\r\n\r\n",
    "empty coding": POST + b"Transfer-Encoding:\r\n\r\n",
    "quoted coding": POST + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n',
    "coding with a parameter": POST + b"Transfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n",
    "coding after vertical tab": POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "coding in two lines": POST
    + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "coding in a folded line": POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "chunked in HTTP/1.0": CHUNKED.replace(b"/1.1", b"/1.0") + b"0\r\n\r\n",
    "folded header": GET + b"X-A: 1\r\n 2\r\n\r\n",
    "folded first header": b"GET / HTTP/1.1\r\n Host: shop.localhost\r\n\r\n",
    "bare line feeds": GET.replace(b"\r\n", b"\n") + b"\n",
    "bare line feed in a header": GET + b"X-A: 1\nX-B: 2\r\n\r\n",
    "bare line feed at the end": GET + b"X-A: 1\r\n\n",
    "bare carriage return": GET + b"X-A: 1\rX-B: 2\r\n\r\n",
    "two carriage returns": GET + b"X-A: 1\r\r\n\r\n",
    "space in a name": GET + b"X A: 1\r\n\r\n",
    "space before the colon": GET + b"Content-Length : 4\r\n\r\nabcd",
    "tab before the colon": GET + b"Content-Length\t: 4\r\n\r\nabcd",
    "no name": GET + b": 1\r\n\r\n",
    "no colon": GET + b"X-A\r\n\r\n",
    "NUL in a name": GET + b"X\x00A: 1\r\n\r\n",
    "NUL in a value": GET + b"X-A: \x00\r\n\r\n",
    "control character in a value": GET + b"X-A: \x01\r\n\r\n",
    "DEL in a value": GET + b"X-A: \x7f\r\n\r\n",
    "letters of another alphabet in a name": GET + b"X\xc3\xa4: 1\r\n\r\n",
    "a whole URL of another host": b"GET http://evil.localhost/ HTTP/1.1\r\nHost: shop.localhost\r\n\r\n",
    "a whole URL with a user": b"GET http://a@shop.localhost/ HTTP/1.1\r\nHost: shop.localhost\r\n\r\n",
    "a whole URL of another scheme": b"GET https://shop.localhost/ HTTP/1.1\r\nHost: shop.localhost\r\n\r\n",
    "a broken URL": b"GET http://[/ HTTP/1.1\r\nHost: shop.localhost\r\n\r\n",
    "no path": b"OPTIONS * HTTP/1.1\r\nHost: shop.localhost\r\n\r\n",
    "a relative path": b"GET a HTTP/1.1\r\nHost: shop.localhost\r\n\r\n",
    "CONNECT": b"CONNECT 127.0.0.1:9 HTTP/1.1\r\nHost: shop.localhost\r\n\r\n",
    "two hosts": GET + b"Host: shop.localhost\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "a host with a path": b"GET / HTTP/1.1\r\nHost: shop.localhost/a\r\n\r\n",
    "a host with a user": b"GET / HTTP/1.1\r\nHost: a@shop.localhost\r\n\r\n",
    "hosts in a list": b"GET / HTTP/1.1\r\nHost: shop.localhost, evil\r\n\r\n",
    "a host with a space": b"GET / HTTP/1.1\r\nHost: shop.localhost evil\r\n\r\n",
    "a host with a tab": b"GET / HTTP/1.1\r\nHost: shop.localhost\tevil\r\n\r\n",
    "a host with a quote": b'GET / HTTP/1.1\r\nHost: "shop.localhost"\r\n\r\n',
    "a port that is no number": b"GET / HTTP/1.1\r\nHost: shop.localhost:8x\r\n\r\n",
    "a port in other digits": b"GET / HTTP/1.1\r\nHost: shop.localhost:\xd9\xa3\r\n\r\n",
    "a path that ends the line": b"GET /a\r\nX-A: b HTTP/1.1\r\nHost: shop.localhost\r\n\r\n",
    "a space in the path": b"GET /a b HTTP/1.1\r\nHost: shop.localhost\r\n\r\n",
    "a tab in the path": b"GET /a\tb HTTP/1.1\r\nHost: shop.localhost\r\n\r\n",
    "NUL in the path": b"GET /a\x00b HTTP/1.1\r\nHost: shop.localhost\r\n\r\n",
    "a fragment in the path": b"GET /a#b HTTP/1.1\r\nHost: shop.localhost\r\n\r\n",
    "letters that are not encoded": b"GET /caf\xc3\xa9 HTTP/1.1\r\nHost: shop.localhost\r\n\r\n",
    "HTTP/0.9": b"GET / HTTP/0.9\r\nHost: shop.localhost\r\n\r\n",
    "HTTP/1.2": b"GET / HTTP/1.2\r\nHost: shop.localhost\r\n\r\n",
    "HTTP/2.0": b"GET / HTTP/2.0\r\nHost: shop.localhost\r\n\r\n",
    "no version": b"GET /\r\n\r\n",
    "junk": b"what is this?\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "an unknown method": b"SMUGGLE / HTTP/1.1\r\nHost: shop.localhost\r\n\r\n",
    "a method in lower case": b"get / HTTP/1.1\r\nHost: shop.localhost\r\n\r\n",
    "a space before the method": b" GET / HTTP/1.1\r\nHost: shop.localhost\r\n\r\n",
    "an unknown expectation": POST + b"Expect: 200-ok\r\nContent-Length: 4\r\n\r\nabcd",
    "a long line": b"GET /" + b"a" * 33_000 + b" HTTP/1.1\r\nHost: shop.localhost\r\n\r\n",
    "a long header": GET + b"X-A: " + b"a" * 33_000 + b"\r\n\r\n",
    "a long name": GET + b"X" * 33_000 + b": a\r\n\r\n",
    "many headers": GET + b"".join(b"X-%d: a\r\n" % number for number in range(200)) + b"\r\n",
}
STATUSES = {
    "length that just fits": 413,
    "an unknown expectation": 417,
    **dict.fromkeys(["HTTP/0.9", "HTTP/2.0", "no version", "a path that ends the line"], 505),
    **dict.fromkeys(["a long line", "a long header", "a long name", "many headers"], 431),
}


async def test_an_ambiguous_request_is_refused_in_a_line_and_reaches_no_app(router: Running) -> None:
    async with witness(router) as received:
        for name, request in REFUSED.items():
            answer = await router.raw(request)
            assert answers(answer) == [STATUSES.get(name, 400)], (name, answer)
            assert text(answer).count("\n") == 1, (name, answer)
            assert text(answer).endswith("\n"), (name, answer)
            assert b"Server:" not in answer
            for whole in (True, False):
                answer = await sent(router, request + FOLLOW_UP, whole=whole)
                assert [status for status in answers(answer) if status < 400] == [], (name, answer)
            assert received == [], name


async def sent(router: Running, request: bytes, *, whole: bool) -> bytes:
    """What comes back, also when the connection is ended before all is sent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", router.port)
    parts = [request] if whole else [request[at : at + 61] for at in range(0, len(request), 61)]
    answer = b""
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
        async with asyncio.timeout(5):
            while data := await reader.read(65536):
                answer += data
    except ConnectionError:
        pass
    writer.close()
    return answer


BROKEN_BODIES = {
    "size that overflows": b"10000000000000000\r\na\r\n0\r\n\r\n",
    "size with a prefix": b"0x1\r\na\r\n0\r\n\r\n",
    "negative size": b"-1\r\na\r\n0\r\n\r\n",
    "two sizes": b"1 1\r\na\r\n0\r\n\r\n",
    "space after the size": b"1 \r\na\r\n0\r\n\r\n",
    "bare line feed after the size": b"1\na\r\n0\r\n\r\n",
    "carriage return in an extension": b"1;a\rb\r\na\r\n0\r\n\r\n",
    "line feed in an extension": b"1;a\nb\r\na\r\n0\r\n\r\n",
    "more than the size": b"1\r\nabc\r\n0\r\n\r\n",
    "no line end after a chunk": b"1\r\naX0\r\n\r\n",
    "length in a trailer": b"1\r\na\r\n0\r\nContent-Length: 9\r\n\r\n",
}


@pytest.mark.parametrize("body", BROKEN_BODIES.values(), ids=BROKEN_BODIES.keys())
async def test_a_malformed_body_never_looks_whole_to_the_app_and_ends_the_connection(
    router: Running, body: bytes
) -> None:
    handled: list[bytes] = []

    async def handler(request: web.BaseRequest) -> web.Response:
        handled.append(request.path.encode() + await request.read())
        return web.Response()

    async with app_that(handler) as upstream:
        await router.put(upstream)
        for whole in (True, False):
            answer = await sent(router, CHUNKED + body + FOLLOW_UP, whole=whole)
            assert [status for status in answers(answer) if status < 400] == [], answer
        await eventually(lambda: inflight_is(router, upstream, 0))
    assert handled == []


async def test_requests_in_a_row_reach_the_app_as_they_were_meant(router: Running) -> None:
    """On one connection, all sent before the first is answered, with bodies that look like requests."""
    seen: list[tuple[str, str, bytes]] = []

    async def handler(request: web.BaseRequest) -> web.Response:
        seen.append((request.method, request.raw_path, await request.read()))
        return web.Response(text=f"<{len(seen)}>")

    inner = b"GET /evil HTTP/1.1\r\nHost: shop.localhost\r\n\r\n"
    chunked = b"%x;a=b\r\n%s\r\n0\r\nX-Trailer: 1\r\n\r\n" % (len(inner), inner)
    requests = [
        GET.replace(b"/ ", b"/1 ") + b"\r\n",
        POST.replace(b"/ ", b"/2 ") + b"Content-Length:\t%d \r\n\r\n" % len(inner) + inner,
        CHUNKED.replace(b"/ ", b"/3 ").replace(b"chunked", b"CHUNKED") + chunked,
        GET.replace(b"/ ", b"/4 ") + b"Content-Length: %d\r\n\r\n" % len(inner) + inner,
        GET.replace(b"/ ", b"http://SHOP.localhost/5 ") + b"\r\n",
        POST.replace(b"/ ", b"/6 ") + b"Connection: close, Content-Length\r\nContent-Length: 2\r\n\r\nhi",
    ]
    async with app_that(handler) as upstream:
        await router.put(upstream)
        answer = await router.raw(b"".join(requests))
    assert re.findall(rb"<\d>", answer) == [b"<%d>" % number for number in range(1, 7)]
    assert seen == [
        ("GET", "/1", b""),
        ("POST", "/2", inner),
        ("POST", "/3", inner),
        ("GET", "/4", inner),
        ("GET", "/5", b""),
        ("POST", "/6", b"hi"),
    ]


async def test_what_belongs_to_one_connection_or_poses_as_ours_is_not_passed_on(router: Running) -> None:
    async with witness(router) as received:
        answer = await router.raw(
            GET + b"Connection: close, X-Secret, X-Forwarded-For, Host\r\nX-Secret: 1\r\nKeep-Alive: 5\r\n"
            b"TE: trailers\r\nTrailer: X\r\nProxy-Connection: close\r\nProxy-Authorization: Basic x\r\n"
            b"Transfer_Encoding: chunked\r\nContent_Length: 7\r\nX_Forwarded_Host: evil\r\n"
            b"Forwarded: for=1\r\nX-Real-IP: 6.6.6.6\r\nX-Forwarded-Port: 1\r\nMy_Own: 1\r\n\r\n"
        )
    assert answers(answer) == [200]
    head = received[0].partition(b"\r\n\r\n")[0].decode()
    names = {line.partition(":")[0] for line in head.split("\r\n")[1:]}
    assert names == {"Host", "My_Own", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host"} | (
        names & {"Connection"}
    )
    assert "Host: shop.localhost" in head
    assert "evil" not in head


async def test_a_head_that_never_ends_is_given_up(router: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """The deadline counts from the connection's begin: a byte now and then does not move it."""
    monkeypatch.setattr("penstock_pipeline.relay.IDLE", 0.3)
    async with witness(router) as received:
        _, writer = await asyncio.open_connection("127.0.0.1", router.port)
        writer.write(GET + b"X-A: ")

        async def is_ended() -> bool:
            writer.write(b"a")
            await asyncio.sleep(0.01)
            return writer.transport.is_closing()

        await eventually(is_ended)
        assert received == []


# HTTP/1.0


async def test_http_1_0_ends_the_connection_unless_it_is_asked_to_stay(router: Running) -> None:
    old = GET.replace(b"/1.1", b"/1.0")
    async with app_that(saying("hello\n")) as upstream:
        await router.put(upstream)
        answer = await router.raw(old + b"\r\n")
        assert answer.startswith(b"HTTP/1.0 200 ")
        assert answer.endswith(b"hello\n")
        answer = await router.raw(old + b"Connection: keep-alive\r\n\r\n" + old + b"\r\n")
        assert answers(answer) == [200, 200]


async def test_http_1_0_is_never_answered_in_chunks(router: Running) -> None:
    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for part in (b"one ", b"two"):
            await response.write(part)
        return response

    async with app_that(handler) as upstream:
        await router.put(upstream)
        answer = await router.raw(GET.replace(b"/1.1", b"/1.0") + b"Connection: keep-alive\r\n\r\n")
    assert b"chunked" not in answer
    assert answer.endswith(b"\r\n\r\none two")


@pytest.mark.parametrize("host", [b"", b"Host: \r\n"])
async def test_without_a_host_the_app_is_found_by_its_port_only(router: Running, host: bytes) -> None:
    async with witness(router) as received:
        answer = await router.raw(b"GET / HTTP/1.0\r\n" + host + b"\r\n")
        assert answers(answer) == [400]
        assert "this port needs a Host header" in text(answer)
        router.port = router.app_port
        assert answers(await router.raw(b"GET / HTTP/1.0\r\n" + host + b"\r\n")) == [200]
    assert b"\r\nHost: shop.localhost\r\n" in received[0]


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.0 200 OK\r\n\r\nuntil the end",
        b"HTTP/1.0 200 OK\r\nContent-Length: 13\r\n\r\nuntil the end",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil the end",
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 13\r\n\r\nuntil the end",
    ],
)
async def test_an_app_may_speak_http_1_0_and_end_its_answers_with_the_connection(
    router: Running, answer: bytes
) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)

    async with socket_that(talk) as upstream:
        await router.put(upstream)
        for _ in range(3):
            assert (await router.get("/"))[:2] == (200, b"until the end")


# Expect: 100-continue


async def test_a_body_is_asked_for_once_there_is_an_app_to_take_it(router: Running) -> None:
    head = POST + b"Expect: 100-continue\r\nContent-Length: 2\r\nConnection: close\r\n\r\n"
    async with app_that(saying("got it")) as upstream:
        await router.put(upstream)
        reader, writer = await asyncio.open_connection("127.0.0.1", router.port)
        writer.write(head)
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"hi")
        answer = await reader.read()
        assert answers(answer) == [200]
        assert answer.endswith(b"got it")
        writer.close()


async def test_a_body_that_nobody_takes_is_not_asked_for(
    short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock_pipeline.runtimes.router.PATIENCE", 0.1)
    head = POST + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    async with router_over(short_tmp) as router:
        for status in (b"404", b"503"):
            reader, writer = await asyncio.open_connection("127.0.0.1", router.port)
            writer.write(head)
            assert (await reader.readline()).split()[1] == status
            writer.close()
            await router.put(f"127.0.0.1:{free_port()}")


async def test_an_answer_that_comes_before_the_body_is_whole_arrives(router: Running) -> None:
    async def handler(request: web.BaseRequest) -> web.Response:
        return web.Response(status=413, text="too much for me")

    async with app_that(handler) as upstream:
        await router.put(upstream)
        for head in (
            b"Content-Length: 100000000\r\n\r\n",
            b"Expect: 100-continue\r\nContent-Length: 9\r\n\r\n",
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", router.port)
            writer.write(POST + head)
            async with asyncio.timeout(5):
                head = await reader.readuntil(b"\r\n\r\n")
                if head.startswith(b"HTTP/1.1 100"):
                    head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 413 ")
                assert b"Connection: close" in head
                assert await reader.readexactly(15) == b"too much for me"
            writer.close()


# Answers


UNSOUND = {
    "length and coding": b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "coding and length": b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
    "two lengths": b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",
    "signed length": b"Content-Length: +4\r\n\r\nabcd",
    "length that just fits": b"Content-Length: 18446744073709551615\r\n\r\nabcd",
    "unknown coding": b"Transfer-Encoding: xchunked\r\n\r\nabcd",
    "another coding first": b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked but not last": b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "chunked twice": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "NUL in a value": b"X-A: a\x00b\r\nContent-Length: 2\r\n\r\nok",
    "control character in a value": b"X-A: a\x01b\r\nContent-Length: 2\r\n\r\nok",
    "space before the colon": b"X-A : a\r\nContent-Length: 2\r\n\r\nok",
    "a long header": b"X-A: " + b"a" * 33_000 + b"\r\nContent-Length: 2\r\n\r\nok",
}


@pytest.mark.parametrize(
    "answer",
    [
        *(b"HTTP/1.1 200 OK\r\n" + rest for rest in UNSOUND.values()),
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 O\x01K\r\nContent-Length: 2\r\n\r\nok",
        b"just text",
    ],
    ids=[*UNSOUND, "chunked in HTTP/1.0", "HTTP/2.0", "control character in the reason", "no HTTP"],
)
async def test_an_ambiguous_answer_of_an_app_is_502_in_a_line(router: Running, answer: bytes) -> None:
    async with witness(router, answer):
        got = await router.raw(GET + b"Connection: close\r\n\r\n")
    assert answers(got) == [502]
    assert text(got).startswith("shop.localhost gave an answer that ")
    assert text(got).count("\n") == 1


async def test_what_an_app_says_unasked_is_nobodys_answer(router: Running) -> None:
    """It comes once the connection is idle again, where it would be taken for the next visitor's answer."""
    unasked = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(OK)
            await unasked.wait()
            writer.write(OK.replace(b"ok", b"no"))

    async with socket_that(talk) as upstream:
        await router.put(upstream)
        for _ in range(5):
            unasked.clear()
            assert (await router.get("/"))[1] == b"ok"
            unasked.set()
            await asyncio.sleep(0.02)
