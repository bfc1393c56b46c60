"""Tokens: who may push or manage, as signed JWTs (RFC 7519) that this Penstock issues and checks itself; and
the sessions of the dashboard, which are tokens for nothing else."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import jwt

from .durable import secret
from .errors import Forbidden

ISSUER = "penstock"
AUDIENCE = "penstock-pipeline"
SESSION_AUDIENCE = "penstock-dashboard"
ALGORITHM = "HS256"
DAY = 86400

SESSION = DAY // 2
"""Seconds that a session lasts at most: a working day with room to spare."""

INVITATION = 600
"""Seconds in which an invitation can be used."""


class Scope(StrEnum):
    """What a token lets its bearer do."""

    PUSH = "push"
    """Push to the named app and read its repository."""
    MANAGE = "manage"
    """Everything the API offers, and push to every app."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who asks, as a verified token says. `app` None: every app; `expires` in seconds since the epoch."""

    name: str
    scope: Scope
    app: str | None
    expires: float

    def may_push(self, app: str) -> bool:
        return self.scope is Scope.MANAGE or self.app in (None, app)


@dataclass(frozen=True, slots=True)
class Session:
    """Someone signed in. `form` is what their forms carry: no other page, and no other session, knows it."""

    who: Identity
    form: str

    @property
    def manages(self) -> bool:
        """Whether they may act; everybody else looks on."""
        return self.who.scope is Scope.MANAGE

    @property
    def left(self) -> float:
        """Seconds until it ends."""
        return self.who.expires - time.time()

    def sees(self, app: str) -> bool:
        return self.who.app in (None, app)


class Tokens:
    """Issues and verifies with one key, kept in a file only its owner can read."""

    def __init__(self, key_file: Path) -> None:
        self._key = secret(key_file, lambda: secrets.token_bytes(32))
        self._invited: dict[str, tuple[Identity, float]] = {}

    def issue(self, name: str, scope: Scope, *, app: str | None = None, seconds: float = 365 * DAY) -> str:
        """A token for `name` that expires after `seconds`."""
        return self._signed(Identity(name, scope, app, time.time() + seconds), AUDIENCE)

    def verify(self, token: str) -> Identity:
        """Raises `Forbidden`, saying whether the token is expired or wrong, never why it is wrong."""
        return _identity(self._claims(token, AUDIENCE))

    # -- sessions

    def open_session(self, who: Identity) -> str:
        """A cookie's value: a session that ends with the token it was opened with, or after `SESSION`."""
        ends = min(who.expires, time.time() + SESSION)
        return self._signed(
            Identity(who.name, who.scope, who.app, ends), SESSION_AUDIENCE, jti=secrets.token_urlsafe(16)
        )

    def session(self, cookie: str) -> Session:
        """Raises `Forbidden`."""
        claims = self._claims(cookie, SESSION_AUDIENCE)
        form = hmac.new(self._key, f"form of {claims['jti']}".encode(), hashlib.sha256)
        return Session(_identity(claims), form.hexdigest())

    # -- invitations

    def invite(self, who: Identity) -> str:
        """Text that lets `who` open one session soon; forgotten when this process ends."""
        now = time.monotonic()
        self._invited = {text: kept for text, kept in self._invited.items() if kept[1] > now}
        text = secrets.token_urlsafe(32)
        self._invited[text] = (who, now + INVITATION)
        return text

    def admit(self, text: str) -> Identity:
        """Who a token, or an invitation that nobody used yet, stands for. Raises `Forbidden`."""
        who, until = self._invited.pop(text, (None, 0.0))
        if who is not None and until > time.monotonic():
            return who
        if "." not in text:  # as in every JWT
            raise Forbidden("this sign-in link was used already or is too old; another: penstock dashboard")
        return self.verify(text)

    def _signed(self, who: Identity, audience: str, **more: str) -> str:
        claims: dict[str, Any] = {
            "iss": ISSUER,
            "aud": audience,
            "sub": who.name,
            "iat": int(time.time()),
            **more,
        }
        claims |= {"exp": int(who.expires), "scope": who.scope.value, "app": who.app}
        return jwt.encode(claims, self._key, ALGORITHM)

    def _claims(self, token: str, audience: str) -> dict[str, Any]:
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                self._key,
                algorithms=[ALGORITHM],
                issuer=ISSUER,
                audience=audience,
                # The machine's clock is set back at times: a token made before that is not one of the future.
                options={"require": ["exp", "iat", "aud", "iss", "sub"], "verify_iat": False},
            )
            return claims
        except jwt.ExpiredSignatureError as error:
            raise Forbidden("this token has expired; make a new one: penstock token") from error
        except (jwt.InvalidTokenError, ValueError) as error:
            raise Forbidden("this token is not valid here; make one: penstock token") from error


def _identity(claims: dict[str, Any]) -> Identity:
    try:
        return Identity(str(claims["sub"]), Scope(claims["scope"]), claims["app"], float(claims["exp"]))
    except (KeyError, ValueError) as error:
        raise Forbidden("this token is not valid here; make one: penstock token") from error
