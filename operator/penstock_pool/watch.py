"""Who is told of what has ended: statements, waits, connects. Told afterwards, so that nothing waits for the
telling, and nobody listening costs nothing but the clock."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from math import inf
from typing import Protocol, TypeVar

from penstock_pool.driver import Arguments, Result, Session
from penstock_pool.slow import SlowLog

logger = logging.getLogger("penstock_pool")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement that has ended."""

    sql: str
    """As it was given: with placeholders, and with whatever values were written into it."""
    seconds: float
    rows: int | None
    """In the result, or changed; None after an error."""
    session: int
    """The server's number of the connection."""
    system: str
    """mysql or mariadb."""
    error: BaseException | None = None


class Listener(Protocol):
    """Told of everything that has ended in a pool (`ConnectionPool.listen`), by the task that did it. Is to
    return at once; what it raises is logged."""

    def statement(self, ended: Statement) -> None:
        """A statement was answered, or was not."""

    def waited(self, seconds: float, error: BaseException | None) -> None:
        """A checkout that had to wait was served, or was not."""

    def connected(self, seconds: float) -> None:
        """A connection was opened."""


class Watch:
    """The slow-query log and the listeners of one pool."""

    def __init__(self, slow: SlowLog, clock: Callable[[], float]) -> None:
        self._slow, self._clock = slow, clock
        self.listeners: list[Listener] = []
        self.least = slow.seconds
        """Statements that take less time are of no interest."""

    def add(self, listener: Listener) -> None:
        self.listeners.append(listener)
        self.least = -inf

    async def answered(self, session: Session, sql: str, arguments: Arguments, result: Result) -> None:
        """Of a statement that took `least` or longer, on its session."""
        seconds = self._clock() - session.asked_at
        self._tell(
            lambda to: to.statement(Statement(sql, seconds, result.affected_rows, session.id, session.system))
        )
        if seconds >= self._slow.seconds:
            await self._slow.answered(session, sql, arguments, result, seconds)

    def failed(self, session: Session, sql: str, error: BaseException) -> None:
        """Of a statement without a result, however long it took."""
        seconds = self._clock() - session.asked_at
        ended = Statement(sql, seconds, None, session.id, session.system, error)
        self._tell(lambda to: to.statement(ended))
        if seconds >= self._slow.seconds:
            self._slow.failed(session, sql, error, seconds)

    async def over(self, wait: Awaitable[T]) -> T:
        """Awaits, and tells how long that took."""
        began = self._clock()
        try:
            served = await wait
        except BaseException as error:
            failure = error
            self._tell(lambda to: to.waited(self._clock() - began, failure))
            raise
        self._tell(lambda to: to.waited(self._clock() - began, None))
        return served

    def connected(self, seconds: float) -> None:
        self._tell(lambda to: to.connected(seconds))

    def _tell(self, what: Callable[[Listener], None]) -> None:
        for listener in self.listeners:
            try:
                what(listener)
            except Exception:
                logger.exception("a listener failed")
