"""Transactions over several requests: a lease is a connection with a transaction open, for a time."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass

from penstock_data.errors import Busy, Conflict, Forbidden, LeaseGone, RetryTransaction
from penstock_data.settings import Settings
from penstock_data.tokens import Identity
from penstock_pool import Connection, ConnectionPool
from penstock_pool.errors import PoolError

log = logging.getLogger("penstock_data")

UNDO = 2.0
"""Seconds that ROLLBACK may take; then the connection is cut, which rolls back as well."""

EXPIRED = "its time was over: rolled back"


@dataclass(frozen=True, slots=True)
class Place:
    """What the name of a lease tells: who holds it, and when it is over at the latest."""

    pod: str
    ends: int
    """Seconds since the epoch."""


def place_of(name: str) -> Place:
    """Raises `LeaseGone` for what is no name of a lease."""
    parts = name.split("~")
    if len(parts) != 3 or not parts[1].isdecimal() or len(parts[1]) > 12:
        raise LeaseGone("there is no such lease")
    return Place(parts[0], int(parts[1]))


class Lease:
    """One transaction, and who has it."""

    def __init__(self, name: str, tenant: str, connection: Connection, ends_at: float) -> None:
        self.name, self.tenant, self.connection = name, tenant, connection
        self.fence = ""
        """Grows with every lease and renewal."""
        self.due = 0.0
        """When it is over, by the event loop's clock."""
        self.ends_at = ends_at
        """When it is over however often it is renewed."""
        self.busy = False
        self.stack = AsyncExitStack()
        self.timer: asyncio.TimerHandle | None = None


