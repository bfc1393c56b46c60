"""What the routes that have to be fast need of ASGI, and nothing else: a body with a bound, an answer."""

from __future__ import annotations

import asyncio
import re
import secrets
import zlib
from collections.abc import Mapping
from typing import Any

import orjson
from starlette.types import Receive, Scope, Send

from penstock_data.errors import BadRequest, Problem, TooLarge, Unsupported

JSON, LINES, PROBLEM = b"application/json", b"application/x-ndjson", b"application/problem+json"

SLOW_BODY = 10.0
"""Seconds within which a body must have come whole."""

_TRACE = re.compile(rb"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")
_NO_TRACE = b"0" * 32


class Gone(Exception):
    """The client has left: there is nobody to answer."""


class Request:
    """The head of a request, looked at once."""

    __slots__ = ("authorization", "encoding", "key", "length", "lines", "receive", "scope", "send", "trace")

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope, self.receive, self.send = scope, receive, send
        self.authorization: bytes | None = None
        self.encoding = self.key = self.trace = b""
        self.length = 0
        self.lines = False
        for name, value in scope["headers"]:
            if name == b"authorization":
                # Two of them: who is in front might have looked at the other one.
                self.authorization = value if self.authorization is None else b""
            elif name == b"content-length":
                self.length = int(value)
            elif name == b"accept":
                self.lines = LINES in value
            elif name == b"content-encoding":
                self.encoding = value.lower()
            elif name == b"idempotency-key":
                self.key = value
            elif name == b"traceparent":
                self.trace = value

    async def body(self, most: int) -> bytes:
        """All of it, unpacked. Raises `TooLarge`, `Unsupported`, `BadRequest`, `Gone`."""
        if self.length > most:
            raise TooLarge(f"the body has {self.length} bytes; {most} are allowed")
        message = await self.receive()
        body: bytes = message.get("body", b"")
        if message["type"] == "http.disconnect":
            raise Gone
        if message.get("more_body") or len(body) > most:
            body = await self._rest(body, message.get("more_body", False), most)
        return body if not self.encoding else _unpacked(self.encoding, body, most)

    async def _rest(self, body: bytes, more: bool, most: int) -> bytes:
        pieces, size = [body], len(body)
        try:
            async with asyncio.timeout(SLOW_BODY):
                while more and size <= most:
                    message = await self.receive()
                    if message["type"] == "http.disconnect":
                        raise Gone
                    pieces.append(message.get("body", b""))
                    size += len(pieces[-1])
                    more = message.get("more_body", False)
        except TimeoutError:
            raise BadRequest(f"the body did not come within {SLOW_BODY:g} s") from None
        if size > most:
            raise TooLarge(f"the body has more than {most} bytes, which is what is allowed")
        return b"".join(pieces)

    # -- answers

    async def answer(
        self, status: int, body: bytes, *headers: tuple[bytes, bytes], kind: bytes = JSON
    ) -> None:
        """All of it at once."""
        await self.send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [
                    (b"content-type", kind),
                    (b"content-length", b"%d" % len(body)),
                    (b"cache-control", b"no-store"),
                    *headers,
                ],
            }
        )
        await self.send({"type": "http.response.body", "body": body})

    async def refuse(self, problem: Problem, trace_id: str) -> None:
        """What went wrong."""
        body = orjson.dumps(problem.document(trace_id))
        await self.answer(problem.status, body, *encoded(problem.headers), kind=PROBLEM)


def trace_id_of(header: bytes) -> str:
    """Of the trace that the client is in, by its `traceparent` (W3C Trace Context), else a new one."""
    found = _TRACE.fullmatch(header)
    return found[1].decode() if found and found[1] != _NO_TRACE else secrets.token_hex(16)


def encoded(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """As ASGI has them."""
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]


def _unpacked(encoding: bytes, body: bytes, most: int) -> bytes:
    """Never more than one byte above what is allowed is unpacked."""
    if encoding == b"identity":
        return body
    if encoding != b"gzip":
        raise Unsupported("Content-Encoding is not understood: allowed are gzip and identity")
    unpacking: Any = zlib.decompressobj(wbits=31)
    try:
        unpacked: bytes = unpacking.decompress(body, most + 1)
    except zlib.error:
        raise BadRequest("the body is not gzip") from None
    if len(unpacked) > most:
        raise TooLarge(f"the body has more than {most} bytes, unpacked, which is what is allowed")
    if not unpacking.eof or unpacking.unused_data:
        raise BadRequest("the body is not one whole gzip stream")
    return unpacked
