"""How the router and the edges take a request in, carry it on and stream the answer back.

aiohttp on both sides, so one kept parser (llhttp) reads whatever arrives and every message is framed anew
before it goes on: what the parser refuses is never forwarded, nor what `admission` refuses after it. Bodies
are streamed with back-pressure, in their original content coding; WebSockets go through a `tunnel`.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

import aiohttp
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import HttpVersion10, HttpVersion11, RawRequestMessage
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.tracing import Trace
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from . import admission, tunnel
from .errors import Conflict

log = logging.getLogger(__name__)

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

FIELD_LIMIT = 32 * 1024
"""Bytes a request line or one header may have."""

BACKLOG = 1024
"""Connections that may wait to be accepted, such as while a killed process is started again."""

IDLE = 75.0
"""Seconds an idle visitor's connection is kept."""

CLOSING = 1.0
"""Seconds a connection may take to close once it must."""

NO_HOST = "say which app is meant: this port needs a Host header, each app has a port of its own besides"

CONNECT_TIMEOUT = 3.0
"""Seconds an upstream may take to accept a connection. Its answer may take as long as it likes."""

_REPEATABLE = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})

_HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_FRAMING = _HOP_BY_HOP | {"content-length", "host"}
"""Headers by which a message is delimited and directed; nobody's but ours."""

_CLAIMS = ("x-forwarded-", "forwarded", "x-real-ip", "x-original-url", "x-rewrite-url")
"""How headers begin by which frameworks let a request say that it is another one than it is."""

_ADDED_BY_AIOHTTP = ("Content-Type", "Server")


def bind(address: str, port: int) -> socket.socket:
    """A listening socket. Raises `Conflict` when the port is taken or not allowed.

    Without SO_REUSEPORT on purpose: with it two Penstocks of one user could share a port unnoticed."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        return socket.create_server((address, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise Conflict(
            f"port {port} on {address} cannot be opened: {error.strerror}. "
            "Choose another port, or end the program that holds it"
        ) from error


class NotReached(Exception):
    """No connection to the upstream: nothing was sent, so the request can be sent again."""


class Broken(Exception):
    """The upstream gave no answer that can be passed on; whether it acted on the request is not known.
    The text goes on where the upstream's name ends."""


class Server:
    """Hands requests to `handler`, from any number of listeners, and drains without losing one."""

    def __init__(self, handler: Handler, *, finish: bool = False) -> None:
        """`finish`: a request is worked off even when its client has left."""
        self._handler = handler
        self._busy: set[asyncio.Task[Any]] = set()
        self._listening: set[asyncio.Server] = set()
        self._drained: asyncio.Event | None = None
        self._finish = finish

    async def start(self) -> None:
        self._server = web.Server(
            self._handle, request_factory=_Request.of, handler_cancellation=not self._finish
        )

    async def listen(self, listener: socket.socket) -> asyncio.Server:
        """Accept from a listening socket until `unlisten`."""
        loop = asyncio.get_running_loop()
        listen = loop.create_unix_server if listener.family == socket.AF_UNIX else loop.create_server
        server = await listen(lambda: Connection(self._server, self._prepare), sock=listener, backlog=BACKLOG)
        self._listening.add(server)
        return server

    def unlisten(self, server: asyncio.Server) -> None:
        """Accept no more there; what was accepted goes on."""
        self._listening.discard(server)
        server.close()

    async def drain(self, timeout: float) -> None:
        """Accept no more, let requests finish for up to `timeout` seconds, then close every connection."""
        self._drained = asyncio.Event()
        for server in self._listening:
            server.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while self._busy:
                    self._drained.clear()
                    await self._drained.wait()
        for task in tuple(self._busy):
            task.cancel()
        await asyncio.sleep(0)  # what has just arrived is still taken up
        self._server.pre_shutdown()
        await self._server.shutdown(CLOSING)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        task = asyncio.current_task()
        assert task is not None
        self._busy.add(task)
        try:
            objection = admission.to_request(request)
            return _refused(*objection) if objection else await self._handler(request)
        finally:
            self._busy.discard(task)
            if self._drained and not self._busy:
                self._drained.set()

    def _prepare(self, request: web.BaseRequest, response: web.StreamResponse) -> None:
        """Before the head goes out. Where a body is not read to its end, its rest must not be taken for the
        next request."""
        unasked = response.unasked if isinstance(response, Relayed) else ("Server",)
        for name in unasked:
            response.headers.popall(name, None)
        if response.status == 101:
            return
        until_close = request.version == HttpVersion10 and response.content_length is None
        if self._drained or until_close or not request.content.is_eof():
            response.headers["Connection"] = "close"
            response.force_close()


