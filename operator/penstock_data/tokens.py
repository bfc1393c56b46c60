"""Tokens: who asks, as signed JWTs (RFC 7519), and what each may do.

The algorithm is pinned by the kind of key, never taken from the token (RFC 8725, 3.1); what a header names as
a key (`jku`, `x5u`, `jwk`) is not looked at. A token that was found good is remembered until it expires.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import jwt

from penstock_data.errors import InvalidSettings, Unauthenticated

READ, WRITE, ADMIN = "data:read", "data:write", "pool:admin"
SCOPES = frozenset((READ, WRITE, ADMIN))

LEEWAY = 5.0
"""Seconds by which an issuer's clock may be ahead of this one. Nothing is good beyond its `exp`."""

LONGEST = 8 * 1024
"""Bytes of a token: a longer one is not even looked at."""

LONGEST_NAME = 255
"""Characters of `sub` and `tenant`: they are kept in tables and told in logs."""

SHORTEST_KEY = 32
"""Bytes of a key for HS256 (RFC 7518, 3.2)."""

_REMEMBERED, _REMEMBERED_BYTES = 10_000, 16 * 1024**2


@dataclass(frozen=True, slots=True)
class Identity:
    """Who asks, as a verified token says. `expires` in seconds since the epoch."""

    name: str
    tenant: str
    scopes: frozenset[str]
    expires: float

    @property
    def may_read(self) -> bool:
        """Who may write may read as well."""
        return READ in self.scopes or WRITE in self.scopes

    @property
    def may_write(self) -> bool:
        return WRITE in self.scopes

    @property
    def may_admin(self) -> bool:
        """Whether the pool may be resized."""
        return ADMIN in self.scopes


class Verifier(Protocol):
    """Tells who asks by the Authorization header of a request."""

    def known(self, header: bytes, /) -> Identity | None:
        """Who sent the very same header before, unless the token has expired; None: ask `verify`."""
        ...

    async def verify(self, header: bytes | None) -> Identity:
        """Raises `Unauthenticated`, saying whether the token has expired or is not valid, never why that is;
        and `Unavailable` when there is no key yet to tell it by."""
        ...


class Remembered:
    """Headers whose tokens were found good: the latest used, bounded in their number and their bytes."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock`: seconds since the epoch."""
        self._clock = clock
        self._known: OrderedDict[bytes, Identity] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._known)

    def known(self, header: bytes, /) -> Identity | None:
        """Who that is; None when it is not remembered, or has expired."""
        who = self._known.get(header)
        if who is None:
            return None
        if who.expires <= self._clock():
            self._forget(header)
            return None
        self._known.move_to_end(header)
        return who

    def add(self, header: bytes, token: bytes, who: Identity) -> Identity:
        """The same identity. A token has few headers that are kept: none with more spaces than one."""
        if len(header) - len(token) != len(b"Bearer "):
            return who
        self._forget(header)
        self._known[header] = who
        self._bytes += len(header)
        while len(self._known) > _REMEMBERED or self._bytes > _REMEMBERED_BYTES:
            self._forget(next(iter(self._known)))
        return who

    def clear(self) -> None:
        """Each is verified again."""
        self._known.clear()
        self._bytes = 0

    def _forget(self, header: bytes) -> None:
        if self._known.pop(header, None) is not None:
            self._bytes -= len(header)


class KeyVerifier:
    """Verifies tokens that were signed with one key (HS256), which is in a file."""

    def __init__(
        self, key_file: Path, *, issuer: str, audience: str, clock: Callable[[], float] = time.time
    ) -> None:
        """`clock`: seconds since the epoch. Raises `InvalidSettings`."""
        self._key = key_in(key_file)
        self._rules = Rules(issuer, audience, clock)
        self._remembered = Remembered(clock)
        self.known = self._remembered.known

    async def verify(self, header: bytes | None) -> Identity:
        """Raises `Unauthenticated`."""
        header = header or b""
        token = token_in(header)
        return self._remembered.add(header, token, self._rules.identity(token, self._key, ("HS256",)))


def token_in(header: bytes) -> bytes:
    """The token of an Authorization header. Raises `Unauthenticated`."""
    scheme, _, token = header.partition(b" ")
    token = token.strip(b" ")
    if scheme.lower() != b"bearer" or not token:
        raise Unauthenticated("send a bearer token: Authorization: Bearer …")
    if len(token) > LONGEST or not token.isascii():
        raise not_valid()
    return token


def not_valid() -> Unauthenticated:
    """What is said of every token that is wrong."""
    return Unauthenticated("the token is not valid here")


