"""The compute pool's face: its parts are in the modules beside this one."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import itertools
import os
import weakref
from collections.abc import Callable
from concurrent.futures import Executor
from typing import ParamSpec, TypeVar

from .bench import Kind, maker
from .crew import Crew, Terms
from .rejection import POLICIES, Policy, Rejected
from .sizes import Grow, Sizes, check_whole
from .stats import ComputeStats
from .task import Call, Task

P = ParamSpec("P")
T = TypeVar("T")

_numbers = itertools.count(1)


class ComputePool(Executor):
    """Does what is submitted, within bounds: fewer than `core` workers → a new one begins with the task; else
    an idle one takes it; else it is queued; the queue is full and there are fewer than `max` workers → a new
    one begins with it; else it is rejected. With `grow="first"`, for work that mostly waits, there are `max`
    workers before anything is queued.

    Threads by default; they compute at once only where the work lets go of the GIL (hashing, compressing,
    reading). `kind="process"` and `kind="interpreter"` always do, but call, result and exception are pickled.

    An idle worker holds nothing of its last task. A task's exception is its future's, whichever it is. A pool
    that is no longer referenced does what was submitted and ends; so does every pool when Python exits. In a
    forked child it is there without workers and tasks: what was submitted before is the parent's.
    """

    def __init__(
        self,
        core: int | None = None,
        max: int | None = None,
        *,
        queue: int | None = None,
        grow: Grow = "last",
        rejected: Policy | Rejected = "abort",
        keep_alive: float = 60.0,
        core_times_out: bool = False,
        kind: Kind = "thread",
        start: str = "spawn",
        name: str | None = None,
    ) -> None:
        """Raises ValueError for what cannot be meant.

        `core`: workers that stay; None: one for each processor this process may use. `max`: workers at most;
        None: `core`. `queue`: tasks that may wait; None: any number. `keep_alive`: seconds a worker above
        core stays idle, and one of core too if `core_times_out`. `start`: how processes begin, "spawn" or
        "forkserver". `name`: what workers and errors are named after.

        `rejected`: "abort" raises `TaskRejected`; "caller_runs" does the task in the thread that submits;
        "discard" cancels its future; "discard_oldest" cancels the one that waits longest and queues this one;
        or a function (see `rejection.Rejected`).
        """
        _check_times(keep_alive, core_times_out)
        terms = Terms(
            name=name or f"compute-{next(_numbers)}",
            bench=maker(kind, start),
            rejected=_policy(rejected),
            discards_oldest=rejected == "discard_oldest",
            keep_alive=keep_alive,
            core_times_out=core_times_out,
        )
        self._shares_context = kind == "thread"
        self._crew = Crew(terms, _sizes(core, max, queue, grow))
        weakref.finalize(self, self._crew.abandon).atexit = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Task[T]:
        """The future of `fn(*args, **kwargs)`. Raises `ComputePoolClosed` after `shutdown`, and what the
        rejection policy raises."""
        task: Task[T] = Task(Call(fn, args, kwargs), self._crew.forget)
        self._crew.admit(task)
        return task

    async def run(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """`asyncio.to_thread` on this pool: awaits the result; threads see the caller's context variables.
        Cancelled while it waits, the task never runs. Raises what `submit` raises."""
        if self._shares_context:
            call = functools.partial(contextvars.copy_context().run, fn, *args, **kwargs)
            return await asyncio.wrap_future(self.submit(call))
        return await asyncio.wrap_future(self.submit(fn, *args, **kwargs))

    def resize(self, core: int | None = None, max: int | None = None) -> None:
        """Changes the number of workers; None: stays. New ones are started at once for what waits; those
        above `max` leave when their task ends, those above `core` after `keep_alive`. Raises ValueError."""
        self._crew.resize(core, max)

    def prestart(self) -> int:
        """Starts the workers of core before there are tasks, processes included. Returns how many."""
        return self._crew.prestart()

    def stats(self) -> ComputeStats:
        return self._crew.stats()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Takes nothing more. What is queued is still done, or cancelled (`cancel_futures`); `wait`: until
        that is so and no worker is left. May be called again. A coroutine leaves the waiting to a thread:
        `await asyncio.to_thread(pool.shutdown)`. Raises RuntimeError where a task waits for its own pool."""
        self._crew.close(cancel=cancel_futures)
        if wait:
            self._crew.join()

    def __repr__(self) -> str:
        stats = self.stats()
        return f"<ComputePool {stats.name!r}: {stats}>"


def _policy(rejected: Policy | Rejected) -> Rejected:
    if callable(rejected):
        return rejected
    if rejected not in POLICIES:
        raise ValueError(f"rejected={rejected!r}: must be a function or one of {', '.join(POLICIES)}")
    return POLICIES[rejected]


def _check_times(keep_alive: float, core_times_out: bool) -> None:
    if not (isinstance(keep_alive, int | float) and keep_alive >= 0):
        raise ValueError(f"keep_alive={keep_alive!r}: must be 0 seconds or more")
    if core_times_out and not keep_alive:
        raise ValueError("core_times_out needs a keep_alive above 0, or no worker would ever stay")


def _sizes(core: int | None, max: int | None, queue: int | None, grow: Grow) -> Sizes:
    check_whole(core=core, max=max, queue=queue)
    if core is None:
        core = _processors() if max is None else min(_processors(), max)
    if max is not None and max > (core or 1) and queue is None and grow == "last":
        raise ValueError(
            f"max={max} has no effect above core={core}: a queue without bound is never full; "
            "give queue=…, or grow='first'"
        )
    return Sizes(core, core if max is None else max, queue, grow)


def _processors() -> int:
    """Those that this process may use, where the system tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
