"""The log of slow statements: what is in it, and what it leaves alone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from asyncmy.errors import OperationalError, ProgrammingError
from plugins.house import eventually

from penstock_pool import ConnectionPool
from penstock_pool.slow import EXPLAIN
from penstock_pool.statements import digest, normalized

PoolOf = Callable[..., Awaitable[ConnectionPool]]

SLOW = "SELECT SLEEP(0.06), 'secret', %s"


class Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[Any] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def slow() -> Iterator[list[Any]]:
    logger, handler = logging.getLogger("penstock_pool.slow"), Kept()
    logger.addHandler(handler)
    yield handler.records
    logger.removeHandler(handler)


async def test_a_slow_statement_is_logged_without_its_values(pool_of: PoolOf, slow: list[Any]) -> None:
    pool = await pool_of(slow_query=0.05)
    async with pool.connection() as connection:
        await connection.fetch(SLOW, ("hidden",))
        session = connection.session_id
    (record,) = slow
    assert record.name == "penstock_pool.slow"
    assert record.pool == "shop"
    assert record.digest == digest(SLOW)
    assert record.statement == "SELECT SLEEP(?), ?, %s"
    assert record.seconds >= 0.05
    assert (record.rows, record.session, record.error, record.plan) == (1, session, None, None)
    assert "secret" not in record.getMessage()
    assert "hidden" not in record.getMessage()


@pytest.mark.parametrize("limit", [60, None])
async def test_a_statement_below_the_limit_and_any_without_one_is_of_no_interest(
    pool_of: PoolOf, slow: list[Any], limit: float | None
) -> None:
    pool = await pool_of(slow_query=limit)
    await pool.fetch("SELECT SLEEP(0.01)")
    assert slow == []


async def test_a_statement_that_failed_or_was_given_up_is_logged_with_the_kind_of_its_error(
    pool_of: PoolOf, slow: list[Any]
) -> None:
    pool = await pool_of(slow_query=1e-9)
    with pytest.raises(ProgrammingError):
        await pool.fetch("SELECT 'secret' FROM nowhere")
    await eventually(lambda: pool.stats().idle)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await pool.fetch("SELECT SLEEP(60)")
    assert [record.error for record in slow] == ["ProgrammingError", "CancelledError"]
    assert not any("secret" in record.getMessage() for record in slow)


async def test_the_plan_is_told_and_changes_nothing(pool_of: PoolOf, slow: list[Any]) -> None:
    pool = await pool_of(slow_query=1e-9, slow_explain=True, max=1)
    await pool.execute("CREATE OR REPLACE TABLE plans (id INT PRIMARY KEY, name TEXT)")
    async with pool.transaction() as connection:
        first = connection.session_id
        result = await connection.execute("INSERT INTO plans VALUES (%s, 'a'), (2, 'b')", (1,))
        assert result.affected_rows == 2
        assert await connection.fetch("SELECT name FROM plans WHERE id = %s", (1,)) == (("a",),)
        assert await connection.fetch("SELECT SLEEP(0.001)") == ((0,),)
    plans = {record.statement: record.plan for record in slow}
    assert plans["SELECT name FROM plans WHERE id = %s"][0]["table"] == "plans"
    assert plans["INSERT INTO plans VALUES (...)"][0]["select_type"] == "INSERT"
    assert plans["BEGIN"] is plans["COMMIT"] is None
    async with pool.connection() as connection:
        assert await connection.fetchval("SELECT COUNT(*) FROM plans") == 2
        assert connection.session_id == first
    await pool.execute("DROP TABLE plans")
    assert pool.stats().opened == 1


async def test_a_plan_dirties_no_session(pool_of: PoolOf, slow: list[Any], resets: list[int]) -> None:
    pool = await pool_of(slow_query=1e-9, slow_explain=True)
    for number in range(3):
        assert await pool.fetchval("SELECT %s", (number,)) == number
    assert [record.plan is not None for record in slow] == [True] * 3
    assert resets == []


async def test_a_plan_that_takes_long_is_given_up_by_the_server(pool_of: PoolOf) -> None:
    """Few EXPLAINs do; any statement shows that the bound is understood."""
    pool = await pool_of()
    bounded = EXPLAIN.replace("EXPLAIN", "").replace("0.5", "0.05")
    with pytest.raises(OperationalError, match="max_statement_time"):
        await pool.fetch(f"{bounded} SELECT SLEEP(60) FROM (SELECT 1 UNION SELECT 2) AS two")


@pytest.mark.parametrize(
    ("sql", "shown"),
    [
        ("SELECT 'it''s', \"x\\\"y\", 0xFF, 1.5e3 FROM t1", "SELECT ?, ?, ?, ? FROM t1"),
        ("SELECT 'never ends", "SELECT ?"),
        ("UPDATE t SET a=-1 WHERE b IN (1, 2, 3)", "UPDATE t SET a=-? WHERE b IN (...)"),
    ],
)
def test_normalized_text_has_no_values(sql: str, shown: str) -> None:
    assert normalized(sql) == shown
