"""Every value of the database comes through JSON, and back as a parameter, as it was."""

from __future__ import annotations

import struct
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plugins.mariadb import MariaDB
from plugins.pooled import server_of

from penstock_data.errors import BadRequest
from penstock_data.values import EXACT, _clock, _shortest, parameter, shape_of
from penstock_pool import ConnectionPool, PoolSettings
from penstock_pool.asyncmy_driver import AsyncmyDriver

TABLE = """
CREATE OR REPLACE TABLE kinds (
  id INT PRIMARY KEY AUTO_INCREMENT, tiny TINYINT, small SMALLINT UNSIGNED, medium MEDIUMINT,
  whole INT UNSIGNED, big BIGINT, ubig BIGINT UNSIGNED, exact DECIMAL(40, 20), single FLOAT,
  precise DOUBLE, day DATE, moment DATETIME(6), stamp TIMESTAMP(3) NULL, span TIME(6), year YEAR,
  few VARCHAR(100), many LONGTEXT, bytes VARBINARY(100), blobs LONGBLOB, bits BIT(40), chosen ENUM('a', 'b'),
  some SET('x', 'y'), document JSON
) CHARSET utf8mb4
"""

CASES: list[tuple[str, str, Any, Any, Any]] = [
    # column, its type, what is sent, what comes, what is sent back
    ("tiny", "tinyint", -128, -128, -128),
    ("small", "smallint unsigned", 65535, 65535, 65535),
    ("medium", "mediumint", -8388608, -8388608, -8388608),
    ("whole", "int unsigned", 4294967295, 4294967295, 4294967295),
    ("big", "bigint", EXACT, EXACT, EXACT),
    ("big", "bigint", -(2**63), str(-(2**63)), {"int": str(-(2**63))}),
    ("ubig", "bigint unsigned", 2**64 - 1, str(2**64 - 1), {"int": str(2**64 - 1)}),
    ("exact", "decimal", {"decimal": "-12345678901234567890.00000000000000000001"}, *2 * (None,)),
    ("exact", "decimal", {"decimal": "0.00000000000000000001"}, *2 * (None,)),
    ("single", "float", 0.1, 0.1, 0.1),
    ("single", "float", 16777216.0, 16777216.0, 16777216.0),
    ("precise", "double", 0.1 + 0.2, 0.1 + 0.2, 0.1 + 0.2),
    ("precise", "double", 1.7976931348623157e308, 1.7976931348623157e308, 1.7976931348623157e308),
    ("day", "date", {"date": "2026-02-28"}, "2026-02-28", {"date": "2026-02-28"}),
    ("moment", "datetime", {"datetime": "2026-11-28T10:00:00.5"}, "2026-11-28T10:00:00.500000", None),
    ("stamp", "timestamp", {"datetime": "2026-11-28T10:00:00.125"}, "2026-11-28T10:00:00.125000", None),
    ("span", "time", {"time": "-838:59:58.999999"}, "-838:59:58.999999", {"time": "-838:59:58.999999"}),
    ("span", "time", {"time": "01:02:03"}, "01:02:03", {"time": "01:02:03"}),
    ("span", "time", {"time": "-00:00:00.000001"}, "-00:00:00.000001", {"time": "-00:00:00.000001"}),
    ("year", "year", 2026, 2026, 2026),
    ("few", "varchar", "a \u0000 'pipe' \\ 🚰", "a \u0000 'pipe' \\ 🚰", "a \u0000 'pipe' \\ 🚰"),
    ("many", "text", "x" * 70_000, "x" * 70_000, "x" * 70_000),
    ("bytes", "varbinary", {"binary": "AP8nXA=="}, "AP8nXA==", {"binary": "AP8nXA=="}),
    ("blobs", "blob", {"binary": ""}, "", {"binary": ""}),
    ("bits", "bit", {"binary": "gAAAAAE="}, "gAAAAAE=", {"binary": "gAAAAAE="}),
    ("chosen", "enum", "b", "b", "b"),
    ("some", "set", "x,y", "x,y", "x,y"),
    ("document", "text", {"json": {"a": [1, None, "ü"]}}, '{"a":[1,null,"ü"]}', '{"a":[1,null,"ü"]}'),
    ("few", "varchar", None, None, None),
]


