"""The workers and the queue of a pool: everything that changes, under one lock.

A worker belongs to the crew as long as it is in `_workers`, and waits as long as it is in `_idle`; a task
waits as long as it is in `_queue`. While a task waits no worker does: who finishes takes the oldest, and who
submits hands over to one that waits. What is handed over lies in the worker's slot before its bell rings, so
that no ring can be lost and one too many does nothing.

Workers know the crew and not the pool: a pool that nobody holds any more is collected, and its crew ends.
"""

from __future__ import annotations

import atexit
import itertools
import logging
import math
import os
import queue
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from .bench import Bench
from .errors import ComputePoolClosed, TaskRejected
from .rejection import Rejected
from .sizes import Place, Sizes
from .stats import ComputeStats
from .task import Call, Task

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Terms:
    """What a crew is told once and for all."""

    name: str
    bench: Callable[[str], Bench]
    rejected: Rejected
    discards_oldest: bool
    keep_alive: float
    """Seconds a worker above core stays without a task."""
    core_times_out: bool


class Worker:
    """A thread and its bench, and the slot by which it is handed a task."""

    def __init__(self, crew: Crew, name: str, task: Task[Any] | None) -> None:
        self.bench = crew.terms.bench(name)
        self.task = task
        self.completed = 0
        self.thread = threading.Thread(target=_work, args=(crew, self), name=name, daemon=True)
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()

    def do(self, call: Call) -> Any:
        try:
            return self.bench.do(call)
        finally:
            self.completed += 1  # before the future tells: who knows the result finds it counted

    def ring(self) -> None:
        """Makes it look again, once, now or when it waits next. Safe wherever it is called."""
        self._bell.put(None)

    def wait(self, seconds: float) -> None:
        with suppress(queue.Empty):
            self._bell.get(timeout=None if seconds == math.inf else min(seconds, threading.TIMEOUT_MAX))


