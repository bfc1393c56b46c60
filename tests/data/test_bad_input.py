"""What attacks or cannot be meant: a clear error each, nothing run, nothing lost."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import jwt
import pytest
from plugins.asked import Asker, asking, refused
from plugins.data_service import DataService

from penstock_data.tokens import issue

NOT_A_REQUEST: list[tuple[bytes, str]] = [
    (b"", "not JSON"),
    (b"{", "not JSON"),
    (b"\xff\xfe", "not JSON"),
    (b"\x00", "not JSON"),
    (b"NaN", "not JSON"),
    (b'{"sql": "SELECT 1", "timeout": NaN}', "not JSON"),
    (b'{"sql": "SELECT ?", "params": [Infinity]}', "not JSON"),
    (b'{"sql": "SELECT ?", "params": ["\\ud800"]}', "not JSON"),
    (b'{"sql": "SELECT 1"} x', "not JSON"),
    (b"[" * 100_000, "not JSON"),
    (b'{"a":' * 50_000 + b"1" + b"}" * 50_000, "not JSON"),
    (b"[]", "to be a JSON object"),
    (b'"SELECT 1"', "to be a JSON object"),
    (b"null", "to be a JSON object"),
    (b"{}", "sql is to be text"),
    (b'{"sql": null}', "sql is to be text"),
    (b'{"sql": ["SELECT 1"]}', "sql is to be text"),
    (b'{"sql": "SELECT 1", "name": "x"}', "exclude each other"),
    (b'{"sql": "SELECT 1", "params": {"a": 1}}', "params is to be a list"),
    (b'{"sql": "SELECT 1", "params": "1"}', "params is to be a list"),
    (b'{"sql": "SELECT ?", "params": [[1]]}', "params[0] is neither"),
    (b'{"sql": "SELECT ?", "params": [{"a": {"b": 1}}]}', "params[0] is neither"),
    (b'{"sql": "SELECT ?", "params": [18446744073709551616]}', ""),
    (b'{"sql": "SELECT 1", "timeout": 0}', "timeout is to be"),
    (b'{"sql": "SELECT 1", "timeout": -1}', "timeout is to be"),
    (b'{"sql": "SELECT 1", "timeout": 1e9}', "timeout is to be"),
    (b'{"sql": "SELECT 1", "timeout": "1"}', "timeout is to be"),
    (b'{"sql": "SELECT 1", "timeout": true}', "timeout is to be"),
    (b'{"sql": "SELECT 1", "read": 1}', "read is to be true or false"),
    (b'{"sql": "SELECT 1", "reed": true}', "'reed' is not known"),
    (b'{"sql": "SELECT 1", "__proto__": {}}', "'__proto__' is not known"),
    (b'{"sql": "SELECT 1", "fence": "1"}', "'fence' is not known"),
    (
        json.dumps({"sql": "SELECT " + ",".join("?" * 10_001), "params": [1] * 10_001}).encode(),
        "more than 10000",
    ),
]


@pytest.mark.parametrize(("body", "says"), NOT_A_REQUEST, ids=range(len(NOT_A_REQUEST)))
async def test_what_is_no_request_is_refused_with_its_place(ann: Asker, body: bytes, says: str) -> None:
    answer = await ann.post("/v1/query", body)
    if says:
        assert says in refused(answer, 400, "bad-request")
    else:
        assert answer.status_code in (200, 400, 422), answer.text


REFUSED = [
    "SELECT 1; SELECT 2",
    "SELECT 1;DROP TABLE {table}",
    "DELETE FROM {table}; -- x\nSELECT 1",
    "SELECT /*!50000 1, */ 2",
    "SELECT 1 /*M! , 2 */",
    "SELECT 1 /*!99999 INTO OUTFILE '/tmp/penstock-x' */",
    "SELECT * FROM {table} INTO OUTFILE '/tmp/penstock-x'",
    "SELECT 'x' INTO DUMPFILE '/tmp/penstock-x'",
    "select 1 into/**/outfile '/tmp/penstock-x'",
    "SELECT 1 INTO @x",
    "LOAD DATA INFILE '/etc/passwd' INTO TABLE {table}",
    "LOAD DATA LOCAL INFILE '/etc/passwd' INTO TABLE {table}",
    "SET GLOBAL max_connections = 1",
    "SET autocommit = 0",
    "SET @x = 1",
    "USE mysql",
    "BEGIN",
    "START TRANSACTION",
    "COMMIT",
    "ROLLBACK",
    "SAVEPOINT x",
    "XA START 'x'",
    "LOCK TABLES {table} WRITE",
    "UNLOCK TABLES",
    "PREPARE x FROM 'SELECT 1'",
    "EXECUTE x",
    "EXECUTE IMMEDIATE 'SELECT 1'",
    "HANDLER {table} OPEN",
    "KILL 1",
    "SHUTDOWN",
    "",
    "   ",
    ";",
    "-- only a comment",
    "\x00SELECT 1",
]


@pytest.mark.parametrize("sql", REFUSED)
async def test_what_this_service_does_not_send_is_refused(ann: Asker, table: str, sql: str) -> None:
    before = await ann.rows(f"SELECT COUNT(*) FROM {table}")
    answer = await ann.query(sql.format(table=table))
    assert answer.status_code == 400, answer.text
    assert answer.json()["type"] in ("urn:penstock:not-allowed-statement", "urn:penstock:bad-request")
    assert await ann.rows(f"SELECT COUNT(*) FROM {table}") == before


READS_THAT_ARE_NONE = [
    "INSERT INTO {table} (name) VALUES ('x')",
    "UPDATE {table} SET price = 0",
    "DELETE FROM {table}",
    "REPLACE INTO {table} (name) VALUES ('x')",
    "TRUNCATE {table}",
    "DROP TABLE {table}",
    "CREATE TABLE {table}_x (id INT)",
    "WITH x AS (SELECT 1) DELETE FROM {table}",
    "SELECT * FROM {table} FOR UPDATE",
    "SELECT * FROM {table} LOCK IN SHARE MODE",
    "SELECT GET_LOCK('x', 0)",
    "SELECT LOAD_FILE('/etc/passwd')",
    "CALL mysql.nothing()",
    "EXPLAIN ANALYZE DELETE FROM {table}",
    "ANALYZE DELETE FROM {table}",
    "DO SLEEP(0)",
    "SELECT @x := 1",
    "SELECT SLEEP(0) INTO @x",
]


@pytest.mark.parametrize("sql", READS_THAT_ARE_NONE)
async def test_who_may_only_read_does_nothing_else(reader: Asker, ann: Asker, table: str, sql: str) -> None:
    answer = await reader.query(sql.format(table=table))
    assert answer.status_code in (400, 403), answer.text
    answer = await ann.query(sql.format(table=table), read=True)
    assert answer.status_code in (400, 403), answer.text
    assert await ann.rows(f"SELECT COUNT(*), SUM(price) FROM {table}") == [[3, "16.30"]]


def signed(service: DataService, **changes: Any) -> str:
    given = {
        "issuer": "penstock-data",
        "audience": "penstock-data/pool",
        "subject": "ann",
        "scopes": ["data:read"],
        "seconds": 60.0,
    }
    return issue(service.key, **{**given, **changes})


async def test_a_token_for_something_else_lets_nobody_in(data_service: DataService) -> None:
    good = signed(data_service)
    head, claims, proof = good.split(".")
    none = jwt.encode({"sub": "ann", "scope": "data:write"}, "", "none")
    wrong = [
        "",
        "Bearer",
        "Basic YTpi",
        f"Bearer {good}x",
        f"Bearer {good[:-2]}",
        f"Bearer {head}.{claims}.",
        f"Bearer {none}",
        f"Bearer {signed(data_service, audience='penstock-data/other')}",
        f"Bearer {signed(data_service, issuer='somebody')}",
        f"Bearer {signed(data_service, seconds=-60)}",
        f"Bearer {'x' * 20_000}",
        f"Bearer {proof}.{head}.{claims}",
    ]
    async with httpx.AsyncClient(base_url=data_service.url) as http:
        for header in wrong:
            answer = await http.post("/v1/query", json={"sql": "SELECT 1"}, headers={"Authorization": header})
            refused(answer, 401, "unauthenticated")
            assert answer.headers["www-authenticate"] == "Bearer"
        answer = await http.post("/v1/query", json={"sql": "SELECT 1"})
        refused(answer, 401, "unauthenticated")
        twice = [("Authorization", f"Bearer {good}"), ("Authorization", "Bearer x")]
        refused(await http.post("/v1/query", json={"sql": "SELECT 1"}, headers=twice), 401, "unauthenticated")
        answer = await http.post(
            "/v1/query", json={"sql": "SELECT 1"}, headers={"Authorization": f"Bearer {good}"}
        )
        assert answer.json()["rows"] == [[1]]


async def test_scopes_are_needed(asker_of: Callable[..., Any]) -> None:
    async with asker_of("pool:admin") as admin:
        refused(await admin.query("SELECT 1"), 403, "forbidden")
        refused(await admin.post("/v1/transactions"), 403, "forbidden")
        refused(await admin.post("/v1/transactions/a~99999999999~b/commit"), 403, "forbidden")
    async with asker_of("data:read", "data:write") as ann:
        refused(await ann.http.put("/v1/pool", json={"generation": 9}), 403, "forbidden")


async def test_a_body_that_is_too_large_or_too_slow_is_not_waited_for(ann: Asker) -> None:
    huge = b" " * 2_000_000
    refused(await ann.post("/v1/query", huge), 413, "too-large")

    async def unending() -> AsyncIterator[bytes]:
        for _ in range(200):
            yield b" " * 65536

    answer = await ann.http.post("/v1/query", content=unending())
    refused(answer, 413, "too-large")
    declared = await raw(ann, b"Content-Length: 104857600\r\n\r\n")
    assert declared.startswith(b"HTTP/1.1 413")
    assert await ann.rows("SELECT 1") == [[1]]


async def raw(ann: Asker, rest: bytes) -> bytes:
    """What is answered to a head that is written by hand, and nothing after it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", ann.service.port)
    token = ann.service.bearer()["Authorization"].encode()
    writer.write(b"POST /v1/query HTTP/1.1\r\nHost: x\r\nAuthorization: " + token + b"\r\n" + rest)
    try:
        return await asyncio.wait_for(reader.read(1000), 15)
    finally:
        writer.close()


