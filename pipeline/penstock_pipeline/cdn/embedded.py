"""The Edge port to an embedded edge (`edge.py`), over HTTP."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from yarl import URL

from ..errors import EdgeUnavailable
from . import PURGE_PATH, Answer

PATIENCE = 5.0
"""Seconds without any sign of the edge; a large body may take longer as a whole."""

_BATCH = 100
"""Paths purged in one request: as long as paths can be, they fit into the megabyte that the edge reads."""


class EmbeddedEdge:
    """One embedded edge. A session that is given stays the giver's to close."""

    def __init__(self, name: str, url: str, token: str, session: aiohttp.ClientSession | None = None) -> None:
        self._name = name
        self._url = url.rstrip("/")
        self._token = token
        self._session = session
        self._own: aiohttp.ClientSession | None = None

    @property
    def name(self) -> str:
        return self._name

    @property
    def url(self) -> str:
        return self._url

    async def purge(self, host: str, paths: Sequence[str]) -> None:
        for start in range(0, len(paths), _BATCH):
            await self._purge(host, list(paths[start : start + _BATCH]))

    async def fetch(self, host: str, path: str) -> Answer:
        headers = {"Host": host, "Accept-Encoding": "identity"}
        async with self._ask("GET", path, headers=headers) as response:
            digest = hashlib.sha256()
            async for chunk in response.content.iter_any():
                digest.update(chunk)
            release = response.headers.get("X-Penstock-Release")
            return Answer(response.status, digest.hexdigest(), release)

    async def close(self) -> None:
        if self._own:
            await self._own.close()

    async def _purge(self, host: str, paths: list[str]) -> None:
        headers = {"Authorization": f"Bearer {self._token}"}
        said = {"host": host, "paths": paths}
        async with self._ask("POST", PURGE_PATH, headers=headers, json=said) as response:
            if response.status != 200:
                text = (await response.text(errors="replace")).strip()
                raise EdgeUnavailable(
                    f"{self} refuses to purge {host}: {response.status} {text[:200]}. "
                    "It must run with the same state folder as this Penstock"
                )

    @asynccontextmanager
    async def _ask(self, method: str, path: str, **more: Any) -> AsyncIterator[aiohttp.ClientResponse]:
        """Raises `EdgeUnavailable` when the edge does not answer, or with 5xx."""
        url = URL(self._url).with_path(path)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=PATIENCE, sock_read=PATIENCE)
        try:
            async with self._open().request(
                method, url, timeout=timeout, allow_redirects=False, auto_decompress=False, **more
            ) as response:
                if response.status >= 500:
                    raise EdgeUnavailable(f"{self} answers {response.status} for {path}")
                yield response
        except (aiohttp.ClientError, OSError) as error:
            raise EdgeUnavailable(f"{self} does not answer: {error or 'it took too long'}") from error

    def _open(self) -> aiohttp.ClientSession:
        if self._session:
            return self._session
        if self._own is None or self._own.closed:
            self._own = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        return self._own

    def __str__(self) -> str:
        return f"edge {self._name} ({self._url})"
