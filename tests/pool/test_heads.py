"""Answers that begin as the last one to the same text did: read by what is known, and read right."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plugins.mariadb import MariaDB
from plugins.pooled import server_of

from penstock_pool import Server
from penstock_pool.asyncmy_driver import AsyncmyDriver, AsyncmySession
from penstock_pool.driver import Result
from penstock_pool.errors import ConnectionLost
from penstock_pool.heads import Answer, Heads
from penstock_pool.testing import FakeMySQL, FaultProxy, Rows
from penstock_pool.testing.packets import Status, column, eof, framed, lenenc, row


@asynccontextmanager
async def sessions(db: MariaDB, count: int = 1, **server: Any) -> AsyncIterator[list[AsyncmySession]]:
    """Of one driver: they know each other's heads."""
    driver = AsyncmyDriver(server_of(db.address, **server))
    opened = [await driver.open() for _ in range(count)]
    try:
        yield opened
    finally:
        for session in opened:
            session.abort()


def told(result: Result) -> tuple[object, ...]:
    return result.rows, result.affected_rows, result.insert_id, result.description


KINDS = """SELECT NULL, 1, -7, 18446744073709551615, 1.5, 1e300, 1.10 AS tenth, 'ü', x'00ff', '',
    DATE '2026-11-28', TIMESTAMP '2026-11-28 12:00:00.25', TIME '-11:12:13', TRUE, JSON_ARRAY(1, 'a'), b'101',
    CAST(1 AS UNSIGNED) AS `a column's name`, REPEAT('x', 300)"""


