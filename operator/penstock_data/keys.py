"""Idempotency keys: what was done under one is done once, whoever repeats it, wherever.

A key is a row that is written in the transaction of what it stands for, so that there are both or neither;
who comes second waits for the first one's lock on it."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from asyncmy.errors import MySQLError

from penstock_data.errors import BadRequest, KeyReused, ResultTooLarge, Unavailable
from penstock_pool import Connection, ConnectionPool

log = logging.getLogger("penstock_data")

LONGEST = 128
"""Characters of a key."""

KEPT = 24 * 3600
"""Seconds for which a key is known."""

SWEPT_EVERY = 600.0
"""Seconds between two sweeps of old ones."""

LARGEST = 1024**2
"""Bytes of an answer that is kept."""

TABLE = """\
CREATE TABLE IF NOT EXISTS penstock_idempotency (
  id BINARY(32) NOT NULL PRIMARY KEY,
  request BINARY(32) NOT NULL,
  answer MEDIUMBLOB NOT NULL,
  created TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
  KEY created (created)
) ENGINE=InnoDB"""

DUPLICATE, NO_TABLE = 1062, 1146

_INSERT = "INSERT INTO penstock_idempotency (id, request, answer) VALUES (%s, %s, %s)"
_KEEP = "UPDATE penstock_idempotency SET answer = %s WHERE id = %s"
_FIND = "SELECT request, answer FROM penstock_idempotency WHERE id = %s LOCK IN SHARE MODE"
_SWEEP = "DELETE FROM penstock_idempotency WHERE created < NOW() - INTERVAL %s SECOND LIMIT 1000"


@dataclass(frozen=True, slots=True)
class Key:
    """Whose, and what for."""

    id: bytes
    request: bytes
    """Hash of what is asked for: a key belongs to one request."""


def key_of(header: bytes, tenant: str, request: bytes) -> Key:
    """Raises `BadRequest`."""
    if not header.isascii() or not header.decode().isprintable() or len(header) > LONGEST:
        raise BadRequest(f"Idempotency-Key is to be 1 to {LONGEST} printable characters of ASCII")
    id = hashlib.sha256(b"%b\0%b" % (tenant.encode(), header)).digest()
    return Key(id, hashlib.sha256(request).digest())


class Keys:
    """The table of keys, in the database that the service serves."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool
        self._there = False
        self._sweeping: asyncio.Task[None] | None = None

    async def ready(self) -> None:
        """Makes the table if it is not there. Raises `Unavailable`, which says what to create."""
        if self._there:
            return
        try:
            await self._pool.execute(TABLE)
        except MySQLError as error:
            raise Unavailable(f"the table of keys cannot be made ({error}): create it by {TABLE}") from error
        self._there = True
        self._sweeping = asyncio.create_task(self._sweep(), name="penstock-data-keys")

    async def close(self) -> None:
        """Ends the sweeps."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.wait({self._sweeping})

    async def once(
        self, connection: Connection, key: Key, work: Callable[[], Awaitable[bytes]]
    ) -> tuple[bytes, bool]:
        """The answer, and whether it is the first time's: in a transaction that is open, and that the caller
        commits. Raises `KeyReused`, `ResultTooLarge`."""
        if (known := await self._first(connection, key, b"")) is not None:
            return known, True
        answer = await work()
        if len(answer) > LARGEST:
            raise ResultTooLarge(f"the answer has more than {LARGEST} bytes, which is what is kept for a key")
        await connection.execute(_KEEP, (answer, key.id))
        return answer, False

    async def mark(self, connection: Connection, key: Key, answer: bytes) -> None:
        """Writes what will be answered once the transaction of this connection is committed. Raises
        `KeyReused`."""
        await self._first(connection, key, answer)

    async def _first(self, connection: Connection, key: Key, answer: bytes) -> bytes | None:
        try:
            await connection.execute(_INSERT, (key.id, key.request, answer))
            return None
        except MySQLError as error:
            if error.args[0] == NO_TABLE:
                self._there = False
            if error.args[0] != DUPLICATE:
                raise
        return await self._known(connection, key)

    async def find(self, key: Key) -> bytes | None:
        """What was answered, if that was committed; waits for who is at it. Raises `KeyReused`."""
        async with self._pool.transaction() as connection:
            return await self._known(connection, key)

    async def _known(self, connection: Connection, key: Key) -> bytes | None:
        row = await connection.fetchrow(_FIND, (key.id,))
        if row is None:
            return None
        request, answer = row
        if request != key.request:
            raise KeyReused("this Idempotency-Key was used for another request")
        return bytes(answer)

    async def _sweep(self) -> None:
        while True:
            try:
                while (await self._pool.execute(_SWEEP, (KEPT,))).affected_rows == 1000:
                    pass
            except Exception as error:  # noqa: BLE001 - the next sweep does what this one could not
                log.info("old keys were not swept: %s", error)
            await asyncio.sleep(SWEPT_EVERY)
