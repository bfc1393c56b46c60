"""Files that are whole or not there, whatever happens, and stay once they are."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO


class Aside:
    """A file that is being written where nobody looks."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self.file = file
        self._path = path

    def become(self, target: Path, *, mode: int = 0o644) -> None:
        """It is `target` from now on; to keep that through a power cut, `sync` the folder."""
        self.file.flush()
        os.fchmod(self.file.fileno(), mode)
        os.fsync(self.file.fileno())
        self._path.rename(target)


@contextlib.contextmanager
def aside(folder: Path) -> Iterator[Aside]:
    """A new file in `folder`, which is made when missing; gone afterwards unless it became something."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=".", dir=folder)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123
            yield Aside(file, Path(name))
    finally:
        Path(name).unlink(missing_ok=True)


def secret(path: Path, make: Callable[[], bytes]) -> bytes:
    """What is kept in a file that only its owner can read; made when there is none, once, whoever asks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _alone(path.parent):
        if path.exists() and (kept := path.read_bytes()):
            return kept
        made = make()
        with aside(path.parent) as new:
            new.file.write(made)
            new.become(path, mode=0o600)
        sync(path.parent)
        return made


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Holds a lock on the folder itself: against other threads as well as other processes."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def sync(folder: Path) -> None:
    """The names in `folder` are durable when this returns."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
