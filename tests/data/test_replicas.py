"""Reads go to a replica, writes to the primary; what may only read cannot write, by whatever door."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from plugins.asked import Asker, asking, refused
from plugins.data_service import DataService, url_of
from plugins.house import eventually
from plugins.mariadb import Address, MariaDB
from plugins.replicated import Replicated

from penstock_pool.testing import FaultProxy

WHO = "SELECT @@server_id"
PRIMARY, REPLICA = [[1]], [[2]]

SLY = """
DELIMITER //
CREATE OR REPLACE FUNCTION shop.sly() RETURNS INT MODIFIES SQL DATA
BEGIN INSERT INTO shop.notes (text) VALUES ('by a function'); RETURN 1; END //
"""


@pytest.fixture
async def pair(replicated: Replicated) -> Replicated:
    """Both running, with an empty table."""
    replicated.primary.admin(
        "CREATE TABLE IF NOT EXISTS shop.notes (id INT AUTO_INCREMENT PRIMARY KEY, text VARCHAR(40))"
    )
    replicated.primary.admin("DELETE FROM shop.notes")
    replicated.primary.admin(SLY)
    replicated.wait_caught_up()
    return replicated


@pytest.fixture
async def ann(pair: Replicated, service_of: Callable[..., DataService]) -> AsyncIterator[Asker]:
    async with asking(served(service_of, pair.primary, pair.replica)) as asker:
        yield asker


def served(service_of: Callable[..., DataService], primary: MariaDB, *replicas: MariaDB) -> DataService:
    return service_of(
        url=url_of(primary.address), replicas=[url_of(replica.address) for replica in replicas], heartbeat=0.2
    )


async def test_reads_go_to_the_replica_and_everything_else_to_the_primary(
    pair: Replicated, ann: Asker
) -> None:
    assert await ann.rows(WHO) == PRIMARY
    assert await ann.rows(WHO, read=True) == REPLICA
    assert (await ann.query("INSERT INTO notes (text) VALUES (?)", "kept")).json()["affected_rows"] == 1
    pair.wait_caught_up()
    assert await ann.rows("SELECT text FROM notes", read=True) == [["kept"]]
    batch = {"statements": [{"sql": WHO}], "read": True}
    assert (await ann.post("/v1/batch", batch)).json()["results"][0]["rows"] == REPLICA


async def test_who_may_only_read_reads_from_the_replica(ann: Asker) -> None:
    async with asking(ann.service, "data:read") as reader:
        assert await reader.rows(WHO) == REPLICA


async def test_a_replica_that_lags_answers_what_it_has(pair: Replicated, ann: Asker) -> None:
    pair.stop_replication()
    try:
        await ann.query("INSERT INTO notes (text) VALUES ('later')")
        assert await ann.rows("SELECT text FROM notes", read=True) == []
        assert await ann.rows("SELECT text FROM notes") == [["later"]]
    finally:
        pair.start_replication()
    pair.wait_caught_up()
    assert await ann.rows("SELECT text FROM notes", read=True) == [["later"]]


async def test_without_its_replica_the_primary_is_read_from_until_it_is_back(
    own_replicated: Replicated, service_of: Callable[..., DataService]
) -> None:
    pair = own_replicated
    async with asking(served(service_of, pair.primary, pair.replica)) as ann:
        assert await ann.rows(WHO, read=True) == REPLICA
        pair.replica.crash()

        async def answers() -> list[list[int]] | None:
            answer = await ann.query(WHO, read=True)
            assert answer.status_code in (200, 503), answer.text
            return answer.json().get("rows")

        assert await eventually(answers) == PRIMARY
        for _ in range(20):
            assert await ann.rows(WHO, read=True) == PRIMARY
        pair.replica.start()

        async def is_back() -> bool:
            return await answers() == REPLICA

        await eventually(is_back)


HIDDEN = ["SELECT sly()", "SELECT 1 FROM notes WHERE sly() = 1", "SELECT text FROM notes UNION SELECT sly()"]


@pytest.mark.parametrize("sql", HIDDEN)
async def test_a_write_that_is_hidden_in_a_function_is_refused_by_the_database(
    pair: Replicated, ann: Asker, service_of: Callable[..., DataService], sql: str
) -> None:
    pair.primary.admin("INSERT INTO shop.notes (text) VALUES ('one')")
    pair.wait_caught_up()
    alone = served(service_of, pair.primary)
    async with asking(alone) as without_replicas, asking(alone, "data:read") as reader:
        for asker in (ann, without_replicas, reader):
            answer = await asker.query(sql, read=True)
            assert answer.status_code in (400, 403), answer.text
            begun = await asker.post("/v1/transactions", {"read": True})
            inside = await asker.post(f"{begun.headers['location']}/query", {"sql": sql})
            assert inside.status_code in (400, 403), inside.text
            await asker.post(f"{begun.headers['location']}/rollback")
    for server in (pair.primary, pair.replica):
        assert server.admin("SELECT text FROM shop.notes") == [["one"]]


async def test_the_gate_is_the_databases_own_where_the_text_tells_nothing(
    pair: Replicated, ann: Asker, service_of: Callable[..., DataService]
) -> None:
    pair.primary.admin("CREATE OR REPLACE VIEW shop.harmless AS SELECT shop.sly() AS one")
    pair.wait_caught_up()
    async with asking(served(service_of, pair.primary)) as without_replicas:
        for asker in (ann, without_replicas):
            assert (
                "read"
                in refused(await asker.query("SELECT * FROM harmless", read=True), 403, "forbidden").lower()
            )
    for server in (pair.primary, pair.replica):
        assert server.admin("SELECT COUNT(*) FROM shop.notes") == [["0"]]
    assert await ann.rows("SELECT * FROM harmless") == [[1]]


async def test_a_primary_that_turns_read_only_refuses_and_serves_again(pair: Replicated, ann: Asker) -> None:
    insert = "INSERT INTO notes (text) VALUES ('after')"
    pair.read_only(pair.primary, on=True)
    try:
        assert "takes no writes just now" in refused(await ann.query(insert), 503, "unavailable")
    finally:
        pair.read_only(pair.primary, on=False)

    async def writes() -> bool:
        return (await ann.query(insert)).status_code == 200

    await eventually(writes)


async def test_after_a_failover_the_same_address_serves_what_was_replicated(
    own_replicated: Replicated, service_of: Callable[..., DataService]
) -> None:
    pair = own_replicated
    pair.primary.admin("CREATE TABLE shop.notes (id INT AUTO_INCREMENT PRIMARY KEY, text VARCHAR(40))")
    async with FaultProxy("127.0.0.1", pair.primary.port) as proxy:
        where: Address = {**pair.primary.address, "port": proxy.port}
        service = service_of(started=False, url=url_of(where), heartbeat=0.2, checkout_timeout=0.5)
        await asyncio.to_thread(service.start)  # the proxy is of this event loop
        async with asking(service) as ann:
            await ann.query("INSERT INTO notes (text) VALUES (?)", "before", timeout=5)
            pair.wait_caught_up()
            pair.primary.crash()
            answer = await ann.query("INSERT INTO notes (text) VALUES (?)", "meanwhile", timeout=2)
            assert answer.status_code in (502, 503), answer.text
            pair.promote()
            proxy.server = ("127.0.0.1", pair.replica.port)

            async def writes() -> bool:
                return (await ann.query("INSERT INTO notes (text) VALUES (?)", "after")).status_code == 200

            await eventually(writes)
            assert await ann.rows(WHO) == REPLICA
            assert await ann.rows("SELECT text FROM notes ORDER BY id") == [["before"], ["after"]]
            assert (await ann.http.get("/readyz")).status_code == 200
