"""What stages print, in one file a stage: masked, bounded, never in memory, never in the database."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from ..errors import StoreUnavailable
from ..mask import NOTHING, Mask
from ..model import StageName
from .changes import Changes

log = logging.getLogger(__name__)

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
        """A fresh log for an attempt at a stage; what an earlier attempt wrote is gone. Raises
        `StoreUnavailable` where no file can be made."""
        path = self.path(run_id, stage)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return StageLog(path, limit=self._limit, mask=mask, changes=self._changes, run_id=run_id)
        except OSError as error:
            raise StoreUnavailable(f"{path} cannot be written: {error.strerror}") from error

    def drop(self, run_id: int, stage: StageName) -> None:
        """What a stage has printed is gone before it is recorded that it begins again: nobody takes the words
        of one attempt for those of the next. What cannot be removed, `open` overwrites."""
        with contextlib.suppress(OSError):
            self.path(run_id, stage).unlink()

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
    """A log being written. Past the limit, or the end of the disk, the rest is counted and dropped, and the
    log says so: output that cannot be kept fails no stage."""

    def __init__(self, path: Path, *, limit: int, mask: Mask, changes: Changes, run_id: int) -> None:
        self._file: BinaryIO = path.open("wb", buffering=0)
        self._mask = mask.stream()
        self._room = limit
        self._dropped = 0
        self._full = f"the log is full at {limit:,} bytes"
        self._changes = changes
        self._run_id = run_id
        self._call: asyncio.TimerHandle | None = None

    def write(self, data: bytes) -> None:
        self._keep(self._mask.feed(data) if self._room else data)

    def _keep(self, data: bytes) -> None:
        kept = self._put(data[: self._room])
        self._room -= kept
        self._dropped += len(data) - kept
        if kept:
            self._tell_soon()

    def _put(self, data: bytes) -> int:
        """How many bytes were written: a disk takes what it can before it says that it is full."""
        kept = 0
        try:
            while kept < len(data):
                kept += self._file.write(data[kept:])
        except OSError as error:
            self._room = kept
            self._full = f"the log could not be written: {error.strerror}"
            log.warning("%s cannot be written, its rest is dropped: %s", self._file.name, error.strerror)
        return kept

    def close(self) -> None:
        self._keep(self._mask.rest())
        if self._dropped:
            with suppress(OSError):
                self._file.write(f"\npenstock: {self._full}; {self._dropped:,} more were dropped\n".encode())
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
