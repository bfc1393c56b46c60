"""Packets of the MySQL protocol as bytes, and back: what a server says and what it has to understand.

The source is "Client/Server Protocol" in MySQL's source documentation and in MariaDB's knowledge base; what a
MariaDB 10.11 sends decided where they differ. Payloads are without their headers, which `framed` adds."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import IntEnum, IntFlag

SALT_LENGTH = 20
LONGEST = 0xFF_FF_FF
"""Bytes of payload in one packet; more goes on in the next."""

_UTF8MB4, _BINARY = 45, 63


class Capability(IntFlag):
    """What one side can do; both do what both can. Bit 1 is not set by a MariaDB."""

    MYSQL = 1
    FOUND_ROWS = 1 << 1
    LONG_FLAG = 1 << 2
    CONNECT_WITH_DB = 1 << 3
    PROTOCOL_41 = 1 << 9
    TLS = 1 << 11
    TRANSACTIONS = 1 << 13
    SECURE_CONNECTION = 1 << 15
    MULTI_STATEMENTS = 1 << 16
    MULTI_RESULTS = 1 << 17
    PLUGIN_AUTH = 1 << 19
    CONNECT_ATTRS = 1 << 20
    LENENC_AUTH_DATA = 1 << 21
    SESSION_TRACK = 1 << 23
    DEPRECATE_EOF = 1 << 24


class Status(IntFlag):
    """What a server says of the session at the end of an answer."""

    IN_TRANSACTION = 0x1
    AUTOCOMMIT = 0x2
    SESSION_CHANGED = 0x4000


class Command(IntEnum):
    """The first byte of what a client asks."""

    QUIT = 0x01
    INIT_DB = 0x02
    QUERY = 0x03
    PROCESS_KILL = 0x0C
    PING = 0x0E
    STMT_PREPARE = 0x16
    RESET_CONNECTION = 0x1F


def framed(payload: bytes, sequence: int) -> list[bytes]:
    """The packets that carry a payload: three bytes of length, one of sequence number, the bytes."""
    parts = [payload[start : start + LONGEST] for start in range(0, len(payload) + 1, LONGEST)]
    return [
        struct.pack("<I", len(part) | ((sequence + number) & 0xFF) << 24) + part
        for number, part in enumerate(parts)
    ]


def lenenc(number: int) -> bytes:
    """A length-encoded integer."""
    if number < 0xFB:
        return bytes([number])
    for mark, size in ((0xFC, 2), (0xFD, 3), (0xFE, 8)):
        if number < 1 << 8 * size:
            return bytes([mark]) + number.to_bytes(size, "little")
    raise ValueError(f"{number} does not fit in 8 bytes")


def text(data: bytes) -> bytes:
    """A length-encoded string."""
    return lenenc(len(data)) + data


def greeting(
    version: str, connection: int, salt: bytes, capabilities: Capability, status: Status, plugin: str
) -> bytes:
    """The first packet of a server (HandshakeV10)."""
    low, high = capabilities & 0xFFFF, capabilities >> 16
    return (
        b"\x0a"
        + version.encode()
        + b"\0"
        + struct.pack("<I", connection)
        + salt[:8]
        + struct.pack("<xHBHHB10x", low, _UTF8MB4, status, high, SALT_LENGTH + 1)
        + salt[8:]
        + b"\0"
        + plugin.encode()
        + b"\0"
    )


@dataclass(frozen=True)
class Hello:
    """A client's answer to the greeting (HandshakeResponse41), or its beginning that asks for TLS."""

    capabilities: Capability
    wants_tls: bool
    user: str = ""
    proof: bytes = b""
    """What shows that it knows the password, as the plugin has it."""
    database: str = ""
    plugin: str = ""

    @classmethod
    def parsed(cls, payload: bytes) -> Hello:
        """Raises `ValueError` for what is none."""
        if len(payload) < 32:
            raise ValueError("a hello has at least 32 bytes")
        capabilities = Capability(int.from_bytes(payload[:4], "little"))
        if len(payload) == 32:
            return cls(capabilities, wants_tls=True)
        user, rest = _until_nul(payload[32:])
        proof, rest = _counted(rest)
        database, rest = _until_nul(rest) if capabilities & Capability.CONNECT_WITH_DB else (b"", rest)
        plugin, rest = _until_nul(rest) if capabilities & Capability.PLUGIN_AUTH else (b"", rest)
        return cls(capabilities, False, user.decode(), proof, database.decode(), plugin.decode())


