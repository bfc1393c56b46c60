"""The pool: who gets which connection, and when."""

from __future__ import annotations

import asyncio
import os
import random
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

from penstock_pool.connection import QUIET, Connection, Row, current_task
from penstock_pool.driver import Arguments, Driver, Result, Session, settled
from penstock_pool.errors import (
    AccessRefused,
    CheckoutTimeout,
    DatabaseDown,
    InvalidSettings,
    Misuse,
    NestedCheckout,
    PoolClosed,
    PoolError,
    QueueFull,
)
from penstock_pool.limits import Gate, LimitedConnection
from penstock_pool.line import Line, Waiter
from penstock_pool.reader import Reader
from penstock_pool.settings import PoolSettings, Server
from penstock_pool.slots import Slots
from penstock_pool.slow import SlowLog
from penstock_pool.stats import PoolStats
from penstock_pool.supply import Supply
from penstock_pool.upkeep import Upkeep
from penstock_pool.watch import Listener, Watch

_new = object.__new__


class ConnectionPool:
    """A pool of connections to one MySQL or MariaDB server.

    Fewer than `min` open: new ones are opened in the background. A checkout takes an idle one; else, below
    `max`, one is opened and the checkout gets whichever is ready first; else it waits, first come, first
    served, up to its time. Belongs to the event loop and the process that opened it."""

    def __init__(
        self,
        server: Server | str,
        settings: PoolSettings | None = None,
        *,
        replicas: Sequence[ConnectionPool] = (),
        driver: Driver | None = None,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`server` may be a URL (`Server.from_url`). `replicas`: for `reader`, pools that are not open yet;
        they are opened and closed with this one, and by nobody else. `driver`, `clock` (seconds) and `chance`
        (0 to 1) are for tests. Raises `InvalidSettings`."""
        _check_kinds(settings, replicas)
        self.server = server if isinstance(server, Server) else Server.from_url(server)
        self.settings = settings or PoolSettings()
        self.replicas = tuple(replicas)
        """Pools of servers that follow this one; each has its own size, pauses and stats."""
        self._driver = driver or _asyncmy(self.server)
        self._clock, self._chance = clock, chance
        self._watch = Watch(SlowLog(self.settings), clock)
        self._line = Line(clock, self._too_late)
        self._slots = Slots(self._line)
        self._idle, self._busy, self._waiters = self._slots.idle, self._slots.busy, self._line.waiters
        self._supply = Supply(
            self._driver, self._slots, self.settings, self._offer, self._watch, clock, chance
        )
        self._upkeep = Upkeep(self._slots, self._supply, clock, self._seize)
        self._gates = {name: Gate(name, limit, self) for name, limit in self.settings.limits.items()}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed: str | None = "it is not open yet: `await pool.open()`"
        self._all_back = asyncio.Event()

    def __repr__(self) -> str:
        return f"<ConnectionPool {self.settings.name!r} at {self.server}: {self._counts()}>"

    # -- its life

    async def open(self, *, wait: float | None = None) -> None:
        """Begins to fill up to `min`. With `wait` (seconds), returns when one connection is open, and raises
        `DatabaseDown` or `CheckoutTimeout` when none is by then, although it was tried again and again; at
        once when the server refuses us (`AccessRefused`). Without, returns at once. Raises `Misuse` when it,
        or one of its replicas, was opened before."""
        for pool in (self, *self.replicas):
            if pool._loop is not None:
                raise Misuse(f"pool {pool.settings.name} was opened before: make another one")
        for replica in self.replicas:
            await replica.open()
        self._loop, self._closed = asyncio.get_running_loop(), None
        _opened.add(self)
        self._supply.stopped = False
        self._supply.replenish()
        self._upkeep.start()
        if wait is not None:
            await self._first(self._clock() + wait)

    async def _first(self, deadline: float) -> None:
        try:
            while not await self._comes(deadline):
                pass
        except BaseException:
            await self.close(grace=0)
            raise

    async def _comes(self, deadline: float) -> bool:
        """Whether a connection does, of the attempt that is made next or under way."""
        assert self._loop is not None
        waiter = Waiter(self._loop.create_future(), self._clock(), deadline, asyncio.current_task())
        self._line.join(waiter)
        if not self._supply.breaker.down:  # else it is tried again in its time
            self._supply.replenish()
        try:
            await waiter.future
        except (DatabaseDown, CheckoutTimeout) as error:
            refused = isinstance(self._supply.breaker.cause, AccessRefused)
            if isinstance(error, DatabaseDown) and not refused:
                return False
            raise (self._supply.down() if self._supply.breaker.down else error) from error.__cause__
        finally:
            self._left(waiter)
        return True

    async def close(self, grace: float = 5.0) -> None:
        """No checkout begins any more, who waits is sent away (`PoolClosed`); borrowers have `grace` seconds
        to return what they hold, then it is taken from them and their statements are killed (these get
        `ConnectionLost`, a COMMIT `CommitUnknown`). Returns when no socket is left; cancelled, it cuts them
        all at once. May be called again. Raises `Misuse` in another event loop than the one of `open`."""
        if self._closed == FORKED:
            return
        if self._closed is None:
            self._check_open()
        try:
            await asyncio.gather(self._close(grace), *(replica.close(grace) for replica in self.replicas))
        except asyncio.CancelledError:
            for pool in (self, *self.replicas):
                pool._abandon()
            raise

    def _shut(self) -> None:
        self._closed = self._closed or "it is closed: make another one"
        _opened.discard(self)
        self._supply.stopped = True
        self._line.fail(lambda _: self._refusal())
        for gate in self._gates.values():
            gate.fail(self._refusal)

    def _abandon(self) -> None:
        self._shut()
        self._upkeep.cancel()
        self._supply.abandon()

    async def _close(self, grace: float) -> None:
        self._shut()
        self._end_spare(0)
        self._look_when_back()
        await self._upkeep.stop()
        await self._returned(grace)
        for session in list(self._busy):
            self._seize(
                session, PoolClosed(f"pool {self.settings.name} was closed, and took the connection back")
            )
        await self._supply.stop()

    async def _returned(self, grace: float) -> None:
        """When all is returned, or the grace is over."""
        await settled(asyncio.get_running_loop())
        self._all_back.clear()
        if self._busy and grace > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._all_back.wait(), grace)
        await settled(asyncio.get_running_loop())

    async def __aenter__(self) -> ConnectionPool:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def resize(self, min: int, max: int) -> None:
        """From now on. What is too much is closed: idle connections at once, borrowed ones when they come
        back. Raises `InvalidSettings`, and then nothing has changed."""
        self.adjust(min=min, max=max)

    def adjust(self, **changes: Any) -> None:
        """Other settings from now on: sizes as `resize` has them, and times. Raises `InvalidSettings` for a
        value that cannot be meant, or a setting that stays (`name`, `limits`, and those of the slow-query
        log), and then nothing has changed."""
        if stay := sorted(changes.keys() - ADJUSTABLE):
            raise InvalidSettings(
                f"{', '.join(stay)} cannot be adjusted; there are: {', '.join(sorted(ADJUSTABLE))}"
            )
        self.settings = self._supply.settings = replace(self.settings, **changes)
        self._fit(self.settings.min, self.settings.max)

    def _fit(self, min: int, max: int) -> None:
        self._supply.min, self._supply.ceiling.most = min, max
        self._end_spare(max)
        if self._slots.total > max:
            self._look_when_back()
        self._supply.replenish()

    def _end_spare(self, most: int) -> None:
        slots = self._slots
        for spare in (slots.parked, slots.idle):
            while spare and slots.total - len(slots.ending) > most:
                self._supply.end(spare.pop())

    def pause(self) -> None:
        """Nothing is given out until `resume`; who asks waits, to its own deadline. For a failover or a
        change of schema."""
        self._slots.paused = True
        self._slots.parked.extend(self._idle)
        self._idle.clear()
        self._look_when_back()

    def _look_when_back(self) -> None:
        for session in self._busy:
            session.attention = True

    def resume(self) -> None:
        """Those who wait are served in their order. Does nothing when the pool is not paused."""
        self._slots.paused = False
        self._idle.extend(self._slots.parked)
        self._slots.parked.clear()
        while self._waiters and self._idle and (session := self._fresh(self._clock(), ping=True)):
            self._offer(session)
        self._supply.replenish()  # and has them pinged: much may have happened during a failover

    # -- its use

    def connection(self, *, timeout: float | None = None, limit: str | None = None) -> Connection:
        """`async with pool.connection() as connection:` borrows one. `timeout` (seconds) in place of
        `checkout_timeout`; 0 takes an idle one or none. `limit`: the class of query, of those in
        `PoolSettings.limits`; its place is waited for within the same time. Raises `Misuse` for one that is
        not there. Entering raises `CheckoutTimeout`, `QueueFull`, `DatabaseDown`, `PoolClosed`,
        `NestedCheckout`."""
        connection = _new(Connection) if limit is None else LimitedConnection(self._gate(limit))
        connection._pool, connection._timeout, connection._session = self, timeout, None
        connection._undone = None
        return connection

    def reader(self, *, timeout: float | None = None, limit: str | None = None) -> Reader:
        """`async with pool.reader() as connection:` borrows one of the replica that has the most room and is
        not down. When it cannot be had there in its share of the time, another replica's, and at last one of
        this pool, as it does when there are no replicas. A replica may lag behind: what was just written is
        read by `connection`. Raises like `connection`."""
        return Reader(self, timeout, limit)

    @asynccontextmanager
    async def transaction(
        self, *, timeout: float | None = None, limit: str | None = None
    ) -> AsyncIterator[Connection]:
        """A connection with a transaction open on it: COMMIT when the block ends well, else ROLLBACK. Raises
        like `connection` and `Connection.transaction`."""
        async with self.connection(timeout=timeout, limit=limit) as connection, connection.transaction():
            yield connection

    async def execute(self, sql: str, arguments: Arguments = None, *, limit: str | None = None) -> Result:
        """`Connection.execute` on a connection of its own."""
        async with self.connection(limit=limit) as connection:
            return await connection.execute(sql, arguments)

    async def fetch(
        self, sql: str, arguments: Arguments = None, *, limit: str | None = None
    ) -> tuple[Row, ...]:
        """`Connection.fetch` on a connection of its own."""
        async with self.connection(limit=limit) as connection:
            return await connection.fetch(sql, arguments)

    async def fetchrow(
        self, sql: str, arguments: Arguments = None, *, limit: str | None = None
    ) -> Row | None:
        """`Connection.fetchrow` on a connection of its own."""
        async with self.connection(limit=limit) as connection:
            return await connection.fetchrow(sql, arguments)

    async def fetchval(self, sql: str, arguments: Arguments = None, *, limit: str | None = None) -> Any:
        """`Connection.fetchval` on a connection of its own."""
        async with self.connection(limit=limit) as connection:
            return await connection.fetchval(sql, arguments)

    async def executemany(
        self, sql: str, rows: Iterable[Sequence[object] | dict[str, object]], *, limit: str | None = None
    ) -> int:
        """`Connection.executemany` on a connection of its own, in one transaction."""
        async with self.transaction(limit=limit) as connection:
            return await connection.executemany(sql, rows)

    def listen(self, listener: Listener) -> None:
        """Tells it of every statement, wait and connect, when they have ended."""
        self._watch.add(listener)

    def stats(self) -> PoolStats:
        """How the pool is now, and what it has done."""
        slots, supply = self._slots, self._supply
        sessions = list(slots.all())
        return PoolStats(
            name=self.settings.name,
            min=self.settings.min,
            max=self.settings.max,
            ceiling=supply.ceiling.value,
            idle=len(slots.idle),
            busy=len(slots.busy),
            connecting=len(slots.connecting),
            tending=len(slots.tending),
            ending=len(slots.ending),
            parked=len(slots.parked),
            waiting=len(self._line),
            down=str(supply.breaker.cause) if supply.breaker.down else None,
            checkouts=supply.ended_uses + sum(session.uses for session in sessions),
            held_seconds=supply.ended_held + sum(session.held for session in sessions),
            waits=tuple(self._line.waits.counts),
            waited_seconds=self._line.waits.seconds,
            timeouts=self._line.timeouts,
            opened=supply.opened,
            failed=supply.failed,
            lost=supply.lost,
            killed=supply.killed,
            limits={name: gate.stats() for name, gate in self._gates.items()},
        )

    # -- checkout

    def _gate(self, limit: str) -> Gate:
        if limit not in self._gates:
            known = ", ".join(sorted(self._gates)) or "none"
            raise Misuse(f"pool {self.settings.name} has no limit {limit!r}; there are: {known}")
        return self._gates[limit]

    async def _checkout(self, timeout: float | None) -> Session:
        """The session is in `busy` when this returns."""
        now, task = self._clock(), current_task(self._loop)
        timeout = self.settings.checkout_timeout if timeout is None else timeout
        if task is None:  # the event loop that runs is another one
            self._check_open()
        if self._idle and not self._waiters:
            session = self._fresh(now, ping=timeout > 0)
            if session is not None:
                self._busy[session] = task
                session.since = now
                return session
        waiter = self._join(now, timeout, task)
        try:
            return await (self._watch.over(waiter.future) if self._watch.listeners else waiter.future)
        except BaseException:
            self._left(waiter)
            raise

    def _fresh(self, now: float, *, ping: bool) -> Session | None:
        """The idle one that was used last, or the one that was pinged last; unless it has to be asked first
        whether it is alive. Who has no time does not ask."""
        idle = self._idle
        for session, take in ((idle[-1], idle.pop), (idle[0], idle.popleft)):
            quiet = now - max(session.since, session.proven_at)
            if quiet >= QUIET and session.broken():
                self._supply.dead(take(), None)
                return None
            if quiet < max(self.settings.ping_after, QUIET) or not ping:
                return take()
        return None

    def _join(self, now: float, timeout: float, task: asyncio.Task[Any] | None) -> Waiter:
        loop = self._check_may_wait(now, task)
        waiter = Waiter(loop.create_future(), now, now + timeout, task)
        if timeout <= 0:
            raise self._too_late(waiter)
        try:
            self._line.join(waiter)
            self._supply.replenish()
        except BaseException:
            self._left(waiter)
            raise
        return waiter

    def _check_may_wait(self, now: float, task: asyncio.Task[Any] | None) -> asyncio.AbstractEventLoop:
        loop = self._loop
        if self._closed or loop is None:
            loop = self._check_open()
        if len(self._waiters) >= self.settings.queue:
            raise QueueFull(
                f"pool {self.settings.name}: {self.settings.queue} wait already ({self._counts()})"
            )
        self._check_not_nested(task)
        breaker, slots = self._supply.breaker, self._slots
        if breaker.down and not (slots.open or slots.paused) and (slots.connecting or now < breaker.retry_at):
            raise self._supply.down()
        return loop

    def _check_open(self) -> asyncio.AbstractEventLoop:
        """Only where it matters: before Python 3.12 asking for the running loop is a system call."""
        loop = asyncio.get_running_loop()
        if self._closed or loop is not self._loop:
            raise self._refusal()
        return loop

    def _check_not_nested(self, task: asyncio.Task[Any] | None) -> None:
        for holder in self._busy.values():
            if holder is not task and holder not in self._waiters and not self._waits_at_a_gate(holder):
                return  # almost always the first one
        if self._may_come() or task not in self._busy.values():
            return
        raise NestedCheckout(
            f"pool {self.settings.name}: every connection is held by a task that waits for another one, "
            f"this one among them ({self._counts()}). Hold one at a time, or make the pool larger"
        )

    def _waits_at_a_gate(self, task: asyncio.Task[Any] | None) -> bool:
        return bool(self._gates) and any(task in gate.waiting for gate in self._gates.values())

    def _may_come(self) -> bool:
        """A connection that nobody has to return for it."""
        slots = self._slots
        may_come = slots.connecting or slots.tending or slots.idle or slots.parked or slots.ending
        return bool(may_come) or slots.total < self._supply.ceiling.value

    def _left(self, waiter: Waiter) -> None:
        """It waits no more, as one whose task was cancelled. What it was given meanwhile goes to the next."""
        self._line.leave(waiter)
        future = waiter.future
        if future.done() and not future.cancelled() and future.exception() is None:
            session = future.result()
            del self._busy[session]
            self._take_back(session)

    def _too_late(self, waiter: Waiter) -> CheckoutTimeout:
        waited = self._clock() - waiter.since
        error = CheckoutTimeout(
            f"pool {self.settings.name}: none came free in {waited:.3f} s ({self._counts()})"
        )
        error.__cause__ = self._supply.breaker.cause
        return error

    def _refusal(self) -> PoolError:
        if self._closed:
            return PoolClosed(f"pool {self.settings.name}: {self._closed}")
        return Misuse(f"pool {self.settings.name} belongs to another event loop: each loop opens its own")

    def _counts(self) -> str:
        slots = self._slots
        counts = {
            "total": slots.total,
            "idle": len(slots.idle),
            "busy": len(slots.busy),
            "connecting": len(slots.connecting),
            "tending": len(slots.tending) or None,
            "ending": len(slots.ending) or None,
            "parked": len(slots.parked) or None,
            "waiting": len(self._line),
            "at most": self._supply.ceiling.value,
        }
        told = [f"{name} {count}" for name, count in counts.items() if count is not None]
        return ", ".join([*told, "paused"] if slots.paused else told)

    # -- return

    def _take_back(self, session: Session) -> None:
        """A session that is in no collection."""
        if session.attention or session.running:
            self._look_at(session)
        elif (waiter := self._line.give(session, session.since)) is not None:
            self._busy[session] = waiter.task
        else:
            self._idle.append(session)

    def _look_at(self, session: Session) -> None:
        session.attention = False
        if not self._busy:
            self._all_back.set()
        if session.demoted:
            self._expire_older(session)
        if session.lost and not session.running:
            self._supply.dead(session, None)
        elif session.running and not session.lost:
            self._supply.end(session, seized=True)  # another task still reads from it
        elif session.lost or self._closed:
            self._supply.end(session)
        elif session.changed or session.in_transaction:
            self._supply.tend(session)
        else:
            self._offer(session)

    def _expire_older(self, session: Session) -> None:
        """Connections as old lead to the same server, which only reads now. A new one that meets it too says
        that there is no other one yet."""
        session.demoted = False
        if self._clock() - session.opened_at < SETTLED:
            return
        slots = self._slots
        for other in slots.all():
            if other.opened_at <= session.opened_at:
                other.ends_at, other.attention = 0.0, True
        for spare in (slots.idle, slots.parked):
            for other in [other for other in spare if not other.ends_at]:
                spare.remove(other)
                self._supply.end(other)

    def _offer(self, session: Session) -> None:
        """A session that is ready, new or back."""
        now = self._clock()
        if self._closed or now >= session.ends_at or self._too_many():
            self._supply.end(session)
        elif self._slots.paused:
            self._slots.parked.append(session)
        elif (waiter := self._line.give(session, now)) is not None:
            self._busy[session] = waiter.task
        elif session.proven_at > session.since:
            self._idle.appendleft(session)
        else:
            self._idle.append(session)

    def _too_many(self) -> bool:
        return self._slots.total - len(self._slots.ending) >= self.settings.max

    def _seize(self, session: Session, error: PoolError) -> None:
        """Takes a session from its borrower, who finds out at its next statement."""
        del self._busy[session]
        if session.holder is not None and session.holder._session is session:
            session.holder._take_away(error)
        self._supply.end(session, seized=True)
        if not self._busy:
            self._all_back.set()


def _check_kinds(settings: object, replicas: Sequence[object]) -> None:
    """What was given is not repeated: a password may be in it."""
    if not isinstance(settings, PoolSettings | None):
        raise InvalidSettings(f"settings is {type(settings)}; allowed is: PoolSettings(…)")
    for replica in replicas:
        if not isinstance(replica, ConnectionPool):
            raise InvalidSettings(f"replicas has {type(replica)}; allowed is: a ConnectionPool for each")


ADJUSTABLE = frozenset(
    """
    checkout_timeout connect_timeout heartbeat hold_limit hold_warn idle_timeout kill_timeout lifetime max min
    ping_after ping_timeout queue
    """.split()  # noqa: SIM905
)
SETTLED = 5.0
"""Seconds after which a connection may lead to a server that is no longer the right one."""

FORKED = "this process is a fork of the one that opened it: open another one here"
_opened: weakref.WeakSet[ConnectionPool] = weakref.WeakSet()
_left_to_the_parent: list[object] = []


def _forked() -> None:
    """The sockets are the parent's; the child must neither use nor close them."""
    for pool in list(_opened):
        pool._closed = FORKED
        _left_to_the_parent.extend(pool._slots.all())
        pool._idle.clear()
        for session in pool._busy:
            if session.holder is not None and session.holder._session is session:
                Connection._take_away(session.holder, PoolClosed(f"pool {pool.settings.name}: {FORKED}"))


os.register_at_fork(after_in_child=_forked)


def _asyncmy(server: Server) -> Driver:
    from penstock_pool.asyncmy_driver import AsyncmyDriver  # the compute pool is used without any driver

    return AsyncmyDriver(server)
