"""The client: what it sends comes back the same, what it repeats is safe, what went wrong is told by what can
be done about it."""

from __future__ import annotations

import asyncio
import inspect
import json
import re
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plugins.data_service import DataService
from plugins.house import eventually
from plugins.mariadb import MariaDB

from penstock_data import client as client_package
from penstock_data.client import (
    BadParameter,
    BadRequest,
    Busy,
    Conflict,
    DatabaseRefused,
    DataClient,
    DataError,
    Fault,
    Forbidden,
    Json,
    KeyReused,
    LeaseGone,
    Named,
    NotFound,
    OutcomeUnknown,
    ResultTooLarge,
    RetryTransaction,
    StatementRefused,
    StreamCut,
    SyncDataClient,
    SyncRows,
    SyncTransaction,
    TimedOut,
    Unauthenticated,
    Unavailable,
    Unreachable,
    calls,
)
from penstock_data.client.asynchronous import Rows, Transaction
from penstock_data.client.calls import Call, Reply
from penstock_data.client.errors import error_of
from penstock_data.client.exchange import Route, Send, Wait, exchange
from penstock_data.client.results import Lines
from penstock_data.client.values import Decoder, encoded
from penstock_pool.testing import FaultProxy

# -- what is sent when: no network, and time is virtual


class World:
    """Answers requests in order, and notes what is done."""

    def __init__(self, *answers: Reply | Exception, home: str = "http://db:8080") -> None:
        self.answers = list(answers)
        self.now = 0.0
        self.sent: list[str] = []
        self.waited: list[float] = []
        self.route = Route(home)

    def ask(self, call: Call) -> Reply:
        steps = exchange(call, self.route, lambda: self.now)
        try:
            step = next(steps)
            while True:
                step = self._done(steps, step)
        except StopIteration as done:
            reply: Reply = done.value
            return reply

    def _done(self, steps: Any, step: Send | Wait) -> Send | Wait:
        if isinstance(step, Wait):
            self.waited.append(step.seconds)
            self.now += step.seconds
            return steps.send(None)  # type: ignore[no-any-return]
        self.sent.append(step.url)
        answer = self.answers.pop(0)
        return steps.throw(answer) if isinstance(answer, Exception) else steps.send(answer)  # type: ignore[no-any-return]


def problem(status: int, kind: str, **headers: str) -> Reply:
    told = {"type": f"urn:penstock:{kind}", "title": kind, "status": status, "detail": kind, "trace_id": "7"}
    return Reply(
        status, {name.replace("_", "-"): text for name, text in headers.items()}, json.dumps(told).encode()
    )


GOOD = Reply(200, {}, b'{"affected_rows":1,"insert_id":0}')
GONE = problem(410, "lease-gone")
DOWN = problem(503, "unavailable", retry_after="2")
BROKE = httpx.ReadError("")
REFUSED = httpx.ConnectError("refused")
WRITE = calls.query(calls.statement("DELETE FROM wares", []), 5.0, read=False, key=None)
KEYED = calls.query(calls.statement("DELETE FROM wares", []), 5.0, read=False, key="k")
READ = calls.query(calls.statement("SELECT 1", []), 5.0, read=True, key=None)
LEASE = "pod-7~99~secret"
COMMIT = calls.commit(LEASE, 5.0)


def test_what_was_refused_before_anything_was_done_is_sent_again_when_it_may_work() -> None:
    world = World(DOWN, problem(429, "busy", retry_after="1"), REFUSED, GOOD)
    assert world.ask(WRITE) is GOOD
    assert [2 <= world.waited[0] < 2.6, 1 <= world.waited[1] < 1.3, world.waited[2] < 1] == [True] * 3


@pytest.mark.parametrize("answer", [DOWN, problem(503, "unavailable", retry_after="60")])
def test_nobody_waits_beyond_the_time(answer: Reply) -> None:
    world = World(*[answer] * 10)
    with pytest.raises(Unavailable) as told:
        world.ask(WRITE)
    assert world.now < 5
    assert told.value.retry_after in (2, 60)
    assert told.value.trace_id == "7"


