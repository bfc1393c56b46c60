"""Tokens of an identity provider: verified with the public keys (RFC 7517) that it serves at one address.

The keys are fetched in the background, never on the path of a request whose key is there: at the beginning,
when they are no longer fresh, and for a key (`kid`) that is not there, but once in `UNKNOWN` seconds, whoever
asks and however often. While the address does not answer, the last keys stay good, up to a day.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from types import TracebackType
from typing import Any, Self

import httpx
import jwt

from penstock_data.errors import InvalidSettings, Unavailable
from penstock_data.tokens import Identity, Remembered, Rules, not_valid, token_in

logger = logging.getLogger("penstock_data")

FRESH = 300.0
"""Seconds after which the keys are fetched again: how long a key that was withdrawn may still be good."""
AGAIN = 10.0
"""Seconds between two attempts while the address does not answer."""
UNKNOWN = 10.0
"""Seconds between two fetches for keys that are not there."""
STALE = 86400.0
"""Seconds for which keys are good without a fetch that succeeded."""
PATIENCE = 5.0
"""Seconds that a fetch may take, all in all."""
LARGEST = 256 * 1024
"""Bytes of an answer."""
MOST = 100
"""Keys of an answer."""
SHORTEST_RSA, LONGEST_RSA = 2048, 8192
"""Bits (RFC 7518, 3.3; and above: what takes too long to compute)."""


class NoKeys(Exception):
    """The address did not answer with keys; the text says why."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one answer, by their `kid`, and when it came (seconds of a monotonic clock)."""

    by_kid: Mapping[str | None, jwt.PyJWK]
    since: float

    def of(self, kid: str | None) -> jwt.PyJWK | None:
        """A token without a `kid` is meant for the only key, if there is just one."""
        if kid is None and len(self.by_kid) == 1:
            return next(iter(self.by_kid.values()))
        return self.by_kid.get(kid) if kid is not None else None


