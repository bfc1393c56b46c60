"""The client as a DB-API module: what programs that know nothing of HTTP see of it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from decimal import Decimal

import pytest
from plugins.data_service import DataService

from penstock_data.client import LeaseGone, dbapi


@pytest.fixture
def connection(data_service: DataService, table: str) -> Iterator[dbapi.Connection]:
    connection = dbapi.connect(data_service.url, data_service.token())
    yield connection
    connection.close()


@pytest.fixture
def other(data_service: DataService) -> Iterator[dbapi.Cursor]:
    """Somebody else, who sees what is committed."""
    connection = dbapi.connect(data_service.url, data_service.token(), autocommit=True)
    yield connection.cursor()
    connection.close()


def count(cursor: dbapi.Cursor, table: str) -> int:
    ((number,),) = cursor.execute(f"SELECT COUNT(*) FROM {table}").fetchall()
    return int(number)


def test_rows_are_fetched_by_one_by_some_and_all(connection: dbapi.Connection, table: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT name, price, ? FROM {table} ORDER BY id", (date(2026, 11, 28),))
        assert cursor.rowcount == 3
        assert cursor.description is not None
        assert [column[0] for column in cursor.description][:2] == ["name", "price"]
        assert cursor.description[0][1] == dbapi.STRING
        assert cursor.description[1][1] == dbapi.NUMBER != dbapi.STRING
        assert cursor.fetchone() == ("a pipe", Decimal("12.30"), date(2026, 11, 28))
        assert [row[0] for row in cursor.fetchmany(1)] == ["a valve"]
        assert [row[0] for row in cursor] == ["a gate"]
        assert (cursor.fetchone(), cursor.fetchmany(5), cursor.fetchall()) == (None, [], [])
    with pytest.raises(dbapi.InterfaceError):
        cursor.fetchone()


def test_nothing_is_there_for_others_before_the_commit(
    connection: dbapi.Connection, other: dbapi.Cursor, table: str
) -> None:
    cursor = connection.cursor()
    cursor.execute(f"INSERT INTO {table} (name) VALUES (?)", ("a lock",))
    assert (cursor.rowcount, cursor.lastrowid) == (1, 4)
    assert (count(cursor, table), count(other, table)) == (4, 3)
    connection.rollback()
    assert (count(cursor, table), count(other, table)) == (3, 3)
    cursor.execute(f"DELETE FROM {table}")
    connection.commit()
    connection.commit()
    assert count(other, table) == 0


def test_a_connection_as_a_context_commits_or_not(
    connection: dbapi.Connection, other: dbapi.Cursor, table: str
) -> None:
    with connection:
        connection.cursor().execute(f"DELETE FROM {table} WHERE id = 1")
    assert count(other, table) == 2
    with pytest.raises(ZeroDivisionError), connection:
        connection.cursor().execute(f"DELETE FROM {table}")
        raise ZeroDivisionError
    assert count(other, table) == 2


def test_many_rows_are_sent_at_a_time(connection: dbapi.Connection, other: dbapi.Cursor, table: str) -> None:
    insert = f"INSERT INTO {table} (name) VALUES (?)"
    assert other.executemany(insert, [(f"pipe {number}",) for number in range(250)]).rowcount == 250
    assert count(other, table) == 253
    with pytest.raises(dbapi.IntegrityError):
        other.executemany(insert, [("a lock",), ("a pipe",)])
    assert count(other, table) == 253
    connection.cursor().executemany(insert, [("a dam",), ("a lock",)])
    assert count(other, table) == 253
    connection.commit()
    assert count(other, table) == 255


@pytest.mark.parametrize(
    ("sql", "params", "kind"),
    [
        ("SELECT", (), dbapi.ProgrammingError),
        ("SELECT ?", (), dbapi.ProgrammingError),
        ("SELECT ?", (object(),), dbapi.InterfaceError),
        ("SET NAMES latin1", (), dbapi.NotSupportedError),
        ("SELECT seq FROM seq_1_to_20000", (), dbapi.DataError),
        ("INSERT INTO {} (name) VALUES ('a pipe')", (), dbapi.IntegrityError),
        ("INSERT INTO {} (name) VALUES (?)", ("x" * 41,), dbapi.DataError),
    ],
)
def test_errors_are_those_of_pep_249(
    other: dbapi.Cursor, table: str, sql: str, params: tuple[object, ...], kind: type[Exception]
) -> None:
    with pytest.raises(kind):
        other.execute(sql.format(table), params)


def test_a_transaction_that_is_gone_is_told_and_another_one_begins_after_a_rollback(
    data_service: DataService, table: str
) -> None:
    connection = dbapi.connect(data_service.url, data_service.token(), seconds=0.2, timeout=2)
    cursor = connection.cursor()
    with pytest.raises(dbapi.OperationalError):
        cursor.execute("SELECT SLEEP(20)")
    with pytest.raises(dbapi.OperationalError) as told:
        cursor.execute("SELECT 1")
    assert isinstance(told.value.__cause__, LeaseGone)
    connection.rollback()
    assert cursor.execute("SELECT 1").fetchall() == [(1,)]
    connection.close()
    with pytest.raises(dbapi.InterfaceError):
        connection.cursor()


def test_the_module_says_what_it_is() -> None:
    assert (dbapi.apilevel, dbapi.paramstyle, dbapi.threadsafety) == ("2.0", "qmark", 1)
    assert issubclass(dbapi.IntegrityError, dbapi.DatabaseError)
    assert dbapi.TimeFromTicks(0).minute == 0
    with pytest.raises(dbapi.InterfaceError):
        dbapi.connect("nowhere", "token")
