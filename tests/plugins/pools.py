"""Pools over the real MariaDB, watched: after every test of `tests/pool` nothing of a pool is left.

Checked while it runs: the collections are disjoint, and nothing is opened beyond max. Checked at its end:
each pool that it opened is closed, no socket, no task and no session on the server is left, and nothing was
logged as an error that the test did not ask for."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import psutil
import pytest
import uvloop
from plugins.mariadb import MariaDB

from penstock_pool import ConnectionPool, PoolSettings, Server
from penstock_pool.supply import Supply

WITHIN = 5.0
RUNNERS = {"asyncio": asyncio.run, "uvloop": uvloop.run}

_servers: WeakKeyDictionary[ConnectionPool, MariaDB] = WeakKeyDictionary()


def pool_on(db: MariaDB, *, server: dict[str, Any] | None = None, **settings: Any) -> ConnectionPool:
    """A pool of one to four connections over a MariaDB of the tests; `server` and `settings` change that."""
    address = {**db.address, **(server or {})}
    pool = ConnectionPool(Server(**address), PoolSettings(**{"min": 1, "max": 4, **settings}))
    _servers[pool] = db
    return pool


def on_both_loops(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """The test runs on asyncio's event loop and on uvloop's."""

    @pytest.mark.parametrize("runner", RUNNERS.values(), ids=RUNNERS)
    @functools.wraps(test)
    def run(runner: Callable[[Any], None], **fixtures: Any) -> None:
        runner(test(**fixtures))

    asked = inspect.signature(test)
    first = inspect.Parameter("runner", inspect.Parameter.KEYWORD_ONLY)
    run.__signature__ = asked.replace(parameters=[*asked.parameters.values(), first], return_annotation=None)  # type: ignore[attr-defined]
    del run.__wrapped__  # else pytest takes it for a coroutine
    return run


class _Errors(logging.Handler):
    """What was logged as an error, by the pool or about its tasks."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.told: list[str] = []
        self.asked_for = 0

    def emit(self, record: logging.LogRecord) -> None:
        if not self.asked_for and not record.name.startswith("penstock_pool.testing"):
            self.told.append(f"{record.name}: {record.getMessage()} {record.exc_info or ''}")

    @contextmanager
    def heard(self) -> Iterator[None]:
        self.told.clear()
        loggers = [logging.getLogger(name) for name in ("penstock_pool", "asyncio")]
        for logger in loggers:
            logger.addHandler(self)
        try:
            yield
        finally:
            for logger in loggers:
                logger.removeHandler(self)


_errors = _Errors()


@contextmanager
def errors_are_expected() -> Iterator[None]:
    """Inside, the pool may log errors."""
    _errors.asked_for += 1
    try:
        yield
    finally:
        _errors.asked_for -= 1


class _Watch:
    """Sees every pool that is opened and closed meanwhile."""

    def __init__(self) -> None:
        self.open: dict[ConnectionPool, None] = {}
        self.closed: dict[ConnectionPool, None] = {}
        self.found: list[str] = []

    @contextmanager
    def on(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            self._see(patch, ConnectionPool, "open", self._opened)
            self._see(patch, Supply, "replenish", _check_slots)
            self._see(patch, Supply, "_open_some", _check_most)
            patch.setattr(ConnectionPool, "close", self._closing(ConnectionPool.close))
            yield

    def _see(self, patch: pytest.MonkeyPatch, where: type, name: str, look: Callable[[Any], None]) -> None:
        done = getattr(where, name)

        @functools.wraps(done)
        def seen(this: Any, *arguments: Any, **named: Any) -> Any:
            result = done(this, *arguments, **named)
            try:
                look(this)
            except AssertionError as wrong:
                self.found.append(str(wrong))
            return result

        patch.setattr(where, name, seen)

    def _opened(self, pool: ConnectionPool) -> None:
        self.open[pool] = None

    def _closing(self, close: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        @functools.wraps(close)
        async def closed(pool: ConnectionPool, *arguments: Any, **named: Any) -> None:
            try:
                await close(pool, *arguments, **named)
            finally:
                self.closed[pool] = self.open.pop(pool, None)
            self.found += _left(pool)

        return closed

    def verdict(self) -> None:
        assert not self.open, f"left open: {[pool.stats() for pool in self.open]}"
        assert not self.found, self.found
        for port in {pool.server.port for pool in self.closed}:
            _gone(lambda port=port: sockets(port), "sockets")
        for db in {_servers[pool] for pool in self.closed if pool in _servers}:
            if db.process is not None:
                _gone(db.connections, "sessions on the server")


def _check_slots(supply: Supply) -> None:
    slots = supply._slots
    times = Counter(slots.all())
    times.update(list(slots.ending))
    assert max(times.values(), default=1) == 1, f"a session is in two places: {times}"


def _check_most(supply: Supply) -> None:
    slots = supply._slots
    most = supply.ceiling.most
    assert not slots.connecting or slots.total <= most, f"{slots.total} where {most} are allowed"


def _left(pool: ConnectionPool) -> list[str]:
    """What a pool that is closed still has."""
    slots, me = pool._slots, asyncio.current_task()
    left = [f"not closed: {session.id}" for session in (*slots.all(), *slots.ending)]
    if len(slots.line):
        left.append(f"{len(slots.line)} wait")
    prefix = f"penstock-pool-{pool.settings.name}-"
    tasks = (task for task in asyncio.all_tasks() if task is not me)
    return left + [f"still runs: {task}" for task in tasks if task.get_name().startswith(prefix)]


def sockets(port: int) -> list[object]:
    return [it for it in psutil.Process().net_connections("tcp") if it.raddr and it.raddr.port == port]


def _gone(what: Callable[[], list[Any]], named: str) -> None:
    deadline = time.monotonic() + WITHIN
    while left := what():
        assert time.monotonic() < deadline, f"{named} left: {left}"
        time.sleep(0.01)


_watch = pytest.StashKey[tuple[ExitStack, _Watch]]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, object, object]:
    if "pool" in item.path.parts:
        watch, until = _Watch(), ExitStack()
        until.enter_context(watch.on())
        until.enter_context(_errors.heard())
        item.stash[_watch] = until, watch
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    result = yield
    if _watch in item.stash:
        until, watch = item.stash[_watch]
        until.close()
        watch.verdict()
        assert not (watch.closed and _errors.told), _errors.told
    return result
