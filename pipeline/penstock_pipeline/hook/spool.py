"""Pushes that wait to be told to a Penstock: a folder with a file each, in order."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..durable import aside, sync

CUT_OFF = 60.0
"""Seconds after which a file that is still being written never will be whole: its writer has died."""

_NAME = re.compile(r"[0-9]{20}-[0-9a-f]{32}\.json")
"""A number that grows, and the message's id."""


@dataclass(frozen=True, slots=True)
class Message:
    """What is told of one push, under a name that stays the same however often it is sent."""

    id: str
    body: bytes

    @classmethod
    def new(cls, body: bytes) -> Message:
        return cls(uuid.uuid4().hex, body)


class Spool:
    """`penstock-spool` in a repository. Who sends holds its lock, who writes needs none."""

    def __init__(self, repository: Path) -> None:
        self.folder = (repository / "penstock-spool").absolute()
        self.refused = self.folder / "refused"

    def keep(self, message: Message) -> None:
        """The message is on the disk, behind all others, when this returns. Raises `OSError`."""
        newest = int(max(self.waiting(), default="0")[:20])
        number = max(time.time_ns(), newest + 1)  # clocks are set back at times
        if not self.folder.exists():
            self.folder.mkdir(exist_ok=True)
            sync(self.folder.parent)
        with aside(self.folder) as new:
            new.file.write(message.body)
            new.become(self.folder / f"{number:020}-{message.id}.json")
        sync(self.folder)

    def waiting(self) -> list[str]:
        """Names of what waits, oldest first."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return sorted(file.name for file in self.folder.iterdir() if _NAME.fullmatch(file.name))
        return []

    @property
    def changed(self) -> int:
        """Another number after every change of what waits."""
        return self.folder.stat().st_mtime_ns

    def message(self, name: str) -> Message:
        return Message(name[21:53], (self.folder / name).read_bytes())

    def told(self, name: str) -> None:
        (self.folder / name).unlink(missing_ok=True)

    @property
    def trouble(self) -> str | None:
        """Why the last try did not go through; None where it did."""
        with contextlib.suppress(FileNotFoundError):
            return (self.folder / "trouble").read_text()
        return None

    @trouble.setter
    def trouble(self, why: str | None) -> None:
        if why is None:
            (self.folder / "trouble").unlink(missing_ok=True)
        else:
            with contextlib.suppress(OSError):  # a full disk keeps nobody from sending
                (self.folder / "trouble").write_text(why)

    def refuse(self, name: str, why: str) -> None:
        """Sets aside what will never be taken, with the reason beside it."""
        self.refused.mkdir(exist_ok=True)
        (self.refused / f"{name}.txt").write_text(f"{why}\n")
        (self.folder / name).rename(self.refused / name)

    def refuse_cut_off(self) -> list[str]:
        """Sets aside what a writer that died has left behind; answers the names."""
        found = [
            file.name
            for file in self.folder.iterdir()
            if file.name.startswith(".") and time.time() - _written(file) > CUT_OFF
        ]
        for name in found:
            self.refuse(name, "the hook was ended while it wrote this")
        return found

    @contextlib.contextmanager
    def alone(self) -> Iterator[bool]:
        """Whether this process is the only one that sends, which it then stays."""
        with (self.folder / "lock").open("ab", buffering=0) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            with contextlib.suppress(OSError):
                file.truncate(0)
                file.write(f"{os.getpid()}\n".encode())
            yield True


def _written(file: Path) -> float:
    """When it was written last; never yet, where its writer has just given it its name."""
    try:
        return file.stat().st_mtime
    except FileNotFoundError:
        return float("inf")
