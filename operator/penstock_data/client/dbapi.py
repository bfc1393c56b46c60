"""The client as a DB-API 2.0 module (PEP 249), for what expects one.

connection = connect("http://shop-db:8080", token)
cursor = connection.cursor()
cursor.execute("SELECT name FROM wares WHERE id = ?", (7,))

A transaction is a lease, begun by its first statement and over after `seconds`: a commit after that raises
`OperationalError`. With `autocommit=True` there is none, and each statement stands for itself.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from penstock_data.client import errors
from penstock_data.client.results import Result, Row
from penstock_data.client.synchronous import SyncDataClient, SyncTransaction, Token

apilevel = "2.0"
threadsafety = 1
paramstyle = "qmark"

BATCH = 100
"""Statements that are sent at a time: what the service takes if nothing else is set."""


class Warning(Exception):
    """Never raised here."""


class Error(Exception):
    """The root; the client's own error is its `__cause__`."""


class InterfaceError(Error):
    """What is asked for cannot be sent."""


class DatabaseError(Error):
    """What was answered is an error."""


class DataError(DatabaseError):
    """A value, or a result, that is too large."""


class OperationalError(DatabaseError):
    """Not available, over its time, rolled back, or not known."""


class IntegrityError(DatabaseError):
    """A key or another constraint."""


class InternalError(DatabaseError):
    """A fault of the service."""


class ProgrammingError(DatabaseError):
    """A statement that is wrong, or not allowed."""


class NotSupportedError(DatabaseError):
    """A statement that the service does not send."""


_BY_CLIENT: list[tuple[type[errors.DataError], type[Error]]] = [
    (errors.BadParameter, InterfaceError),
    (errors.StatementRefused, NotSupportedError),
    (errors.ResultTooLarge, DataError),
    (errors.Mistake, ProgrammingError),
    (errors.NotAllowed, ProgrammingError),
    (errors.Fault, InternalError),
]
_INTEGRITY = frozenset(
    (1022, 1048, 1062, 1169, 1216, 1217, 1364, 1451, 1452, 1557, 1586, 1761, 1762, 3819, 4025)
)
_VALUE = frozenset((1264, 1265, 1292, 1365, 1366, 1406, 1690))


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except errors.DataError as error:
        raise _kind(error)(str(error)) from error


def _kind(error: errors.DataError) -> type[Error]:
    if error.errno in _INTEGRITY:
        return IntegrityError
    if error.errno in _VALUE:
        return DataError
    return next((kind for known, kind in _BY_CLIENT if isinstance(error, known)), OperationalError)


class _Type:
    """Compares equal to the types of columns that it stands for."""

    def __init__(self, *names: str) -> None:
        self._names = names

    def __eq__(self, other: object) -> bool:
        return other is self or other in self._names

    __hash__ = None  # type: ignore[assignment]


STRING = _Type("varchar", "text", "json", "enum", "set")
BINARY = _Type("varbinary", "blob", "bit", "geometry")
NUMBER = _Type(
    *(
        f"{size}{sign}"
        for size in ("tinyint", "smallint", "mediumint", "int", "bigint")
        for sign in ("", " unsigned")
    ),
    *("decimal", "float", "double", "year"),
)
DATETIME = _Type("date", "datetime", "timestamp", "time")
ROWID = _Type()

Date, Time, Timestamp, Binary = datetime.date, datetime.time, datetime.datetime, bytes
DateFromTicks = datetime.date.fromtimestamp
TimestampFromTicks = datetime.datetime.fromtimestamp


def TimeFromTicks(ticks: float) -> datetime.time:  # noqa: N802 - PEP 249 names it
    """The local time of day."""
    return TimestampFromTicks(ticks).time()


def connect(
    url: str,
    token: Token,
    *,
    timeout: float = 5.0,
    seconds: float | None = None,
    isolation: str | None = None,
    autocommit: bool = False,
) -> Connection:
    """`timeout`: seconds of a statement; `seconds`: of a transaction; None: what the service gives. Nothing
    is sent yet. Raises `InterfaceError`."""
    try:
        client = SyncDataClient(url, token, timeout=timeout)
    except ValueError as error:
        raise InterfaceError(str(error)) from error
    return Connection(
        client, lambda: client.begin(seconds=seconds, isolation=isolation), autocommit=autocommit
    )


