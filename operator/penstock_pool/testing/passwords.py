"""What a client shows of a password it knows, by authentication plugin."""

from __future__ import annotations

import hashlib

NATIVE = "mysql_native_password"
CACHING_SHA2 = "caching_sha2_password"
CLEAR = "mysql_clear_password"

PUBLIC_KEY = b"""-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAq6WoUHvDzaEiuRRFtQoR
2aB5Zm0IM6k+6nKy5mQ7sGPFwdJltAVGBlnB8BlzJ0elf7mM5V/9fO3pnCWSnMKh
ZqZpZrrv70YiYdJMG898NLd3yk4aDRejh2topt01iO0f9Y771SnKPUXhYytcqzLe
fuNgt0ZD1bRME6kOk3suyWFJRHEICrvkHkwo166ou2gHZmhuziUwGYcUUaW6CVfY
D8HuggN3gGQCWbgf5W77ymmDW+ndDuAeyd+pjHZDfmVG9dcwxsJDR8hD3uy0Ih0X
KMujPl0TSmn1FV1yVYDD87dGT4JY/TPbblbwahGgbTBrkvmddo4dcDzctVXdQmDg
HQIDAQAB
-----END PUBLIC KEY-----
"""
"""For clients that encrypt what they say. Nobody has its private half."""


def native(password: str, salt: bytes) -> bytes:
    """SHA1(password) xor SHA1(salt + SHA1(SHA1(password)))."""
    if not password:
        return b""
    once = hashlib.sha1(password.encode(), usedforsecurity=False).digest()
    twice = hashlib.sha1(once, usedforsecurity=False).digest()
    return _xor(once, hashlib.sha1(salt + twice, usedforsecurity=False).digest())


def caching_sha2(password: str, salt: bytes) -> bytes:
    """SHA256(password) xor SHA256(SHA256(SHA256(password)) + salt)."""
    if not password:
        return b""
    once = hashlib.sha256(password.encode()).digest()
    twice = hashlib.sha256(once).digest()
    return _xor(once, hashlib.sha256(twice + salt).digest())


def _xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))