async def kept(pool: ConnectionPool, column: str, value: Any) -> tuple[str, Any]:
    """The type and the value that come back of what is sent."""
    async with pool.transaction() as connection:
        insert = f"INSERT INTO kinds ({column}) VALUES (?)"
        async with connection.stream(insert, [parameter(value, "params[0]")], prepared=True) as done:
            assert done.affected_rows == 1
        select = f"SELECT {column} FROM kinds WHERE id = LAST_INSERT_ID()"
        async with connection.stream(select, prepared=True) as rows:
            read = await rows.some()
            assert rows.columns
            return rows.columns[0].type, orjson.loads(shape_of(rows.columns).rows(read))[0][0]


async def test_values_of_every_type_come_through_and_go_back_as_they_were(mariadb: MariaDB) -> None:
    server = server_of(mariadb.address)
    driver = AsyncmyDriver(server, decimals_as_text=True)
    async with ConnectionPool(server, PoolSettings(min=1, max=2), driver=driver) as pool:
        await pool.execute(TABLE)
        for column, type, sent, answered, again in CASES:
            told = await kept(pool, column, sent)
            if column == "exact":
                assert (told[0], Decimal(told[1])) == (type, Decimal(sent["decimal"])), sent
                assert "E" not in told[1]
                again = {"decimal": told[1]}
            else:
                assert told == (type, answered), (column, sent)
            again = {"datetime": told[1]} if again is None and told[1] is not None else again
            assert await kept(pool, column, again) == told, column
        await pool.execute("DROP TABLE kinds")


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
@settings(max_examples=300)
def test_a_single_precision_number_is_the_shortest_that_reads_back_the_same(number: float) -> None:
    short = _shortest(number)
    assert struct.pack("<f", short) == struct.pack("<f", number)
    assert len(repr(short)) <= len(repr(number))


@given(st.timedeltas(timedelta(hours=-838), timedelta(hours=838)))
def test_a_time_is_told_so_that_it_is_understood_again(time: timedelta) -> None:
    assert parameter({"time": _clock(time)}, "it") == time


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (2**64, "beyond 64 bits"),
        ([1], "neither null"),
        ({}, "neither null"),
        ({"decimal": "1", "int": "1"}, "neither null"),
        ({"money": "1"}, "says none of: int, decimal"),
        ({"decimal": "NaN"}, "is no decimal"),
        ({"decimal": "1e5"}, "is no decimal"),
        ({"decimal": 1.5}, "is no decimal"),
        ({"decimal": "9" * 101}, "is no decimal"),
        ({"int": "18446744073709551616"}, "is no int"),
        ({"int": "0x10"}, "is no int"),
        ({"binary": "a"}, "in base64"),
        ({"binary": "aGk=\n"}, "in base64"),
        ({"date": "2026-02-30"}, "is no date"),
        ({"datetime": "2026-11-28T10:00:00+01:00"}, "without a zone"),
        ({"time": "10:60:00"}, "is no time"),
        ({"time": "9999:00:00"}, "is no time"),
    ],
)
def test_a_parameter_that_cannot_be_meant_is_refused_with_its_place(value: Any, says: str) -> None:
    with pytest.raises(BadRequest, match=r"params\[3\]") as refused:
        parameter(value, "params[3]")
    assert says in str(refused.value)


def test_what_a_parameter_says_it_is_it_becomes() -> None:
    assert parameter({"date": "2026-11-28"}, "") == date(2026, 11, 28)
    assert parameter({"datetime": "2026-11-28 10:00:00.000001"}, "") == datetime(2026, 11, 28, 10, 0, 0, 1)
    assert parameter({"decimal": "-.5"}, "") == Decimal("-0.5")
    assert parameter({"json": [1, {"a": None}]}, "") == '[1,{"a":null}]'
    assert parameter(True, "") is True
