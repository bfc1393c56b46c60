"""The heads of answers: what the server says of the columns before it sends rows. To the same text it says
the same each time, and to read that takes the driver longer than a row does: about a microsecond a column. So
it is read once, and afterwards compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from struct import Struct
from typing import Any, ClassVar

from asyncmy.protocol import parse_rows_from_buffer

_REMEMBERED = 512
_LONGEST = 16 * 1024
"""Bytes of a head, and characters of a text, that are worth their memory."""
_MOST_COLUMNS = 250
"""As many are counted in one byte."""
_COUNT = b"\x01\x00\x00\x01"
"""Before the byte that counts the columns: a packet of one byte, the first one."""
_LAST = Struct("<I3sHH")
"""The packet after the last row, when it tells nothing but that, status and warnings: its length and number,
then 0xFE and that no row was changed and no id given, a byte each."""
_LAST_LENGTH, _LAST_KIND = 7, b"\xfe\x00\x00"
_MORE = 0x0008
"""SERVER_MORE_RESULTS_EXISTS, of the status."""


@dataclass(frozen=True, slots=True)
class Head:
    """How the columns were described."""

    told: bytes
    """As it came, the packets' lengths and numbers among it."""
    next_number: int
    """Of the first row's packet."""
    converters: tuple[Any, ...]
    description: tuple[tuple[Any, ...], ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """Rows that were read by the head of an earlier answer."""

    rows: tuple[tuple[Any, ...], ...]
    description: tuple[tuple[Any, ...], ...]
    server_status: int

    insert_id: ClassVar[int] = 0
    has_next: ClassVar[bool] = False

    @property
    def affected_rows(self) -> int:
        return len(self.rows)


class Heads:
    """Those of late, by the text of the statement. For one driver: what becomes of a value is its choice."""

    def __init__(self) -> None:
        self._known: dict[str, Head] = {}

    def answer(self, sql: str, protocol: Any) -> Answer | None:
        """The whole answer, when it lies in the buffer and has the head that it had before; it is taken from
        there. None: it is to be read as any other."""
        head = self._known.get(sql)
        if head is None:
            return None
        buffer, begin, end = protocol.buffer, protocol.pos + len(head.told), protocol.length - _LAST.size
        if begin > end or not buffer.startswith(head.told, protocol.pos):
            return None
        length, kind, status, _ = _LAST.unpack_from(buffer, end)
        if length & 0xFFFFFF != _LAST_LENGTH or kind != _LAST_KIND or status & _MORE:
            return None
        rows: list[tuple[Any, ...]] = []
        ended = parse_rows_from_buffer(
            buffer, begin, protocol.length, head.converters, head.next_number, rows, True
        )
        if ended != (end, length >> 24):
            return None
        protocol.pos = protocol.length
        return Answer(tuple(rows), head.description, status)

    def begun(self, sql: str, protocol: Any) -> Callable[[Any], None] | None:
        """Of an answer that lies in the buffer and is about to be read: what remembers its head, to be called
        with the result. None: it has none, or not yet all of it."""
        told = _told(protocol) if len(sql) <= _LONGEST else None
        if told is None:
            return None

        def remember(result: Any) -> None:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            number = 2 + told[len(_COUNT)]
            self._known[sql] = Head(told, number, tuple(result.converters), result.description)

        return remember


def _told(protocol: Any) -> bytes | None:
    buffer, at = protocol.buffer, protocol.pos
    if protocol.length - at <= len(_COUNT) or not buffer.startswith(_COUNT, at):
        return None
    count, end = buffer[at + len(_COUNT)], at + len(_COUNT) + 1
    if not 0 < count <= _MOST_COLUMNS:
        return None
    for _ in range(count):
        if end + 4 > protocol.length:
            return None
        end += 4 + int.from_bytes(buffer[end : end + 3], "little")
    return bytes(buffer[at:end]) if end <= min(protocol.length, at + _LONGEST) else None
