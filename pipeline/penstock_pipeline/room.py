"""How many files a process may have open, and how they are shared out."""

from __future__ import annotations

import contextlib
import resource
from dataclasses import dataclass

RESERVE = 64
"""Files that are kept for what is neither a connection nor a push: database, logs, runs."""

FILES_OF_A_PUSH = 4
"""Besides its connection: both ends of git, its hook, and what judges it."""


@dataclass(frozen=True, slots=True)
class Room:
    """What may be open at once."""

    connections: int
    pushes: int

    @classmethod
    def of(cls, files: int) -> Room:
        half = max(16, (files - RESERVE) // 2)
        return cls(connections=half, pushes=half // FILES_OF_A_PUSH)


def open_files() -> int:
    """Files this process may have open, from now on as many as it is allowed to ask for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return soft
