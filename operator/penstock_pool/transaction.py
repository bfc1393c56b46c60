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
        self._connection._depth -= 1
        if error is None:
            await self._keep()
        elif isinstance(error, Exception):
            await self._undo()
        else:
            await self._give_up()

    async def _keep(self) -> None:
        if self._savepoint:
            await self._connection.execute(f"RELEASE SAVEPOINT {self._savepoint}")
            return
        try:
            await self._connection.execute("COMMIT")
        except asyncio.CancelledError as error:
            error.add_note("Cancelled during COMMIT: whether the transaction is stored is not known.")
            raise

    async def _give_up(self) -> None:
        """Who was cancelled does not wait for a server that does not answer."""
        with suppress(TimeoutError):
            async with patient(self._connection._pool.settings.ping_timeout):
                await self._undo()

    async def _undo(self) -> None:
        """The error that brought us here is the one to be told. Of a broken connection the server rolls back
        by itself; a deadlock has undone all, and with it the savepoint."""
        if not self._connection.usable:
            return
        try:
            await self._connection.execute(
                f"ROLLBACK TO SAVEPOINT {self._savepoint}" if self._savepoint else "ROLLBACK"
            )
        except Exception as error:  # noqa: BLE001 - the driver's, which is not known here
            logger.info("while rolling back: %r", error)
