"""Checkouts that may go to a replica."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from penstock_pool.connection import BORROWED, Connection
from penstock_pool.errors import Misuse, NestedCheckout, PoolUnavailable

if TYPE_CHECKING:
    from penstock_pool.pool import ConnectionPool


class Reader:
    """`async with pool.reader() as connection:`; see there."""

    __slots__ = ("_connection", "_limit", "_pool", "_timeout")

    def __init__(self, pool: ConnectionPool, timeout: float | None, limit: str | None) -> None:
        self._pool, self._timeout, self._limit = pool, timeout, limit
        self._connection: Connection | None = None

    async def __aenter__(self) -> Connection:
        """Each that is asked may take an equal share of the time that is left."""
        pool = self._pool
        timeout = pool.settings.checkout_timeout if self._timeout is None else self._timeout
        deadline = pool._clock() + timeout
        pools = by_room(pool.replicas)
        for number, replica in enumerate(pools):
            left = max(0.0, deadline - pool._clock())
            try:
                return await self._borrow(replica, left / (len(pools) + 1 - number))
            except (PoolUnavailable, NestedCheckout):
                continue
        return await self._borrow(pool, max(0.0, deadline - pool._clock()))

    async def _borrow(self, pool: ConnectionPool, timeout: float) -> Connection:
        connection = await pool.connection(timeout=timeout, limit=self._limit).__aenter__()
        if self._connection is not None:  # another task has entered it
            await connection.__aexit__(None, None, None)
            raise Misuse(BORROWED)
        self._connection = connection
        return connection

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.__aexit__(kind, error, trace)


def by_room(pools: Sequence[ConnectionPool]) -> list[ConnectionPool]:
    """Those that are neither down nor paused, the one with the most room first, equal ones by chance.
    The others are left in peace; those that are down are told that they are wanted."""
    up = []
    for pool in pools:
        if pool._supply.breaker.down and not pool._idle:
            pool._supply.wake()
        elif not pool._slots.paused:
            up.append(pool)
    return sorted(up, key=lambda pool: (_room(pool), pool._chance()), reverse=True)


def _room(pool: ConnectionPool) -> int:
    return pool._supply.ceiling.value - len(pool._busy) - len(pool._waiters)