def test_what_fails_at_once_is_tried_a_few_times_only() -> None:
    world = World(*[REFUSED] * 100)
    with pytest.raises(Unreachable):
        world.ask(WRITE)
    assert len(world.sent) == 6


def test_a_write_that_may_have_been_done_is_not_repeated() -> None:
    world = World(BROKE)
    with pytest.raises(OutcomeUnknown):
        world.ask(WRITE)


def test_reads_and_what_has_a_key_are_repeated() -> None:
    for call in (READ, KEYED, COMMIT):
        assert World(BROKE, problem(502, "outcome-unknown"), GOOD).ask(call) is GOOD


def test_a_read_that_is_lost_for_good_says_that_nothing_was_done() -> None:
    with pytest.raises(Unavailable):
        World(*[BROKE] * 6).ask(READ)
    with pytest.raises(TimedOut):
        World(httpx.ReadTimeout("")).ask(READ)


@pytest.mark.parametrize("later", [DOWN, REFUSED, problem(401, "unauthenticated"), problem(504, "timeout")])
def test_what_follows_a_lost_write_does_not_tell_that_nothing_was_done(later: Reply | Exception) -> None:
    with pytest.raises(OutcomeUnknown):
        World(BROKE, *[later] * 6).ask(KEYED)


def test_what_was_looked_at_under_the_key_tells_what_became_of_a_lost_write() -> None:
    with pytest.raises(DatabaseRefused):
        World(BROKE, problem(422, "database-refused")).ask(KEYED)
    with pytest.raises(LeaseGone):
        World(BROKE, GONE).ask(COMMIT)


def test_a_commit_that_is_still_at_work_is_waited_for() -> None:
    replayed = Reply(200, {"idempotency-replayed": "true"}, b'{"committed":true}')
    assert World(BROKE, problem(409, "conflict"), replayed).ask(COMMIT) is replayed
    with pytest.raises(Conflict):
        World(problem(409, "conflict")).ask(COMMIT)


def leads_to(url: str) -> Reply:
    return Reply(307, {"location": url})


def test_a_lease_is_followed_to_its_process_and_asked_there_from_then_on() -> None:
    world = World(leads_to(f"http://pod-7.db:8080{COMMIT.path}"), GOOD, GOOD, REFUSED, GOOD)
    world.ask(COMMIT)
    assert world.sent == [f"http://db:8080{COMMIT.path}", f"http://pod-7.db:8080{COMMIT.path}"]
    world.ask(COMMIT)
    assert world.sent[2:] == [f"http://pod-7.db:8080{COMMIT.path}"]
    world.ask(COMMIT)
    assert world.sent[3:] == [f"http://pod-7.db:8080{COMMIT.path}", f"http://db:8080{COMMIT.path}"]


@pytest.mark.parametrize(
    "url",
    [
        "http://elsewhere.example/v1/transactions/pod-7~99~secret/commit",
        "https://pod-7.db/v1/transactions/pod-7~99~secret/commit",
        "http://pod-7.db/v1/query",
        "http://pod-7@elsewhere.example/v1/transactions/pod-7~99~secret/commit",
        "//pod-7.db/v1/transactions/pod-7~99~secret/commit",
        "",
    ],
)
def test_no_token_goes_anywhere_else(url: str) -> None:
    with pytest.raises(Fault, match="no token is sent"):
        World(leads_to(url)).ask(COMMIT)
    with pytest.raises(Fault):
        World(leads_to("http://pod-7.db/v1/query")).ask(READ)
    with pytest.raises(Fault):
        World(leads_to(f"http://pod-7.db{COMMIT.path}"), home="https://db").ask(COMMIT)


def test_processes_that_name_each_other_are_not_followed_for_ever() -> None:
    with pytest.raises(Fault, match="in turns"):
        World(*[leads_to(f"http://pod-7.db:8080{COMMIT.path}")] * 100).ask(COMMIT)