class Connection(web.RequestHandler):
    """One visitor's connection. What its parser does not understand is answered in a line and not logged:
    the world sends it all day."""

    def __init__(
        self, server: web.Server, prepare: Callable[[web.BaseRequest, web.StreamResponse], None]
    ) -> None:
        self.prepare = prepare
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type]
            auto_decompress=False,
            keepalive_timeout=IDLE,
            max_field_size=FIELD_LIMIT,
            max_line_size=FIELD_LIMIT,
        )

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if isinstance(exc, HttpProcessingError) and request.writer.output_size == 0:
            return _refused(*admission.to_malformed(exc.message))
        return super().handle_error(request, status, exc, message)

    def log_exception(self, *args: Any, **kw: Any) -> None:
        if not isinstance(kw.get("exc_info"), web.RequestPayloadError):
            super().log_exception(*args, **kw)


class _Request(web.BaseRequest):
    @classmethod
    def of(
        cls,
        message: RawRequestMessage,
        payload: aiohttp.StreamReader,
        connection: web.RequestHandler,
        writer: AbstractStreamWriter,
        task: asyncio.Task[None],
    ) -> _Request:
        return cls(message, payload, connection, writer, task, asyncio.get_running_loop())

    async def _prepare_hook(self, response: web.StreamResponse) -> None:
        if isinstance(self.protocol, Connection):
            self.protocol.prepare(self, response)


class Forwarder:
    """Sends requests on.

    Requests that may be repeated share kept connections. All others get a connection of their own: a kept
    one may be closed by its idle upstream just as the request is sent, and such a request cannot be repeated.
    """

    def __init__(self) -> None:
        self._kept = _session(_Kept(limit=0, keepalive_timeout=IDLE))
        self._fresh = _session(aiohttp.TCPConnector(limit=0, force_close=True))

    async def send(
        self, request: web.BaseRequest, upstream: str, headers: CIMultiDict[str]
    ) -> aiohttp.ClientResponse:
        """The head of what `upstream` (`host:port`) answers. Raises `NotReached` or `Broken`."""
        if request.method not in _REPEATABLE or request.can_read_body or tunnel.is_asked_for(request):
            return await self._send(self._fresh, request, upstream, headers)
        try:
            return await self._send(self._kept, request, upstream, headers)
        except Broken:
            return await self._send(self._fresh, request, upstream, headers)

    async def _send(
        self,
        session: aiohttp.ClientSession,
        request: web.BaseRequest,
        upstream: str,
        headers: CIMultiDict[str],
    ) -> aiohttp.ClientResponse:
        try:
            answer = await session.request(
                request.method,
                URL(f"http://{upstream}{request.rel_url.raw_path_qs}", encoded=True),
                headers=headers,
                data=_body(request) if request.can_read_body else None,
                allow_redirects=False,
            )
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise NotReached(str(error)) from error
        except aiohttp.ClientResponseError as error:
            raise Broken(
                f"gave an answer that is not understood: {admission.reason(error.message)}"
            ) from error
        except (aiohttp.ClientError, OSError) as error:
            raise Broken("ended the connection before it answered") from error
        if objection := admission.to_answer(request, answer):
            answer.close()
            raise Broken(f"gave an answer that cannot be passed on: {objection}")
        return answer

    async def close(self) -> None:
        await self._kept.close()
        await self._fresh.close()


class _Kept(aiohttp.TCPConnector):
    """Kept connections. aiohttp would take what an upstream says unasked, on an idle one, for the answer to
    the next request, whoever's that is."""

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> aiohttp.connector.Connection:
        connection = await super().connect(req, traces, timeout)
        if connection.protocol is not None and connection.protocol.should_close:
            connection.close()
            raise aiohttp.ServerDisconnectedError("spoke before it was asked")
        return connection


def _session(connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=connector,
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        max_field_size=FIELD_LIMIT,
        max_line_size=FIELD_LIMIT,
        skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT),
    )


async def _body(request: web.BaseRequest) -> AsyncIterator[bytes]:
    """The body as it comes, once there is an upstream to take it: only then is a visitor who asks first
    (`Expect: 100-continue`) told to send it."""
    if "Expect" in request.headers and request.version >= HttpVersion11 and not request.writer.output_size:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # nothing of the answer itself went out
    yield request.content.read_nowait()  # even nothing sends the head on: the app may refuse by it alone
    async for chunk in request.content.iter_any():
        yield chunk


