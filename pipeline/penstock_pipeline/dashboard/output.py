"""What stages print, in pieces that fit together: each says where it begins and ends in the log."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from .. import tell
from ..model import StageName, StageRecord
from ..store.logs import Logs
from .facts import RunFacts

PIECE = 65536
"""Bytes of a log that are read at a time, and shown of its end to begin with."""


@dataclass(frozen=True, slots=True)
class Mark:
    """How far the log of one attempt at a stage was shown, in bytes."""

    attempt: int
    offset: int


Marks = dict[StageName, Mark]


@dataclass(frozen=True, slots=True)
class Piece:
    """Text of a log, harmless for a page. `fresh`: it takes the place of whatever was shown of the stage;
    then `start` tells how much of the log comes before it."""

    stage: StageName
    text: str
    start: int
    fresh: bool


def pieces(logs: Logs, facts: RunFacts, marks: Marks) -> Iterator[Piece]:
    """Everything that was printed past the marks, which move along with each piece."""
    for record in facts.records:
        ended = facts.run.status.ended or record.ended_at is not None
        while (piece := _next(logs, record, marks, ended=ended)) is not None:
            yield piece


def joined(found: Iterable[Piece]) -> list[Piece]:
    """One piece a stage, of pieces as they come."""
    whole: dict[StageName, Piece] = {}
    for piece in found:
        before = None if piece.fresh else whole.get(piece.stage)
        whole[piece.stage] = piece if before is None else replace(before, text=before.text + piece.text)
    return list(whole.values())


def plain(text: str) -> str:
    """Text of programs and people without escape sequences and control characters, line by line."""
    return "\n".join(tell.clean(line) for line in text.split("\n"))


def _next(logs: Logs, record: StageRecord, marks: Marks, *, ended: bool) -> Piece | None:
    size = logs.size(record.run_id, record.stage)
    mark = marks.get(record.stage)
    fresh = mark is None or mark.attempt != record.attempt or mark.offset > size
    start = max(0, size - PIECE) if mark is None or fresh else mark.offset
    data = logs.read(record.run_id, record.stage, start, PIECE) if start < size else b""
    if fresh and start:
        data, start = _from_a_line(data, start)
    if not ended or start + len(data) < size:
        data = _whole_lines(data)
    if not data and not (fresh and mark):
        return None
    marks[record.stage] = Mark(record.attempt, start + len(data))
    return Piece(record.stage, plain(data.decode("utf-8", "replace")), start, fresh)


def _from_a_line(data: bytes, start: int) -> tuple[bytes, int]:
    skipped = data.find(b"\n") + 1
    return data[skipped:], start + skipped


def _whole_lines(data: bytes) -> bytes:
    """Half a line waits for its other half, unless it is longer than a piece."""
    return data[: data.rfind(b"\n") + 1] or (data if len(data) >= PIECE else b"")