@pytest.mark.parametrize(
    "answer", [Reply(200, {}, b"<html>"), Reply(502, {}, b"<html>"), Reply(200, {}, b"[]")]
)
def test_what_is_no_answer_of_a_data_service_is_told(answer: Reply) -> None:
    with pytest.raises(Fault, match="is this the data service"):
        World(answer).ask(WRITE).result()


def test_an_error_of_a_newer_service_is_a_fault_with_its_words() -> None:
    error = error_of({"type": "urn:penstock:new", "detail": "out of ink", "status": 418})
    assert (type(error), str(error), error.status) == (Fault, "out of ink", 418)


@pytest.mark.parametrize("url", ["db:8080", "ftp://db", "http://", "http://db?x=1", ""])
def test_what_is_no_address_is_refused_at_once(url: str) -> None:
    with pytest.raises(ValueError, match="no address"):
        SyncDataClient(url, "token")


# -- lines

STREAM = (
    b'{"columns":[{"name":"n","type":"int"},{"name":"t","type":"text"}]}\n[1,"a"]\n[2,"\xe2\x80\xa8\\n"]\n'
)


@given(st.lists(st.integers(0, 130)))
def test_a_stream_is_the_same_in_whatever_pieces_it_comes(places: list[int]) -> None:
    whole, lines, rows = STREAM + b'{"end":{"rows":2}}\n', Lines(), []
    edges = [0, *sorted(places), len(whole)]
    for begin, end in pairwise(edges):
        rows += lines.feed(whole[begin:end])
    lines.close()
    assert rows == [(1, "a"), (2, "\u2028\n")]


@pytest.mark.parametrize("end", [b"", b'{"end":{"ro', b'{"end":{"rows":3}}\n'])
def test_a_stream_without_its_end_is_no_result(end: bytes) -> None:
    lines = Lines()
    lines.feed(STREAM + end)
    with pytest.raises(StreamCut, match="after 2 rows"):
        lines.close()


# -- values


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (float("nan"), "nan"),
        (Decimal("Infinity"), "Infinity"),
        (datetime(2026, 11, 28, tzinfo=UTC), "zone"),
        ({"a": 1}, "wrap it in Json"),
        ([1], "wrap it in Json"),
        (object(), "object"),
        ("\ud800", "surrogate"),
        (Json({"a": float("nan")}), "no JSON"),
        (Json({1, 2}), "no JSON"),
    ],
)
def test_a_value_that_cannot_be_sent_is_told_with_its_place(value: object, told: str) -> None:
    with pytest.raises(BadParameter, match=rf"parameter 1 .*{told}"):
        encoded([7, value])


def test_dates_that_are_none_stay_text() -> None:
    decoder = Decoder([{"name": name, "type": name} for name in ("date", "datetime", "time")])
    told = ["0000-00-00", "0000-00-00 00:00:00", "nonsense"]
    assert decoder.row(list(told)) == tuple(told)


VALUES = [
    ("BIGINT", -(2**63)),
    ("BIGINT UNSIGNED", 2**64 - 1),
    ("BIGINT", 2**53),
    ("INT", 7),
    ("BOOLEAN", True),
    ("DECIMAL(65, 30)", Decimal("12345678901234567890123456789012345.123456789012345678901234567890")),
    ("DECIMAL(8, 2)", Decimal("12.30")),
    ("DECIMAL(65, 0)", 2**64),
    ("DOUBLE", 0.1),
    ("DOUBLE", -1.7976931348623157e308),
    ("DOUBLE", 5e-324),
    ("FLOAT", 0.1),
    ("DATE", date(1, 1, 1)),
    ("DATE", date(9999, 12, 31)),
    ("DATETIME(6)", datetime(2026, 11, 28, 10, 0, 0, 500)),
    ("DATETIME", datetime(2026, 11, 28)),
    ("TIME(6)", timedelta(hours=-838, minutes=-59, seconds=-58, microseconds=-999999)),
    ("TIME(6)", timedelta(microseconds=-1)),
    ("TIME", timedelta(hours=100)),
    ("VARBINARY(300)", bytes(range(256))),
    ("BLOB", b""),
    ("VARCHAR(200)", "a 'quote', \"another\", \\, \0, \u2028, 💧"),
    ("LONGTEXT", ""),
    ("YEAR", 2026),
    ("TEXT", None),
]


