"""Transactions over several requests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from plugins.asked import Asker, asking, refused
from plugins.data_service import DataService, url_of
from plugins.house import eventually
from plugins.mariadb import Address, MariaDB

from penstock_pool.testing import FaultProxy


async def test_what_is_committed_stays_and_what_is_not_goes(ann: Asker, table: str) -> None:
    for verb, committed in (("commit", True), ("rollback", False)):
        path = await ann.begin()
        insert = {"sql": f"INSERT INTO {table} (name) VALUES (?)", "params": [verb]}
        assert (await ann.post(f"{path}/query", insert)).json()["affected_rows"] == 1
        assert await ann.rows(f"SELECT 1 FROM {table} WHERE name = ?", verb) == []
        assert (await ann.post(f"{path}/{verb}")).json() == {"committed": committed}
        assert await ann.rows(f"SELECT 1 FROM {table} WHERE name = ?", verb) == [[1]] * committed
        refused(await ann.post(f"{path}/query", insert), 410, "lease-gone")


async def test_a_lease_whose_time_is_over_is_rolled_back(ann: Asker, table: str, mariadb: MariaDB) -> None:
    path = await ann.begin(seconds=0.3)
    await ann.post(f"{path}/query", {"sql": f"DELETE FROM {table}"})
    # Not by innodb_trx: who reads that more than ten times a second is told the same again and again.
    free = f"SELECT id FROM shop.{table} FOR UPDATE SKIP LOCKED"
    await eventually(lambda: len(mariadb.admin(free)) == 3)
    told = refused(await ann.post(f"{path}/commit"), 410, "lease-gone")
    assert told == "its time was over: rolled back"
    assert await ann.rows(f"SELECT COUNT(*) FROM {table}") == [[3]]


async def test_a_lease_that_ends_in_the_middle_of_a_statement_says_so(ann: Asker, mariadb: MariaDB) -> None:
    path = await ann.begin(seconds=0.3)
    answer = await ann.post(f"{path}/query", {"sql": "SELECT SLEEP(20) /* in a lease */", "timeout": 20})
    assert answer.status_code in (410, 504), answer.text
    refused(await ann.post(f"{path}/commit"), 410, "lease-gone")
    await eventually(lambda: not running(mariadb, "in a lease"))


def running(db: MariaDB, part: str) -> list[list[str]]:
    where = f"user = 'service' AND info LIKE '%{part}%'"
    return db.admin(f"SELECT id FROM information_schema.processlist WHERE {where}")


async def test_a_deadline_is_moved_and_an_older_fence_refused(service_of: Callable[..., DataService]) -> None:
    async with asking(service_of(lease_limit=20.0, lease=0.5)) as ann:
        first = (await ann.post("/v1/transactions", {"seconds": 5})).json()
        path = f"/v1/transactions/{first['lease']}"
        second = (await ann.post(f"{path}/renew", {"seconds": 15})).json()
        assert second["lease"] == first["lease"]
        assert int(second["fence"]) > int(first["fence"])
        assert 14 < second["seconds"] <= 15
        for verb, body in (("query", {"sql": "SELECT 1"}), ("commit", {}), ("rollback", {}), ("renew", {})):
            answer = await ann.post(f"{path}/{verb}", {**body, "fence": first["fence"]})
            assert "fence" in refused(answer, 409, "conflict")
        most = (await ann.post(f"{path}/renew", {"seconds": 20})).json()["seconds"]
        assert 15 < most <= 20
        answer = await ann.post(f"{path}/commit", {"fence": second["fence"]})
        assert "fence" in refused(answer, 409, "conflict")
        assert (await ann.post(f"{path}/rollback")).status_code == 200


async def test_fences_grow_with_each_lease(ann: Asker) -> None:
    fences = []
    for _ in range(3):
        told = (await ann.post("/v1/transactions")).json()
        fences.append(int(told["fence"]))
        await ann.post(f"/v1/transactions/{told['lease']}/rollback")
    assert fences == sorted(set(fences))


async def test_a_lease_is_its_tenants_and_one_request_at_a_time(
    ann: Asker, asker_of: Callable[..., Any], mariadb: MariaDB
) -> None:
    path = await ann.begin()
    async with asker_of(subject="eve") as eve, asker_of(subject="bob", tenant="ann") as bob:
        for verb, body in (
            ("query", {"sql": "SELECT 1"}),
            ("commit", None),
            ("rollback", None),
            ("renew", None),
        ):
            refused(await eve.post(f"{path}/{verb}", body), 403, "forbidden")
        assert (await bob.post(f"{path}/query", {"sql": "SELECT 1"})).status_code == 200
    slow = asyncio.create_task(ann.post(f"{path}/query", {"sql": "SELECT SLEEP(2) /* alone */"}))
    await eventually(lambda: running(mariadb, "alone"))
    answer = await ann.post(f"{path}/query", {"sql": "SELECT 1"})
    assert "one at a time" in refused(answer, 409, "conflict")
    assert (await slow).status_code == 200
    assert (await ann.post(f"{path}/rollback")).status_code == 200


async def test_an_error_of_a_statement_leaves_the_transaction_open(ann: Asker, table: str) -> None:
    path = await ann.begin()
    insert = {"sql": f"INSERT INTO {table} (name) VALUES ('a dam')"}
    assert (await ann.post(f"{path}/query", insert)).status_code == 200
    refused(await ann.post(f"{path}/query", insert), 422, "database-refused")
    refused(await ann.post(f"{path}/query", {"sql": f"TRUNCATE {table}"}), 400, "bad-request")
    assert (await ann.post(f"{path}/commit")).json() == {"committed": True}
    assert await ann.rows(f"SELECT COUNT(*) FROM {table}") == [[4]]


async def test_a_statement_that_is_cut_short_ends_its_transaction(ann: Asker, table: str) -> None:
    path = await ann.begin()
    await ann.post(f"{path}/query", {"sql": f"DELETE FROM {table}"})
    refused(await ann.post(f"{path}/query", {"sql": "SELECT SLEEP(9)", "timeout": 0.1}), 504, "timeout")
    refused(await ann.post(f"{path}/commit"), 410, "lease-gone")
    assert await ann.rows(f"SELECT COUNT(*) FROM {table}") == [[3]]


async def test_leases_are_bounded_and_leave_room(service_of: Callable[..., DataService]) -> None:
    async with asking(service_of(max=4, max_leases=3, tenant_leases=2)) as ann:
        paths = [await ann.begin(), await ann.begin()]
        assert "you have 2" in refused(await ann.post("/v1/transactions"), 429, "busy")
        async with asking(ann.service, subject="bob") as bob:
            paths_of_bob = [await bob.begin()]
            answer = await bob.post("/v1/transactions")
            assert "3 transactions are open" in refused(answer, 429, "busy")
            assert answer.headers["retry-after"] == "1"
            assert await bob.rows("SELECT 1") == [[1]]
            pool = (await ann.http.get("/v1/pool")).json()
            assert (pool["busy"], pool["leases"], len(pool["holders"])) == (3, 3, 3)
            await bob.post(f"{paths_of_bob[0]}/rollback")
        assert (await ann.post(f"{paths[0]}/commit")).status_code == 200
        assert await ann.begin()


async def test_isolation_and_reading_are_chosen_at_the_beginning(ann: Asker, table: str) -> None:
    path = await ann.begin(isolation="read committed")
    assert (await ann.post(f"{path}/query", {"sql": f"SELECT COUNT(*) FROM {table}"})).json()["rows"] == [[3]]
    await ann.query(f"INSERT INTO {table} (name) VALUES ('seen')")
    assert (await ann.post(f"{path}/query", {"sql": f"SELECT COUNT(*) FROM {table}"})).json()["rows"] == [[4]]
    await ann.post(f"{path}/rollback")
    path = await ann.begin(read=True)
    refused(await ann.post(f"{path}/query", {"sql": f"DELETE FROM {table}"}), 403, "forbidden")
    await ann.post(f"{path}/rollback")
    answer = await ann.post("/v1/transactions", {"isolation": "serialisable"})
    assert "there are read uncommitted" in refused(answer, 400, "bad-request")


@pytest.mark.parametrize("name", ["x", "a~b~c", "..~1~x", "%2e%2e", "a~99999999999999~x", "~1~"])
async def test_what_is_no_name_of_a_lease_is_gone(ann: Asker, name: str) -> None:
    answer = await ann.post(f"/v1/transactions/{name}/commit")
    assert answer.status_code in (404, 410), answer.text


async def test_a_commit_whose_connection_breaks_has_an_unknown_outcome_or_none(
    ann: Asker, table: str, mariadb: MariaDB
) -> None:
    path = await ann.begin()
    identity = (await ann.post(f"{path}/query", {"sql": "SELECT CONNECTION_ID()"})).json()["rows"][0][0]
    await ann.post(f"{path}/query", {"sql": f"DELETE FROM {table}"})
    mariadb.kill(int(identity))
    assert (await ann.post(f"{path}/commit")).status_code in (410, 502)
    assert await ann.rows(f"SELECT COUNT(*) FROM {table}") == [[3]]
    refused(await ann.post(f"{path}/commit"), 410, "lease-gone")


async def test_a_commit_in_which_the_connection_breaks_has_an_unknown_outcome(
    service_of: Callable[..., DataService], mariadb: MariaDB, table: str
) -> None:
    async with FaultProxy("127.0.0.1", mariadb.port) as proxy:
        where: Address = {**mariadb.address, "port": proxy.port}
        service = service_of(started=False, url=url_of(where))
        await asyncio.to_thread(service.start)  # the proxy is of this event loop
        async with asking(service) as ann:
            path = await ann.begin()
            await ann.post(f"{path}/query", {"sql": f"DELETE FROM {table}"})
            proxy.cut()
            refused(await ann.post(f"{path}/commit"), 502, "outcome-unknown")
            proxy.heal()
            refused(await ann.post(f"{path}/commit"), 410, "lease-gone")
