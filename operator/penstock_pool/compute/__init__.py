"""A `concurrent.futures.Executor` that says no: core → queue → up to max → rejection.

    from penstock_pool import ComputePool

    with ComputePool(core=2, max=8, queue=100, name="thumbnails") as pool:
        future = pool.submit(shrink, "cat.jpg")
        print(future.result())

Its rules are those of the JDK's `java.util.concurrent.ThreadPoolExecutor`; the work is done in threads, in
processes that may die one by one, or in interpreters (Python ≥ 3.14). It needs the standard library only.
"""

from .errors import ComputeError, ComputePoolClosed, TaskNotSendable, TaskRejected, WorkerDied
from .pool import ComputePool
from .stats import ComputeStats
from .task import Task

__all__ = [
    "ComputeError",
    "ComputePool",
    "ComputePoolClosed",
    "ComputeStats",
    "Task",
    "TaskNotSendable",
    "TaskRejected",
    "WorkerDied",
]