@pytest.fixture
async def client(data_service: DataService) -> AsyncIterator[DataClient]:
    async with DataClient(data_service.url, data_service.token()) as client:
        yield client


@pytest.fixture
def waiting(data_service: DataService) -> Iterator[SyncDataClient]:
    with SyncDataClient(data_service.url, data_service.token()) as client:
        yield client


@pytest.mark.parametrize(("type", "value"), VALUES)
async def test_a_value_comes_back_as_it_was(client: DataClient, table: str, type: str, value: object) -> None:
    await client.query(f"ALTER TABLE {table} ADD COLUMN it {type}")
    await client.query(f"UPDATE {table} SET it = ?", value)
    result = await client.query(f"SELECT it FROM {table}")
    assert result.rows == [(value,)] * 3
    if type != "FLOAT":  # which is compared as the double that it is not
        assert len((await client.query(f"SELECT 1 FROM {table} WHERE it <=> ?", value)).rows) == 3
    async with client.stream(f"SELECT it FROM {table}") as rows:
        assert [row async for row in rows] == result.rows


async def test_other_values_have_a_place_too(client: DataClient) -> None:
    result = await client.query("SELECT ? AS t, ? AS j", time(10, 0, 0, 5), Json({"big": 2**70, "é": [None]}))
    ((clock, document),) = result.rows
    assert "10:00:00.000005" in str(clock)
    assert json.loads(document) == {"big": 2**70, "é": [None]}


# -- a real service


async def test_a_query_answers_columns_rows_and_dicts(client: DataClient, table: str) -> None:
    result = await client.query(
        f"SELECT id, name, price FROM {table} WHERE id <= ? ORDER BY id", 2, read=True
    )
    assert [column.type for column in result.columns] == ["int", "varchar", "decimal"]
    assert result.rows == [(1, "a pipe", Decimal("12.30")), (2, "a valve", Decimal("4.00"))]
    assert result.dicts()[1] == {"id": 2, "name": "a valve", "price": Decimal("4.00")}
    done = await client.query(f"INSERT INTO {table} (name) VALUES (?)", "a lock")
    assert (done.affected_rows, done.insert_id, done.rows) == (1, 4, [])


async def test_a_batch_is_done_or_not(client: DataClient, table: str) -> None:
    insert = f"INSERT INTO {table} (name) VALUES (?)"
    first, second = await client.batch([(insert, "a lock"), f"SELECT COUNT(*) FROM {table}"])
    assert (first.insert_id, second.rows) == (4, [(4,)])
    with pytest.raises(DatabaseRefused) as told:
        await client.batch([(insert, "a wheel"), (insert, "a lock")])
    assert (told.value.errno, told.value.sqlstate, told.value.more["statement"]) == (1062, "23000", 1)
    assert (await client.query(f"SELECT COUNT(*) FROM {table}")).rows == [(4,)]


async def test_queries_are_asked_for_by_name(
    service_of: Callable[..., DataService], tmp_path: Path, table: str
) -> None:
    file = tmp_path / "queries.yaml"
    file.write_text(f"by_id:\n  sql: SELECT name FROM {table} WHERE id = ?\n  params: [id]\n  read: true\n")
    service = service_of(queries=str(file), only_named=True)
    async with DataClient(service.url, service.token()) as client:
        assert (await client.named("by_id", {"id": 1})).rows == [("a pipe",)]
        assert (await client.named("by_id", [2])).rows == [("a valve",)]
        assert (await client.batch([Named("by_id", [3])]))[0].rows == [("a gate",)]
        with pytest.raises(NotFound):
            await client.named("by_name", [2])
        with pytest.raises(StatementRefused):
            await client.query("SELECT 1")


