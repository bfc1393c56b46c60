"""One statement by HTTP: its answer, its stream, its bounds, its end."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Callable
from typing import Any

import httpx
import psutil
import pytest
from plugins.asked import Asker, asking, refused
from plugins.data_service import DataService, url_of
from plugins.house import eventually
from plugins.mariadb import MariaDB
from plugins.pooled import server_of

from penstock_pool import ConnectionPool, PoolSettings

LINES = {"Accept": "application/x-ndjson"}


def statements(db: MariaDB) -> list[str]:
    """What runs for the app on the server."""
    return [
        row[0]
        for row in db.admin(
            "SELECT info FROM information_schema.processlist WHERE user = 'service' AND info IS NOT NULL"
        )
    ]


async def test_rows_come_with_their_columns(ann: Asker, table: str) -> None:
    answer = await ann.query(f"SELECT id, name, price FROM {table} WHERE id = ?", 1)
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {
        "columns": [
            {"name": "id", "type": "int"},
            {"name": "name", "type": "varchar"},
            {"name": "price", "type": "decimal"},
        ],
        "rows": [[1, "a pipe", "12.30"]],
    }
    assert await ann.rows(f"SELECT price FROM {table} WHERE id = 3") == [[None]]
    assert await ann.rows(f"SELECT 1 FROM {table} WHERE id = 99") == []


async def test_a_change_tells_what_it_changed(ann: Asker, table: str) -> None:
    answer = await ann.query(
        f"INSERT INTO {table} (name, price) VALUES (?, ?)", "a sluice", {"decimal": "9.99"}
    )
    assert answer.json() == {"affected_rows": 1, "insert_id": 4}
    assert (await ann.query(f"UPDATE {table} SET price = 1 WHERE id < 3")).json()["affected_rows"] == 2
    assert (await ann.query(f"DROP TABLE {table}")).json() == {"affected_rows": 0, "insert_id": 0}


async def test_values_are_bound_and_never_written_into_the_text(ann: Asker, table: str) -> None:
    nasty = "x' OR '1'='1'; DROP TABLE wares; -- \\"
    assert await ann.rows("SELECT ?", nasty) == [[nasty]]
    assert await ann.rows(f"SELECT id FROM {table} WHERE name = ?", nasty) == []
    for value in (nasty, "`id`", "(SELECT 1)", "\\", "\x00", "ÿ🚰", "%s", "?"):
        assert await ann.rows("SELECT ?", value) == [[value]]


async def test_what_cannot_be_prepared_is_sent_as_text(ann: Asker) -> None:
    assert (await ann.rows("SHOW WARNINGS")) == []
    assert (await ann.query("CHECK TABLE mysql.nothing")).status_code in (200, 422)


async def test_a_stream_has_a_line_for_each_row_and_one_at_its_end(ann: Asker) -> None:
    async with ann.http.stream(
        "POST", "/v1/query", json={"sql": "SELECT seq, 'x' FROM seq_1_to_25000"}, headers=LINES
    ) as answer:
        lines = [json.loads(line) async for line in answer.aiter_lines()]
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert lines[0] == {
        "columns": [{"name": "seq", "type": "bigint unsigned"}, {"name": "x", "type": "varchar"}]
    }
    assert lines[1:-1] == [[number, "x"] for number in range(1, 25001)]
    assert lines[-1] == {"end": {"rows": 25000}}


async def test_a_stream_that_fails_says_so_in_its_last_line(ann: Asker) -> None:
    sql = "SELECT seq, IF(seq < 20000, 1, (SELECT 1 UNION SELECT 2)) FROM seq_1_to_30000"
    async with ann.http.stream("POST", "/v1/query", json={"sql": sql}, headers=LINES) as answer:
        lines = [json.loads(line) async for line in answer.aiter_lines()]
    assert answer.status_code == 200
    assert lines[-1]["error"]["type"] == "urn:penstock:database-refused"
    assert lines[-1]["error"]["errno"] == 1242


async def test_a_stream_that_fails_before_its_first_row_is_a_problem(ann: Asker) -> None:
    answer = await ann.http.post("/v1/query", json={"sql": "SELECT nothing"}, headers=LINES)
    assert "Unknown column" in refused(answer, 422, "database-refused")


async def test_no_more_is_read_than_is_taken(ann: Asker, mariadb: MariaDB) -> None:
    """A result of 10 GB whose reader stops: it stays where it is, and goes when the reader leaves."""
    sql = "SELECT REPEAT('x', 10000) FROM seq_1_to_1000000 /* never taken */"
    body = {"sql": sql, "timeout": 20}
    before = rss(ann.service)
    async with ann.http.stream("POST", "/v1/query", json=body, headers=LINES) as answer:
        lines = answer.aiter_lines()
        for _ in range(100):
            await anext(lines)
        await eventually(lambda: "Writing to net" in states(mariadb, "never taken"))
        assert rss(ann.service) - before < 40_000_000
    await eventually(lambda: not [it for it in statements(mariadb) if "never taken" in it])
    assert await ann.rows("SELECT 1") == [[1]]


def states(db: MariaDB, part: str) -> str:
    where = f"user = 'service' AND info LIKE '%{part}%'"
    return " ".join(
        row[0] for row in db.admin(f"SELECT state FROM information_schema.processlist WHERE {where}")
    )


def rss(service: DataService) -> int:
    assert service.process is not None
    return int(psutil.Process(service.process.pid).memory_info().rss)


async def test_a_reader_that_stops_is_given_up_after_its_time(ann: Asker, mariadb: MariaDB) -> None:
    sql = "SELECT REPEAT('x', 10000) FROM seq_1_to_100000 /* given up */"
    async with ann.http.stream("POST", "/v1/query", json={"sql": sql, "timeout": 0.3}, headers=LINES):
        await eventually(lambda: not [it for it in statements(mariadb) if "given up" in it])


async def test_a_statement_that_takes_too_long_is_killed(ann: Asker, mariadb: MariaDB) -> None:
    answer = await ann.query("SELECT SLEEP(30) /* too long */", timeout=0.2)
    refused(answer, 504, "timeout")
    await eventually(lambda: not [it for it in statements(mariadb) if "too long" in it])


async def test_who_leaves_has_their_statement_killed(ann: Asker, mariadb: MariaDB) -> None:
    asked = asyncio.create_task(ann.query("SELECT SLEEP(25) /* left */", timeout=25))
    await eventually(lambda: [it for it in statements(mariadb) if "left" in it])
    asked.cancel()
    await eventually(lambda: not [it for it in statements(mariadb) if "left" in it])


async def test_an_answer_has_bounds_and_says_what_to_do(service_of: Callable[..., DataService]) -> None:
    async with asking(service_of(max_rows=5, max_bytes=1024, max_stream_bytes=2048)) as ann:
        assert len(await ann.rows("SELECT seq FROM seq_1_to_5")) == 5
        told = refused(await ann.query("SELECT seq FROM seq_1_to_6"), 422, "result-too-large")
        assert told == "more than 5 rows: ask for fewer, or for a stream (Accept: application/x-ndjson)"
        told = refused(await ann.query("SELECT REPEAT('x', 2000)"), 422, "result-too-large")
        assert "more than 1024 bytes" in told
        answer = await ann.http.post(
            "/v1/query", json={"sql": "SELECT seq FROM seq_1_to_9999"}, headers=LINES
        )
        assert json.loads(answer.text.splitlines()[-1])["error"]["type"] == "urn:penstock:result-too-large"
        assert await ann.rows("SELECT 1") == [[1]]


async def test_a_large_result_is_killed_and_not_read_to_its_end(ann: Asker, mariadb: MariaDB) -> None:
    before = rss(ann.service)
    answer = await ann.query("SELECT REPEAT('x', 10000) FROM seq_1_to_1000000 /* large */")
    refused(answer, 422, "result-too-large")
    await eventually(lambda: not [it for it in statements(mariadb) if "large" in it])
    assert rss(ann.service) - before < 60_000_000


async def test_a_packed_request_is_unpacked_up_to_a_limit(ann: Asker) -> None:
    body = gzip.compress(json.dumps({"sql": "SELECT 1"}).encode())
    assert (await ann.post("/v1/query", body, content_encoding="gzip")).json()["rows"] == [[1]]
    bomb = gzip.compress(b" " * 50_000_000)
    assert len(bomb) < 60_000
    refused(await ann.post("/v1/query", bomb, content_encoding="gzip"), 413, "too-large")
    refused(await ann.post("/v1/query", b"no gzip", content_encoding="gzip"), 400, "bad-request")
    refused(await ann.post("/v1/query", body + body, content_encoding="gzip"), 400, "bad-request")
    refused(await ann.post("/v1/query", body[:-4], content_encoding="gzip"), 400, "bad-request")
    refused(await ann.post("/v1/query", body, content_encoding="br"), 415, "unsupported")


async def test_a_deadlock_is_told_as_one_to_repeat(ann: Asker, table: str) -> None:
    one, other = await ann.begin(), await ann.begin()
    change = f"UPDATE {table} SET price = 1 WHERE id = ?"
    assert (await ann.post(f"{one}/query", {"sql": change, "params": [1]})).status_code == 200
    assert (await ann.post(f"{other}/query", {"sql": change, "params": [2]})).status_code == 200
    crossed = await asyncio.gather(
        ann.post(f"{one}/query", {"sql": change, "params": [2]}),
        ann.post(f"{other}/query", {"sql": change, "params": [1]}),
    )
    assert sorted(answer.status_code for answer in crossed) == [200, 409]
    victim, lives = (one, other) if crossed[0].status_code == 409 else (other, one)
    refused(next(it for it in crossed if it.status_code == 409), 409, "retry-transaction")
    refused(await ann.post(f"{victim}/commit"), 410, "lease-gone")
    assert (await ann.post(f"{lives}/commit")).json() == {"committed": True}


async def test_who_may_only_read_can_write_nothing(reader: Asker, ann: Asker, table: str) -> None:
    assert await reader.rows(f"SELECT COUNT(*) FROM {table}") == [[3]]
    assert (await reader.query(f"DELETE FROM {table}")).status_code in (400, 403)
    batch = {"statements": [{"sql": f"DELETE FROM {table}"}]}
    assert (await reader.post("/v1/batch", batch)).status_code in (400, 403)
    path = await reader.begin()
    assert (await reader.post(f"{path}/query", {"sql": f"DELETE FROM {table}"})).status_code in (400, 403)
    assert await ann.rows(f"SELECT COUNT(*) FROM {table}") == [[3]]


async def test_a_function_that_writes_is_refused_by_the_database_itself(
    reader: Asker, ann: Asker, table: str, mariadb: MariaDB
) -> None:
    async with ConnectionPool(server_of(mariadb.address), PoolSettings(min=1, max=1)) as pool:
        await pool.execute(
            f"CREATE FUNCTION sly_{table}() RETURNS INT MODIFIES SQL DATA "
            f"BEGIN INSERT INTO {table} (name) VALUES ('sly'); RETURN 1; END"
        )
    sql = f"SELECT sly_{table}()"
    for answer in (await reader.query(sql), await ann.query(sql, read=True)):
        assert answer.status_code in (400, 403), answer.text
    assert await ann.rows(f"SELECT COUNT(*) FROM {table}") == [[3]]


async def test_a_batch_is_done_whole_or_not(ann: Asker, table: str) -> None:
    insert = {"sql": f"INSERT INTO {table} (name) VALUES (?)", "params": ["a weir"]}
    answer = await ann.post("/v1/batch", {"statements": [insert, {"sql": f"SELECT COUNT(*) FROM {table}"}]})
    assert [list(it) for it in answer.json()["results"]] == [
        ["affected_rows", "insert_id"],
        ["columns", "rows"],
    ]
    assert answer.json()["results"][1]["rows"] == [[4]]
    answer = await ann.post("/v1/batch", {"statements": [{**insert, "params": ["a lock"]}, insert]})
    assert "Duplicate entry" in refused(answer, 422, "database-refused")
    assert answer.json()["statement"] == 1
    assert await ann.rows(f"SELECT COUNT(*) FROM {table}") == [[4]]


async def test_what_would_commit_a_batch_in_its_middle_is_refused(ann: Asker, table: str) -> None:
    insert = {"sql": f"INSERT INTO {table} (name) VALUES ('half')"}
    for sql in (
        f"CREATE TABLE {table}_x (id INT)",
        f"/* */ ALTER TABLE {table} ADD x INT",
        f"TRUNCATE {table}",
    ):
        answer = await ann.post("/v1/batch", {"statements": [insert, {"sql": sql}]})
        assert "send it alone" in refused(answer, 400, "bad-request")
    assert await ann.rows(f"SELECT COUNT(*) FROM {table}") == [[3]]


async def test_a_database_that_is_down_is_told_at_once_and_comes_back(
    service_of: Callable[..., DataService], own_mariadb: Callable[..., MariaDB]
) -> None:
    db = own_mariadb()
    service = service_of(url=url_of(db.address), heartbeat=0.2)
    async with asking(service) as ann:
        assert await ann.rows("SELECT 1") == [[1]]
        db.crash()
        answer = await eventually(lambda: unavailable(ann))
        assert answer.headers["retry-after"] == "1"
        ready = await ann.http.get("/readyz")
        assert (ready.status_code, "database is down" in ready.json()["reason"]) == (503, True)
        assert (await ann.http.get("/livez")).status_code == 200
        db.start()
        await eventually(lambda: again(ann), within=20)
        assert (await ann.http.get("/readyz")).status_code == 200


async def unavailable(ann: Asker) -> httpx.Response | None:
    answer = await ann.query("SELECT 1")
    return answer if answer.status_code == 503 else None


async def again(ann: Asker) -> bool:
    return (await ann.query("SELECT 1")).status_code == 200


async def test_a_connection_that_breaks_in_a_write_has_an_unknown_outcome(
    ann: Asker, table: str, mariadb: MariaDB
) -> None:
    sql = f"UPDATE {table} SET price = SLEEP(20) WHERE id = 1"
    asked = asyncio.create_task(ann.query(sql, timeout=20))
    where = f"info LIKE 'UPDATE {table}%'"
    found = await eventually(
        lambda: mariadb.admin(f"SELECT id FROM information_schema.processlist WHERE {where}")
    )
    mariadb.kill(int(found[0][0]))
    refused(await asked, 502, "outcome-unknown")


@pytest.mark.parametrize("connections", [40])
async def test_many_at_once_are_all_served(ann: Asker, connections: int) -> None:
    async def one(number: int) -> Any:
        return await ann.rows("SELECT ?, CONNECTION_ID() > 0", number)

    assert await asyncio.gather(*map(one, range(connections))) == [[[it, 1]] for it in range(connections)]
