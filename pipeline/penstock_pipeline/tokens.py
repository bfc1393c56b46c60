"""Tokens: who may push or manage, as signed JWTs (RFC 7519) that this Penstock issues and checks itself."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import jwt

from .durable import secret
from .errors import Forbidden

ISSUER = "penstock"
AUDIENCE = "penstock-pipeline"
ALGORITHM = "HS256"
DAY = 86400


class Scope(StrEnum):
    """What a token lets its bearer do."""

    PUSH = "push"
    """Push to the named app and read its repository."""
    MANAGE = "manage"
    """Everything the API offers, and push to every app."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who asks, as a verified token says. `app` None: every app."""

    name: str
    scope: Scope
    app: str | None

    def may_push(self, app: str) -> bool:
        return self.scope is Scope.MANAGE or self.app in (None, app)


class Tokens:
    """Issues and verifies with one key, kept in a file only its owner can read."""

    def __init__(self, key_file: Path) -> None:
        self._key = secret(key_file, lambda: secrets.token_bytes(32))

    def issue(self, name: str, scope: Scope, *, app: str | None = None, seconds: float = 365 * DAY) -> str:
        """A token for `name` that expires after `seconds`."""
        now = int(time.time())
        claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": name, "iat": now, "exp": int(now + seconds)}
        return jwt.encode({**claims, "scope": scope.value, "app": app}, self._key, ALGORITHM)

    def verify(self, token: str) -> Identity:
        """Raises `Forbidden`, saying whether the token is expired or wrong, never why it is wrong."""
        try:
            claims = jwt.decode(
                token,
                self._key,
                algorithms=[ALGORITHM],
                issuer=ISSUER,
                audience=AUDIENCE,
                options={"require": ["exp", "iat", "aud", "iss", "sub"]},
            )
            return Identity(str(claims["sub"]), Scope(claims["scope"]), claims["app"])
        except jwt.ExpiredSignatureError as error:
            raise Forbidden("this token has expired; make a new one: penstock token") from error
        except (jwt.InvalidTokenError, KeyError, ValueError) as error:
            raise Forbidden("this token is not valid here; make one: penstock token") from error
