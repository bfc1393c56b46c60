"""What a column of a result is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Column:
    """Its name, and its type as SQL has it."""

    name: str
    type: str
    """`bigint`, `int unsigned`, `varchar`, `varbinary`, `decimal`, `json`, … Of text whatever its length:
    `varchar`, or `text` for types that are stored apart; of bytes `varbinary` and `blob`. MariaDB keeps JSON
    as text, and says so."""


Columns = tuple[Column, ...]

UNSIGNED, ENUM, SET = 32, 256, 2048
BINARY_CHARSET = 63

_NAMES = {
    0: "decimal",
    1: "tinyint",
    2: "smallint",
    3: "int",
    4: "float",
    5: "double",
    6: "null",
    7: "timestamp",
    8: "bigint",
    9: "mediumint",
    10: "date",
    11: "time",
    12: "datetime",
    13: "year",
    14: "date",
    16: "bit",
    245: "json",
    246: "decimal",
    247: "enum",
    248: "set",
    255: "geometry",
}
_WHOLE = frozenset((1, 2, 3, 8, 9))
_STORED_APART = frozenset((249, 250, 251, 252))


def type_of(code: int, flags: int, charset: int) -> str:
    """The name of a type, by the numbers that the protocol has for it (MySQL's enum_field_types and column
    definition flags)."""
    if code in _NAMES:
        return f"{_NAMES[code]} unsigned" if code in _WHOLE and flags & UNSIGNED else _NAMES[code]
    if flags & (ENUM | SET):
        return "enum" if flags & ENUM else "set"
    if charset == BINARY_CHARSET:
        return "blob" if code in _STORED_APART else "varbinary"
    return "text" if code in _STORED_APART else "varchar"
