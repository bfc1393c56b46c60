"""Classes of query that may take only part of the pool: reports never hold every connection."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from types import TracebackType
from typing import Any

from penstock_pool.connection import BORROWED, Connection
from penstock_pool.errors import CheckoutTimeout, Misuse, NestedCheckout, PoolError, QueueFull
from penstock_pool.patience import patient
from penstock_pool.settings import Limit
from penstock_pool.stats import LimitStats

Task = asyncio.Task[Any] | None


class Gate:
    """Lets so many in at a time; the others wait in their order."""

    def __init__(self, name: str, limit: Limit) -> None:
        self._name, self._limit = name, limit
        self._inside: dict[object, Task] = {}
        """Who was let in, and by which task."""
        self._waiting: OrderedDict[asyncio.Future[None], tuple[object, Task]] = OrderedDict()

    @property
    def full(self) -> bool:
        return len(self._inside) >= self._limit.concurrency

    async def enter(self, who: object, timeout: float) -> None:
        """Raises `CheckoutTimeout`, `QueueFull`, `NestedCheckout`, `Misuse` for one who is inside, and what
        `fail` was given."""
        if who in self._inside:
            raise Misuse(BORROWED)
        task = asyncio.current_task()
        if not self.full:
            self._inside[who] = task
            return
        self._check_may_wait(task)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[future] = (who, task)
        try:
            async with patient(timeout):
                await future
        except BaseException as error:
            self.leave(who)  # it may have been let in meanwhile
            if isinstance(error, TimeoutError):
                raise CheckoutTimeout(f"{self}, for {timeout:g} s") from None
            raise
        finally:
            self._waiting.pop(future, None)

    def leave(self, who: object) -> None:
        """Lets the next one in. May be called again."""
        if who in self._inside:
            del self._inside[who]
            self._admit()

    def _admit(self) -> None:
        while self._waiting:
            future, (who, task) = self._waiting.popitem(last=False)
            if not future.done():
                self._inside[who] = task
                future.set_result(None)
                break

    def fail(self, error: Callable[[], PoolError]) -> None:
        """Sends all away who wait."""
        for future in self._waiting:
            if not future.done():
                future.set_exception(error())

    def stats(self) -> LimitStats:
        return LimitStats(self._limit.concurrency, len(self._inside), len(self._waiting))

    def _check_may_wait(self, task: Task) -> None:
        if len(self._waiting) >= self._limit.queue:
            raise QueueFull(f"{self}, and {len(self._waiting)} wait for it already")
        inside = set(self._inside.values())
        if task in inside and inside <= {task, *(waiting for _, waiting in self._waiting.values())}:
            raise NestedCheckout(f"{self}, of tasks that wait for another one, this one among them")

    def __str__(self) -> str:
        return f"limit {self._name}: all of its {self._limit.concurrency} connections are in use"


class LimitedConnection(Connection):
    """A connection that passes a gate first; one deadline for both waits."""

    __slots__ = ("_gate",)

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    async def __aenter__(self) -> Connection:
        pool = self._pool
        timeout = pool.settings.checkout_timeout if self._timeout is None else self._timeout
        pool._check_open()
        deadline = pool._clock() + timeout
        entering = self._gate.enter(self, timeout)
        await (pool._watch.over(entering) if self._gate.full and pool._watch.listeners else entering)
        try:
            self._timeout = max(0.0, deadline - pool._clock())
            return await super().__aenter__()
        except BaseException:
            self._gate.leave(self)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await super().__aexit__(kind, error, trace)
        finally:
            self._gate.leave(self)
