"""Signed messages as the Standard Webhooks specification has them (github.com/standard-webhooks).

`webhook-signature` holds `v1,` and the base64 of the HMAC-SHA256 of the id, the timestamp and the body with
dots between, or several of them with spaces between, while keys change. The timestamp keeps an old message
from being sent again by someone else.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re

from .errors import Forbidden, Untimely

TOLERANCE = 300
"""Seconds a message's timestamp may be away from this machine's clock (the specification's usual value)."""

_PREFIX = "whsec_"
_TIMESTAMP = re.compile(r"[0-9]{1,12}")


def key(secret: str) -> bytes:
    """The bytes to sign with: `whsec_` goes before them in base64, any other secret is its own bytes."""
    if secret.startswith(_PREFIX):
        try:
            return base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
        except ValueError:  # no base64, or not even ASCII
            pass
    return secret.encode()


def serialized(secret: str) -> str:
    """A secret as programs that follow the specification want it."""
    return _PREFIX + base64.b64encode(key(secret)).decode()


def sign(secret: str, message: str, at: int, body: bytes) -> str:
    """The signature of a message by its id, sent `at` Unix seconds."""
    signed = hmac.new(key(secret), f"{message}.{at}.".encode() + body, hashlib.sha256)
    return "v1," + base64.b64encode(signed.digest()).decode()


def verify(secret: str, body: bytes, *, message: str, at: str, signatures: str, now: float) -> None:
    """Raises `Forbidden` unless one of the signatures is right, `Untimely` unless it is of these minutes."""
    if not _TIMESTAMP.fullmatch(at):
        raise Forbidden("webhook-timestamp is missing or no number of Unix seconds")
    expected = sign(secret, message, int(at), body).encode()
    if not any(hmac.compare_digest(one.encode(), expected) for one in signatures.split(" ")):
        raise Forbidden("webhook-signature is missing or wrong; is the secret the one that was registered?")
    if abs(now - int(at)) > TOLERANCE:
        off = f"{abs(now - int(at)):.0f} s away from the clock here, {TOLERANCE} are allowed"
        raise Untimely(f"webhook-timestamp is {off}: set the clock of the machine that is wrong")