async def test_under_a_key_it_is_done_once(client: DataClient, table: str) -> None:
    insert = f"INSERT INTO {table} (name) VALUES (?)"
    first, again = [await client.query(insert, "a lock", key=f"{table}-lock") for _ in range(2)]
    assert (first.insert_id, first.replayed) == (4, False)
    assert (again.insert_id, again.replayed) == (4, True)
    with pytest.raises(KeyReused):
        await client.query(insert, "a wheel", key=f"{table}-lock")
    (batch,), (replayed,) = [await client.batch([(insert, "a dam")], key=f"{table}-dam") for _ in range(2)]
    assert (batch.replayed, replayed.replayed) == (False, True)


async def test_errors_say_what_can_be_done(data_service: DataService, client: DataClient, table: str) -> None:
    for sql, kind in [
        ("SELECT", DatabaseRefused),
        ("SELECT 1 INTO OUTFILE '/tmp/x'", StatementRefused),
        ("SELECT seq FROM seq_1_to_20000", ResultTooLarge),
        ("SELECT ?", BadRequest),
    ]:
        with pytest.raises(kind) as told:
            await client.query(sql)
        assert told.value.trace_id is not None
    with pytest.raises(TimedOut):
        await client.query("SELECT SLEEP(20)", timeout=0.2)
    with pytest.raises(BadRequest):
        await client.query("SELECT 1", timeout=1000)
    async with DataClient(data_service.url, data_service.token("data:read")) as reader:
        with pytest.raises((Forbidden, StatementRefused)):
            await reader.query(f"DELETE FROM {table}")
    async with DataClient(data_service.url, "nonsense") as stranger:
        with pytest.raises(Unauthenticated):
            await stranger.query("SELECT 1")


async def test_tokens_are_asked_for_before_each_request(data_service: DataService) -> None:
    asked: list[int] = []

    async def token() -> str:
        asked.append(1)
        return data_service.token()

    async with DataClient(data_service.url, token) as client:
        await client.query("SELECT 1")
        await client.query("SELECT 1")
    with SyncDataClient(data_service.url, data_service.token) as waiting:
        waiting.query("SELECT 1")
    assert len(asked) == 2


async def test_nobody_there_is_told(data_service: DataService) -> None:
    async with DataClient("http://127.0.0.1:9", data_service.token(), timeout=1) as client:
        with pytest.raises(Unreachable):
            await client.query("SELECT 1")


# -- streams


async def test_rows_come_as_they_are_read(client: DataClient) -> None:
    async with client.stream("SELECT seq, ? FROM seq_1_to_20000", "a pipe", read=True) as rows:
        assert rows.columns[0].name == "seq"
        numbers = [row[0] async for row in rows]
    assert numbers == list(range(1, 20001))


async def test_who_leaves_a_stream_has_its_statement_killed(client: DataClient, mariadb: MariaDB) -> None:
    async with client.stream("SELECT seq, REPEAT('x', 1000) FROM seq_1_to_1000000000 /* left */") as rows:
        async for _ in rows:
            break
    where = "user = 'service' AND info LIKE '%/* left */%'"
    under_way = f"SELECT COUNT(*) FROM information_schema.processlist WHERE {where}"
    await eventually(lambda: mariadb.admin(under_way) == [["0"]])


async def test_an_error_before_the_first_row_and_one_behind_it_are_raised(client: DataClient) -> None:
    with pytest.raises(DatabaseRefused):
        async with client.stream("SELECT nothing"):
            pytest.fail("entered")
    late = "SELECT seq, IF(seq = 100000, (SELECT 1 UNION SELECT 2), seq) FROM seq_1_to_100000"
    count = 0
    with pytest.raises(DatabaseRefused) as told:
        async with client.stream(late) as rows:
            async for _ in rows:
                count += 1
    assert told.value.errno == 1242
    assert count > 0