@pytest.mark.parametrize(
    "head",
    [
        b"GARBAGE\r\n\r\n",
        b"POST /v1/query HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"POST /v1/query HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/query HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
        b"POST /v1/query HTTP/1.1\r\nHost: x\r\n" + b"X: " + b"y" * 100_000 + b"\r\n\r\n",
        b"POST /v1/query HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
async def test_what_is_no_http_is_closed(ann: Asker, head: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", ann.service.port)
    try:
        writer.write(head)
        answer = await asyncio.wait_for(reader.read(), 15)
    except (ConnectionError, TimeoutError):
        answer = b""
    finally:
        writer.close()
    assert not answer or answer.split()[1] in (b"400", b"401", b"413"), answer
    assert await ann.rows("SELECT 1") == [[1]]


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE"])
async def test_other_methods_are_refused(ann: Asker, method: str) -> None:
    assert (await ann.http.request(method, "/v1/query")).status_code == 405


async def test_identifiers_are_no_parameters(ann: Asker, table: str) -> None:
    answer = await ann.query("SELECT COUNT(*) FROM ?", table)
    refused(answer, 422, "database-refused")
    assert await ann.rows("SELECT ?", table) == [[table]]


async def test_a_million_parameters_are_refused_before_the_database(
    service_of: Callable[..., DataService],
) -> None:
    async with asking(service_of(max_body=20_000_000)) as ann:
        body = {"sql": "SELECT " + ",".join("?" * 1_000_000), "params": [1] * 1_000_000}
        assert (await ann.post("/v1/query", body)).status_code == 400
