"""How a compute pool stands, as one value."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ComputeStats:
    """A pool's figures, all of the same moment."""

    name: str
    core: int
    max: int
    room: int | None
    """Tasks that the queue may hold; None: any number."""
    active: int
    """Workers that are at a task, or on their way to one."""
    idle: int
    """Workers that wait for a task."""
    queued: int
    """Tasks that wait for a worker; cancelled ones do not."""
    largest: int
    """The most workers there have been at once."""
    completed: int
    """Tasks that a worker ran to their end, good or bad. Counted before the future tells."""
    rejected: int
    """Tasks that were refused, whatever was done with them then."""

    @property
    def workers(self) -> int:
        return self.active + self.idle

    def __str__(self) -> str:
        room = "" if self.room is None else f" of {self.room}"
        return (
            f"{self.active} active and {self.idle} idle of {self.max} workers (core {self.core}), "
            f"{self.queued}{room} queued"
        )
