"""The engine's side of the router's control API (its server is `router`)."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp

from ..errors import Conflict, RuntimeUnavailable

_TIMEOUT = aiohttp.ClientTimeout(total=5)

_PAUSES = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
"""Seconds between tries: the router may be restarting, which takes it about a second."""


@dataclass(frozen=True, slots=True)
class RouteTarget:
    """Where the router sends an app's visitors: files of `origin` first, the rest to `upstream`."""

    host: str
    port: int
    release: str
    upstream: str | None
    """Such as `127.0.0.1:21345`; None: static files alone."""
    origin: str | None
    """Absolute path of the app's origin folder."""


class RouterClient:
    """Every call raises `RuntimeUnavailable` when the router cannot be reached or cannot do it, and
    `Conflict` when it refuses, such as for a port that is taken."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._session: aiohttp.ClientSession | None = None

    async def put(self, app: str, target: RouteTarget) -> None:
        """When it returns, no new request of the app goes anywhere else."""
        await self._ask("PUT", f"/routes/{quote(app, safe='')}", asdict(target))

    async def routes(self) -> dict[str, RouteTarget]:
        """Those that are known whole: the router may be of another version."""
        told = await self._ask("GET", "/routes")
        targets = {app: _target(said) for app, said in told.items()}
        return {app: target for app, target in targets.items() if target is not None}

    async def inflight(self, upstream: str) -> int:
        """Requests that travel to `upstream` just now, streaming ones included."""
        told = await self._ask("GET", f"/inflight/{upstream}")
        return int(told["requests"])

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _ask(self, method: str, path: str, body: object = None) -> Any:
        try:
            return await self._insist(method, path, body)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise RuntimeUnavailable(f"the router does not answer on {self._socket}: {error}") from error

    async def _insist(self, method: str, path: str, body: object) -> Any:
        """Every call of the API is idempotent, so one whose connection broke is simply made again."""
        for pause in _PAUSES:
            try:
                return await self._try(method, path, body)
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(pause)
        return await self._try(method, path, body)

    async def _try(self, method: str, path: str, body: object) -> Any:
        session = self._connected()
        async with session.request(method, f"http://router{path}", json=body) as response:
            if response.status >= 400:
                await _refused(response)
            return await response.json() if response.status == 200 else None

    def _connected(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.UnixConnector(str(self._socket))
            self._session = aiohttp.ClientSession(connector=connector, timeout=_TIMEOUT)
        return self._session


def _target(said: Any) -> RouteTarget | None:
    try:
        return RouteTarget(**{field.name: said[field.name] for field in fields(RouteTarget)})
    except (KeyError, TypeError):
        return None


async def _refused(response: aiohttp.ClientResponse) -> None:
    said = (await response.text()).strip()
    if response.status == 409:
        raise Conflict(f"the router refuses: {said}")
    raise RuntimeUnavailable(f"the router answers {response.status}: {said}")
