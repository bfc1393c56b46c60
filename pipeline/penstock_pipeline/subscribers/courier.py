"""Sends one message, once, within bounds: of time, of what is read, of where to."""

from __future__ import annotations

import asyncio
import errno
import socket
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
from yarl import URL

from .. import tell
from ..errors import SubscriberUnavailable
from .addresses import refused
from .message import Message

TIMEOUT = 10.0
"""Seconds a message may take as a whole, from looking up the name to the head of the answer."""

AT_ONCE = 16
"""Messages under way at a time."""

ANSWER = 16 * 1024
"""Bytes of a refusal that are read; nothing is read of other answers."""


class Courier:
    """Every message has a connection of its own, which no answer can outlive."""

    def __init__(self, *, timeout: float = TIMEOUT) -> None:
        self._timeout = timeout
        self._session: aiohttp.ClientSession | None = None
        self._lines = asyncio.Semaphore(AT_ONCE)

    async def send(self, message: Message) -> None:
        """Returns when the message is taken. Raises `SubscriberUnavailable`."""
        url, host = _read(message.url)
        try:
            async with self._lines, asyncio.timeout(self._timeout):
                await self._exchange(message, url)
        except TimeoutError as error:
            raise SubscriberUnavailable(f"{host} did not answer within {self._timeout:g} s") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise SubscriberUnavailable(f"{host}: {tell.clean(str(error))[:300]}") from error

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _exchange(self, message: Message, url: URL) -> None:
        async with self._open().request(
            message.method, url, data=message.body, headers=message.headers, allow_redirects=False
        ) as response:
            if not 200 <= response.status < 300:
                await _refuse(message, response)

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    force_close=True, use_dns_cache=False, limit=0, socket_factory=_checked_socket
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None),
                headers={"Accept-Encoding": "identity"},
                auto_decompress=False,
            )
        return self._session


def _read(url: str) -> tuple[URL, str | None]:
    """A URL and its host."""
    try:
        read = URL(url, encoded=True)
        return read, read.host
    except ValueError as error:
        raise SubscriberUnavailable(f"{url!r} is not a URL: {error}") from error


def _checked_socket(addressed: Any) -> socket.socket:
    """A socket for the very address that is connected to: whatever a name resolved to when it was checked
    before, this is what counts."""
    family, kind, protocol, _, address = addressed
    if refused(str(address[0])):
        raise OSError(errno.EACCES, "a link-local or metadata address: nothing is sent there")
    return socket.socket(family, kind, protocol)


async def _refuse(message: Message, response: aiohttp.ClientResponse) -> None:
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) >= ANSWER:
            break
    said = body[:ANSWER].decode(errors="replace")
    if message.known_by is not None and message.known_by in said:
        return
    line = tell.clean(" ".join(said.split()))[:200]
    hint = "; redirects are not followed" if 300 <= response.status < 400 else ""
    raise SubscriberUnavailable(
        f"{response.url.host} answers {response.status}{hint}{': ' if line else ''}{line}",
        wait=_wait(response.headers.get("Retry-After", "")),
        gone=response.status == 410,
    )


def _wait(retry_after: str) -> float:
    """Seconds that `Retry-After` asks for, as a number or a date (RFC 9110, 10.2.3)."""
    try:
        if retry_after.isdecimal():
            return float(retry_after)
        return max(0.0, (parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return 0.0
