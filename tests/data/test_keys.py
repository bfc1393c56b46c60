"""What is sent under a key is done once: when the answer was lost, from another process, after a crash."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httpx
from plugins.asked import Asker, asking, refused
from plugins.data_service import DataService
from plugins.house import eventually


async def test_a_write_under_a_key_is_done_once(ann: Asker, table: str) -> None:
    body = {"sql": f"INSERT INTO {table} (name) VALUES (?)", "params": ["once"]}
    first = await ann.post("/v1/query", body, idempotency_key=f"{table}-1")
    again = await ann.post("/v1/query", body, idempotency_key=f"{table}-1")
    assert (first.json(), first.headers.get("idempotency-replayed")) == (again.json(), None)
    assert again.headers["idempotency-replayed"] == "true"
    assert await ann.rows(f"SELECT COUNT(*) FROM {table}") == [[4]]


async def test_a_key_belongs_to_one_request_and_one_tenant(
    ann: Asker, table: str, data_service: DataService
) -> None:
    insert = f"INSERT INTO {table} (name) VALUES (?)"
    key = {"idempotency_key": f"{table}-2"}
    assert (await ann.post("/v1/query", {"sql": insert, "params": ["a"]}, **key)).status_code == 200
    refused(await ann.post("/v1/query", {"sql": insert, "params": ["b"]}, **key), 422, "key-reused")
    async with asking(data_service, subject="eve") as eve:
        answer = await eve.post("/v1/query", {"sql": insert, "params": ["b"]}, **key)
        assert "idempotency-replayed" not in answer.headers
    assert await ann.rows(f"SELECT COUNT(*) FROM {table}") == [[5]]


async def test_what_failed_under_a_key_may_be_tried_again(ann: Asker, table: str) -> None:
    body = {"sql": f"INSERT INTO {table}_later (id) VALUES (1)"}
    key = {"idempotency_key": f"{table}-3"}
    refused(await ann.post("/v1/query", body, **key), 422, "database-refused")
    await ann.query(f"CREATE TABLE {table}_later (id INT)")
    assert (await ann.post("/v1/query", body, **key)).json()["affected_rows"] == 1
    await ann.query(f"DROP TABLE {table}_later")


async def test_the_same_at_once_is_done_once(ann: Asker, table: str) -> None:
    body = {"sql": f"INSERT INTO {table} (name) SELECT CONCAT('x', SLEEP(0.2))"}
    answers = await asyncio.gather(
        *(ann.post("/v1/query", body, idempotency_key=f"{table}-4") for _ in range(5))
    )
    assert {answer.status_code for answer in answers} == {200}, [answer.text for answer in answers]
    assert sum("idempotency-replayed" in answer.headers for answer in answers) == 4
    assert await ann.rows(f"SELECT COUNT(*) FROM {table}") == [[4]]


async def test_a_batch_under_a_key_is_done_once(ann: Asker, table: str) -> None:
    batch = {"statements": [{"sql": f"INSERT INTO {table} (name) VALUES ('batch')"}, {"sql": "SELECT 7"}]}
    first = await ann.post("/v1/batch", batch, idempotency_key=f"{table}-5")
    again = await ann.post("/v1/batch", batch, idempotency_key=f"{table}-5")
    assert first.json() == again.json()
    assert first.json()["results"][1]["rows"] == [[7]]
    assert again.headers["idempotency-replayed"] == "true"


async def test_a_commit_under_a_key_answers_what_happened_from_everywhere(
    service_of: Callable[..., DataService], table: str
) -> None:
    """Also after the process that made it was killed."""
    peer = "http://127.0.0.1:{pod}"
    one, other = service_of(peer_url=peer), service_of(peer_url=peer)
    async with asking(one) as ann, asking(other) as elsewhere:
        path = await ann.begin()
        insert = {"sql": f"INSERT INTO {table} (name) VALUES ('kept')"}
        moved = await elsewhere.post(f"{path}/query", insert)
        assert (moved.status_code, moved.headers["location"]) == (307, f"{one.url}{path}/query")
        assert (await ann.http.post(moved.headers["location"], json=insert)).status_code == 200
        key = {"idempotency_key": f"{table}-6"}
        assert (await ann.post(f"{path}/commit", **key)).json() == {"committed": True}
        one.kill()
        again = await elsewhere.post(f"{path}/commit", **key)
        assert (again.json(), again.headers["idempotency-replayed"]) == ({"committed": True}, "true")
        assert await elsewhere.rows(f"SELECT COUNT(*) FROM {table}") == [[4]]


async def test_a_commit_that_was_not_made_is_told_as_rolled_back(
    service_of: Callable[..., DataService], table: str
) -> None:
    """The process was killed before; while the lease could live elsewhere, the answer leads there."""
    peer = "http://127.0.0.1:{pod}"
    one = service_of(peer_url=peer, lease=1.0, lease_limit=1.0)
    other = service_of(peer_url=peer, lease_limit=1.0, lease=1.0)
    async with asking(one) as ann, asking(other) as elsewhere:
        path = await ann.begin()
        await ann.post(f"{path}/query", {"sql": f"DELETE FROM {table}"})
        one.kill()
        key = {"idempotency_key": f"{table}-7"}
        assert (await elsewhere.post(f"{path}/commit", **key)).status_code in (307, 410)
        answer = await eventually(lambda: gone(elsewhere, path, key))
        assert "rolled back" in refused(answer, 410, "lease-gone")
        assert await elsewhere.rows(f"SELECT COUNT(*) FROM {table}") == [[3]]


async def gone(ann: Asker, path: str, key: dict[str, str]) -> httpx.Response | None:
    answer = await ann.post(f"{path}/commit", **key)
    return answer if answer.status_code == 410 else None


async def test_a_key_is_printable_and_not_too_long(ann: Asker) -> None:
    for key in ("x" * 129, "a\tb"):
        told = refused(await ann.post("/v1/query", {"sql": "DO 1"}, idempotency_key=key), 400, "bad-request")
        assert "Idempotency-Key" in told
