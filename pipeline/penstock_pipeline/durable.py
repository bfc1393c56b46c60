"""Files that are whole or not there, whatever happens, and stay once they are."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


class Aside:
    """A file that is being written where nobody looks."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self.file = file
        self._path = path

    def become(self, target: Path) -> None:
        """It is `target` from now on, mode 0644; to keep that through a power cut, `sync` the folder."""
        self.file.flush()
        os.fchmod(self.file.fileno(), 0o644)
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


def sync(folder: Path) -> None:
    """The names in `folder` are durable when this returns."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