class Crew:
    """What the module's docstring says; every public method may be called by any thread."""

    def __init__(self, terms: Terms, sizes: Sizes) -> None:
        self.terms = terms
        self.sizes = sizes
        self._numbers = itertools.count(1)
        self._closing = False
        self._largest = self._completed = self._rejected = 0
        self.begin()
        _watch(self)

    def begin(self) -> None:
        """With nobody and nothing; also in a forked child, where all threads but one are gone."""
        self._lock = threading.Lock()
        self._workers: dict[Worker, None] = {}
        self._idle: dict[Worker, None] = {}
        self._leaving: dict[Worker, None] = {}
        self._queue: OrderedDict[Task[Any], None] = OrderedDict()

    # -- who submits

    def admit(self, task: Task[Any]) -> None:
        """Finds the task's place. Raises `ComputePoolClosed`, and what the rejection policy raises."""
        oldest = None
        with self._lock:
            if self._closing:
                raise ComputePoolClosed(f"compute pool {self.terms.name!r} was shut down; it takes no tasks")
            why = self._place(task)
            if why and self.terms.discards_oldest and self._queue:
                oldest, why = self._oldest(), None
                self._queue[task] = None
        if oldest is not None:
            oldest.discard()
        if why is not None:
            self.terms.rejected(task, why)

    def _place(self, task: Task[Any]) -> TaskRejected | None:
        failed = None
        place = self._rule()
        if place is Place.START and (failed := self._start(task)):
            place = self._rule(startable=False)
        match place:
            case Place.HAND:
                self._hand(task)
            case Place.QUEUE:
                self._queue[task] = None
            case Place.REJECT:
                self._rejected += 1
                return TaskRejected(self._stats(), failed)
        return None

    def _rule(self, *, startable: bool = True) -> Place:
        workers, idle, queued = len(self._workers), len(self._idle), len(self._queue)
        return self.sizes.place(workers=workers, idle=idle, queued=queued, startable=startable)

    def _start(self, task: Task[Any] | None) -> Exception | None:
        """A new worker that begins with the task; why not, where the machine does not give a thread."""
        worker = Worker(self, f"{self.terms.name}-{next(self._numbers)}", task)
        self._workers[worker] = None
        try:
            worker.thread.start()
        except (RuntimeError, MemoryError, OSError) as error:
            del self._workers[worker]
            return error
        self._largest = max(self._largest, len(self._workers))
        return None

    def _hand(self, task: Task[Any]) -> None:
        """To the worker that became idle last: the others come nearer to their time."""
        worker, _ = self._idle.popitem()
        worker.task = task
        worker.ring()

    def _oldest(self) -> Task[Any]:
        return self._queue.popitem(last=False)[0]

    def forget(self, task: Task[Any]) -> bool:
        """Takes a cancelled task out of the queue; whether it was there."""
        with self._lock:
            waited = task in self._queue
            if waited:
                del self._queue[task]
            return waited

    # -- who works

    def next(self, worker: Worker) -> Task[Any] | None:
        """Waits for the worker's next task. None: it has left, or is a fork of one."""
        since = time.monotonic()
        while True:
            with self._lock:
                if worker not in self._workers:
                    return None
                if (task := self._task_for(worker)) is not None:
                    return task
                seconds = self._patience(since)
                if seconds <= 0:
                    self._leave(worker)
                    return None
                self._idle[worker] = None
            worker.wait(seconds)

    def _task_for(self, worker: Worker) -> Task[Any] | None:
        """What it was handed, else what waits longest, unless there are more workers than there may be."""
        task, worker.task = worker.task, None
        if task is None and self._queue and len(self._workers) <= self.sizes.max:
            self._idle.pop(worker, None)
            task = self._oldest()
        return task

    def _patience(self, since: float) -> float:
        """Seconds for which a worker without a task since then stays in the crew."""
        workers = len(self._workers)
        if workers > self.sizes.max or self._closing:
            return 0.0
        if workers > self.sizes.core or self.terms.core_times_out:
            return since + self.terms.keep_alive - time.monotonic()
        return math.inf

    def _leave(self, worker: Worker) -> None:
        self._idle.pop(worker, None)
        del self._workers[worker]
        self._leaving[worker] = None
        self._completed += worker.completed

    def gone(self, worker: Worker) -> None:
        """The last that a worker says. One that has not left was torn away: what it was handed comes back."""
        with self._lock:
            if worker in self._workers:
                self._leave(worker)
            if worker.task is not None:
                self._queue[worker.task] = None
                self._queue.move_to_end(worker.task, last=False)
            self._leaving.pop(worker, None)
            self._staff()

    # -- who owns the pool

    def resize(self, core: int | None, max: int | None) -> None:
        with self._lock:
            now = self.sizes
            core, max = now.core if core is None else core, now.max if max is None else max
            self.sizes = replace(now, core=core, max=max)
            self._staff()
            self._ring_all()

    def prestart(self) -> int:
        """Starts what core workers are missing; how many it started."""
        with self._lock:
            before = len(self._workers)
            while not self._closing and len(self._workers) < self.sizes.core and not self._start(None):
                pass
            return len(self._workers) - before

    def _staff(self) -> None:
        """Workers for what waits, as far as the sizes would have started them. They take it themselves."""
        wanted = self.sizes.max if self.sizes.grow == "first" else max(self.sizes.core, 1)
        for _ in range(min(len(self._queue), wanted - len(self._workers))):
            if self._start(None):
                return

    def close(self, *, cancel: bool) -> None:
        """Takes no more. What waits is cancelled, or still done."""
        with self._lock:
            self.abandon()
            waiting = list(self._queue) if cancel else []
            if cancel:
                self._queue.clear()
        for task in waiting:
            task.discard()

    def abandon(self) -> None:
        """Takes no more and does what waits. Needs no lock: the garbage collector may call it in a thread
        that holds it."""
        self._closing = True
        self._ring_all()

    def _ring_all(self) -> None:
        for worker in tuple(self._workers):
            worker.ring()

    def join(self) -> None:
        """Returns when every worker is gone, its bench closed. Raises RuntimeError in a worker of its own."""
        while workers := self._present():
            for worker in workers:
                worker.thread.join()

    def _present(self) -> list[Worker]:
        with self._lock:
            return [*self._workers, *self._leaving]

    def forsake(self) -> None:
        """In a forked child: threads, processes and what waits stayed with the parent."""
        benches = [worker.bench for worker in (*self._workers, *self._leaving)]
        self.begin()
        for bench in benches:
            bench.forsake()

    def stats(self) -> ComputeStats:
        with self._lock:
            return self._stats()

    def _stats(self) -> ComputeStats:
        return ComputeStats(
            name=self.terms.name,
            core=self.sizes.core,
            max=self.sizes.max,
            room=self.sizes.queue,
            active=len(self._workers) - len(self._idle),
            idle=len(self._idle),
            queued=len(self._queue),
            largest=self._largest,
            completed=self._completed + sum(worker.completed for worker in self._workers),
            rejected=self._rejected,
        )


def _work(crew: Crew, worker: Worker) -> None:
    """The life of a worker's thread. No task ends it."""
    try:
        if worker.task is None:
            with suppress(Exception):  # the first task meets it again, and tells
                worker.bench.prepare()
        while (task := crew.next(worker)) is not None:
            try:
                task.run(worker.do)
            except BaseException:
                log.exception("%s: what was to be called with a result has failed", worker.thread.name)
            del task  # held while waiting, it would hold its arguments, its result and its exception's frames
    finally:
        try:
            worker.bench.close()
        finally:
            crew.gone(worker)


# -- the end of the process, and its doubles

_crews: weakref.WeakSet[Crew] = weakref.WeakSet()


def _watch(crew: Crew) -> None:
    """At exit crews come first: multiprocessing, which waits for its processes, may be imported by now."""
    _crews.add(crew)
    atexit.unregister(_end_all)
    atexit.register(_end_all)


def _end_all() -> None:
    crews = list(_crews)
    for crew in crews:
        crew.abandon()
    for crew in crews:
        crew.join()


def _forsake_all() -> None:
    for crew in list(_crews):
        crew.forsake()


os.register_at_fork(after_in_child=_forsake_all)
