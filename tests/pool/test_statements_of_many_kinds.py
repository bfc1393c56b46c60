"""Batches, streams, prepared statements and cursors: what they bring, and what they leave."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import date
from typing import Any

import pytest
from asyncmy.errors import IntegrityError, OperationalError, ProgrammingError
from plugins.house import eventually
from plugins.mariadb import MariaDB
from plugins.pools import errors_are_expected, on_both_loops, pool_on

from penstock_pool import ConnectionPool
from penstock_pool.asyncmy_driver import PIECE
from penstock_pool.batches import LENGTH, batches
from penstock_pool.errors import ConnectionInUse, ConnectionLost, HoldLimitExceeded, Misuse, NotBorrowed

PoolOf = Callable[..., Awaitable[ConnectionPool]]

MANY = "SELECT seq, REPEAT('x', 500) FROM seq_1_to_1000000"


@pytest.fixture
async def pool(pool_of: PoolOf) -> ConnectionPool:
    pool = await pool_of(max=1)
    await pool.execute("CREATE OR REPLACE TABLE wares (id INT PRIMARY KEY, name TEXT, price INT)")
    return pool


async def wares(pool: ConnectionPool) -> list[Any]:
    return list(await pool.fetch("SELECT id, name, price FROM wares ORDER BY id"))


# -- batches


async def test_many_rows_are_inserted_by_few_statements(pool: ConnectionPool, mariadb: MariaDB) -> None:
    rows = [(number, "it's 100 %s", None) for number in range(5000)]
    async with pool.connection() as connection:
        asked = "SHOW SESSION STATUS LIKE 'Com_insert'"
        before = int((await connection.fetchrow(asked) or ("", 0))[1])
        assert await connection.executemany("INSERT INTO wares VALUES (%s, %s, %s)", rows) == 5000
        assert int((await connection.fetchrow(asked) or ("", 0))[1]) - before == 1
    assert await wares(pool) == rows


async def test_rows_by_name_and_what_follows_them_are_understood(pool: ConnectionPool) -> None:
    sql = (
        "INSERT INTO wares (id, name, price) VALUES (%(id)s, %(name)s, %(price)s) "
        "ON DUPLICATE KEY UPDATE name = CONCAT(VALUES(name), '%%')"
    )
    rows = [{"id": 1, "name": "a", "price": 2}, {"id": 3, "name": "b", "price": 4}]
    update = "UPDATE wares SET price = %s WHERE id = %s"
    async with pool.connection() as connection:
        for _ in range(2):
            await connection.executemany(sql, rows)
        assert await connection.executemany(update, [(5, 1), (6, 3)]) == 2
        assert await connection.executemany(update, []) == 0
    assert await wares(pool) == [(1, "a%", 5), (3, "b%", 6)]


async def test_many_rows_are_all_inserted_or_none(pool: ConnectionPool) -> None:
    sql = "INSERT INTO wares (id, name, price) SELECT %s, %s, %s"
    with pytest.raises(IntegrityError):
        await pool.executemany(sql, [(1, "a", 2), (3, "b", 4), (1, "c", 5)])
    assert await wares(pool) == []
    assert await pool.executemany(sql, [(1, "a", 2), (3, "b", 4)]) == 2


def test_statements_do_not_grow_beyond_what_servers_take() -> None:
    rows = [("x" * (LENGTH // 3),)] * 7
    texts = [
        sql for sql, _ in batches("INSERT INTO t VALUES (%s)", rows, lambda sql, a: sql % tuple(a or ()))
    ]
    assert len(texts) == 4
    assert all(len(text) < LENGTH + 100 for text in texts)


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO t VALUES (%s, NOW())",
        "INSERT INTO t SELECT %s",
        "INSERT INTO t VALUES (%s) ON DUPLICATE KEY UPDATE a = %s",
        "INSERT INTO t VALUES (%s) RETURNING a",
        "UPDATE t SET a = %s",
    ],
)
def test_what_is_not_surely_a_list_of_values_is_sent_row_by_row(sql: str) -> None:
    assert list(batches(sql, [(1,), (2,)], lambda *_: "")) == [(sql, (1,)), (sql, (2,))]


async def test_a_row_that_does_not_fit_sends_nothing(pool: ConnectionPool) -> None:
    async with pool.connection() as connection:
        with pytest.raises(TypeError):
            await connection.executemany("INSERT INTO wares VALUES (%s, %s, %s)", [(1, "a", 2), (2, "b")])
        assert await connection.fetchval("SELECT COUNT(*) FROM wares") == 0


async def test_rows_by_the_names_of_their_columns(pool: ConnectionPool) -> None:
    async with pool.connection() as connection:
        assert await connection.fetchdicts("SELECT 1 AS a, 'x' AS b") == [{"a": 1, "b": "x"}]
        assert await connection.fetchdicts("DO 1") == []


async def test_of_a_procedure_the_first_result_counts(pool: ConnectionPool) -> None:
    await pool.execute("CREATE OR REPLACE PROCEDURE two() BEGIN SELECT 1; SELECT 2; END")
    async with pool.connection() as connection:
        assert await connection.fetch("CALL two()") == ((1,),)
        async with connection.stream("CALL two()") as rows:
            assert [row async for row in rows] == [(1,)]
        assert await connection.fetchval("SELECT 3") == 3


# -- streams


async def test_a_stream_is_read_to_its_end(pool: ConnectionPool, resets: list[int]) -> None:
    async with pool.connection() as connection:
        async with connection.stream("SELECT seq FROM seq_1_to_100000 WHERE seq > %s", (5,)) as rows:
            assert rows.description is not None
            assert rows.description[0][0] == "seq"
            assert sum([number async for (number,) in rows]) == 100000 * 100001 // 2 - 15
        async for (number,) in connection.stream("SELECT 7"):
            assert number == 7
        async for _ in connection.stream("DO 1"):
            pytest.fail("it has no rows")
        assert await connection.fetchval("SELECT 1") == 1
    assert resets == []
    assert pool.stats().opened == 1


async def test_a_short_rest_is_read_when_a_stream_is_left(pool: ConnectionPool) -> None:
    async with pool.connection() as connection:
        async with connection.stream("SELECT seq FROM seq_1_to_1000") as rows:
            assert await anext(rows) == (1,)
        assert await connection.fetchval("SELECT 2") == 2
    assert pool.stats().opened == 1


@pytest.mark.parametrize("politely", [True, False])
async def test_a_long_rest_reaches_nobody(pool: ConnectionPool, mariadb: MariaDB, politely: bool) -> None:
    async with pool.connection() as connection:
        left = connection.session_id
        stream = connection.stream(MANY)
        assert (await anext(stream))[0] == 1
        if politely:
            await stream.close()
            with pytest.raises(ConnectionLost, match="left early"):
                await connection.fetchval("SELECT 2")
        else:
            with pytest.raises(ConnectionInUse, match="not read to its end"):
                await connection.fetchval("SELECT 2")
    async with pool.connection() as connection:
        assert await connection.fetchval("SELECT 3") == 3
        assert connection.session_id != left
    await eventually(lambda: left not in mariadb.connections())


async def test_rows_that_nobody_asks_for_yet_stay_with_the_server(pool_of: PoolOf) -> None:
    pool = await pool_of(max=2)
    async with pool.connection() as connection, connection.stream(MANY) as rows:
        session = connection._held()
        for _ in range(3):
            await anext(rows)
            for _ in range(20):
                await pool.fetchval("SELECT COUNT(*) FROM seq_1_to_10000")  # meanwhile they could come
        assert session._protocol.length < 1 << 20  # type: ignore[attr-defined]


async def test_nothing_else_is_sent_while_rows_come(pool: ConnectionPool) -> None:
    async with pool.connection() as connection, connection.stream("SELECT seq FROM seq_1_to_5") as rows:
        await anext(rows)
        with pytest.raises(ConnectionInUse):
            await connection.execute("SELECT 1")
        assert [number async for (number,) in rows] == [2, 3, 4, 5]


async def test_a_task_that_is_cancelled_in_a_stream_leaves_nothing(pool: ConnectionPool) -> None:
    async def read() -> None:
        async with pool.connection() as connection, connection.stream("SELECT SLEEP(60)") as rows:
            await anext(rows)

    task = asyncio.create_task(read())
    await eventually(lambda: pool.stats().busy == 1)
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    assert await pool.fetchval("SELECT 1") == 1
    await eventually(lambda: pool.stats().ending == 0)


async def test_an_error_in_a_stream_leaves_the_connection_usable(pool: ConnectionPool) -> None:
    async with pool.connection() as connection:
        with pytest.raises(ProgrammingError):
            await anext(connection.stream("SELECT * FROM nowhere"))
        with pytest.raises(OperationalError, match="1 row"):
            async for _ in connection.stream(
                "SELECT seq, (SELECT seq + t.seq FROM seq_1_to_2 AS u "
                "WHERE t.seq > 50) FROM seq_1_to_100 AS t"
            ):
                pass
        assert await connection.fetchval("SELECT 1") == 1
    assert pool.stats().opened == 1


async def test_a_stream_ends_with_its_loan(pool: ConnectionPool) -> None:
    connection = pool.connection()
    async with connection:
        stream = connection.stream("SELECT seq FROM seq_1_to_5000")
        await anext(stream)
    with pytest.raises(NotBorrowed):
        async for _ in stream:
            pass
    async with connection:
        with pytest.raises(NotBorrowed, match="stream ends with the loan"):
            async for _ in stream:
                pass


async def test_a_stream_that_is_held_too_long_is_taken_away(pool_of: PoolOf) -> None:
    pool = await pool_of(hold_limit=0.1)
    async with pool.connection() as connection:
        with errors_are_expected(), pytest.raises(HoldLimitExceeded):
            async for _ in connection.stream("SELECT SLEEP(0.05) FROM seq_1_to_100"):
                pass
    assert await pool.fetchval("SELECT 1") == 1


async def test_a_stream_that_nobody_reads_any_more_says_why_it_ended(pool_of: PoolOf) -> None:
    pool = await pool_of(hold_limit=0.1)
    async with pool.connection() as connection, connection.stream(MANY) as rows:
        await anext(rows)
        with errors_are_expected():
            await eventually(lambda: pool.stats().busy == 0)
        with pytest.raises(HoldLimitExceeded):
            async for _ in rows:
                pass


async def test_a_stream_in_a_dirty_session_is_reset_after_it(pool: ConnectionPool, resets: list[int]) -> None:
    async with pool.connection() as connection:
        async for _ in connection.stream("SELECT @x := 1"):
            pass
    assert await pool.fetchval("SELECT @x") is None
    assert len(resets) >= 1


async def test_a_dead_connection_is_exchanged_before_a_stream(pool: ConnectionPool, mariadb: MariaDB) -> None:
    async with pool.connection() as connection:
        mariadb.kill(connection.session_id)
        assert [row async for row in connection.stream("SELECT 1")] == [(1,)]


async def test_a_transaction_begins_on_a_connection_that_died(pool: ConnectionPool, mariadb: MariaDB) -> None:
    async with pool.connection() as connection:
        mariadb.kill(connection.session_id)
        async with connection.transaction():
            assert await connection.fetchval("SELECT 1") == 1


# -- prepared statements


async def test_a_prepared_statement_is_executed_many_times(pool: ConnectionPool) -> None:
    async with pool.connection() as connection:
        insert = await connection.prepare("INSERT INTO wares VALUES (?, ?, ?)")
        for number in range(3):
            assert (await insert.execute(number, f"n{number}", None)).affected_rows == 1
        select = await connection.prepare("SELECT name FROM wares WHERE id = ?")
        assert await select.fetch(2) == (("n2",),)
        with pytest.raises(Misuse, match="has 1 \\?, not 2"):
            await select.fetch(1, 2)
        with pytest.raises(ProgrammingError):
            await connection.prepare("SELEKT")
        assert await select.fetch(1) == (("n1",),)


async def test_a_prepared_statement_ends_with_its_loan(pool: ConnectionPool, resets: list[int]) -> None:
    connection = pool.connection()
    async with connection:
        select = await connection.prepare("SELECT 1")
        assert await select.fetch() == ((1,),)
    with pytest.raises(NotBorrowed):
        await select.fetch()
    async with connection:
        with pytest.raises(NotBorrowed, match="prepare it again"):
            await select.fetch()
    assert len(resets) == 1


# -- cursors


async def test_a_cursor_is_as_others_have_it(pool: ConnectionPool) -> None:
    async with pool.connection() as connection, connection.cursor() as cursor:
        assert await cursor.executemany("INSERT INTO wares VALUES (%s, %s, 1)", [(1, "a"), (2, "b")]) == 2
        assert await cursor.execute("SELECT id, name FROM wares ORDER BY id") == 2
        assert [column[0] for column in cursor.description or ()] == ["id", "name"]
        assert await cursor.fetchone() == (1, "a")
        assert list(await cursor.fetchmany(5)) == [(2, "b")]
        assert await cursor.fetchone() is None
        await cursor.execute("SELECT seq FROM seq_1_to_3")
        assert [row async for row in cursor] == [(1,), (2,), (3,)]
        assert list(await cursor.fetchall()) == []
        with pytest.raises(Misuse, match="has no rows"):
            await cursor.execute("DO 1")
            await cursor.fetchall()


async def test_a_cursor_may_stream(pool: ConnectionPool) -> None:
    async with pool.connection() as connection:
        async with connection.cursor(stream=True) as cursor:
            await cursor.execute("SELECT seq FROM seq_1_to_9")
            assert cursor.rowcount == -1
            assert await cursor.fetchone() == (1,)
            assert list(await cursor.fetchmany(2)) == [(2,), (3,)]
            assert len(await cursor.fetchall()) == 6
            assert await cursor.fetchone() is None
            await cursor.execute("SELECT seq FROM seq_1_to_9")
        assert await connection.fetchval("SELECT 1") == 1


async def test_what_a_cursor_changes_in_the_session_is_noticed(pool: ConnectionPool) -> None:
    async with pool.connection() as connection, connection.cursor() as cursor:
        await cursor.execute("SET sql_mode = 'ANSI'")
    assert await pool.fetchval("SELECT @@sql_mode = @@global.sql_mode") == 1


# -- prepared streams


async def test_a_prepared_stream_has_its_rows_at_once_or_as_they_come(pool: ConnectionPool) -> None:
    async with pool.connection() as connection:
        for _ in range(2):  # the second time the answer is known beforehand
            async with connection.stream("SELECT ?, 'x'", (7,), prepared=True) as rows:
                assert list(await rows.some()) == [(7, "x")]
                assert not await rows.some()
                assert [(it.name, it.type) for it in rows.columns or ()] == [
                    ("?", "bigint"),
                    ("x", "varchar"),
                ]
        async with connection.stream(
            "SELECT seq FROM seq_1_to_100000 WHERE seq > ?", (5,), prepared=True
        ) as rows:
            assert [number async for (number,) in rows] == list(range(6, 100_001))


@on_both_loops
async def test_a_prepared_stream_comes_in_pieces_between_which_others_have_their_turn(
    mariadb: MariaDB,
) -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with pool_on(mariadb) as pool, pool.connection() as connection:
        stream = connection.stream("SELECT seq FROM seq_1_to_500000", prepared=True)
        task = asyncio.create_task(other())
        pieces = []
        while rows := await stream.some():
            pieces.append(len(rows))
        task.cancel()
    assert sum(pieces) == 500_000
    assert max(pieces) <= PIECE / 14  # four bytes before each packet, ten in it
    assert turns >= len(pieces)


async def test_a_prepared_statement_is_kept_for_the_next_and_leaves_its_session_clean(
    pool_of: PoolOf, resets: list[int]
) -> None:
    pool = await pool_of(max=1, server={"statement_cache": 2})
    for text in ("SELECT ?", "SELECT ? + 1", "SELECT ?", "SELECT ? + 2", "SELECT ?"):
        async with pool.connection() as connection, connection.stream(text, (1,), prepared=True) as rows:
            await rows.some()
    told = await pool.fetch(
        "SHOW SESSION STATUS WHERE Variable_name IN ('Com_stmt_prepare', 'Com_stmt_close')"
    )
    assert dict(told) == {"Com_stmt_prepare": "3", "Com_stmt_close": "1"}
    assert resets == []


async def test_a_prepared_statement_is_prepared_again_after_a_reset(
    pool_of: PoolOf, resets: list[int]
) -> None:
    pool = await pool_of(max=1, server={"statement_cache": 2})
    for _ in range(2):
        async with pool.connection() as connection:
            async with connection.stream("SELECT ?", (1,), prepared=True) as rows:
                assert list(await rows.some()) == [(1,)]
            await connection.execute("SET @x = 1")
    assert resets


async def test_a_prepared_stream_left_early_or_wrong_harms_nobody(pool_of: PoolOf) -> None:
    pool = await pool_of(max=1, server={"statement_cache": 2})
    async with pool.connection() as connection:
        with pytest.raises(Misuse, match=r"has 1 \?, not 2"):
            await connection.stream("SELECT ?", (1, 2), prepared=True).some()
        with pytest.raises(ProgrammingError, match="doesn't exist"):
            await connection.stream("SELECT * FROM nowhere", prepared=True).some()
        async with connection.stream("DO ?", (1,), prepared=True) as rows:
            assert (rows.columns, rows.affected_rows) == (None, 0)
        async with connection.stream(MANY, prepared=True) as rows:
            assert await rows.some()
    assert await pool.fetchval("SELECT 8") == 8


async def test_a_procedure_in_a_prepared_stream_answers_its_first_result(pool: ConnectionPool) -> None:
    await pool.execute("CREATE OR REPLACE PROCEDURE both_of() BEGIN SELECT 1; SELECT 2; END")
    async with pool.connection() as connection:
        for _ in range(3):
            async with connection.stream("CALL both_of()", prepared=True) as rows:
                assert [row async for row in rows] == [(1,)]
        assert await connection.fetchval("SELECT 9") == 9
    await pool.execute("DROP PROCEDURE both_of")


TOO_LARGE = 2**64
UNREADABLE = "\ud800"


@pytest.mark.parametrize(
    ("sql", "arguments", "wrong"),
    [
        ("SELECT %s", (1, 2), TypeError),
        ("SELECT %s, %s", (1,), TypeError),
        ("SELECT %(name)s", {"other": 1}, KeyError),
        ("SELECT %s", (TOO_LARGE,), ValueError),
        ("SELECT %s, %s", (-TOO_LARGE, "x"), ValueError),
        ("SELECT %s", (UNREADABLE,), ValueError),
        (f"SELECT %s, '{UNREADABLE}'", (1,), ValueError),
    ],
)
async def test_arguments_that_cannot_be_sent_harm_no_connection(
    pool_of: PoolOf, sql: str, arguments: Any, wrong: type[Exception]
) -> None:
    pool = await pool_of(max=1, server={"statement_cache": 4})
    async with pool.connection() as connection:
        number = connection.session_id
        for _ in range(2):
            with pytest.raises(wrong):
                await connection.fetch(sql, arguments)
            assert connection.usable
            assert await connection.fetchval("SELECT %s", (7,)) == 7
        assert connection.session_id == number
    assert pool.stats().lost == 0


async def test_arguments_that_cannot_be_packed_harm_no_prepared_statement(pool_of: PoolOf) -> None:
    pool = await pool_of(max=1)
    async with pool.connection() as connection:
        number = connection.session_id
        statement = await connection.prepare("SELECT ?")
        for value in (TOO_LARGE, UNREADABLE):
            with pytest.raises(ValueError, match=r"64-bit|surrogates") as told:
                await statement.fetch(value)
            assert told.value.__notes__ == ["In 'SELECT ?': nothing was sent"]
            with pytest.raises(ValueError, match=r"64-bit|surrogates"):
                await connection.stream("SELECT ?", (value,), prepared=True).some()
            assert await statement.fetch(7) == ((7,),)
        with pytest.raises(ValueError, match="surrogates"):
            await connection.prepare(f"SELECT '{UNREADABLE}'")
        assert await connection.fetchval("SELECT CONNECTION_ID()") == number


async def test_by_name_or_not_preparable_a_statement_is_sent_as_text(pool_of: PoolOf) -> None:
    pool = await pool_of(max=1, server={"statement_cache": 4})
    for _ in range(2):
        assert await pool.fetchval("SELECT %(name)s", {"name": "a"}) == "a"
        assert await pool.fetch("SHOW VARIABLES LIKE %s", ("port%",))
        assert await pool.fetchval("SELECT '%%' %% %s", (3,)) == 0


class Named:
    def __str__(self) -> str:
        return "the pipe's \\"


@pytest.mark.parametrize("cache", [0, 4])
@pytest.mark.parametrize("mode", ["", "NO_BACKSLASH_ESCAPES"])
async def test_values_are_values_whatever_a_backslash_means(pool_of: PoolOf, mode: str, cache: int) -> None:
    pool = await pool_of(server={"sql_mode": mode, "statement_cache": cache})
    texts = ("it's", "\\", "\\' OR 1=1 -- ", "'", '"', "\0\n\x1a", "")
    for value in (*texts, *(text.encode() for text in texts), b"\xff\\'", None, 1.5, -7):
        for _ in range(2):
            assert await pool.fetchval("SELECT %s", (value,)) == value
            assert await pool.fetchval("SELECT %(it)s", {"it": value}) == value
    assert await pool.fetchval("SELECT %s", (Named(),)) == str(Named())
    assert await pool.fetchval("SELECT YEAR(%(it)s)", {"it": date(2026, 2, 3)}) == 2026
    for value in (*texts, *(text.encode() for text in texts if "\0" not in text)):
        for _ in range(2):
            assert await pool.fetchval("SELECT 'no' IN %s", (("yes", value),)) == 0
            assert await pool.fetchval("SELECT %s IN %s", (value, ("no", value))) == 1
    assert await pool.fetchval("SELECT (1, 'a') IN %s", (((1, b"a"), (2, "\\'")),)) == 1
    with pytest.raises(TypeError):
        await pool.fetchval("SELECT 1 IN %s", (["a"],))
    async with pool.connection() as connection:
        await connection.execute("SET sql_mode = ''")
        assert await connection.fetchval("SELECT %(it)s", {"it": b"\\'"}) == b"\\'"
        await connection.execute("SET sql_mode = 'NO_BACKSLASH_ESCAPES'")
        assert await connection.fetchval("SELECT %(it)s", {"it": b"\\'"}) == b"\\'"
