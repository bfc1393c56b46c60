"""Cursors, for code that was written for another library (PEP 249, with `await`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from penstock_pool.driver import Arguments
from penstock_pool.errors import Misuse
from penstock_pool.stream import Stream

if TYPE_CHECKING:
    from penstock_pool.connection import Connection

Row = tuple[Any, ...]


class Cursor:
    """Keeps all rows of a statement. Of several result sets (CALL) it has the first."""

    arraysize = 1
    """Rows that `fetchmany` returns when it is not told how many."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.description: tuple[Row, ...] | None = None
        self.rowcount = -1
        """Rows changed or in the result; -1 when that is not known."""
        self.lastrowid = 0
        self._rows: Sequence[Row] | None = None
        self._next = 0

    async def __aenter__(self) -> Cursor:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __aiter__(self) -> Cursor:
        return self

    async def __anext__(self) -> Row:
        row = await self.fetchone()
        if row is None:
            raise StopAsyncIteration
        return row

    async def execute(self, sql: str, arguments: Arguments = None) -> int:
        """Returns `rowcount`. Raises like `Connection.execute`."""
        self._rows = None
        result = await self.connection.execute(sql, arguments)
        self.description, self.rowcount = result.description, result.affected_rows
        self.lastrowid, self._rows, self._next = result.insert_id, result.rows, 0
        return self.rowcount

    async def executemany(self, sql: str, rows: Iterable[Sequence[object] | dict[str, object]]) -> int:
        """Returns `rowcount`. Raises like `Connection.executemany`."""
        self.description = self._rows = None
        self.rowcount = await self.connection.executemany(sql, rows)
        return self.rowcount

    async def fetchone(self) -> Row | None:
        """None after the last one."""
        rows = await self.fetchmany(1)
        return rows[0] if rows else None

    async def fetchmany(self, size: int | None = None) -> Sequence[Row]:
        rows, first = self._fetched(), self._next
        self._next = min(len(rows), first + (self.arraysize if size is None else size))
        return rows[first : self._next]

    async def fetchall(self) -> Sequence[Row]:
        """All that are left."""
        return await self.fetchmany(len(self._fetched()))

    async def close(self) -> None:
        """May be called again."""
        self._rows = None

    def _fetched(self) -> Sequence[Row]:
        if self._rows is None:
            raise Misuse("this cursor has no rows: execute a statement that answers some")
        return self._rows


class StreamCursor(Cursor):
    """Reads rows as they come: nothing else can be sent until the last one was read or it is closed."""

    _stream: Stream | None = None

    async def execute(self, sql: str, arguments: Arguments = None) -> int:
        await self.close()
        self._stream = await self.connection.stream(sql, arguments).__aenter__()
        self.description = self._stream.description
        return self.rowcount

    async def fetchmany(self, size: int | None = None) -> Sequence[Row]:
        stream, wanted = self._streamed(), self.arraysize if size is None else size
        rows: list[Row] = []
        while len(rows) < wanted and (row := await anext(stream, None)) is not None:
            rows.append(row)
        return rows

    async def fetchall(self) -> Sequence[Row]:
        return [row async for row in self._streamed()]

    async def close(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            await stream.close()

    def _streamed(self) -> Stream:
        if self._stream is None:
            raise Misuse("this cursor has no rows: execute a statement that answers some")
        return self._stream