@pytest.mark.parametrize(
    ("question", "by_its_head"),
    [
        ("SELECT 1", True),
        (KINDS, True),
        ("SELECT 1 FROM DUAL WHERE FALSE", True),
        ("SELECT seq, REPEAT('y', seq) FROM seq_1_to_60", True),
        ("SHOW VARIABLES LIKE 'port'", True),
        (f"SELECT {', '.join(map(str, range(250)))}", True),
        (f"SELECT {', '.join(map(str, range(251)))}", False),
        ("SELECT REPEAT('z', 1000000)", None),
        ("SELECT seq, REPEAT('y', 100) FROM seq_1_to_20000", None),
        ("DO 1", False),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_the_same_question_gets_the_same_answer(
    mariadb: MariaDB, question: str, by_its_head: bool | None
) -> None:
    """None: either, as it may come in one piece or in many."""
    async with sessions(mariadb, 2) as (first, second):
        answers = [await session.query(question) for session in (first, first, second, first)]
        assert [told(answer) for answer in answers] == [told(answers[0])] * 4
        if by_its_head is not None:
            assert [isinstance(answer, Answer) for answer in answers] == [False, *[by_its_head] * 3]
        assert not first.running
        assert not first.changed


async def test_arguments_are_not_of_the_text(mariadb: MariaDB) -> None:
    async with sessions(mariadb, statement_cache=0) as (session,):
        for number, text in ((1, "a"), (2, "b"), (30000, "c")):
            found = await session.query("SELECT %s + 0, %s", (number, text))
            assert found.rows == ((number, text),)
        assert (await session.query("SELECT %s + 0, %s", ("1.5", b"c"))).rows == ((1.5, b"c"),)


async def test_columns_that_have_changed_are_read_anew(mariadb: MariaDB) -> None:
    async with sessions(mariadb, 2) as (session, other):
        await session.query("CREATE OR REPLACE TABLE heads (size INT)")
        await session.query("INSERT INTO heads VALUES (7)")
        for _ in range(3):
            assert (await session.query("SELECT * FROM heads")).rows == ((7,),)
        await other.query("ALTER TABLE heads MODIFY size VARCHAR(20)")
        for each in (session, other, session):
            assert (await each.query("SELECT * FROM heads")).rows == (("7",),)
        await other.query("ALTER TABLE heads ADD COLUMN weight INT DEFAULT 3")
        for each in (session, other, session):
            found = await each.query("SELECT * FROM heads")
            assert found.rows == (("7", 3),)
            assert [name for name, *_ in found.description or ()] == ["size", "weight"]
        await session.query("DROP TABLE heads")


async def test_what_the_server_says_of_the_session_is_heard(mariadb: MariaDB) -> None:
    async with sessions(mariadb) as (session,):
        for _ in range(3):
            await session.query("SELECT 1")
            assert not session.in_transaction
        await session.query("BEGIN")
        await session.query("SELECT 1")
        assert session.in_transaction
        await session.query("ROLLBACK")
        await session.query("SELECT 1")
        assert not session.in_transaction


async def test_an_error_after_a_known_head_is_told(mariadb: MariaDB) -> None:
    """The head has been sent when a row turns out to be none."""
    question = "SELECT (SELECT seq FROM seq_1_to_2 WHERE seq <= {}) FROM seq_1_to_3"
    async with sessions(mariadb, statement_cache=0) as (session,):
        asked = question.format("%s")
        for _ in range(2):
            assert (await session.query(asked, (1,))).rows == ((1,),) * 3
        with pytest.raises(Exception, match="1242"):
            await session.query(asked, (2,))
        assert (await session.query(asked, (1,))).rows == ((1,),) * 3


async def test_of_several_results_the_first_is_the_answer(mariadb: MariaDB) -> None:
    async with sessions(mariadb, multi_statements=True) as (session,):
        for _ in range(3):
            assert (await session.query("SELECT 1; SELECT 2, 3")).rows == ((1,),)
            assert (await session.query("SELECT 1")).rows == ((1,),)


def at(port: int) -> Server:
    return Server("127.0.0.1", port, user="app", password="penstock")


ASK = "SELECT name FROM wares"
ANSWER = (("a pipe",), ("\x07\x00\x00\x04\u00fe\x00\x00\x02\x00\x00\x00",))


async def test_an_answer_may_come_byte_by_byte() -> None:
    async with (
        FakeMySQL({ASK: Rows(["name"], ANSWER)}) as server,
        FaultProxy("127.0.0.1", server.port) as slow,
    ):
        driver = AsyncmyDriver(at(slow.port))
        session = await driver.open()
        assert (await session.query(ASK)).rows == ANSWER
        slow.slow(bytes_per_second=2000)
        for _ in range(2):
            assert (await session.query(ASK)).rows == ANSWER
        slow.heal()
        assert isinstance(await session.query(ASK), Answer)
        session.abort()


async def test_an_answer_with_a_known_head_may_break_off_at_every_byte() -> None:
    async with (
        FakeMySQL({ASK: Rows(["name"], ANSWER)}) as server,
        FaultProxy("127.0.0.1", server.port) as proxy,
    ):
        driver = AsyncmyDriver(at(proxy.port))
        session = await driver.open()
        await session.query(ASK)
        begun = proxy.passed["down"]
        assert isinstance(await session.query(ASK), Answer)
        for after in range(proxy.passed["down"] - begun):
            proxy.cut(after, direction="down", how="fin", times=1)
            with pytest.raises(ConnectionLost):
                await session.query(ASK)
            assert session.lost
            session.abort()
            session = await driver.open()
            assert (await session.query(ASK)).rows == ANSWER
        session.abort()


async def test_servers_that_end_rows_in_the_old_way_are_read_by_the_driver() -> None:
    async with FakeMySQL({ASK: Rows(["name"], ANSWER)}, deprecates_eof=False) as server:
        session = await AsyncmyDriver(at(server.port)).open()
        for _ in range(3):
            answer = await session.query(ASK)
            assert answer.rows == ANSWER
            assert not isinstance(answer, Answer)
        session.abort()


# -- what lies in the buffer


@dataclass
class Buffer:
    """As asyncmy's protocol has it."""

    buffer: bytearray
    pos: int
    length: int


@dataclass
class Read:
    """What the driver reads of an answer."""

    converters: list[Any]
    description: tuple[Any, ...]


def packets(rows: list[tuple[Any, ...]], names: list[str], status: Status = Status.AUTOCOMMIT) -> bytes:
    payloads = [lenenc(len(names)), *(column(name, "text") for name in names)]
    payloads += [*map(row, rows), eof(status, as_ok=True)]
    return b"".join(
        packet for number, each in enumerate(payloads, 1) for packet in framed(each, number & 0xFF)
    )


def knowing(answer: bytes, names: list[str]) -> Heads:
    heads = Heads()
    remember = heads.begun("SELECT", Buffer(bytearray(answer), 0, len(answer)))
    assert remember
    remember(Read([(1, "utf8", None)] * len(names), tuple((name,) for name in names)))
    return heads


LAST = b"\x07\x00\x00\x04\xfe\x00\x00\x02\x00\x00\x00"
VALUES = (
    st.none() | st.text(max_size=300) | st.binary(max_size=40).map(lambda it: (it + LAST).decode("latin-1"))
)


@given(st.integers(1, 4), st.data())
def test_a_whole_answer_is_read_and_a_part_is_left(columns: int, data: st.DataObject) -> None:
    names = [f"c{number}" for number in range(columns)]
    rows = data.draw(st.lists(st.tuples(*[VALUES] * columns), max_size=3))
    answer = packets(rows, names)
    heads = knowing(answer, names)
    before = data.draw(st.binary(max_size=5))
    buffer = bytearray(before + answer + data.draw(st.binary(max_size=20)))
    for length in range(len(before), len(before) + len(answer)):
        part = Buffer(buffer, len(before), length)
        assert heads.answer("SELECT", part) is None, "of a part"
        assert part.pos == len(before)
    whole = Buffer(buffer, len(before), len(before) + len(answer))
    found = heads.answer("SELECT", whole)
    assert found is not None
    assert found.rows == tuple(rows)
    assert (found.affected_rows, found.server_status) == (len(rows), Status.AUTOCOMMIT)
    assert whole.pos == whole.length


@pytest.mark.parametrize(
    "other",
    [
        packets([("a",)], ["name"], Status.AUTOCOMMIT | Status(8)),
        packets([("a",)], ["Name"]),
        packets([("a", "b")], ["name", "name"]),
        packets([("a",)], ["name"]) + b"\x00",
        packets([("a",)], ["name"])[:-11] + LAST[:3] + b"\x09" + LAST[4:],
        b"\x17\x00\x00\x01\xff\x7a\x04#42S02No such table",
        b"\x07\x00\x00\x01\x00\x00\x00\x02\x00\x00\x00",
        b"",
    ],
    ids=[
        "more follows",
        "another name",
        "another column",
        "a byte after it",
        "a gap",
        "error",
        "ok",
        "nothing",
    ],
)
def test_what_is_not_that_answer_is_left_to_the_driver(other: bytes) -> None:
    heads = knowing(packets([], ["name"]), ["name"])
    buffer = Buffer(bytearray(other + bytes(100)), 0, len(other))
    assert heads.answer("SELECT", buffer) is None
    assert heads.answer("SELECT 2", buffer) is None
    assert buffer.pos == 0


def test_few_heads_are_kept() -> None:
    heads, answer = Heads(), packets([], ["name"])
    for number in range(2000):
        remember = heads.begun(f"SELECT {number}", Buffer(bytearray(answer), 0, len(answer)))
        assert remember
        remember(Read([], ()))
    assert len(heads._known) <= 512
    assert heads.begun("x" * 20_000, Buffer(bytearray(answer), 0, len(answer))) is None
    long = packets([], [f"{number:0200}" for number in range(100)])
    assert heads.begun("SELECT", Buffer(bytearray(long), 0, len(long))) is None