def _until_nul(data: bytes) -> tuple[bytes, bytes]:
    found, nul, rest = data.partition(b"\0")
    if not nul:
        raise ValueError("a text does not end")
    return found, rest


def _counted(data: bytes) -> tuple[bytes, bytes]:
    """What every plugin shows is shorter than 251 bytes: its length is one byte by all of the rules."""
    end = 1 + (data[0] if data else 0)
    if not data or len(data) < end:
        raise ValueError("a proof does not end")
    return data[1:end], data[end:]


def auth_switch(plugin: str, salt: bytes) -> bytes:
    """Asks for the proof of another plugin (AuthSwitchRequest)."""
    return b"\xfe" + plugin.encode() + b"\0" + salt + b"\0"


def auth_more(data: bytes) -> bytes:
    """What a plugin says besides (AuthMoreData)."""
    return b"\x01" + data


def ok(
    status: Status, *, affected_rows: int = 0, insert_id: int = 0, info: str = "", changes: bytes = b""
) -> bytes:
    """The answer without rows. `changes` are those of the session, for a client that tracks them: then, and
    only then, `status` says so."""
    begin = b"\0" + lenenc(affected_rows) + lenenc(insert_id) + struct.pack("<HH", status, 0)
    if changes:
        return begin + text(info.encode()) + text(changes)
    return begin + info.encode()


def error(code: int, state: str, message: str) -> bytes:
    """An error; before the client's hello it is without `state`."""
    return b"\xff" + struct.pack("<H", code) + (f"#{state}" if state else "").encode() + message.encode()


def eof(status: Status, *, as_ok: bool) -> bytes:
    """The end of columns or rows: `as_ok` for a client that takes EOF for deprecated."""
    return b"\xfe" + (struct.pack("<BBHH", 0, 0, status, 0) if as_ok else struct.pack("<HH", 0, status))


def column(name: str, sample: object) -> bytes:
    """A column's definition, its type that of `sample`."""
    kind, charset = _type_of(sample)
    names = [b"def", b"", b"", b"", name.encode(), name.encode()]
    return b"".join(map(text, names)) + struct.pack("<BHIBHBxx", 0x0C, charset, 1024, kind, 0, 0)


_TYPES: tuple[tuple[type, int, int], ...] = (
    (int, 0x08, _BINARY),
    (float, 0x05, _BINARY),
    (Decimal, 0xF6, _BINARY),
    (datetime, 0x0C, _BINARY),
    (date, 0x0A, _BINARY),
    (bytes, 0xFC, _BINARY),
)


def _type_of(sample: object) -> tuple[int, int]:
    known = ((kind, charset) for python, kind, charset in _TYPES if isinstance(sample, python))
    return next(known, (0xFD, _UTF8MB4))


def row(values: Sequence[object]) -> bytes:
    """A row of the text protocol."""
    return b"".join(b"\xfb" if value is None else text(_as_text(value)) for value in values)


def _as_text(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    return str(int(value) if isinstance(value, bool) else value).encode()


def changed_variable(name: str, value: str) -> bytes:
    """One of the session's changes: a system variable has a new value."""
    return b"\0" + text(text(name.encode()) + text(value.encode()))


def changed_database(name: str) -> bytes:
    return b"\x01" + text(text(name.encode()))


def changed_state() -> bytes:
    """Something of the session changed, whatever it was."""
    return b"\x02" + text(b"1")


def changed_transaction(*, open: bool) -> bytes:
    """A transaction was begun or has ended. (What it read and wrote is not told apart here.)"""
    return b"\x05" + text(text(b"T_______" if open else b"________"))
