"""What a compute pool raises, or sets as the exception of a future; a task's own exceptions stay as they are.

ComputeError (a RuntimeError, as `concurrent.futures.Executor` promises of a refused submit)
├── TaskRejected        workers and queue are full: later, or never, says the caller
├── ComputePoolClosed   submitted after `shutdown`: the program is wrong
├── WorkerDied          a task's process ended under it: whether the task had its effect is not known
└── TaskNotSendable     a call or its outcome cannot be pickled: it never can
"""

from __future__ import annotations

from .stats import ComputeStats


class ComputeError(RuntimeError):
    """The root of the compute pool's errors."""


class TaskRejected(ComputeError):
    """A task was refused: `stats` are the pool's figures at that moment. `__cause__` is why no worker could
    be started, where that is the reason."""

    def __init__(self, stats: ComputeStats, cause: Exception | None = None) -> None:
        super().__init__(
            f"{stats.name!r} takes no more tasks: {stats}"
            + (f"; a worker could not be started: {cause}" if cause else "")
            + ". Wait for results before you submit more, or choose another size or `rejected`"
        )
        self.stats = stats
        self.__cause__ = cause


class ComputePoolClosed(ComputeError):
    """The pool was shut down: it finishes what it has and takes nothing more."""


class WorkerDied(ComputeError):
    """The process that was at a task ended before the task did, or could not be started. Only this task is
    concerned: the worker goes on with a new process."""


class TaskNotSendable(ComputeError):
    """A function, its arguments, its result or its exception cannot be pickled, or not be read on the other
    side; `__cause__` is pickle's reason, where there is one on this side."""
