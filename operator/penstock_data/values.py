"""Values of the database as JSON, and back, without a loss.

JSON has fewer types than SQL. What it has no word for is text, and the column's type says what the text is;
as a parameter it says so itself: `{"decimal": "12.30"}`. Decimals come from the driver as text already."""

from __future__ import annotations

import base64
import binascii
import re
import struct
from collections import OrderedDict
from collections.abc import Callable, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from itertools import chain
from typing import Any

import orjson

from penstock_data.errors import BadRequest
from penstock_pool.columns import Columns

Row = Sequence[Any]

EXACT = 2**53 - 1
"""The largest whole number that every JSON reader keeps exactly (RFC 7493, section 2.2)."""

LEAST, MOST = -(2**63), 2**64 - 1
"""Whole numbers that the protocol carries."""


class Shape:
    """How rows with certain columns are written."""

    def __init__(self, columns: Columns) -> None:
        names = [{"name": column.name, "type": column.type} for column in columns]
        self.columns = orjson.dumps(names)
        """As JSON."""
        ways = ((place, _way(column.type)) for place, column in enumerate(columns))
        self._ways = [(place, way) for place, way in ways if way is not None]

    def rows(self, rows: Sequence[Row]) -> bytes:
        """A JSON array of arrays."""
        return orjson.dumps(self._plain(rows) if self._ways else rows)

    def lines(self, rows: Sequence[Row]) -> bytes:
        """A JSON array a line."""
        plain = self._plain(rows) if self._ways else rows
        return b"\n".join(chain(map(orjson.dumps, plain), (b"",)))

    def _plain(self, rows: Sequence[Row]) -> list[list[Any]]:
        plain = [list(row) for row in rows]
        for place, way in self._ways:
            for row in plain:
                if row[place] is not None:
                    row[place] = way(row[place])
        return plain


_shapes: OrderedDict[int, tuple[Columns, Shape]] = OrderedDict()
_REMEMBERED = 4096


def shape_of(columns: Columns) -> Shape:
    """Made once for each object: statements that are kept have the same one each time."""
    known = _shapes.get(id(columns))
    if known is not None and known[0] is columns:
        return known[1]
    shape = Shape(columns)
    _shapes[id(columns)] = columns, shape
    if len(_shapes) > _REMEMBERED:
        _shapes.popitem(last=False)
    return shape


def _way(type: str) -> Callable[[Any], Any] | None:
    """What makes a value of this type one that JSON has; None when it is one."""
    if type in ("bigint", "bigint unsigned"):
        return _exact
    return _WAYS.get(type)


def _exact(number: int) -> int | str:
    return number if -EXACT <= number <= EXACT else str(number)


def _shortest(number: float) -> float:
    """Of a single-precision number, which has more digits as a double than it had."""
    kept = struct.pack("<f", number)
    for digits in range(6, 9):
        short = float(f"{number:.{digits}g}")
        if struct.pack("<f", short) == kept:
            return short
    return float(f"{number:.9g}")


def _clock(time: timedelta) -> str:
    sign, time = ("-", -time) if time < timedelta() else ("", time)
    seconds = time.days * 86400 + time.seconds
    shown = f"{sign}{seconds // 3600:02}:{seconds % 3600 // 60:02}:{seconds % 60:02}"
    return f"{shown}.{time.microseconds:06}" if time.microseconds else shown


def _base64(value: bytes | str) -> str:
    return base64.b64encode(value.encode() if isinstance(value, str) else value).decode()


_WAYS: dict[str, Callable[[Any], Any]] = {
    "float": _shortest,
    "time": _clock,
    **dict.fromkeys(("varbinary", "blob", "bit", "geometry"), _base64),
}


# -- parameters


def parameter(value: Any, place: str) -> object:
    """What is bound for a value of a request. Raises `BadRequest`, which names the place."""
    kind = type(value)
    if kind is int:
        if not LEAST <= value <= MOST:
            raise BadRequest(f'{place} is beyond 64 bits: send it as {{"decimal": "{value}"}}')
        return value
    if kind is str or value is None or kind is bool or kind is float:
        return value
    if kind is dict and len(value) == 1:
        ((name, inner),) = value.items()
        if name in _KINDS:
            return _typed(name, inner, place)
    kinds = ", ".join(_KINDS)
    raise BadRequest(f"{place} is neither null, a boolean, a number nor text, and says none of: {kinds}")


def _typed(name: str, inner: Any, place: str) -> object:
    if name == "json":
        return orjson.dumps(inner).decode()
    try:
        if not isinstance(inner, str):
            raise ValueError
        return _KINDS[name](inner)
    except (ValueError, InvalidOperation, OverflowError):
        raise BadRequest(f"{place} is no {name}: allowed is such as {_SUCH_AS[name]}") from None


_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)")
_WHOLE = re.compile(r"[+-]?[0-9]{1,20}")
_TIME = re.compile(r"(-?)([0-9]{1,3}):([0-5]?[0-9]):([0-5]?[0-9])(?:\.([0-9]{1,6}))?")


def _decimal(text: str) -> Decimal:
    if not _NUMBER.fullmatch(text) or len(text) > 100:
        raise ValueError
    return Decimal(text)


def _int(text: str) -> int:
    if not _WHOLE.fullmatch(text) or not LEAST <= int(text) <= MOST:
        raise ValueError
    return int(text)


def _binary(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError from error


def _datetime(text: str) -> datetime:
    told = datetime.fromisoformat(text)
    if told.tzinfo is not None:  # it would be dropped in silence
        raise ValueError
    return told


def _time(text: str) -> timedelta:
    found = _TIME.fullmatch(text)
    if found is None:
        raise ValueError
    sign, hours, minutes, seconds, fraction = found.groups()
    time = timedelta(
        hours=int(hours),
        minutes=int(minutes),
        seconds=int(seconds),
        microseconds=int((fraction or "").ljust(6, "0")),
    )
    return -time if sign else time


_KINDS: dict[str, Callable[[str], object]] = {
    "int": _int,
    "decimal": _decimal,
    "binary": _binary,
    "date": date.fromisoformat,
    "datetime": _datetime,
    "time": _time,
    "json": str,
}
_SUCH_AS = {
    "int": '{"int": "9007199254740993"}',
    "decimal": '{"decimal": "12.30"}',
    "binary": '{"binary": "aGk="}, in base64',
    "date": '{"date": "2026-11-28"}',
    "datetime": '{"datetime": "2026-11-28T10:00:00.5"}, without a zone',
    "time": '{"time": "-01:30:00"}',
}
