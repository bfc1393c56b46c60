"""Health, figures, the pool's sizes, named queries, TLS, and an orderly end."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from plugins.asked import Asker, asking, refused
from plugins.authority import Authority
from plugins.data_service import DataService
from plugins.house import eventually
from plugins.mariadb import MariaDB

from penstock_data.app import pool_of
from penstock_data.settings import Settings


async def test_a_service_without_a_database_lives_but_is_not_ready(
    service_of: Callable[..., DataService], own_mariadb: Callable[..., MariaDB]
) -> None:
    db = own_mariadb()
    db.crash()
    service = service_of(started=False, url="mysql://app:penstock@127.0.0.1:{port}/shop".format(**db.address))
    service.start(ready=False)
    async with asking(service) as ann:
        assert (await ann.http.get("/livez")).text == "ok"
        assert (await ann.http.get("/startupz")).status_code == 503
        refused(await ann.query("SELECT 1"), 503, "unavailable")
        ready = await ann.http.get("/readyz")
        assert (ready.status_code, ready.json()["ready"]) == (503, False)
        db.start()
        await eventually(lambda: ok(ann, "/readyz"), within=20)
        assert await ok(ann, "/startupz")
        assert await ann.rows("SELECT 1") == [[1]]


async def ok(ann: Asker, path: str) -> bool:
    return (await ann.http.get(path)).status_code == 200


async def test_the_pool_is_resized_while_it_is_used(service_of: Callable[..., DataService]) -> None:
    async with asking(service_of(min=1, max=2), "data:read", "data:write", "pool:admin") as ann:
        slow = [asyncio.create_task(ann.query("SELECT SLEEP(0.3)")) for _ in range(6)]
        answer = await ann.http.put("/v1/pool", json={"generation": 7, "min": 2, "max": 8, "heartbeat": 1.5})
        assert answer.status_code == 200, answer.text
        assert {name: answer.json()[name] for name in ("generation", "min", "max", "heartbeat")} == {
            "generation": 7,
            "min": 2,
            "max": 8,
            "heartbeat": 1.5,
        }
        assert {(await it).status_code for it in slow} == {200}
        assert "older than 7" in refused(
            await ann.http.put("/v1/pool", json={"generation": 6, "max": 3}), 409, "conflict"
        )
        assert (await ann.http.put("/v1/pool", json={"generation": 7, "max": 8})).status_code == 200
        assert (await ann.http.get("/v1/pool")).json()["max"] == 8


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ({}, "generation"),
        ({"generation": -1}, "generation"),
        ({"generation": "1"}, "generation"),
        ({"generation": 99, "max": 0}, "max"),
        ({"generation": 99, "min": 500}, "min is 500"),
        ({"generation": 99, "heartbeat": 0}, "heartbeat"),
        ({"generation": 99, "colour": "red"}, "colour"),
        ({"generation": 99, "max": True}, "max"),
        ([], ""),
    ],
)
async def test_what_no_pool_can_be_is_refused(asker_of: Callable[..., Any], wanted: Any, says: str) -> None:
    async with asker_of("pool:admin") as admin:
        before = (await admin.http.get("/v1/pool")).json()
        assert says in refused(await admin.http.put("/v1/pool", json=wanted), 400, "bad-request")
        after = (await admin.http.get("/v1/pool")).json()
        assert [after[name] for name in ("generation", "min", "max")] == [
            before[name] for name in ("generation", "min", "max")
        ]


async def test_figures_are_there_for_prometheus(ann: Asker) -> None:
    assert await ann.rows("SELECT 1") == [[1]]
    text = (await ann.http.get("/metrics")).text
    for line in (
        'penstock_data_requests_total{status="200"}',
        'penstock_data_request_seconds_bucket{le="0.001"}',
        "penstock_data_leases",
        'penstock_pool_connections{pool="pool",state="idle"}',
    ):
        assert line in text


async def test_named_queries_are_done_by_name_and_nothing_else_if_so_wished(
    service_of: Callable[..., DataService], tmp_path: Path, table: str
) -> None:
    file = tmp_path / "queries.yaml"
    file.write_text(
        f"by_name:\n  sql: SELECT id FROM {table} WHERE name = ?\n  params: [name]\n  read: true\n"
        f"add:\n  sql: INSERT INTO {table} (name) VALUES (?)\n"
    )
    async with asking(service_of(queries=str(file), only_named=True)) as ann:
        by_name = {"name": "by_name", "params": ["a valve"]}
        assert (await ann.post("/v1/query", by_name)).json()["rows"] == [[2]]
        assert (await ann.post("/v1/query", {**by_name, "params": {"name": "a gate"}})).json()["rows"] == [
            [3]
        ]
        assert (await ann.post("/v1/query", {"name": "add", "params": ["a dike"]})).json()["insert_id"] == 4
        refused(await ann.query("SELECT 1"), 400, "not-allowed-statement")
        refused(await ann.post("/v1/query", {"name": "nothing"}), 404, "not-found")
        refused(await ann.post("/v1/query", {"name": "by_name", "params": {"nam": 1}}), 400, "bad-request")
        refused(
            await ann.post("/v1/batch", {"statements": [{"sql": "SELECT 1"}]}), 400, "not-allowed-statement"
        )
        told = (await ann.http.get("/v1/queries")).json()["queries"]
        assert [it["name"] for it in told] == ["add", "by_name"] or [it["name"] for it in told] == [
            "by_name",
            "add",
        ]


async def test_it_speaks_tls_to_its_clients_and_to_its_database(
    service_of: Callable[..., DataService], mariadb: MariaDB, authority: Authority
) -> None:
    url = "mysql://app:penstock@localhost:{port}/shop?tls=true".format(**mariadb.address)
    service = service_of(
        url=url,
        ca_file=str(authority.ca),
        tls_cert=str(authority.good.cert),
        tls_key=str(authority.good.key),
    )
    trust = ssl.create_default_context(cafile=authority.ca)
    async with httpx.AsyncClient(verify=trust, headers=service.bearer()) as http:
        url = f"https://localhost:{service.port}/v1/query"
        answer = await http.post(url, json={"sql": "SHOW SESSION STATUS LIKE 'Ssl_version'"})
        assert answer.json()["rows"][0][1].startswith("TLS")
    async with httpx.AsyncClient() as http:
        with pytest.raises(httpx.ConnectError):
            await http.get(f"https://localhost:{service.port}/livez")


async def test_an_end_lets_what_was_begun_end(service_of: Callable[..., DataService], table: str) -> None:
    service = service_of(drain=10.0)
    async with asking(service) as ann:
        path = await ann.begin(seconds=9)
        slow = asyncio.create_task(ann.query("SELECT SLEEP(0.5)"))
        await eventually(lambda: busy(ann, 2))
        assert service.process is not None
        service.process.terminate()
        await eventually(lambda: refuses(ann))
        ready = await ann.http.get("/readyz")
        assert (ready.status_code, ready.json()["reason"]) == (503, "stopping")
        insert = {"sql": f"INSERT INTO {table} (name) VALUES ('last')"}
        assert (await ann.post(f"{path}/query", insert)).status_code == 200
        assert (await ann.post(f"{path}/commit")).json() == {"committed": True}
        assert (await slow).status_code == 200
    assert service.process.wait(20) == 0


async def busy(ann: Asker, count: int) -> bool:
    return bool((await ann.http.get("/v1/pool")).json()["busy"] == count)


async def refuses(ann: Asker) -> bool:
    return (await ann.query("SELECT 1")).status_code == 503


async def test_an_end_rolls_back_what_does_not_end(
    service_of: Callable[..., DataService], table: str, ann: Asker
) -> None:
    service = service_of(drain=0.2)
    async with asking(service) as bob:
        path = await bob.begin(seconds=30)
        await bob.post(f"{path}/query", {"sql": f"DELETE FROM {table}"})
        assert service.stop() == 0
    assert await ann.rows(f"SELECT COUNT(*) FROM {table}") == [[3]]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"url": "postgres://x"}, "url is 'without mysql:// or a user'"),
        ({"url": "mysql://app@127.0.0.1", "min": 9, "max": 2}, "min is 9, more than max, 2"),
        ({"url": "mysql://app@127.0.0.1", "max_rows": "many"}, "max_rows"),
        ({"url": "mysql://app@127.0.0.1", "max_row": 1}, "max_row"),
        ({"url": "mysql://app@127.0.0.1", "tls_cert": "x"}, "tls_cert and tls_key go together"),
        ({"url": "mysql://app@127.0.0.1", "tls_cert": "x", "tls_key": "y"}, "tls_cert x"),
        ({"url": "mysql://app@127.0.0.1", "queries": "/nowhere"}, "/nowhere"),
        ({"url": "mysql://app@127.0.0.1", "password_file": "/nowhere"}, "/nowhere"),
        ({"url": "mysql://app@127.0.0.1", "peer_url": "http://other"}, "{pod}"),
        ({"url": None}, "url is missing"),
    ],
)
def test_settings_that_cannot_be_meant_are_told_in_a_line(
    service_of: Callable[..., DataService], settings: dict[str, Any], says: str
) -> None:
    service = service_of(started=False, **settings)
    with pytest.raises(AssertionError) as told:
        service.start()
    lines = str(told.value).strip().splitlines()
    assert len(lines) == 1, lines
    assert says in lines[0]


def test_where_the_database_is_and_who_asks_may_come_apart(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As Kubernetes has them: a URL without a user, an account in a Secret, sizes in a mounted file."""
    file = tmp_path / "pool.json"
    file.write_text('{"generation": 7, "name": "shop-db", "min": 1, "max": 5, "heartbeat": 2.5}')
    for name, value in {
        "CONFIG": str(file),
        "URL": "mysql://db:3307/shop",
        "USERNAME": "a@p/p",
        "PASSWORD": "s:e@c/ret",
        "MAX": "6",
    }.items():
        monkeypatch.setenv(f"PENSTOCK_DATA_{name}", value)
    settings = Settings.load({})
    pool = pool_of(settings)
    assert (pool.server.host, pool.server.port, pool.server.database) == ("db", 3307, "shop")
    assert (pool.server.user, pool.server.password) == ("a@p/p", "s:e@c/ret")
    assert (pool.settings.name, pool.settings.min, pool.settings.max, settings.generation) == (
        "shop-db",
        1,
        6,
        7,
    )
    assert "s:e@c/ret" not in repr(settings)