class Leases:
    """All leases of this process."""

    def __init__(
        self,
        pool: ConnectionPool,
        settings: Settings,
        freed: Callable[[], object],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`freed` is called when a lease has ended; `clock`: seconds since the epoch."""
        self._pool, self._settings, self._freed, self._clock = pool, settings, freed, clock
        self._leases: dict[str, Lease] = {}
        self._opening: list[str] = []
        """Tenants whose transaction is being opened."""
        self._ending: set[asyncio.Task[None]] = set()
        self._none = asyncio.Event()
        self._why: dict[str, str] = {}
        """What became of the last ones that ended without being asked to."""

    def __contains__(self, name: str) -> bool:
        return name in self._leases

    def is_over(self, place: Place) -> bool:
        """Whether no lease of this name can be there any more, wherever it was."""
        return self._clock() > place.ends

    def __len__(self) -> int:
        return len(self._leases) + len(self._opening)

    def holders(self) -> list[dict[str, object]]:
        """Who holds a connection, and for how many seconds yet."""
        return [
            {"lease": lease.name, "tenant": lease.tenant, "seconds": round(self.left(lease), 3)}
            for lease in self._leases.values()
        ]

    # -- its life

    async def begin(
        self, who: Identity, seconds: float, *, isolation: str | None, read: bool, timeout: float
    ) -> Lease:
        """A lease whose transaction is open. Raises `Busy`, `Misuse` for an isolation that there is not, and
        what the pool raises."""
        self._check_room(who.tenant)
        self._opening.append(who.tenant)
        try:
            lease = await self._opened(who, isolation, read, timeout)
        finally:
            self._opening.remove(who.tenant)
        self._leases[lease.name] = lease
        self._extend(lease, seconds)
        return lease

    def _check_room(self, tenant: str) -> None:
        settings = self._settings
        mine = sum(lease.tenant == tenant for lease in self._leases.values()) + self._opening.count(tenant)
        if mine >= settings.tenant_leases:
            raise Busy(f"you have {mine} transactions open, which is what is allowed")
        if len(self) >= settings.max_leases:
            raise Busy(f"{len(self)} transactions are open, which is what is allowed")

    async def _opened(self, who: Identity, isolation: str | None, read: bool, timeout: float) -> Lease:
        loop, limit = asyncio.get_running_loop(), self._settings.lease_limit
        name = f"{self._settings.pod}~{int(self._clock() + limit) + 1}~{secrets.token_urlsafe(16)}"
        async with AsyncExitStack() as stack:
            connection = await stack.enter_async_context(self._pool.connection(timeout=timeout))
            lease = Lease(name, who.tenant, connection, loop.time() + limit)
            transaction = connection.transaction(isolation=isolation, read_only=read)
            await stack.enter_async_context(transaction)
            await self._fence(lease)
            lease.stack = stack.pop_all()
        return lease

    async def _fence(self, lease: Lease) -> None:
        lease.fence = str(await lease.connection.fetchval("SELECT UUID_SHORT()"))

    def _extend(self, lease: Lease, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        lease.due = min(loop.time() + seconds, lease.ends_at)
        if lease.timer is not None:
            lease.timer.cancel()
        lease.timer = loop.call_at(lease.due, self._expire, lease)

    def _expire(self, lease: Lease) -> None:
        task = asyncio.get_running_loop().create_task(self._end(lease, EXPIRED), name="penstock-data-lease")
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    # -- its use

    @asynccontextmanager
    async def using(self, name: str, who: Identity, fence: object = None) -> AsyncIterator[Lease]:
        """The lease, for one request at a time. When its transaction is over afterwards, so is the lease.
        Raises `LeaseGone`, `Forbidden`, `Conflict`."""
        lease = self._found(name, who, fence)
        lease.busy = True
        try:
            yield lease
        except RetryTransaction as problem:  # the server has undone all of it, or part
            await self._end(lease, f"rolled back: {problem.detail}")
            raise
        except Exception as error:
            if lease.name in self._why:  # its end came meanwhile, and says more
                raise LeaseGone(self._why[lease.name]) from error
            raise
        finally:
            lease.busy = False
            if lease.name in self._leases and not self._is_open(lease):
                await self._end(lease, "its connection or its transaction was lost: rolled back")

    def _found(self, name: str, who: Identity, fence: object) -> Lease:
        lease = self._leases.get(name)
        if lease is None:
            raise LeaseGone(self._why.get(name, "it was committed, rolled back, or its process has ended"))
        if lease.tenant != who.tenant:
            raise Forbidden("it is somebody else's")
        if fence is not None and fence != lease.fence:
            raise Conflict("the fence is an older one: somebody has renewed the lease since")
        if lease.busy:
            raise Conflict("another request is under way in this transaction: one at a time")
        return lease

    def _is_open(self, lease: Lease) -> bool:
        with suppress(PoolError):
            return lease.connection.usable and lease.connection.in_transaction
        return False

    async def renew(self, lease: Lease, seconds: float) -> None:
        """Moves its deadline, up to the limit of all leases, and gives it a new fence."""
        await self._fence(lease)
        self._extend(lease, seconds)

    def left(self, lease: Lease) -> float:
        """Seconds until it is over."""
        return max(0.0, lease.due - asyncio.get_running_loop().time())

    # -- its end

    async def commit(self, lease: Lease) -> None:
        """Raises what COMMIT raises; cancelled, its outcome is unknown."""
        self._forget(lease)
        try:
            await lease.stack.aclose()
        finally:
            self._freed()

    async def rollback(self, lease: Lease) -> None:
        """Whatever becomes of ROLLBACK, nothing of it stays."""
        await self._end(lease, "rolled back")

    async def _end(self, lease: Lease, why: str) -> None:
        if lease.name not in self._leases:
            return
        self._forget(lease)
        self._why[lease.name] = why
        while len(self._why) > 1000:
            del self._why[next(iter(self._why))]
        with suppress(Exception):  # of a connection that is lost the server rolls back by itself
            async with asyncio.timeout(UNDO):
                await lease.stack.__aexit__(_Undo, _Undo(why), None)
        self._freed()

    def _forget(self, lease: Lease) -> None:
        del self._leases[lease.name]
        if lease.timer is not None:
            lease.timer.cancel()
        if not self._leases:
            self._none.set()

    async def drained(self, seconds: float) -> None:
        """When there is none any more, or the time is over; the others are rolled back then."""
        self._none.clear()
        with suppress(TimeoutError):
            if self._leases:
                await asyncio.wait_for(self._none.wait(), seconds)
        for lease in list(self._leases.values()):
            await self._end(lease, "the service has stopped: rolled back")


class _Undo(Exception):
    """Leaves the transaction by its other door."""