class Connection:
    """PEP 249's connection. `with connection:` commits at a good end, else rolls back; it stays open."""

    def __init__(
        self,
        client: SyncDataClient,
        begin: Callable[[], SyncTransaction],
        *,
        autocommit: bool,
    ) -> None:
        self._client: SyncDataClient | None = client
        self._begin = begin
        self.autocommit = autocommit
        """May be changed between two transactions."""
        self._transaction: SyncTransaction | None = None

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.commit()
        else:
            self.rollback()

    def cursor(self) -> Cursor:
        self._asked()
        return Cursor(self)

    def commit(self) -> None:
        self._asked()
        self._end(SyncTransaction.commit)

    def rollback(self) -> None:
        self._asked()
        self._end(SyncTransaction.rollback)

    def close(self) -> None:
        """Rolls back what was not committed."""
        if self._client is not None:
            self._end(SyncTransaction.rollback)
            self._client.close()
            self._client = None

    def _end(self, how: Callable[[SyncTransaction], None]) -> None:
        transaction, self._transaction = self._transaction, None
        if transaction is not None:
            with _translated():
                how(transaction)

    def _asked(self) -> SyncDataClient:
        if self._client is None:
            raise InterfaceError("the connection is closed")
        return self._client

    def run(self, sql: str, params: Sequence[Any]) -> Result:
        """One statement, within the transaction if there is to be one."""
        client = self._asked()
        with _translated():
            return client.query(sql, *params) if self.autocommit else self._begun().query(sql, *params)

    def run_each(self, sql: str, rows: Sequence[Sequence[Any]]) -> list[Result]:
        """The statement with each row. Without a transaction up to `BATCH` at a time are done, or none."""
        if not self.autocommit:
            return [self.run(sql, params) for params in rows]
        parts = [rows[at : at + BATCH] for at in range(0, len(rows), BATCH)]
        with _translated():
            client = self._asked()
            return [done for part in parts for done in client.batch([(sql, *params) for params in part])]

    def _begun(self) -> SyncTransaction:
        if self._transaction is None:
            self._transaction = self._begin()
        return self._transaction


class Cursor:
    """PEP 249's cursor; a result is fetched whole."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.arraysize = 1
        self.rowcount = -1
        self.lastrowid: int | None = None
        self.description: list[tuple[Any, ...]] | None = None
        self._rows: Iterator[Row] | None = None
        self._closed = False

    def __enter__(self) -> Cursor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._closed, self._rows = True, None

    def execute(self, sql: str, params: Sequence[Any] = ()) -> Cursor:
        self._check()
        self._take(self.connection.run(sql, params))
        return self

    def executemany(self, sql: str, rows: Sequence[Sequence[Any]]) -> Cursor:
        """`rowcount` is of all of them together."""
        self._check()
        done = self.connection.run_each(sql, rows)
        self._take(Result(affected_rows=sum(each.affected_rows for each in done)))
        return self

    def fetchone(self) -> Row | None:
        return next(self._fetched(), None)

    def fetchmany(self, size: int | None = None) -> list[Row]:
        fetched, many = self._fetched(), self.arraysize if size is None else size
        return [row for _, row in zip(range(many), fetched, strict=False)]

    def fetchall(self) -> list[Row]:
        return list(self._fetched())

    def __iter__(self) -> Iterator[Row]:
        return self._fetched()

    def setinputsizes(self, sizes: Sequence[Any]) -> None:
        """Does nothing, as is allowed."""

    def setoutputsize(self, size: int, column: int | None = None) -> None:
        """Does nothing, as is allowed."""

    def _take(self, result: Result) -> None:
        has_rows = bool(result.columns)
        self.description = [_described(column.name, column.type) for column in result.columns] or None
        self.rowcount = len(result.rows) if has_rows else result.affected_rows
        self.lastrowid = result.insert_id or None
        self._rows = iter(result.rows) if has_rows else None

    def _fetched(self) -> Iterator[Row]:
        self._check()
        if self._rows is None:
            raise ProgrammingError("there is no result: no statement was executed, or it has none")
        return self._rows

    def _check(self) -> None:
        if self._closed:
            raise InterfaceError("the cursor is closed")


def _described(name: str, type: str) -> tuple[Any, ...]:
    return (name, type, None, None, None, None, None)
