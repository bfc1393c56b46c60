"""The embedded store: SQLite in WAL mode with one writer that commits in groups.

All writes that wait while a commit is being made durable share the next commit, so the cost of an fsync is
divided among them and `database is locked` cannot happen. The writer is a thread with a synchronous
connection: an asynchronous driver would pay a thread hop for each statement instead of one for each group.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import sqlite3
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError, OperationalError

from ..errors import StoreUnavailable
from ..vault import Vault
from . import migrations
from .changes import Changes

P = ParamSpec("P")
T = TypeVar("T")

GROUP = 256
"""Writes that may share one commit; bounds how long the first of them waits for the others' statements."""


RESTORE = "restore the state folder as it was before, or begin anew with another --state"

_ADVICE = {
    sqlite3.SQLITE_READONLY: "let this user write to it",
    sqlite3.SQLITE_BUSY: "another program holds it and must let go",
    sqlite3.SQLITE_CORRUPT: f"it is damaged; {RESTORE}",
    sqlite3.SQLITE_NOTADB: f"it is damaged; {RESTORE}",
}
"""What to do, by SQLite's primary result code (sqlite.org/rescode.html)."""

_Control = Callable[[str], object]


class _Job(NamedTuple):
    call: Callable[[Connection], Any]
    future: asyncio.Future[Any]


class _Settled(NamedTuple):
    future: asyncio.Future[Any]
    value: Any
    error: BaseException | None


