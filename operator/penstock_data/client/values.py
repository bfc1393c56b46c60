"""Python's values as parameters, and columns as Python's values, without a loss."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from penstock_data.client.errors import BadParameter

EXACT = 2**53 - 1
"""The largest whole number that every JSON reader keeps exactly."""

LEAST, MOST = -(2**63), 2**64 - 1
"""Whole numbers that the database's protocol carries; beyond them they are decimals."""


@dataclass(frozen=True, slots=True)
class Json:
    """A parameter that is a document: `Json({"a": 1})`."""

    value: Any


# -- parameters


def encoded(params: Sequence[Any]) -> list[Any]:
    """As they are sent. Raises `BadParameter`."""
    return [_encoded(value, f"parameter {at}") for at, value in enumerate(params)]


def encoded_by_name(params: Mapping[str, Any]) -> dict[str, Any]:
    """As they are sent. Raises `BadParameter`."""
    return {name: _encoded(value, f"parameter {name!r}") for name, value in params.items()}


def _encoded(value: Any, place: str) -> Any:
    if value is None or isinstance(value, bool):
        return value
    for kind, write in _WRITERS:
        if isinstance(value, kind):
            return write(value, place)
    hint = "; wrap it in Json(…)" if isinstance(value, dict | list | tuple) else ""
    raise BadParameter(f"{place} is of {type(value).__name__}, which is no value of the database{hint}")


def _text(value: str, place: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadParameter(f"{place} has half a surrogate pair in it, which is no text") from None
    return str(value)


def _whole(value: int, place: str) -> Any:
    if -EXACT <= value <= EXACT:
        return int(value)
    return {"int" if LEAST <= value <= MOST else "decimal": str(int(value))}


def _float(value: float, place: str) -> float:
    if not math.isfinite(value):
        raise BadParameter(f"{place} is {value}, which the database does not have")
    return float(value)


def _decimal(value: Decimal, place: str) -> Any:
    if not value.is_finite():
        raise BadParameter(f"{place} is {value}, which the database does not have")
    return {"decimal": format(value, "f")}


def _binary(value: bytes | bytearray | memoryview, place: str) -> Any:
    return {"binary": base64.b64encode(value).decode()}


def _datetime(value: datetime, place: str) -> Any:
    if value.tzinfo is not None:
        raise BadParameter(f"{place} has a zone, which the database would drop: convert it first")
    return {"datetime": value.isoformat()}


def _date(value: date, place: str) -> Any:
    return {"date": value.isoformat()}


def _time(value: time, place: str) -> Any:
    if value.tzinfo is not None:
        raise BadParameter(f"{place} has a zone, which the database would drop: convert it first")
    return {"time": value.isoformat()}


def _span(value: timedelta, place: str) -> Any:
    sign, value = ("-", -value) if value < timedelta() else ("", value)
    seconds = value.days * 86400 + value.seconds
    shown = f"{sign}{seconds // 3600:02}:{seconds % 3600 // 60:02}:{seconds % 60:02}"
    return {"time": f"{shown}.{value.microseconds:06}" if value.microseconds else shown}


def _json(value: Json, place: str) -> str:
    """As text: on its way through another JSON document its numbers would be rounded."""
    try:
        return _text(json.dumps(value.value, allow_nan=False, ensure_ascii=False), place)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadParameter(f"{place} is no JSON: {error}") from error


_WRITERS: list[tuple[type | tuple[type, ...], Callable[[Any, str], Any]]] = [
    (str, _text),
    (int, _whole),
    (float, _float),
    (Decimal, _decimal),
    ((bytes, bytearray, memoryview), _binary),
    (datetime, _datetime),  # which is a date as well
    (date, _date),
    (time, _time),
    (timedelta, _span),
    (Json, _json),
]


# -- columns


@dataclass(frozen=True, slots=True)
class Column:
    """Its name, and its type as SQL has it, such as `bigint unsigned` and `varchar`."""

    name: str
    type: str


class Decoder:
    """Makes rows of Python's values; what is none of them (`0000-00-00`) stays text."""

    def __init__(self, columns: Sequence[Mapping[str, str]]) -> None:
        self.columns = tuple(Column(column["name"], column["type"]) for column in columns)
        ways = ((place, _READERS.get(column.type)) for place, column in enumerate(self.columns))
        self._ways = [(place, read) for place, read in ways if read is not None]

    def row(self, told: list[Any]) -> tuple[Any, ...]:
        for place, read in self._ways:
            if told[place] is not None:
                told[place] = read(told[place])
        return tuple(told)


def _read_date(text: str) -> date | str:
    try:
        return date.fromisoformat(text)
    except ValueError:
        return text


def _read_datetime(text: str) -> datetime | str:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return text


_SPAN = re.compile(r"(-?)(\d+):(\d\d):(\d\d)(?:\.(\d{1,6}))?")


def _read_span(text: str) -> timedelta | str:
    found = _SPAN.fullmatch(text)
    if found is None:
        return text
    sign, hours, minutes, seconds, fraction = found.groups()
    span = timedelta(
        hours=int(hours),
        minutes=int(minutes),
        seconds=int(seconds),
        microseconds=int((fraction or "").ljust(6, "0")),
    )
    return -span if sign else span


_READERS: dict[str, Callable[[Any], Any]] = {
    "bigint": int,
    "bigint unsigned": int,
    "decimal": Decimal,
    "float": float,
    "double": float,
    "date": _read_date,
    "datetime": _read_datetime,
    "timestamp": _read_datetime,
    "time": _read_span,
    **dict.fromkeys(("varbinary", "blob", "bit", "geometry"), base64.b64decode),
}
