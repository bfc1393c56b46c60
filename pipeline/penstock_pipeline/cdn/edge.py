"""The embedded edge: a caching reverse proxy in front of the router, for machines without a CDN.

It keeps what shared caches may keep (RFC 9111) in memory, for as long as `s-maxage` or `max-age` say or until
it is purged. Purging takes the same token in two forms; paths are meant with every query string and variant:

    PURGE /path                                     Authorization: Bearer TOKEN, Host: the app's
    POST  /.well-known/penstock/purge               {"host": "shop.localhost", "paths": ["/", …]}

A purge also disowns the fetches that are under way: what they bring is not kept, and nobody who comes later
is given it.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import re
import socket
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web
from multidict import CIMultiDict, MultiMapping

from .. import tunnel
from ..relay import (
    NO_HOST,
    Broken,
    Forwarder,
    NotReached,
    Relayed,
    Server,
    bare_host,
    body_broke_off,
    end_to_end,
    onward,
    relay,
    says,
    visited,
)
from . import PURGE_PATH

log = logging.getLogger(__name__)

CACHE_LIMIT = 64 * 1024 * 1024
"""Bytes all cached answers and their keys may take; the least recently used go first."""

BODY_LIMIT = 8 * 1024 * 1024
"""Bytes a body may have to be cached; larger ones are passed through."""

_UNCACHEABLE_FOR = 10.0
"""Seconds during which visitors do not wait for each other at a path that turned out not to be cacheable."""

_OVERHEAD = 1024
_SAFE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
"""All other methods may change what their path answers (RFC 9111, 4.4)."""

_PASSED = ("Authorization", "If-Match", "If-Unmodified-Since", "Range")


@dataclass(frozen=True, slots=True)
class Key:
    """What tells cached answers apart: all that an app may answer by without saying so in `Vary`.
    `host` and `path` are in the form in which they are purged: without port, and decoded."""

    host: str
    path: str
    target: str
    told: tuple[str, ...]
    """Accepted encodings; scheme and host as the visitor asked them."""

    @classmethod
    def of(cls, request: web.BaseRequest) -> Key:
        encodings = ",".join(request.headers.getall("Accept-Encoding", []))
        scheme, host = visited(request)
        told = (encodings, scheme, host.lower())
        return cls(_host(request), request.path, request.rel_url.raw_path_qs, told)

    @property
    def size(self) -> int:
        return sum(map(len, (self.host, self.path, self.target, *self.told)))


@dataclass(frozen=True, slots=True)
class Kept:
    """A cached answer, whole; or, without a status, the memory that the path is not cacheable just now."""

    until: float
    since: float
    status: int = 0
    headers: CIMultiDict[str] = field(default_factory=CIMultiDict)
    body: bytes = b""

    @property
    def size(self) -> int:
        return (
            _OVERHEAD + len(self.body) + sum(len(name) + len(value) for name, value in self.headers.items())
        )


class Cache:
    """Answers by key, the least recently used first."""

    def __init__(self, limit: int = CACHE_LIMIT) -> None:
        self._limit = limit
        self._size = 0
        self._kept: OrderedDict[Key, Kept] = OrderedDict()
        self._by_path: dict[tuple[str, str], set[Key]] = {}

    def get(self, key: Key, now: float) -> Kept | None:
        kept = self._kept.get(key)
        if kept is None:
            return None
        if kept.until <= now:
            self._drop(key)
            return None
        self._kept.move_to_end(key)
        return kept

    def put(self, key: Key, kept: Kept) -> None:
        self._drop(key)
        self._kept[key] = kept
        self._size += key.size + kept.size
        self._by_path.setdefault((key.host, key.path), set()).add(key)
        while self._size > self._limit:
            self._drop(next(iter(self._kept)))

    def forget(self, host: str, path: str) -> int:
        """Drops every variant; returns how many answers there were."""
        keys = tuple(self._by_path.get((host, path), ()))
        return sum(self._drop(key) for key in keys)

    def _drop(self, key: Key) -> bool:
        """Tells whether an answer went."""
        kept = self._kept.pop(key, None)
        if kept is None:
            return False
        self._size -= key.size + kept.size
        siblings = self._by_path[key.host, key.path]
        siblings.discard(key)
        if not siblings:
            del self._by_path[key.host, key.path]
        return kept.status != 0


class Fill:
    """A fetch for the cache that is under way; others who want the same wait for it."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()
        self.kept: Kept | None = None
        """What it brought for those who waited; None: nothing that can be shared."""
        self.disowned = False
        """Purged while under way: what it brings may be old."""