class _Reader(jwt.PyJWT):
    """Reads claims as what they are: no name twice, no NaN."""

    def _decode_payload(self, decoded: dict[str, Any]) -> dict[str, Any]:
        try:
            claims = json.loads(decoded["payload"], object_pairs_hook=_unique, parse_constant=_no_number)
        except (ValueError, RecursionError) as error:
            raise jwt.DecodeError("the claims are not JSON") from error
        if not isinstance(claims, dict):
            raise jwt.DecodeError("the claims are not an object")
        return claims


_reader = _Reader()
_OPTIONS: Any = {
    "require": ["exp", "iat", "aud", "iss", "sub"],
    "enforce_minimum_key_length": True,
    **dict.fromkeys(("verify_exp", "verify_iat", "verify_nbf"), False),
}
"""Times are looked at by `Rules`, on its own clock."""


@dataclass(frozen=True, slots=True)
class Rules:
    """Which claims are good here."""

    issuer: str
    audience: str
    clock: Callable[[], float]

    def identity(self, token: bytes, key: Any, algorithms: Sequence[str]) -> Identity:
        """Who that is, by a key and the algorithms that are meant for it. Raises `Unauthenticated`."""
        try:
            claims = _reader.decode(
                token, key, algorithms, _OPTIONS, audience=self.audience, issuer=self.issuer
            )
            who = _identity(claims)
            begins = max(_number(claims["iat"]), _number(claims.get("nbf", 0)))
        except (jwt.PyJWTError, ValueError, TypeError) as error:
            raise not_valid() from error
        now = self.clock()
        if begins > now + LEEWAY:
            raise not_valid()
        if who.expires <= now:
            raise Unauthenticated("the token has expired")
        return who


def _identity(claims: dict[str, Any]) -> Identity:
    """Raises `ValueError`. Scopes that are not known here are kept, and let nobody do anything."""
    scope = claims.get("scope", [])
    scopes = scope.split() if isinstance(scope, str) else scope
    if not isinstance(scopes, list) or not all(isinstance(each, str) for each in scopes):
        raise ValueError("scope is neither text nor a list of texts")
    name = _text(claims["sub"])
    return Identity(name, _text(claims.get("tenant", name)), frozenset(scopes), _number(claims["exp"]))


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.isprintable() or not 0 < len(value) <= LONGEST_NAME:
        raise ValueError("not a name")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("not a time")
    try:
        seconds = float(value)
    except OverflowError:
        seconds = math.inf
    if not math.isfinite(seconds):
        raise ValueError("not a time")
    return seconds


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    claims = dict(pairs)
    if len(claims) != len(pairs):
        raise ValueError("a claim is there twice")
    return claims


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no JSON")


def issue(
    key: bytes,
    *,
    issuer: str,
    audience: str,
    subject: str,
    tenant: str | None = None,
    scopes: Iterable[str],
    seconds: float,
    clock: Callable[[], float] = time.time,
) -> str:
    """A token that is good for `seconds` from now. `tenant` None: whose it is tells `subject`."""
    now = int(clock())
    claims = {"iss": issuer, "aud": audience, "sub": subject, "scope": " ".join(scopes)}
    claims |= {} if tenant is None else {"tenant": tenant}
    return jwt.encode({**claims, "iat": now, "exp": now + math.ceil(seconds)}, key, "HS256")


def key_in(file: Path) -> bytes:
    """The key in a file, without a newline at its end; made when there is no such file, readable by its owner
    alone, and the same one for all who ask at once. Raises `InvalidSettings`."""
    try:
        if not file.exists():
            _make_key(file)
        key = file.read_bytes().rstrip(b"\r\n")
    except OSError as error:
        raise InvalidSettings(f"the key {file}: {error.strerror}") from error
    if len(key) < SHORTEST_KEY:
        raise InvalidSettings(f"the key {file} has {len(key)} bytes; allowed are {SHORTEST_KEY} and more")
    try:
        jwt.encode({}, key, "HS256")
    except jwt.InvalidKeyError as error:
        raise InvalidSettings(f"the key {file} is one for another algorithm than HS256") from error
    return key


def _make_key(file: Path) -> None:
    """Written aside and then linked: whole or not there, and the first one stays."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor, aside = tempfile.mkstemp(prefix=".", dir=file.parent)  # of mode 0600
    try:
        with open(descriptor, "wb") as new:  # noqa: PTH123
            new.write(secrets.token_urlsafe(SHORTEST_KEY).encode() + b"\n")
            new.flush()
            os.fsync(new.fileno())
        file.hardlink_to(aside)
    except FileExistsError:
        pass
    finally:
        Path(aside).unlink()
