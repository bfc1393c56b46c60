"""What is answered."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from penstock_data.client.errors import Fault, StreamCut, error_of
from penstock_data.client.values import Column, Decoder

Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """Of one statement."""

    columns: tuple[Column, ...] = ()
    rows: list[Row] = field(default_factory=list)
    affected_rows: int = 0
    insert_id: int = 0
    """What AUTO_INCREMENT gave to the first new row; 0: nothing."""
    replayed: bool = False
    """It was done an earlier time under the same key, and this is what was answered then."""

    def dicts(self) -> list[dict[str, Any]]:
        """The rows by the columns' names; of two columns with one name, the last one's value."""
        names = [column.name for column in self.columns]
        return [dict(zip(names, row, strict=True)) for row in self.rows]


def result_of(told: Mapping[str, Any], *, replayed: bool = False) -> Result:
    """Of a document. Raises `Fault` for what is none."""
    try:
        if "columns" not in told:
            done = int(told["affected_rows"]), int(told["insert_id"])
            return Result(affected_rows=done[0], insert_id=done[1], replayed=replayed)
        decoder = Decoder(told["columns"])
        return Result(decoder.columns, list(map(decoder.row, told["rows"])), replayed=replayed)
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise Fault(f"the answer is not understood: {error!r}") from error


class Lines:
    """Takes a stream of lines apart, in whatever pieces it comes."""

    def __init__(self) -> None:
        self.columns: tuple[Column, ...] = ()
        """There after the first line; empty for a statement without a result."""
        self.begun = False
        """The first line has come."""
        self._decoder: Decoder | None = None
        self._rest = b""
        self._count = 0
        self._ended = False

    def feed(self, piece: bytes) -> list[Row]:
        """The rows that are whole now. Raises what the stream tells as an error, and `Fault`."""
        *lines, self._rest = (self._rest + piece).split(b"\n")  # U+2028 ends no line, whatever others say
        try:
            return [row for line in lines if (row := self._taken(json.loads(line))) is not None]
        except (KeyError, TypeError, ValueError, ArithmeticError) as error:
            raise Fault(f"a line is not understood: {error!r}") from error

    def _taken(self, told: Any) -> Row | None:
        if isinstance(told, list) and self._decoder is not None:
            self._count += 1
            return self._decoder.row(told)
        self.begun = True
        if "columns" in told:
            self._decoder = Decoder(told["columns"])
            self.columns = self._decoder.columns
        elif "error" in told:
            raise error_of(told["error"])
        elif "end" in told:
            self._ended = told["end"]["rows"] == self._count
        return None

    def close(self) -> None:
        """Nothing comes any more. Raises `StreamCut` when that was not the end."""
        if not self._ended:
            raise StreamCut(f"the stream was cut after {self._count} rows: others are missing")