async def test_a_stream_that_is_cut_says_so(data_service: DataService) -> None:
    async with through_a_proxy(data_service) as (proxy, client):
        proxy.cut(100_000)
        with pytest.raises(StreamCut):
            async with client.stream("SELECT seq FROM seq_1_to_1000000") as rows:
                async for _ in rows:
                    pass


async def test_a_statement_without_a_result_can_be_streamed_too(client: DataClient, table: str) -> None:
    async with client.stream(f"DELETE FROM {table}") as rows:
        assert rows.columns == ()
        assert [row async for row in rows] == []


# -- transactions


@asynccontextmanager
async def through_a_proxy(service: DataService) -> AsyncIterator[tuple[FaultProxy, DataClient]]:
    async with (
        FaultProxy("127.0.0.1", service.port) as proxy,
        DataClient(f"http://127.0.0.1:{proxy.port}", service.token()) as client,
    ):
        yield proxy, client


async def test_a_transaction_is_committed_at_a_good_end_only(client: DataClient, table: str) -> None:
    count = f"SELECT COUNT(*) FROM {table}"
    async with client.transaction(seconds=5, isolation="read committed") as tx:
        await tx.query(f"DELETE FROM {table} WHERE id = ?", 1)
        assert (await tx.query(count)).rows == [(2,)]
        assert (await client.query(count)).rows == [(3,)]
    assert (await client.query(count)).rows == [(2,)]
    with pytest.raises(ZeroDivisionError):
        async with client.transaction() as tx:
            await tx.query(f"DELETE FROM {table}")
            raise ZeroDivisionError
    assert (await client.query(count)).rows == [(2,)]
    with pytest.raises(LeaseGone):
        await tx.query(count)


async def test_who_is_cancelled_has_the_transaction_rolled_back(client: DataClient, table: str) -> None:
    begun = asyncio.Event()

    async def work() -> None:
        async with client.transaction(seconds=20) as tx:
            await tx.query(f"DELETE FROM {table}")
            begun.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await client.pool())["leases"] == 0
    assert (await client.query(f"SELECT COUNT(*) FROM {table} FOR UPDATE")).rows == [(3,)]


async def test_a_transaction_is_renewed_and_has_a_growing_fence(client: DataClient) -> None:
    async with client.transaction(seconds=2) as tx:
        first = int(tx.fence)
        await tx.renew(20)
        assert tx.seconds > 10
        assert int(tx.fence) > first
        await tx.query("SELECT 1")


async def test_a_deadlock_says_that_the_transaction_is_to_begin_again(client: DataClient, table: str) -> None:
    update = f"UPDATE {table} SET price = 1 WHERE id = ?"

    async def work(first: int, second: int, both: asyncio.Barrier) -> None:
        async with client.transaction() as tx:
            await tx.query(update, first)
            await both.wait()
            await tx.query(update, second)

    both = asyncio.Barrier(2)
    ends = await asyncio.gather(work(1, 2, both), work(2, 1, both), return_exceptions=True)
    assert sorted(type(end) for end in ends if end is not None) == [RetryTransaction]


async def test_a_commit_whose_answer_was_lost_is_done_once(data_service: DataService, table: str) -> None:
    async with through_a_proxy(data_service) as (proxy, client):
        async with client.transaction() as tx:
            await tx.query(f"INSERT INTO {table} (name) VALUES ('a lock')")
            proxy.cut(times=1)
        assert proxy.opened > 1
        assert (await client.query(f"SELECT COUNT(*) FROM {table}")).rows == [(4,)]


async def test_a_lost_write_is_not_sent_again_and_that_is_told(data_service: DataService, table: str) -> None:
    async with through_a_proxy(data_service) as (proxy, client):
        await client.query("SELECT 1")
        proxy.cut(times=1)
        with pytest.raises(OutcomeUnknown):
            await client.query(f"INSERT INTO {table} (name) VALUES ('a lock')")
        assert (await client.query(f"SELECT COUNT(*) FROM {table}")).rows == [(4,)]
        proxy.cut(times=1)
        keyed = await client.query(f"INSERT INTO {table} (name) VALUES ('a dam')", key=f"{table}-dam")
        assert (keyed.insert_id, keyed.replayed) == (5, True)


