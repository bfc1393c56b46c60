"""What may be done with a task that finds no place: the JDK's four policies, or one of your own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from .errors import TaskRejected
from .task import Task

Rejected = Callable[[Task[Any], TaskRejected], None]
"""Called in the thread that submits, with the task and the reason. It raises the reason, or calls the task's
`run` (now, or later in another thread) or `discard`; else the future is never done."""

Policy = Literal["abort", "caller_runs", "discard", "discard_oldest"]


def abort(task: Task[Any], why: TaskRejected) -> None:
    """`submit` raises `TaskRejected`."""
    raise why


def caller_runs(task: Task[Any], why: TaskRejected) -> None:
    """Who submits does it, which slows it down. Not for a coroutine: the event loop would stand still."""
    task.run()
    if isinstance(error := task.exception(), KeyboardInterrupt):
        raise error  # it was meant for the caller, in whose thread it came


def discard(task: Task[Any], why: TaskRejected) -> None:
    """The future is cancelled."""
    task.discard()


POLICIES: Mapping[str, Rejected] = {
    "abort": abort,
    "caller_runs": caller_runs,
    "discard": discard,
    "discard_oldest": abort,  # where there is nothing older to discard; else the crew finds the place
}
