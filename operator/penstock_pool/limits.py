"""Classes of query that may take only part of the pool: reports never hold every connection."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

from penstock_pool.connection import BORROWED, Connection
from penstock_pool.errors import CheckoutTimeout, Misuse, NestedCheckout, PoolError, QueueFull
from penstock_pool.patience import patient
from penstock_pool.settings import Limit
from penstock_pool.stats import LimitStats

if TYPE_CHECKING:
    from penstock_pool.pool import ConnectionPool

Task = asyncio.Task[Any] | None


class Gate:
    """Lets so many in at a time; the others wait in their order."""

    def __init__(self, name: str, limit: Limit, pool: ConnectionPool) -> None:
        self._name, self._limit, self._pool = name, limit, pool
        self.inside: dict[object, Task] = {}
        """Who was let in, and by which task."""
        self._waiting: OrderedDict[asyncio.Future[None], tuple[object, Task]] = OrderedDict()

    @property
    def full(self) -> bool:
        return len(self.inside) >= self._limit.concurrency

    @property
    def waiting(self) -> Iterator[Task]:
        """The tasks that wait for it."""
        return (task for _, task in self._waiting.values())

    async def enter(self, who: object, timeout: float) -> None:
        """Raises `CheckoutTimeout`, `QueueFull`, `NestedCheckout`, `Misuse` for one who is inside, and what
        `fail` was given."""
        if who in self.inside:
            raise Misuse(BORROWED)
        task = asyncio.current_task()
        if not self.full:
            self.inside[who] = task
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
                self._pool._line.timeouts += 1
                raise CheckoutTimeout(f"{self}, for {timeout:g} s ({self._pool._counts()})") from None
            if future.done() and not future.cancelled():
                future.exception()  # whoever was cancelled has no need of it
            raise
        finally:
            self._waiting.pop(future, None)

    def leave(self, who: object) -> None:
        """Lets the next one in. May be called again."""
        if who in self.inside:
            del self.inside[who]
            self._admit()

    def _admit(self) -> None:
        while self._waiting:
            future, (who, task) = self._waiting.popitem(last=False)
            if not future.done():
                self.inside[who] = task
                future.set_result(None)
                break

    def fail(self, error: Callable[[], PoolError]) -> None:
        """Sends all away who wait."""
        for future in self._waiting:
            if not future.done():
                future.set_exception(error())

    def stats(self) -> LimitStats:
        return LimitStats(self._limit.concurrency, len(self.inside), len(self._waiting))

    def _check_may_wait(self, task: Task) -> None:
        if len(self._waiting) >= self._limit.queue:
            raise QueueFull(f"{self}, and {len(self._waiting)} wait for it already ({self._pool._counts()})")
        holds = task in self._pool._busy.values() or task in self.inside.values()
        if holds and self._comes_never(task):
            raise NestedCheckout(f"{self}, of tasks that wait for another one, this one among them")

    def _comes_never(self, task: Task) -> bool:
        """Whether all who are inside wait, with that task, for what is held by such as wait themselves."""
        pool = self._pool
        held = {
            gate: (set(gate.inside.values()), set(gate.waiting)) for gate in pool._gates.values() if gate.full
        }
        held[self][1].add(task)
        places = [*held.values()]
        if not pool._may_come():
            places.append((set(pool._busy.values()), {waiter.task for waiter in pool._waiters.values()}))
        return held[self] in stuck(places)

    def __str__(self) -> str:
        name, most = self._pool.settings.name, self._limit.concurrency
        return f"pool {name}: limit {self._name}: all of its {most} connections are in use"


Place = tuple[set[Task], set[Task]]
"""Who holds all of it, and who waits for it."""


def stuck(places: list[Place]) -> list[Place]:
    """Those that never come free: all who hold them wait for such a one."""
    while True:
        wait = set[Task]().union(*(waiting for _, waiting in places))
        left = [place for place in places if place[0] <= wait]
        if len(left) == len(places):
            return places
        places = left


class LimitedConnection(Connection):
    """A connection that passes a gate first; one deadline for both waits."""

    __slots__ = ("_gate",)

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    async def __aenter__(self) -> Connection:
        pool, whole = self._pool, self._timeout
        timeout = pool.settings.checkout_timeout if whole is None else whole
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
        finally:
            self._timeout = whole

    def _take_away(self, error: PoolError) -> None:
        super()._take_away(error)
        self._gate.leave(self)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await super().__aexit__(kind, error, trace)
        finally:
            self._gate.leave(self)
