"""YAML as plain data, with the line of everything.

All scalars are text as written, so `test: true` runs the command `true` and no version loses its zero. What
configuration does not need (anchors, tags, several documents, deep nesting) is refused event by event,
before anything is built from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NoReturn

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    CollectionStartEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from ..errors import InvalidConfig

DEEPEST = 8
"""Levels of nesting; the deepest thing there is to say needs three."""

_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
"""YAML 1.2.2, 10.3.2."""

Loc = tuple[str | int, ...]
"""Where a value is: keys and positions, from the outside in."""


class Document:
    """One YAML document: `values`, and in `lines` the line (from 1) of each. Raises `InvalidConfig` naming
    `file`."""

    def __init__(self, text: str, *, file: str) -> None:
        self.values: dict[str, object] = {}
        self.lines: dict[Loc, int] = {}
        self._file = file
        self._events = self._parse(text)
        self._read()

    def _parse(self, text: str) -> Iterator[Event]:
        try:
            yield from YAML(typ="safe", pure=True).parse(text)
        except MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else None
            raise InvalidConfig(f"is not valid YAML: {error.problem}", file=self._file, line=line) from error
        except (YAMLError, ValueError, OverflowError) as error:
            message = "is not valid YAML: it holds characters that YAML does not allow"
            raise InvalidConfig(message, file=self._file) from error

    def _read(self) -> None:
        next(self._events)
        if not isinstance(next(self._events), DocumentStartEvent):
            return
        first = next(self._events)
        if isinstance(first, MappingStartEvent):
            self.values = self._mapping(first, ())
        elif not _is_null(first):
            self._refuse("must have keys and values, such as `web: python -m shop`", first)
        next(self._events)
        if isinstance(another := next(self._events), DocumentStartEvent):
            self._refuse("only one document is read; remove this one", another)

    def _value(self, event: Event, loc: Loc) -> object:
        if len(loc) > DEEPEST:
            self._refuse(f"is nested deeper than {DEEPEST} levels", event)
        match event:
            case MappingStartEvent():
                return self._mapping(event, loc)
            case SequenceStartEvent():
                return self._sequence(event, loc)
            case _ if _is_null(event):
                message = f"`{'.'.join(map(str, loc))}` is empty: give a value or leave the key out"
                raise InvalidConfig(message, file=self._file, line=self.lines[loc])
        return self._text(event)

    def _mapping(self, start: Event, loc: Loc) -> dict[str, object]:
        self._check_plain(start)
        values: dict[str, object] = {}
        while not isinstance(event := next(self._events), MappingEndEvent):
            key = self._text(event)
            if key in values:
                self._refuse(f"`{key}` is given twice, first on line {self.lines[(*loc, key)]}", event)
            self.lines[(*loc, key)] = _line(event)
            values[key] = self._value(next(self._events), (*loc, key))
        return values

    def _sequence(self, start: Event, loc: Loc) -> list[object]:
        self._check_plain(start)
        values: list[object] = []
        while not isinstance(event := next(self._events), SequenceEndEvent):
            here = (*loc, len(values))
            self.lines[here] = _line(event)
            values.append(self._value(event, here))
        return values

    def _text(self, event: Event) -> str:
        self._check_plain(event)
        if not isinstance(event, ScalarEvent):
            self._refuse("a key must be a plain word", event)
        value = str(event.value)
        if any("\ud800" <= character <= "\udfff" for character in value):
            self._refuse("holds half a character (a lone surrogate)", event)
        return value

    def _check_plain(self, event: Event) -> None:
        if isinstance(event, NodeEvent) and event.anchor is not None:
            self._refuse("anchors and aliases (& and *) are not used here; write the value out", event)
        if isinstance(event, ScalarEvent | CollectionStartEvent) and event.tag is not None:
            self._refuse("tags (!) are not used here; write the plain value", event)

    def _refuse(self, message: str, event: Event) -> NoReturn:
        raise InvalidConfig(message, file=self._file, line=_line(event))


def _is_null(event: Event) -> bool:
    return (
        isinstance(event, ScalarEvent)
        and event.implicit[0]
        and event.value in ("", "~", "null", "Null", "NULL")
    )


def _line(event: Event) -> int:
    return int(event.start_mark.line) + 1