async def test_a_lease_is_found_through_another_process(
    service_of: Callable[..., DataService], table: str
) -> None:
    one, other = (service_of(peer_url="http://127.0.0.1:{pod}") for _ in range(2))
    async with DataClient(one.url, one.token()) as client:
        async with client.transaction() as tx:
            tx._route = Route(other.url)  # as if another process had been asked by chance
            await tx.query(f"DELETE FROM {table}")
            assert tx._route.at == one.url
        assert (await client.query(f"SELECT COUNT(*) FROM {table}")).rows == [(0,)]


async def test_more_than_is_allowed_is_told_when_it_may_work(service_of: Callable[..., DataService]) -> None:
    service = service_of(tenant_leases=1)
    async with DataClient(service.url, service.token(), timeout=1.0) as client, client.transaction():
        with pytest.raises(Busy) as told:
            await client.begin()
        assert told.value.retry_after


# -- the page


async def test_the_example_of_the_page_runs(data_service: DataService, table: str) -> None:
    page = Path(client_package.__file__).parents[1] / "README.md"
    (example,) = re.findall(r"## From Python\n.*?```python\n(.*?)```", page.read_text(), re.DOTALL)
    here = example.replace("http://shop-db:8080", data_service.url).replace("wares", table)
    shown: list[object] = []
    scope: dict[str, Any] = {"token": data_service.token(), "print": shown.append}
    exec(f"async def run():\n{textwrap.indent(here, '    ')}", scope)
    await scope["run"]()
    assert shown[0] == (1, "a pipe", Decimal("13.00"))


# -- for those that wait


def test_the_waiting_client_does_the_same(waiting: SyncDataClient, table: str) -> None:
    assert waiting.query("SELECT ?", Decimal("1.50")).rows == [(Decimal("1.50"),)]
    with waiting.transaction() as tx:
        tx.query(f"DELETE FROM {table} WHERE id = 1")
        tx.renew()
    with pytest.raises(ZeroDivisionError), waiting.transaction() as tx:
        tx.query(f"DELETE FROM {table}")
        raise ZeroDivisionError
    with waiting.stream(f"SELECT id FROM {table} ORDER BY id") as rows:
        assert list(rows) == [(2,), (3,)]
    assert [each.rows for each in waiting.batch(["SELECT 1", ("SELECT ?", 2)])] == [[(1,)], [(2,)]]
    assert waiting.pool()["max"] == 8
    with pytest.raises(DataError):
        waiting.query("SELECT")


def test_threads_share_a_waiting_client(waiting: SyncDataClient) -> None:
    seen: list[int] = []

    def ask(number: int) -> None:
        seen.append(waiting.query("SELECT ?", number).rows[0][0])

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == list(range(8))


@pytest.mark.parametrize(
    ("one", "other"), [(DataClient, SyncDataClient), (Transaction, SyncTransaction), (Rows, SyncRows)]
)
def test_both_clients_have_the_same_methods(one: type, other: type) -> None:
    def public(kind: type) -> dict[str, list[str]]:
        methods = inspect.getmembers(kind, inspect.isfunction)
        return {
            name.removeprefix("a"): list(inspect.signature(method).parameters)
            for name, method in methods
            if not name.startswith("_")
        }

    assert public(one) == public(other)


def test_the_client_needs_httpx_and_nothing_of_the_server() -> None:
    told = "import sys, penstock_data.client.dbapi; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", told], capture_output=True, text=True, check=True
    ).stdout.split()
    ours = {name for name in loaded if name.startswith("penstock")}
    assert {name for name in ours if not name.startswith("penstock_data.client")} == {"penstock_data"}
    assert not {"orjson", "fastapi", "pydantic", "asyncmy", "jwt", "starlette"} & set(loaded)