class SqliteStore:
    """A store in one file. Made on the event loop that all its methods belong to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.changes = Changes()
        self._engine = _engine(path)
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._readers = ThreadPoolExecutor(2, thread_name_prefix="store-read")
        self._writer = threading.Thread(target=self._write_groups, name="store-write", daemon=True)
        self._loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()

    async def open(self, *, new: bool = True, vault: Vault | None = None, writable: bool = True) -> None:
        """Migrates (with `vault`, see there) and starts the writer. Where nothing is kept yet, a database is
        made if it may be `new`. Raises `StoreUnavailable` for a file that is not ours, damaged, lost or, if
        that is asked, not `writable`, and as `Vault.seal` does."""
        try:
            await asyncio.to_thread(self._open, new, vault)
            if writable:
                await asyncio.to_thread(self._check_writable)
        except (DBAPIError, sqlite3.Error, OSError) as error:
            raise _unavailable(self.path, error) from error
        self._writer.start()

    def _open(self, new: bool, vault: Vault | None) -> None:
        if new:
            self.path.touch(mode=0o600)  # who pushed what is nobody else's business
        elif self._is_lost():
            raise StoreUnavailable(
                f"{self.path} is lost or empty, yet apps were deployed from this folder: {RESTORE}"
            )
        migrations.upgrade(self._engine, vault)

    def _check_writable(self) -> None:
        """SQLite opens what it may only read, and says so no earlier than at a write. A lock of somebody
        else is waited for when there is something to write."""
        with self._engine.connect() as connection:
            control = _control(connection)
            control("BEGIN")
            try:
                control("UPDATE alembic_version SET version_num = version_num")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                    raise
            finally:
                control("ROLLBACK")

    def _is_lost(self) -> bool:
        """SQLite writes to an empty file as soon as it is opened: that is looked at first."""
        there = self.path.exists() and self.path.stat().st_size > 0
        return not there or migrations.is_empty(self._engine)

    async def close(self) -> None:
        """Commits what was handed in, then ends. May be called more than once."""
        self._jobs.put(None)
        if self._writer.is_alive():
            await asyncio.to_thread(self._writer.join)
        self._readers.shutdown(wait=True)
        self._engine.dispose()

    async def write(
        self, function: Callable[Concatenate[Connection, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Runs the function in a transaction; durable when this returns. An exception of the function undoes
        its own changes alone and is raised here. Raises `StoreUnavailable` when the commit fails."""
        future: asyncio.Future[T] = self._loop.create_future()
        self._jobs.put(_Job(lambda tx: function(tx, *args, **kwargs), future))
        return await future

    async def read(
        self, function: Callable[Concatenate[Connection, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Runs the function on a consistent snapshot. Raises `StoreUnavailable` when it cannot be read."""
        return await self._loop.run_in_executor(
            self._readers, lambda: self._read(lambda connection: function(connection, *args, **kwargs))
        )

    def _read(self, call: Callable[[Connection], T]) -> T:
        try:
            with self._engine.connect() as connection:
                _control(connection)("BEGIN")
                return call(connection)
        except (DBAPIError, sqlite3.Error) as error:
            raise _unavailable(self.path, error) from error

    def _write_groups(self) -> None:
        while (job := self._jobs.get()) is not None:
            group = [job]
            closing = False
            while len(group) < GROUP and not self._jobs.empty():
                if (more := self._jobs.get()) is None:
                    closing = True
                    break
                group.append(more)
            self._settle(*self._commit(group))
            if closing:
                return

    def _commit(self, group: list[_Job]) -> tuple[list[_Settled], set[Hashable]]:
        settled: list[_Settled] = []
        touched: set[Hashable] = set()
        try:
            with self._engine.connect() as connection:
                control = _control(connection)
                control("BEGIN IMMEDIATE")
                connection.info["touched"] = touched
                settled = [_attempt(connection, control, job) for job in group]
                control("COMMIT")
        except Exception as error:  # noqa: BLE001 - whatever it was, every waiting caller must hear of it
            failure = _unavailable(self.path, error)
            return [_Settled(job.future, None, failure) for job in group], set()
        return settled, touched

    def _settle(self, settled: list[_Settled], touched: set[Hashable]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._deliver, settled, touched)

    def _deliver(self, settled: list[_Settled], touched: set[Hashable]) -> None:
        for future, value, error in settled:
            if future.cancelled():
                continue
            if error is None:
                future.set_result(value)
            else:
                future.set_exception(error)
        self.changes.tell(touched)


def _attempt(connection: Connection, control: _Control, job: _Job) -> _Settled:
    control("SAVEPOINT job")
    try:
        value = job.call(connection)
    except OperationalError:
        raise  # disk full, I/O error: the whole group is in doubt
    except Exception as error:  # noqa: BLE001 - handed to the caller that waits for it
        control("ROLLBACK TO job")
        return _Settled(job.future, None, error)
    control("RELEASE job")
    return _Settled(job.future, value, None)


def _control(connection: Connection) -> _Control:
    """For what frames each job: SQLAlchemy's own way costs twenty times as much as SQLite's."""
    raw = connection.connection.driver_connection
    assert isinstance(raw, sqlite3.Connection)
    return raw.execute


def _engine(path: Path) -> Engine:
    engine = create_engine(f"sqlite:///{path}", isolation_level="AUTOCOMMIT", pool_size=4)

    @event.listens_for(engine, "connect")
    def _prepare(connection: sqlite3.Connection, _record: object) -> None:
        # FULL: in WAL mode NORMAL does not fsync at commit, so a power cut could take back what was accepted.
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=5000"):
            connection.execute(f"PRAGMA {pragma}")

    return engine


def _unavailable(path: Path, error: BaseException) -> StoreUnavailable:
    cause = getattr(error, "orig", None) or error
    advice = _ADVICE.get(getattr(cause, "sqlite_errorcode", 0) & 0xFF)
    if advice is None and _is_full(path.parent):
        advice = "make room on its disk"
    return StoreUnavailable(f"the store {path} cannot be used: {cause}" + (f" ({advice})" if advice else ""))


def _is_full(folder: Path) -> bool:
    """SQLite calls some of what a full disk causes an I/O error."""
    with contextlib.suppress(OSError):
        disk = os.statvfs(folder)
        return disk.f_bavail * disk.f_frsize < 65536
    return False