def onward(request: web.BaseRequest) -> CIMultiDict[str]:
    """The headers a request goes on with. What it says of its own origin is believed from this machine only,
    where an edge or a TLS proxy may stand in front."""
    headers = end_to_end(request.headers)
    for name in list(headers):
        # An underscore too: WSGI cannot tell X_Forwarded_For from X-Forwarded-For.
        plain = name.lower().replace("_", "-")
        if plain.startswith(_CLAIMS) or ("_" in name and plain in _FRAMING):
            headers.popall(name, None)
    headers.popall("Expect", None)
    if tunnel.is_asked_for(request):
        headers.update(tunnel.SWITCH)
    if not request.can_read_body:
        headers.popall("Content-Length", None)
    chain = request.headers.getall("X-Forwarded-For", []) if _is_from_here(request) else []
    headers["X-Forwarded-For"] = ", ".join([*chain, request.remote or ""])
    headers["X-Forwarded-Proto"], host = visited(request)
    if host:
        headers["X-Forwarded-Host"] = host
    return headers


def visited(request: web.BaseRequest) -> tuple[str, str]:
    """The scheme and the host that the visitor asked, as the app is told: its answer may depend on both."""
    came = request.headers if _is_from_here(request) else {}
    host = came.get("X-Forwarded-Host", request.headers.get("Host", ""))
    return came.get("X-Forwarded-Proto", request.scheme), host


def end_to_end(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    """Headers without those of one connection alone."""
    named = {token.strip().lower() for line in headers.getall("Connection", []) for token in line.split(",")}
    gone = (_HOP_BY_HOP | named) - {"host"}
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in gone)


def _is_from_here(request: web.BaseRequest) -> bool:
    """Whether this machine sent it, by a loopback address or by the very address it listens on."""
    try:
        peer = ipaddress.ip_address(request.remote or "")
    except ValueError:
        return False
    return peer.is_loopback or str(peer) == request.get_extra_info("sockname")[0]


class Relayed(web.StreamResponse):
    """An answer passed on; aiohttp's own default headers are not to be put into it."""

    def __init__(self, status: int, reason: str | None, headers: CIMultiDict[str]) -> None:
        super().__init__(status=status, reason=reason, headers=headers)
        self.unasked = [name for name in _ADDED_BY_AIOHTTP if name not in headers]


async def relay(
    request: web.BaseRequest,
    answer: aiohttp.ClientResponse,
    extra: Mapping[str, str],
    begin: Iterable[bytes] = (),
) -> web.StreamResponse:
    """Stream `answer` to the visitor, after the chunks of it that were read already. An answer that breaks
    off breaks the visitor's connection: a truncated body must not look whole. An accepted WebSocket is
    carried to its end."""
    headers = end_to_end(answer.headers)
    headers.update(extra)
    response = Relayed(answer.status, answer.reason, headers)
    if tunnel.is_asked_for(request):
        response.force_close()
    try:
        if answer.status == 101:
            response.headers.update(tunnel.SWITCH)
            await response.prepare(request)
            await tunnel.carry(request, answer)
            return response
        await response.prepare(request)
        for chunk in begin:
            await response.write(chunk)
        async for chunk in answer.content.iter_any():
            await response.write(chunk)
        await response.write_eof()
    except (aiohttp.ClientError, OSError) as error:
        log.info("answer to %s %s broke off: %s", request.method, request.path, error)
        _reset(request)
    finally:
        answer.close()
    return response


def _reset(request: web.BaseRequest) -> None:
    """End the visitor's connection so that it cannot be taken for a clean end, not even in HTTP/1.0."""
    if request.transport is None:
        return
    raw = request.transport.get_extra_info("socket")
    with suppress(OSError):
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.transport.abort()


def says(status: int, text: str, headers: Mapping[str, str] | None = None) -> web.Response:
    """An answer of our own: plain text for the person who reads it, kept by no cache."""
    safe = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    return web.Response(status=status, text=f"{text}\n", headers={**safe, **(headers or {})})


def _refused(status: int, text: str) -> web.Response:
    """Nothing that comes after it on the connection is read."""
    response = says(status, text)
    response.force_close()
    return response


def body_broke_off(request: web.BaseRequest) -> web.Response | None:
    """The answer, if it was the visitor whose body ended too early or became malformed."""
    if request.content.exception() is None:
        return None
    return says(400, "the request's body broke off or is malformed")


def bare_host(host: str) -> str:
    """A Host header as a key: lower case, without the port."""
    name, colon, port = host.strip().lower().rpartition(":")
    return name if colon and (port.isdigit() or not port) else host.strip().lower()