class JwksVerifier:
    """Verifies tokens (RS256, ES256) with the keys at `url`; they are kept while it is entered."""

    def __init__(
        self,
        url: str,
        *,
        issuer: str,
        audience: str,
        fresh: float = FRESH,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """`fresh`: seconds after which the keys are fetched again; `clock`: seconds since the epoch;
        `transport`: another than the network, in tests. Raises `InvalidSettings`."""
        self._url = _allowed(url)
        self._fresh, self._monotonic, self._transport = fresh, monotonic, transport
        self._rules = Rules(issuer, audience, clock)
        self._remembered = Remembered(clock)
        self.known = self._remembered.known
        self._client: httpx.AsyncClient | None = None
        self._keys: Keys | None = None
        self._asked_for_unknown = float("-inf")
        self._fetching: asyncio.Task[None] | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._down = False

    async def __aenter__(self) -> Self:
        self._client = httpx.AsyncClient(
            timeout=PATIENCE,
            follow_redirects=False,
            trust_env=self._url.scheme == "https",  # its proxy and authorities; what is here needs none
            transport=self._transport,
            headers={"Accept": "application/jwk-set+json, application/json", "Accept-Encoding": "identity"},
        )
        self._fetch()
        self._keeping = asyncio.create_task(self._keep(), name="penstock-data keeps the keys of the tokens")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tasks = [task for task in (self._keeping, self._fetching) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert self._client is not None
        await self._client.aclose()

    async def verify(self, header: bytes | None) -> Identity:
        """Raises `Unauthenticated`; `Unavailable` while there are no keys."""
        header = header or b""
        token = token_in(header)
        key = await self._key_for(token)
        who = self._rules.identity(token, key, (key.algorithm_name,))
        return self._remembered.add(header, token, who)

    async def _key_for(self, token: bytes) -> jwt.PyJWK:
        try:
            said = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, ValueError) as error:
            raise not_valid() from error
        if said.get("alg") not in _ALGORITHMS.values():
            raise not_valid()
        kid = said.get("kid")
        key = (await self._some()).of(kid) or (await self._newer()).of(kid)
        if key is None:
            raise not_valid()
        return key

    async def _some(self) -> Keys:
        """The keys there are, and if there are none yet, those that are being fetched."""
        if self._current() is None and self._fetching is not None:
            await asyncio.wait((self._fetching,))
        return self._must()

    async def _newer(self) -> Keys:
        """Fetched just now, if that was not done a moment ago."""
        now = self._monotonic()
        if now - self._asked_for_unknown >= UNKNOWN:
            self._asked_for_unknown = now
            self._fetch()
        if self._fetching is not None:
            await asyncio.wait((self._fetching,))
        return self._must()

    def _must(self) -> Keys:
        keys = self._current()
        if keys is None:
            raise Unavailable("the keys that tokens are verified with cannot be fetched", after=AGAIN)
        return keys

    def _current(self) -> Keys | None:
        """Unless they are too old."""
        if self._keys is not None and self._monotonic() - self._keys.since > STALE:
            self._take(None)
        return self._keys

    # -- fetching

    async def _keep(self) -> None:
        """For ever."""
        while True:
            await asyncio.wait((self._fetch(),))
            await asyncio.sleep(min(AGAIN, self._fresh) if self._down else self._fresh)
            self._current()

    def _fetch(self) -> asyncio.Task[None]:
        """The one fetch under way."""
        if self._fetching is None:
            self._fetching = asyncio.create_task(
                self._renew(), name="penstock-data fetches the keys of the tokens"
            )
            self._fetching.add_done_callback(self._fetched)
        return self._fetching

    def _fetched(self, _: asyncio.Task[None]) -> None:
        self._fetching = None

    async def _renew(self) -> None:
        """Never raises; the first of several failures is logged."""
        try:
            async with asyncio.timeout(PATIENCE):
                keys = Keys(_keys_in(await self._read()), self._monotonic())
        except Exception as error:  # noqa: BLE001 - whatever it answers, the last keys stay
            if not self._down:
                logger.warning("no keys from %s: %s", self._url.host, str(error) or type(error).__name__)
            self._down = True
        else:
            if self._down:
                logger.info("keys from %s again", self._url.host)
            self._down = False
            self._take(keys)

    def _take(self, keys: Keys | None) -> None:
        """What a key that is no longer there has verified is verified again."""
        before = {} if self._keys is None else self._keys.by_kid
        after = {} if keys is None else keys.by_kid
        if any(not _same(key, after.get(kid)) for kid, key in before.items()):
            self._remembered.clear()
        self._keys = keys

    async def _read(self) -> bytes:
        assert self._client is not None
        async with self._client.stream("GET", self._url) as answer:
            if answer.status_code != 200:
                raise NoKeys(f"it answers {answer.status_code}")
            if answer.headers.get("content-encoding", "identity") != "identity":
                raise NoKeys("it answers in a compressed form that was not asked for")
            read = bytearray()
            async for piece in answer.aiter_raw(16 * 1024):
                read += piece
                if len(read) > LARGEST:
                    raise NoKeys(f"it answers more than {LARGEST} bytes")
            return bytes(read)


def _allowed(url: str) -> httpx.URL:
    """Raises `InvalidSettings`: keys that somebody on the way could exchange are none."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise InvalidSettings(f"jwks_url is not a URL: {error}") from error
    if not parsed.host or parsed.scheme not in ("http", "https"):
        raise InvalidSettings("jwks_url must be a URL such as https://login.example.com/keys")
    if parsed.scheme == "http" and not _here(parsed.host):
        raise InvalidSettings("jwks_url must be https, unless it is on this machine")
    return parsed


def _here(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


_ALGORITHMS = {"RSA": "RS256", "EC": "ES256"}
"""By `kty`. A symmetric key has no place where everybody can read it."""


def _keys_in(read: bytes) -> dict[str | None, jwt.PyJWK]:
    """Those that can be used. Raises `NoKeys`."""
    try:
        document = json.loads(read)
    except (ValueError, RecursionError) as error:
        raise NoKeys("it answers no JSON") from error
    told = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(told, list) or len(told) > MOST:
        raise NoKeys(f'it answers no JSON with up to {MOST} "keys"')
    usable = {each.key_id: each for each in map(_usable, told) if each is not None}
    if not usable:
        raise NoKeys("none of its keys is one for signatures by RS256 or ES256")
    return usable


def _usable(told: Any) -> jwt.PyJWK | None:
    """A public key for signatures, of an algorithm and a size that are good; None: another one."""
    try:
        if not isinstance(told, dict) or not _meant_for_signatures(told):
            return None
        key = jwt.PyJWK(told, _ALGORITHMS[told["kty"]])
    except (jwt.PyJWTError, ValueError, TypeError, KeyError, OverflowError):
        return None
    return key if key.key_type == "EC" or SHORTEST_RSA <= key.key.key_size <= LONGEST_RSA else None


def _meant_for_signatures(told: dict[str, Any]) -> bool:
    kty, kid = told.get("kty"), told.get("kid")
    return (
        isinstance(kty, str)
        and kty in _ALGORITHMS
        and (kid is None or isinstance(kid, str))
        and told.get("alg", _ALGORITHMS[kty]) == _ALGORITHMS[kty]
        and told.get("use", "sig") == "sig"
        and "verify" in told.get("key_ops", ["verify"])
        and told.get("crv", "P-256") == "P-256"
        and "d" not in told
    )


def _same(one: jwt.PyJWK, other: jwt.PyJWK | None) -> bool:
    return other is not None and bool(one.key == other.key)
