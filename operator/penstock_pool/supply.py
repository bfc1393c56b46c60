"""What goes on behind the borrowers' backs: connections are opened, pinged, reset and ended in tasks of their
own, so that nobody waits behind somebody else's."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine
from typing import Any

from penstock_pool.driver import Driver, Session, settled
from penstock_pool.errors import (
    ConnectFailed,
    ConnectionLost,
    DatabaseDown,
    PoolUnavailable,
    ServerFull,
    Unreachable,
)
from penstock_pool.line import Waiter
from penstock_pool.opening import Breaker, Ceiling
from penstock_pool.patience import patient
from penstock_pool.settings import PoolSettings
from penstock_pool.slots import Slots
from penstock_pool.watch import Watch

logger = logging.getLogger("penstock_pool")

SLOW = 0.1
"""A ping or reset that takes as many seconds is no longer counted on: another connection is opened
instead."""
ENDS_BY_ITSELF = 0.02
"""Seconds in which most statements that were cut short are over anyway; after it they are killed."""
HEAD_OF_LINE = 0.25
"""Seconds that a KILL waits for a connection of the pool before one is opened for it, beyond `max`."""


class Supply:
    """Opens, tends and ends the sessions of one pool. `offer` takes one that is ready."""

    def __init__(
        self,
        driver: Driver,
        slots: Slots,
        settings: PoolSettings,
        offer: Callable[[Session], None],
        watch: Watch,
        clock: Callable[[], float],
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._driver, self._slots, self._offer, self._watch = driver, slots, offer, watch
        self._clock, self._chance = clock, chance
        self.settings = settings
        self.breaker = Breaker(chance)
        self.ceiling = Ceiling(settings.max, settings.full_retry)
        self.min = settings.min
        self.stopped = True
        """Nothing is opened: not yet, or no longer."""
        self.opened = self.failed = self.lost = self.killed = 0
        """Since the pool was made: connects that succeeded and failed, connections found dead, statements
        killed."""
        self.ended_uses, self.ended_held = 0, 0.0
        """Checkouts, and their seconds, of the sessions that have ended."""
        self._tasks: set[asyncio.Task[Any]] = set()
        self._retry: asyncio.TimerHandle | None = None
        self._full: ServerFull | None = None
        """Told when the last connect of a burst has ended."""
        self._control = asyncio.Lock()

    # -- opening

    def replenish(self) -> None:
        """Starts what is missing: a ping or a connect for each who waits and has none under way, and connects
        up to min. Sends all away when there is nothing to wait for."""
        slots = self._slots
        if not slots.idle and len(slots.busy) >= self.ceiling.most:
            return  # most who wait: all is borrowed
        missing = len(slots.line) - len(slots.parked) - sum(not session.slow for session in slots.tending)
        while missing > 0 and slots.idle:  # who waits although one is idle waits for it to be pinged
            self.tend(slots.idle.pop())
            missing -= 1
        wanted = max(missing - len(slots.connecting), self.min - slots.total + len(slots.ending))
        wanted = min(wanted, self.ceiling.value - slots.total)
        if wanted > 0 and not self.stopped:
            self._open_some(wanted)
        if self.breaker.down and not (slots.open or slots.connecting or slots.paused):
            slots.line.fail(self._down)

    def _open_some(self, wanted: int) -> None:
        slots, now = self._slots, self._clock()
        for _ in range(self.breaker.allows(wanted, len(slots.connecting), now)):
            slots.connecting.add(self._start(self._connect(), "connect"))
        if not slots.connecting and self._retry is None:
            self._retry = asyncio.get_running_loop().call_later(self.breaker.retry_at - now, self._try_again)

    def wake(self) -> None:
        """Somebody would have asked, were the database not down: tries one connect, once it is time."""
        slots = self._slots
        if not (self.stopped or slots.connecting) and slots.total < self.ceiling.value:
            self._open_some(1)

    def _try_again(self) -> None:
        self._retry = None
        self.replenish()

    async def _connect(self) -> None:
        began = self._clock()
        try:
            outcome = await self._open()
        finally:
            self._slots.connecting.discard(asyncio.current_task())
        if isinstance(outcome, Session):
            self._watch.connected(self._clock() - began)
            self._opened(outcome)
        else:
            self._not_opened(outcome)
        if self._full is not None and not self._slots.connecting:
            stays = "pool %s: stays at %d connections: %s"
            logger.warning(stays, self.settings.name, self.ceiling.value, self._full)
            self._full = None

    async def _open(self) -> Session | ConnectFailed:
        try:
            async with patient(self.settings.connect_timeout):
                return await self._driver.open()
        except TimeoutError as error:
            return _told(f"no answer within {self.settings.connect_timeout:g} s", error)
        except ConnectFailed as error:
            return error
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            return _told("cancelled from within, as by a password's callable", error)
        except Exception as error:  # noqa: BLE001 - a driver's fault is told to whoever waits, like any other
            return _told(repr(error), error)

    def _opened(self, session: Session) -> None:
        now = self._clock()
        session.opened_at = session.proven_at = session.since = now
        session.ends_at = now + self.settings.lifetime * (1 - 0.1 * self._chance())
        self.opened += 1
        if self.breaker.down:
            logger.info("pool %s: the database is back", self.settings.name)
        self.breaker.succeeded()
        self._offer(session)
        self.replenish()

    def _not_opened(self, error: ConnectFailed) -> None:
        self.failed += 1
        now, reached = self._clock(), self._slots.open + len(self._slots.connecting)
        if isinstance(error, ServerFull) and reached:
            if self.ceiling.refused(reached, now):
                self._full = error
        else:
            if not self.breaker.down:
                logger.warning("pool %s: cannot connect: %s", self.settings.name, error)
            self.breaker.failed(error, now)
        self.replenish()

    def _down(self, waiter: Waiter) -> Exception:
        return self.down()

    def down(self) -> DatabaseDown:
        """What is said to whoever asks while nothing is open and nothing can be opened."""
        error = DatabaseDown(f"pool {self.settings.name}: cannot connect: {self.breaker.cause}")
        error.__cause__ = self.breaker.cause
        return error

    # -- between two borrowers

    def tend(self, session: Session) -> None:
        """Resets what a borrower has changed, else pings; then the session is offered, or ended."""
        session.slow = False
        self._slots.tending[session] = self._start(self._tend(session), "tend")

    async def _tend(self, session: Session) -> None:
        slow = asyncio.get_running_loop().call_later(SLOW, self._is_slow, session)
        try:
            async with patient(self.settings.ping_timeout):
                await _refresh(session)
        except asyncio.CancelledError:
            del self._slots.tending[session]
            if self.stopped:
                self.end(session)
            else:
                session.abort()  # the event loop ends, with the pool open
            raise
        except Exception as error:  # noqa: BLE001 - whatever it was, the session is not to be trusted
            del self._slots.tending[session]
            self.dead(session, error)
        else:
            del self._slots.tending[session]
            session.proven_at = self._clock()
            self._offer(session)
        finally:
            slow.cancel()

    def _is_slow(self, session: Session) -> None:
        session.slow = True
        self.replenish()

    def dead(self, session: Session, error: BaseException | None) -> None:
        """The connection was found dead: it is replaced, and no older one is trusted unseen."""
        logger.info("pool %s: session %d is lost: %s", self.settings.name, session.id, error or "closed")
        session.lost, session.running = True, False  # nothing to kill: nobody is there to hear of it
        self.lost += 1
        self.breaker.suspect()
        self.end(session)
        idle = self._slots.idle
        while idle:
            self.tend(idle.pop())

    # -- the end

    def end(self, session: Session, *, seized: bool = False) -> None:
        """Closes it in order. Its slot is free when the server has closed its side. Seized: from a borrower
        who may still read from it."""
        self.ended_uses += session.uses
        self.ended_held += session.held
        self._slots.ending[session] = self._start(self._end(session, seized), "end")

    async def _end(self, session: Session, seized: bool) -> None:
        try:
            if seized and session.running:
                await self._kill(session)
            if seized or (session.lost and not session.running):
                session.abort()
            await self._part(session)
        except asyncio.CancelledError:
            self.stopped = True  # it is abandoned, or the event loop ends
            raise
        finally:
            session.abort()
            del self._slots.ending[session]
            self.replenish()

    async def _part(self, session: Session) -> None:
        farewell = self._start(session.quit(), "quit")
        try:
            await self._farewell(session, farewell)
        finally:
            farewell.cancel()

    async def _farewell(self, session: Session, farewell: asyncio.Task[None]) -> None:
        """A server that is still at a statement does not hear the farewell until that is killed."""
        if session.running:
            if (await asyncio.wait({farewell}, timeout=ENDS_BY_ITSELF))[0]:
                return
            if not await self._kill(session):
                return
        await asyncio.wait({farewell}, timeout=self.settings.kill_timeout)

    async def _kill(self, victim: Session) -> bool:
        """Whether the server was told. Over a connection of the pool, before all who wait. If all of them are
        held for long, over one beyond `max`, one at a time: the only case in which the server counts one
        more. Never over one to another server, whose session of that number is an innocent's."""
        within = self.settings.kill_timeout
        try:
            async with patient(within):
                told = await self._kill_soon(victim, within / 2) or await self._kill_beyond(victim)
            why: object = None if told else "it is at another server than the connections that there are"
        except Exception as error:  # noqa: BLE001 - told; the socket is cut in any case
            why = repr(error)
        if why is not None:
            not_killed = "pool %s: statement of session %d not killed: %s"
            logger.warning(not_killed, self.settings.name, victim.id, why)
            return False
        self.killed += 1
        return True

    async def _kill_soon(self, victim: Session, within: float) -> bool:
        """A connection of the pool may be dead without anybody knowing: then one beyond has its time too."""
        try:
            async with patient(within):
                return await self._kill_over_own(victim)
        except TimeoutError:
            return False

    async def _kill_over_own(self, victim: Session) -> bool:
        if self.stopped:
            return False
        session = await self._borrow(victim)
        if session is None:
            return False
        del self._slots.busy[session]
        self._slots.tending[session] = asyncio.current_task()  # type: ignore[assignment]
        try:
            await session.query(f"KILL QUERY {victim.id}")
        except Exception as error:  # noqa: BLE001 - it has ended meanwhile (1094), or `lost` says the rest
            logger.debug("KILL QUERY %d: %r", victim.id, error)
        finally:
            del self._slots.tending[session]
            if session.lost or session.running:
                self.dead(session, ConnectionLost("no answer to KILL"))  # which has no KILL of its own
            elif session.changed:
                self.tend(session)
            else:
                self._offer(session)
        return not session.lost

    async def _borrow(self, victim: Session) -> Session | None:
        """One that leads to the same server."""
        slots, now = self._slots, self._clock()
        for session in slots.idle:
            if _side_by_side(session, victim):
                slots.idle.remove(session)
                slots.busy[session] = None
                return session
        if slots.idle or not slots.open:
            return None
        future: asyncio.Future[Session] = asyncio.get_running_loop().create_future()
        waiter = Waiter(future, now, now + HEAD_OF_LINE, None)
        slots.line.join(waiter, first=True)
        self.replenish()
        try:
            session = await future
        except PoolUnavailable:
            return None
        except asyncio.CancelledError:
            slots.line.leave(waiter)
            if future.done() and not future.cancelled() and future.exception() is None:
                del slots.busy[future.result()]
                self._offer(future.result())
            raise
        if _side_by_side(session, victim):
            return session
        del slots.busy[session]
        self._offer(session)
        return None

    async def _kill_beyond(self, victim: Session) -> bool:
        async with self._control:
            try:
                session = await self._driver.open()
            except ConnectFailed:
                self.failed += 1
                raise
            try:
                if found := _side_by_side(session, victim):
                    await session.query(f"KILL QUERY {victim.id}")
                await session.quit()
            finally:
                session.abort()
        return found

    async def stop(self) -> None:
        """Opens nothing more; returns when every task has ended and every socket is closed."""
        self.stopped = True
        if self._retry is not None:
            self._retry.cancel()
        slots = self._slots
        for task in {*slots.connecting, *slots.tending.values()} - set(slots.ending.values()):
            task.cancel()  # but no KILL that is under way
        while self._tasks:
            await asyncio.wait(set(self._tasks))
        await settled(asyncio.get_running_loop())

    def abandon(self) -> None:
        """Like `stop`, but cuts every socket and waits for nothing."""
        self.stopped = True
        if self._retry is not None:
            self._retry.cancel()
        for session in (*self._slots.all(), *self._slots.ending):
            session.abort()
        self._slots.idle.clear()
        self._slots.parked.clear()
        for task in self._tasks:
            task.cancel()

    # -- tasks

    def _start(self, work: Coroutine[Any, Any, None], what: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=f"penstock-pool-{self.settings.name}-{what}")
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("pool %s: %s failed", self.settings.name, task.get_name(), exc_info=error)


def _side_by_side(session: Session, other: Session) -> bool:
    """Whether they are surely sessions of one server."""
    return session.server is not None and session.server == other.server


async def _refresh(session: Session) -> None:
    if session.in_transaction and not session.changed:
        await session.query("ROLLBACK")
    elif not session.changed:
        await session.ping()
    if session.changed:  # also when the server says so only now
        await session.reset()


def _told(what: str, cause: BaseException) -> Unreachable:
    error = Unreachable(what)
    error.__cause__ = cause
    return error
