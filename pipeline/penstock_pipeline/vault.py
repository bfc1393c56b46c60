"""Secrets at rest: sealed with a key in a file of its own, so that a copy of the database tells nothing."""

from __future__ import annotations

import base64
import binascii
import os
from pathlib import Path

from .durable import secret
from .errors import Unavailable, Unsealable

FORMAT = "v1:"
"""XChaCha20-Poly1305: 24 random bytes of nonce, then the sealed bytes and their tag, as URL-safe base64."""
KEY = 32
NONCE = 24
TAG = 16
"""Bytes. The nonce is long enough to be random for each value, however many there are."""


class Vault:
    """Seals what must not lie about in plain text, and opens it again.

    The key file holds keys of 32 bytes in base64, one a line. The first one seals, all of them open: a new
    key is put in front of the old ones. It is read when it is needed and made when something is sealed for
    the first time; libsodium is loaded no sooner.
    """

    def __init__(self, key_file: Path) -> None:
        self._file = key_file

    def seal(self, plain: bytes, *, about: str) -> str:
        """Printable text that only `open` with the same `about` (what it belongs to) makes sense of: a sealed
        value that was moved elsewhere does not open there. Raises `Unsealable` where the key file is not
        one, `Unavailable` where it cannot be read or written."""
        from nacl.secret import Aead

        key, *_ = self._keys(making=True)
        sealed = bytes(Aead(key).encrypt(plain, about.encode()))
        return FORMAT + base64.urlsafe_b64encode(sealed).decode()

    def open(self, sealed: str, *, about: str) -> bytes:
        """What was sealed. Raises `Unsealable` where no key of the file fits, and never makes a key."""
        from nacl.exceptions import CryptoError
        from nacl.secret import Aead

        nonce, rest = _unpacked(sealed)
        for key in self._keys():
            try:
                return Aead(key).decrypt(rest, about.encode(), nonce)
            except CryptoError:
                continue
        raise Unsealable(
            f"what is sealed of {about} cannot be opened with {self._file}: its key is no longer there, or "
            f"the value was damaged\nput that key back as another line of the file, or set the value anew"
        )

    def _keys(self, *, making: bool = False) -> list[bytes]:
        try:
            content = secret(self._file, _new_key) if making else self._file.read_bytes()
            open_to_all = self._file.stat().st_mode & 0o007
        except FileNotFoundError as error:
            raise Unsealable(f"{self._file}, the key of every secret, is gone\nput it back") from error
        except OSError as error:
            raise Unavailable(f"{self._file}, the key of every secret: {error.strerror}") from error
        if open_to_all:
            raise Unsealable(f"{self._file}, the key of every secret, is open to everyone\nchmod 600 it")
        return [self._key(number, line) for number, line in enumerate(content.splitlines(), 1)]

    def _key(self, number: int, line: bytes) -> bytes:
        try:
            key = base64.b64decode(line.strip(), validate=True)
        except binascii.Error:
            key = b""
        if len(key) != KEY:
            raise Unsealable(
                f"{self._file}:{number}: not a key of {KEY} bytes in base64\nput the file back as it was"
            )
        return key


def _new_key() -> bytes:
    return base64.b64encode(os.urandom(KEY)) + b"\n"


def _unpacked(sealed: str) -> tuple[bytes, bytes]:
    """Nonce and the rest; of what `seal` never made, something that no key opens."""
    try:
        whole = base64.b64decode(sealed.removeprefix(FORMAT), altchars=b"-_", validate=True)
    except ValueError:
        whole = b""
    # Base64 leaves bits of a last letter open: what differs in those alone is not what was sealed either.
    fits = sealed == FORMAT + base64.urlsafe_b64encode(whole).decode() and len(whole) >= NONCE + TAG
    return (whole[:NONCE], whole[NONCE:]) if fits else (bytes(NONCE), bytes(TAG))
