"""WebSockets through the router and through an edge before it, with aiohttp's own on both ends."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import WSCloseCode, WSMsgType, web
from plugins.house import eventually
from plugins.routers import Running, edge_before, inflight_is, router_over
from plugins.upstreams import app_that, saying, socket_that

from penstock_pipeline.tunnel import Frames

HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: shop.localhost\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
ACCEPTED = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)


@pytest.fixture(params=["router", "edge"])
async def router(request: pytest.FixtureRequest, short_tmp: Path) -> AsyncIterator[Running]:
    """Reached directly, or through an edge."""
    async with router_over(short_tmp) as running:
        if request.param == "router":
            yield running
            return
        async with edge_before(running):
            yield running


async def echo(request: web.BaseRequest) -> web.StreamResponse:
    """Sends back what comes; `close` is answered with a close of its own."""
    socket = web.WebSocketResponse(protocols=("chat.v2", "chat.v1"), autoping=False, max_msg_size=0)
    await socket.prepare(request)
    async for message in socket:
        match message.type, message.data:
            case WSMsgType.TEXT, "close":
                await socket.close(code=4321, message=b"as you wish")
            case WSMsgType.TEXT, "die":
                assert request.transport is not None
                request.transport.abort()
            case WSMsgType.TEXT, text:
                await socket.send_str(text)
            case WSMsgType.BINARY, data:
                await socket.send_bytes(data)
            case WSMsgType.PING, data:
                await socket.pong(data)
    return socket


def connect(router: Running, **options: object) -> aiohttp.client._WSRequestContextManager:
    url = f"http://127.0.0.1:{router.port}/ws?a=%41"
    return router.session.ws_connect(url, headers={"Host": "shop.localhost"}, max_msg_size=0, **options)  # type: ignore[arg-type]


@asynccontextmanager
async def talking(router: Running, **options: object) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    async with app_that(echo) as upstream:
        await router.put(upstream)
        async with connect(router, **options) as socket, asyncio.timeout(20):
            yield socket


async def test_text_and_bytes_go_both_ways(router: Running) -> None:
    async with talking(router) as socket:
        for number in range(100):
            await socket.send_str(f"über {number}")
            await socket.send_bytes(bytes([number]))
            assert await socket.receive_str() == f"über {number}"
            assert await socket.receive_bytes() == bytes([number])


async def test_a_handshake_is_not_answered_with_what_the_same_path_says_to_others(router: Running) -> None:
    async def page_or_echo(request: web.BaseRequest) -> web.StreamResponse:
        if "Upgrade" in request.headers:
            return await echo(request)
        return web.Response(text="a page", headers={"Cache-Control": "s-maxage=1000"})

    async with app_that(page_or_echo) as upstream:
        await router.put(upstream)
        url = f"http://127.0.0.1:{router.port}/ws?a=%41"
        async with router.session.get(url, headers={"Host": "shop.localhost"}) as page:
            assert await page.text() == "a page"
        async with connect(router) as socket, asyncio.timeout(20):
            await socket.send_str("hello")
            assert await socket.receive_str() == "hello"


async def test_pings_are_the_apps_to_answer(router: Running) -> None:
    async with talking(router, autoping=False) as socket:
        await socket.ping(b"still there?")
        message = await socket.receive()
        assert (message.type, message.data) == (WSMsgType.PONG, b"still there?")


async def test_the_codes_of_a_close_arrive_in_both_directions(router: Running) -> None:
    async with talking(router) as socket:
        await socket.send_str("close")
        message = await socket.receive()
        assert (message.type, message.data, message.extra) == (WSMsgType.CLOSE, 4321, "as you wish")
    told: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.receive()
        told.set_result(socket.close_code)
        return socket

    async with app_that(handler) as upstream:
        await router.put(upstream)
        async with connect(router) as socket, asyncio.timeout(5):
            await socket.close(code=4000)
            assert await told == 4000


async def test_subprotocol_and_compression_are_agreed_end_to_end(router: Running) -> None:
    async with talking(router, protocols=("chat.v1",), compress=15) as socket:
        assert socket.protocol == "chat.v1"
        assert socket.compress == 15
        await socket.send_str("a" * 100_000)
        assert await socket.receive_str() == "a" * 100_000


async def test_large_messages_arrive_whole(router: Running) -> None:
    message = os.urandom(16 * 1024 * 1024)
    async with talking(router) as socket:
        await socket.send_bytes(message)
        assert await socket.receive_bytes() == message


async def test_an_app_that_does_not_read_holds_the_visitor_back(router: Running) -> None:
    """Both directions: what does not fit into buffers of bounded size is not taken."""
    going_on = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(ACCEPTED)
        await going_on.wait()
        assert len(await reader.readexactly(size)) == size
        writer.write(head + bytes(size))
        await writer.drain()

    size = 64 * 1024 * 1024
    head = b"\x82\x7f" + size.to_bytes(8, "big")
    async with socket_that(talk) as upstream:
        await router.put(upstream)
        reader, writer = await opened(router)
        writer.write(bytes(size))
        await eventually(lambda: is_still(writer))
        assert writer.transport.get_write_buffer_size() > size // 4  # type: ignore[attr-defined]
        going_on.set()
        async with asyncio.timeout(20):
            assert await reader.readexactly(len(head)) == head
            assert len(await reader.readexactly(size)) == size
        writer.close()


async def is_still(writer: asyncio.StreamWriter) -> bool:
    """Whether nothing more of what was written is taken for a while."""
    waiting = writer.transport.get_write_buffer_size()  # type: ignore[attr-defined]
    await asyncio.sleep(0.2)
    return bool(waiting == writer.transport.get_write_buffer_size())  # type: ignore[attr-defined]


async def opened(router: Running) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", router.port)
    writer.write(HANDSHAKE)
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    return reader, writer


async def test_bytes_around_the_handshake_are_not_lost(router: Running) -> None:
    """The app speaks in the same breath as it accepts; the visitor leaves in the same breath as it speaks."""
    got: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(ACCEPTED + b"\x81\x02hi")
        got.set_result(await reader.read())

    async with socket_that(talk) as upstream:
        await router.put(upstream)
        reader, writer = await opened(router)
        async with asyncio.timeout(5):
            assert await reader.readexactly(4) == b"\x81\x02hi"
            writer.write(b"last words")
            writer.close()
            assert await got == b"last words"


async def test_the_handshake_tells_the_app_what_every_request_does(router: Running) -> None:
    heads: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(ACCEPTED)

    async with socket_that(talk) as upstream:
        await router.put(upstream)
        reader, writer = await opened(router)
        assert await reader.read() == b"\x88\x02\x03\xf4"
        writer.close()
    lines = sorted(heads[0].decode().split("\r\n"))
    assert {"Connection: Upgrade", "Upgrade: websocket", "X-Forwarded-Proto: http"} <= set(lines)
    assert "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==" in lines


async def test_a_refused_handshake_is_an_ordinary_answer_and_ends_the_connection(router: Running) -> None:
    async with app_that(saying("no sockets here")) as upstream:
        await router.put(upstream)
        answer = await router.raw(HANDSHAKE + b"GET /smuggled HTTP/1.1\r\nHost: shop.localhost\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.endswith(b"no sockets here")
        assert len(re.findall(rb"HTTP/1.. \d{3} ", answer)) == 1


async def test_an_app_that_goes_without_a_word_has_its_visitors_come_again(router: Running) -> None:
    async with talking(router) as socket:
        await socket.send_str("die")
        message = await socket.receive()
        assert (message.type, message.data) == (WSMsgType.CLOSE, WSCloseCode.SERVICE_RESTART)


@pytest.mark.parametrize(
    "last",
    [b"\x82\x7e\x01", b"\x82\x05abcd", b"\x82\x7f" + bytes(8) + b"\x81", b"\x88\x02\x03\xe9", b"\x88\x00"],
)
async def test_nothing_is_added_to_a_frame_that_is_cut_off_nor_to_a_close(
    router: Running, last: bytes
) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(ACCEPTED + b"\x81\x02hi" + last)

    async with socket_that(talk) as upstream:
        await router.put(upstream)
        reader, writer = await opened(router)
        assert await reader.read() == b"\x81\x02hi" + last
        writer.close()


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000, 65536, 1_000_000])
def test_frames_are_followed_however_they_arrive(step: int) -> None:
    frames, stream, ends = Frames(), b"", {0}
    for size in (0, 1, 125, 126, 127, 65535, 65536, 70000):
        long = b"\x7e" + size.to_bytes(2, "big") if size < 65536 else b"\x7f" + size.to_bytes(8, "big")
        stream += b"\x82" + (bytes([size]) if size < 126 else long) + b"\x88" * size
        ends.add(len(stream))
    for at in range(0, len(stream), step):
        assert frames.lack_a_close == (at in ends), at
        frames.follow(stream[at : at + step])
    assert frames.lack_a_close
    frames.follow(b"\x88\x00")
    assert not frames.lack_a_close


async def test_when_the_router_must_end_visitors_are_told_to_come_again(short_tmp: Path) -> None:
    async with app_that(echo) as upstream, aiohttp.ClientSession() as session:
        async with router_over(short_tmp) as router:
            router.session = session
            await router.put(upstream)
            socket = await connect(router)
            await socket.send_str("hi")
            assert await socket.receive_str() == "hi"
        message = await socket.receive()
        assert (message.type, message.data) == (WSMsgType.CLOSE, WSCloseCode.SERVICE_RESTART)


async def test_a_visitor_who_vanishes_ends_the_apps_connection(router: Running) -> None:
    left = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(ACCEPTED)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        left.set()

    async with socket_that(talk) as upstream:
        await router.put(upstream)
        _, writer = await opened(router)
        await eventually(lambda: inflight_is(router, upstream, 1))
        writer.transport.abort()
        async with asyncio.timeout(5):
            await left.wait()
        await eventually(lambda: inflight_is(router, upstream, 0))


async def test_an_open_websocket_stays_with_its_release_and_counts_as_in_flight(router: Running) -> None:
    async with app_that(echo) as old, app_that(saying("new")) as new:
        await router.put(old)
        async with connect(router) as socket:
            await router.put(new, release="v2")
            assert (await router.get("/"))[1] == b"new"
            assert await inflight_is(router, old, 1)
            await socket.send_str("still me")
            assert await socket.receive_str() == "still me"
        await eventually(lambda: inflight_is(router, old, 0))


# What is no WebSocket


NO_HANDSHAKES = {
    "without a key": HANDSHAKE.replace(b"Sec-WebSocket-Key", b"X-Key"),
    "without Connection": HANDSHAKE.replace(b"keep-alive, Upgrade", b"keep-alive"),
    "by POST": HANDSHAKE.replace(b"GET", b"POST"),
    "in HTTP/1.0": HANDSHAKE.replace(b"HTTP/1.1", b"HTTP/1.0"),
    "with a body": HANDSHAKE.replace(b"\r\n\r\n", b"\r\nContent-Length: 2\r\n\r\nhi"),
    "to any TCP": HANDSHAKE.replace(b"WebSocket\r\n", b"TCP\r\n"),
}


@pytest.mark.parametrize("handshake", NO_HANDSHAKES.values(), ids=NO_HANDSHAKES.keys())
async def test_half_a_handshake_is_refused_and_reaches_no_app(router: Running, handshake: bytes) -> None:
    await router.put("127.0.0.1:9")
    answer = await router.raw(handshake + b"GET /smuggled HTTP/1.1\r\nHost: shop.localhost\r\n\r\n")
    assert b" 400 " in answer.splitlines()[0]
    assert b"a WebSocket is opened by" in answer
    assert len(re.findall(rb"HTTP/1.. \d{3} ", answer)) == 1


async def test_an_upgrade_to_cleartext_http2_is_not_heard(router: Running) -> None:
    """Tunnelled, it would carry requests past every rule of the router."""
    heads: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async with socket_that(talk) as upstream:
        await router.put(upstream)
        answer = await router.raw(
            b"GET / HTTP/1.1\r\nHost: shop.localhost\r\nConnection: Upgrade, HTTP2-Settings, close\r\n"
            b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n"
        )
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"h2c" not in heads[0]
    assert b"HTTP2-Settings" not in heads[0]


async def test_the_preface_of_http2_is_refused(router: Running) -> None:
    await router.put("127.0.0.1:9")
    answer = await router.raw(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    assert b" 400 " in answer.splitlines()[0]


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (b"GET / HTTP/1.1\r\nHost: shop.localhost\r\n\r\n", ACCEPTED),
        (HANDSHAKE, ACCEPTED.replace(b"websocket", b"h2c")),
        (HANDSHAKE, ACCEPTED.replace(b"Connection: Upgrade\r\n", b"")),
    ],
)
async def test_an_app_that_switches_to_what_was_not_asked_for_is_502(
    router: Running, request_: bytes, answer: bytes
) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await reader.read()

    async with socket_that(talk) as upstream:
        await router.put(upstream)
        reader, writer = await asyncio.open_connection("127.0.0.1", router.port)
        writer.write(request_)
        assert b" 502 " in await reader.readline()
        writer.close()
