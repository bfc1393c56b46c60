"""What stages print, in one file a stage: bounded, never in memory, never in the database."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from ..mask import NOTHING, Mask
from ..model import StageName
from .changes import Changes

BREATH = 0.05
"""Seconds between two wake-up calls of one log: followers see output at once, a flood costs them
20 reads a second."""


class Logs:
    """The logs below one folder: `<run>/<stage>.log`."""

    def __init__(self, folder: Path, *, limit: int, changes: Changes) -> None:
        self._folder = folder
        self._limit = limit
        self._changes = changes

    def open(self, run_id: int, stage: StageName, mask: Mask = NOTHING) -> StageLog:
        """A fresh log for an attempt at a stage; what an earlier attempt wrote is gone."""
        path = self.path(run_id, stage)
        path.parent.mkdir(parents=True, exist_ok=True)
        return StageLog(path, limit=self._limit, changes=self._changes, run_id=run_id)

    def read(self, run_id: int, stage: StageName, offset: int = 0, most: int = 65536) -> bytes:
        """Up to `most` bytes from `offset`; empty where there is nothing (more)."""
        try:
            with self.path(run_id, stage).open("rb") as file:
                file.seek(offset)
                return file.read(most)
        except FileNotFoundError:
            return b""

    def size(self, run_id: int, stage: StageName) -> int:
        """Bytes there are by now."""
        try:
            return self.path(run_id, stage).stat().st_size
        except FileNotFoundError:
            return 0

    def path(self, run_id: int, stage: StageName) -> Path:
        return self._folder / str(run_id) / f"{stage.value}.log"

    def tail(self, run_id: int, stage: StageName, *, lines: int = 20) -> tuple[str, ...]:
        """The last lines, for an error that explains itself."""
        size = self.size(run_id, stage)
        text = self.read(run_id, stage, max(0, size - 16384)).decode("utf-8", "replace")
        return tuple(text.splitlines()[-lines:])


class StageLog:
    """A log being written. Past the limit the rest is counted and dropped, and the log says so."""

    def __init__(self, path: Path, *, limit: int, changes: Changes, run_id: int) -> None:
        self._file: BinaryIO = path.open("wb", buffering=0)
        self._room = limit
        self._limit = limit
        self._dropped = 0
        self._changes = changes
        self._run_id = run_id
        self._call: asyncio.TimerHandle | None = None

    def write(self, data: bytes) -> None:
        kept = data[: self._room]
        self._room -= len(kept)
        self._dropped += len(data) - len(kept)
        if kept:
            self._file.write(kept)
            self._tell_soon()

    def close(self) -> None:
        if self._dropped:
            told = f"the log is full at {self._limit:,} bytes; {self._dropped:,} more were dropped"
            self._file.write(f"\npenstock: {told}\n".encode())
        self._file.close()
        if self._call is not None:
            self._call.cancel()
        self._tell()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _tell_soon(self) -> None:
        if self._call is None:
            self._call = asyncio.get_running_loop().call_later(BREATH, self._tell)

    def _tell(self) -> None:
        self._call = None
        self._changes.tell((self._run_id,))
