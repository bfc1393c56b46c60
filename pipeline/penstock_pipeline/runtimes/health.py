"""Finding out whether a candidate is healthy."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus

import aiohttp

from ..config import Health

Probe = Callable[[], Awaitable[str | None]]
"""One look at a candidate: None when it is healthy, else what it answered, for people."""

_FIRST_PAUSE = 0.02
_LONGEST_PAUSE = 0.5
_TRY = 5.0
"""Seconds one try may take."""

_BODY = 65536

_A_MOMENT = 1.0
"""Seconds that a candidate which serves nothing has to live: what cannot start has ended by then, on a busy
machine too."""


class Checks:
    """Looks until a probe is content; `count` and `last` tell how it went so far."""

    def __init__(self, probe: Probe) -> None:
        self._probe = probe
        self.count = 0
        self.last = "it was never asked"

    async def passed(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            self.count += 1
            answer = await self._probe()
            if answer is None:
                return
            self.last = answer
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, _LONGEST_PAUSE)


def probe(health: Health, host: str, port: int | None) -> Probe:
    """How to look at a candidate that serves `host` on `port`; None: it serves nothing."""
    if port is None:
        return _living()
    if health.path is None:
        return lambda: _accepts(port)
    path = health.path
    return lambda: _answers(path, host, port)


def _living() -> Probe:
    until = time.monotonic() + _A_MOMENT

    async def look() -> str | None:
        return None if time.monotonic() >= until else "it has only just begun"

    return look


async def _accepts(port: int) -> str | None:
    try:
        async with asyncio.timeout(_TRY):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return f"nothing accepts connections on its PORT ({port})"
    writer.close()
    return None


async def _answers(path: str, host: str, port: int) -> str | None:
    """Asks as the router will, under the app's host name: frameworks refuse names they do not know."""
    timeout = aiohttp.ClientTimeout(total=_TRY)
    url = f"http://127.0.0.1:{port}{path}"
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, headers={"Host": host}, auto_decompress=False) as session,
            session.get(url, allow_redirects=False) as response,
        ):
            await response.content.read(_BODY)  # left unread, it would reset the connection
            healthy = response.status < HTTPStatus.BAD_REQUEST
            return None if healthy else f"GET {path} answered {response.status}"
    except aiohttp.ClientConnectorError:
        return f"nothing accepts connections on its PORT ({port})"
    except TimeoutError:
        return f"GET {path} was not answered within {_TRY:g} s"
    except aiohttp.ClientError as error:
        return f"GET {path} got no proper answer: {error}"
