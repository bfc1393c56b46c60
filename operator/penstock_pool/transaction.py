"""Transactions, and savepoints inside them."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING

from penstock_pool.errors import Misuse
from penstock_pool.patience import patient

if TYPE_CHECKING:
    from penstock_pool.connection import Connection

logger = logging.getLogger("penstock_pool")

ISOLATION = ("read uncommitted", "read committed", "repeatable read", "serializable")


class Transaction:
    """`async with connection.transaction():`; see there."""

    __slots__ = ("_connection", "_isolation", "_read_only", "_savepoint")

    def __init__(self, connection: Connection, isolation: str | None, read_only: bool) -> None:
        if isolation is not None and isolation.lower() not in ISOLATION:
            raise Misuse(f"isolation is {isolation!r}; there are {', '.join(ISOLATION)}")
        self._connection, self._isolation, self._read_only = connection, isolation, read_only
        self._savepoint: str | None = None

    async def __aenter__(self) -> Connection:
        connection = self._connection
        if connection._depth:
            await self._save(f"penstock_{connection._depth}")
        else:
            await self._begin()
        connection._depth += 1
        return connection

    async def _save(self, name: str) -> None:
        if self._isolation is not None or self._read_only:
            raise Misuse(
                "the isolation of a transaction is chosen where it begins, not at a savepoint inside it"
            )
        await self._connection.execute(f"SAVEPOINT {name}")
        self._savepoint = name

    async def _begin(self) -> None:
        if self._isolation is not None:
            await self._connection._isolate(self._isolation.upper())
        await self._connection.execute("START TRANSACTION READ ONLY" if self._read_only else "BEGIN")

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        connection = self._connection
        connection._depth -= 1
        if connection._undone is not None:
            await self._leave_undone(error)
        elif error is None:
            await self._keep()
        elif isinstance(error, Exception):
            await self._undo()
        else:
            await self._give_up()

    async def _leave_undone(self, error: BaseException | None) -> None:
        """Nothing is left to be done but to tell, if nobody knows yet; and at the end to be sure."""
        connection = self._connection
        told = connection._gone()
        if not connection._depth:
            connection._undone = None
            await self._give_up()
        if error is None:
            raise told

    async def _keep(self) -> None:
        try:
            await self._connection.execute(
                f"RELEASE SAVEPOINT {self._savepoint}" if self._savepoint else "COMMIT"
            )
        except asyncio.CancelledError as error:
            if not self._savepoint:
                error.add_note("Cancelled during COMMIT: whether the transaction is stored is not known.")
            raise
        except Exception:
            if self._savepoint:
                await self._undo()
            raise

    async def _give_up(self) -> None:
        """Who was cancelled does not wait for a server that does not answer."""
        with suppress(TimeoutError):
            async with patient(self._connection._pool.settings.ping_timeout):
                await self._undo()

    async def _undo(self) -> None:
        """The error that brought us here is the one to be told. Of a broken connection the server rolls back
        by itself."""
        if not self._connection.usable:
            return
        try:
            await self._connection.execute(
                f"ROLLBACK TO SAVEPOINT {self._savepoint}" if self._savepoint else "ROLLBACK"
            )
        except Exception as error:  # noqa: BLE001 - the driver's, which is not known here
            logger.info("while rolling back: %r", error)
            if self._savepoint and self._connection.usable:
                await self._undo_all(error)

    async def _undo_all(self, error: Exception) -> None:
        """Something has undone everything, and with it the savepoint: as after a deadlock, a half is left."""
        try:
            await self._connection.execute("ROLLBACK")
        except Exception as failure:  # noqa: BLE001
            logger.info("while rolling back: %r", failure)
        finally:
            self._connection._undone = self._connection._undone or error
