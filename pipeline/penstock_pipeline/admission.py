"""Which messages go on: what the parser lets through, but two who read it could understand differently.

aiohttp's parser (llhttp) refuses most of it. What is left is refused here, so that every app may take what
reaches it at its word: requests with 4xx or 5xx and the end of the connection, answers of apps with 502.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import aiohttp
from aiohttp import web
from aiohttp.http import HttpVersion10, HttpVersion11
from multidict import CIMultiDictProxy

from . import tunnel

Objection = tuple[int, str]
"""A status, and one line for whoever sent the message."""

_HOST = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{0,5})?")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")

_LONGEST_LENGTH = 18
"""Digits of a Content-Length: an exabyte. A few more, and parsers overflow."""

_UPGRADES = ("websocket", "tcp")
"""After which aiohttp's parser stops reading requests. Others, such as h2c, mean nothing here and do not go
on (RFC 9110, 7.8, allows it): tunnelled, they would carry requests past every rule."""


def to_request(request: web.BaseRequest) -> Objection | None:
    """Why a request is refused."""
    return next(filter(None, (object_to(request) for object_to in _OBJECTIONS)), None)


def _to_version(request: web.BaseRequest) -> Objection | None:
    if request.version in (HttpVersion10, HttpVersion11):
        return None
    return 505, "HTTP/1.0 and HTTP/1.1 are spoken here"


def _to_target(request: web.BaseRequest) -> Objection | None:
    """A whole URL is for proxies; it must not name another host than the one that rules are applied to."""
    target = request.raw_path
    if not target.isascii() or not target.isprintable() or "#" in target:
        return 400, "the request's path must be percent-encoded, without a fragment"
    host = request.headers.get("Host", "")
    if target.startswith("/") or target.lower().startswith(f"http://{host.lower()}/"):
        return None
    return 400, "a request is for a path; in a whole URL the host must be the one of the Host header"


def _to_host(request: web.BaseRequest) -> Objection | None:
    hosts = request.headers.getall("Host", [])
    if len(hosts) > 1:
        return 400, "a request must have one Host header"
    if any(hosts) and not _HOST.fullmatch(hosts[0]):
        return 400, "the Host header must be a host name, and a port if need be"
    return None


def _to_framing(request: web.BaseRequest) -> Objection | None:
    if not _is_chunked_or_plain(request.headers, request.version == HttpVersion11):
        return 400, "Transfer-Encoding can only be chunked, and only in HTTP/1.1"
    if _is_endless(request.headers):
        return 413, "no body is as long as this Content-Length"
    return None


def _is_chunked_or_plain(headers: CIMultiDictProxy[str], may_be_chunked: bool) -> bool:
    codings = headers.getall("Transfer-Encoding", None)
    return codings is None or (may_be_chunked and [coding.lower() for coding in codings] == ["chunked"])


def _is_endless(headers: Mapping[str, str]) -> bool:
    return len(headers.get("Content-Length", "")) > _LONGEST_LENGTH


def _to_upgrade(request: web.BaseRequest) -> Objection | None:
    if request.headers.get("Upgrade", "").lower() not in _UPGRADES or tunnel.is_asked_for(request):
        return None
    needed = "Connection: Upgrade, Upgrade: websocket and Sec-WebSocket-Key"
    return 400, f"a WebSocket is opened by a GET in HTTP/1.1 without a body, with {needed}"


def _to_expectation(request: web.BaseRequest) -> Objection | None:
    if request.headers.get("Expect", "100-continue").lower() == "100-continue":
        return None
    return 417, "the only expectation that can be met is 100-continue"


_OBJECTIONS: tuple[Callable[[web.BaseRequest], Objection | None], ...] = (
    _to_version,
    _to_target,
    _to_host,
    _to_framing,
    _to_upgrade,
    _to_expectation,
)


def to_malformed(message: str) -> Objection:
    """What is said of a request that the parser does not understand. Its own words go over several lines and
    show what was sent."""
    if message.startswith(("Got more than", "Too many headers")):
        return 431, "the request's head is too large: too many headers, or too long a line"
    return 400, f"the request is not understood: {reason(message)}"


def reason(message: str) -> str:
    """The parser's reason in one line of plain characters."""
    words = " ".join(message.partition("\n\n")[0].split()).strip(": ")
    return words.encode("ascii", "backslashreplace").decode()[:200]


def to_answer(request: web.BaseRequest, answer: aiohttp.ClientResponse) -> str | None:
    """Why an app's answer is not passed on."""
    if answer.version is None or answer.version.major != 1:
        return "it is not in HTTP/1"
    if not _is_chunked_or_plain(answer.headers, answer.version == HttpVersion11):
        return "Transfer-Encoding can only be chunked, and only in HTTP/1.1"
    if _is_endless(answer.headers):
        return "no body is as long as its Content-Length"
    if _CONTROL.search(answer.reason or "") or any(map(_CONTROL.search, answer.headers.values())):
        return "there are control characters in its head"
    if answer.status == 101 and not (tunnel.is_asked_for(request) and tunnel.is_open(answer)):
        return "it switches to a protocol that was not asked for"
    return None