class Edge:
    """Serves visitors on one listener from the cache or from `upstream`, the router (`host:port`)."""

    def __init__(self, upstream: str, token: str, *, limit: int = CACHE_LIMIT) -> None:
        self._upstream = upstream
        self._token = token
        self._cache = Cache(limit)
        self._fills: dict[Key, Fill] = {}
        self._server = Server(self._visit)

    async def start(self, visitors: socket.socket) -> None:
        self._forwarder = Forwarder()
        await self._server.start()
        await self._server.listen(visitors)

    async def drain(self, timeout: float) -> None:
        """Accept no more and finish what travels, for `timeout` seconds at most."""
        await self._server.drain(timeout)
        await self._forwarder.close()

    async def _visit(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.method == "PURGE" or (request.method, request.path) == ("POST", PURGE_PATH):
            return await self._purge(request)
        if not _host(request):
            return says(400, NO_HOST)
        try:
            return await self._answer(request)
        except (NotReached, Broken, aiohttp.ClientError) as error:
            if broken_off := body_broke_off(request):
                return broken_off
            log.warning("%s %s: the router does not answer: %s", request.method, request.path, error)
            return says(502, "the router behind this edge does not answer; try again in a moment")

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """From the cache; else from a fetch under way; else by a fetch that others may wait for."""
        if not _may_be_cached(request):
            return await self._pass(request, "PASS")
        key = Key.of(request)
        while True:
            kept = self._cache.get(key, time.monotonic())
            if kept and kept.status:
                return await _from_cache(request, kept, "HIT")
            if kept or request.method == "HEAD":
                return await self._pass(request, "MISS")
            fill = self._fills.get(key)
            if fill is None:
                return await self._fill(request, key)
            await fill.ended.wait()
            if fill.kept:
                return await _from_cache(request, fill.kept, "HIT")

    async def _pass(self, request: web.BaseRequest, verdict: str) -> web.StreamResponse:
        answer = await self._forwarder.send(request, self._upstream, onward(request))
        if request.method not in _SAFE and answer.status < 400:
            self._forget(_host(request), [request.path])
        return await relay(request, answer, {"X-Cache": verdict})

    async def _fill(self, request: web.BaseRequest, key: Key) -> web.StreamResponse:
        """Fetch for the cache. Those who wait are let go as soon as it is known what they get, however slow
        this visitor is; when it fails or this visitor leaves, one of them tries next."""
        fill = self._fills[key] = Fill()
        try:
            answer = await self._forwarder.send(request, self._upstream, _unconditional(request))
            begin = await self._read(fill, key, answer)
        finally:
            fill.ended.set()
            if self._fills.get(key) is fill:
                del self._fills[key]
        if fill.kept:
            return await _from_cache(request, fill.kept, "MISS")
        return await relay(request, answer, {"X-Cache": "MISS"}, begin)

    async def _read(self, fill: Fill, key: Key, answer: aiohttp.ClientResponse) -> list[bytes]:
        """Reads the answer for the cache, or as much of it as shows that it cannot be kept."""
        now = time.monotonic()
        fresh = lifetime(answer.status, answer.headers)
        begin: list[bytes] = []
        if fresh > 0 and await _is_whole(answer, begin):
            headers = end_to_end(answer.headers)
            fill.kept = Kept(now + fresh, now - _age(headers), answer.status, headers, b"".join(begin))
        if not fill.disowned:
            self._cache.put(key, fill.kept or Kept(now + _UNCACHEABLE_FOR, now))
        return begin

    # Purging

    async def _purge(self, request: web.BaseRequest) -> web.Response:
        if not self._is_allowed(request):
            return says(401, "purging takes this edge's token: Authorization: Bearer TOKEN")
        if request.method == "PURGE":
            host, paths = _host(request), [request.path]
        else:
            try:
                host, paths = _asked(await request.read())
            except ValueError as error:
                return says(400, str(error))
        return web.json_response({"purged": self._forget(bare_host(host), paths)})

    def _is_allowed(self, request: web.BaseRequest) -> bool:
        said = request.headers.get("Authorization", "").encode(errors="surrogateescape")
        return hmac.compare_digest(said, f"Bearer {self._token}".encode())

    def _forget(self, host: str, paths: Iterable[str]) -> int:
        gone = {(host, path) for path in paths}
        for key in [key for key in self._fills if (key.host, key.path) in gone]:
            self._fills.pop(key).disowned = True
        return sum(self._cache.forget(host, path) for host, path in gone)


def _host(request: web.BaseRequest) -> str:
    return bare_host(request.headers.get("Host", ""))


def lifetime(status: int, headers: MultiMapping[str]) -> float:
    """Seconds for which a shared cache may serve this answer to others; 0: not at all."""
    said = _directives(_whole(headers, "Cache-Control"))
    varies = {name.strip().lower() for name in _whole(headers, "Vary").split(",")} - {"", "accept-encoding"}
    if status not in (200, 301, 404) or "Set-Cookie" in headers or varies:
        return 0
    if said.keys() & {"no-cache", "no-store", "private"}:
        return 0
    return max(0, _seconds(said.get("s-maxage", said.get("max-age", ""))) - _age(headers))


def _whole(headers: MultiMapping[str], name: str) -> str:
    """A header may come in several lines; together they are one list."""
    return ", ".join(headers.getall(name, []))


def _directives(cache_control: str) -> dict[str, str]:
    pairs = (part.partition("=") for part in cache_control.lower().split(","))
    return {name.strip(): value.strip().strip('"') for name, _, value in pairs}


def _age(headers: Mapping[str, str]) -> int:
    return _seconds(headers.get("Age", ""))


def _seconds(said: str) -> int:
    """0 for what is no number of seconds, or one that nobody means."""
    return int(said) if re.fullmatch("[0-9]{1,10}", said) else 0


def _may_be_cached(request: web.BaseRequest) -> bool:
    if request.method not in ("GET", "HEAD") or request.can_read_body or tunnel.is_asked_for(request):
        return False
    return not any(name in request.headers for name in _PASSED)


def _unconditional(request: web.BaseRequest) -> CIMultiDict[str]:
    """The cache needs the whole answer, whatever this visitor has already."""
    headers = onward(request)
    for name in ("If-Modified-Since", "If-None-Match"):
        headers.popall(name, None)
    return headers


async def _is_whole(answer: aiohttp.ClientResponse, begin: list[bytes]) -> bool:
    """Reads the body into `begin`; False as soon as it turns out to be too large to be cached."""
    if (answer.content_length or 0) > BODY_LIMIT:
        return False
    size = 0
    try:
        async for chunk in answer.content.iter_any():
            begin.append(chunk)
            size += len(chunk)
            if size > BODY_LIMIT:
                return False
    except BaseException:
        answer.close()
        raise
    return True


async def _from_cache(request: web.BaseRequest, kept: Kept, verdict: str) -> web.StreamResponse:
    headers = kept.headers.copy()
    headers["Age"] = str(int(time.monotonic() - kept.since))
    headers["X-Cache"] = verdict
    if kept.status == 200 and _is_known(request, headers.get("ETag", "")):
        headers.popall("Content-Length", None)
        return Relayed(304, None, headers)
    response = Relayed(kept.status, None, headers)
    response.content_length = len(kept.body)
    await response.prepare(request)
    if request.method == "GET":
        await response.write(kept.body)
    await response.write_eof()
    return response


def _is_known(request: web.BaseRequest, etag: str) -> bool:
    value = etag.removeprefix("W/").strip('"')
    return bool(etag) and any(known.value in (value, "*") for known in request.if_none_match or ())


def _asked(body: bytes) -> tuple[str, list[str]]:
    """Raises ValueError with a text for whoever sent it."""
    said = json.loads(body)
    match said:
        case {"host": str(host), "paths": [*paths]} if all(isinstance(path, str) for path in paths):
            return host, paths
    raise ValueError('a purge is {"host": "shop.localhost", "paths": ["/", "/index.html"]}')
