"""The webhook door takes what GitHub signed, once, and nothing else."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from penstock_pipeline.model import App
from penstock_pipeline.receiver.github import GitHubDoor
from penstock_pipeline.store import SqliteStore, history, queue, registry

SECRET = "a secret of sixteen"
COMMIT = "4f51232" + "a" * 33


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(tmp_path / "penstock.db")
    await store.open()
    yield store
    await store.close()


@pytest.fixture
async def app(store: SqliteStore) -> App:
    await store.write(registry.add, name="plain", branch="main", port=7101)
    return await store.write(
        registry.add, name="shop", branch="main", port=7100, repository="/srv/shop.git", webhook_secret=SECRET
    )


@pytest.fixture
async def door(store: SqliteStore, app: App) -> AsyncIterator[httpx.AsyncClient]:
    web = Starlette()
    web.mount("/hooks/github", GitHubDoor(store, body_limit=10_000))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(web), base_url="http://penstock") as client:
        yield client


def signature(body: bytes, secret: str = SECRET) -> str:
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def payload(**changes: Any) -> bytes:
    return json.dumps(
        {"ref": "refs/heads/main", "after": COMMIT, "pusher": {"name": "ann"}, **changes}
    ).encode()


async def deliver(
    door: httpx.AsyncClient, body: bytes, *, id: str = "d-1", app: str = "shop", **headers: str
) -> httpx.Response:
    given = {"x-github-delivery": id, "x-github-event": "push", "x-hub-signature-256": signature(body)}
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    return await door.post(f"/hooks/github/{app}", content=body, headers=given)


async def runs(store: SqliteStore) -> list[str]:
    return [run.commit for run in await store.read(history.recent_runs)]


async def test_a_push_is_on_the_disk_before_the_answer(door: httpx.AsyncClient, store: SqliteStore) -> None:
    answer = await deliver(door, payload())
    assert answer.status_code == 202
    run = await store.read(history.run, answer.json()["run"])
    assert (run.commit, run.actor, run.source) == (COMMIT, "ann", "github")


async def test_a_pusher_whose_name_is_no_text_is_taken(door: httpx.AsyncClient, store: SqliteStore) -> None:
    answer = await deliver(door, payload(pusher={"name": "ann \ud800\x1b[31m"}))
    assert answer.status_code == 202
    assert (await store.read(history.run, answer.json()["run"])).actor == "ann "


async def test_the_same_delivery_twice_at_once_is_one_run(
    door: httpx.AsyncClient, store: SqliteStore
) -> None:
    answers = await asyncio.gather(*(deliver(door, payload()) for _ in range(20)))
    assert sorted({answer.status_code for answer in answers}) == [200, 202]
    assert len({answer.json()["run"] for answer in answers}) == 1
    assert await runs(store) == [COMMIT]


async def test_the_repository_named_in_the_body_is_not_looked_at(
    door: httpx.AsyncClient, store: SqliteStore, app: App
) -> None:
    await deliver(door, payload(repository={"clone_url": "https://evil.example/x.git"}))
    assert (await store.read(registry.get, "shop")).repository == app.repository


@pytest.mark.parametrize(
    "headers",
    [
        {"x_hub_signature_256": ""},
        {"x_hub_signature_256": "sha256=00"},
        {"x_hub_signature_256": signature(payload(), "another secret!!")},
        {"x_hub_signature_256": signature(payload()).removeprefix("sha256=")},
        {"x_hub_signature_256": signature(payload()).upper()},
        {"x_hub_signature_256": signature(payload())[:-1] + "é"},
    ],
)
async def test_a_wrong_signature_is_refused_and_nothing_kept(
    door: httpx.AsyncClient, store: SqliteStore, headers: dict[str, str]
) -> None:
    encoded = {name.replace("_", "-"): value.encode() for name, value in headers.items()}
    answer = await door.post(
        "/hooks/github/shop",
        content=payload(),
        headers={"x-github-delivery": "d", "x-github-event": "push", **encoded},
    )
    assert answer.status_code == 401
    assert "X-Hub-Signature-256" in answer.json()["error"]
    assert await runs(store) == []


async def test_a_doubled_signature_is_refused(door: httpx.AsyncClient) -> None:
    body = payload()
    headers = [("x-hub-signature-256", signature(body)), ("x-hub-signature-256", signature(body)),
               ("x-github-delivery", "d"), ("x-github-event", "push")]  # fmt: skip
    assert (await door.post("/hooks/github/shop", content=body, headers=headers)).status_code == 401


async def test_a_body_is_counted_while_it_is_read(door: httpx.AsyncClient) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(1000):
            sent += 1
            yield b"x" * 1000

    headers = {"x-github-delivery": "d", "x-github-event": "push", "x-hub-signature-256": "sha256=00"}
    answer = await door.post("/hooks/github/shop", content=endless(), headers=headers)
    assert answer.status_code == 413
    assert "10,000 bytes" in answer.json()["error"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"payload=%7B%7D",
        b"[]",
        b"{",
        b"[" * 9000,
        payload(ref=7),
        payload(after="--upload-pack=x"),
        payload(after="$(id)"),
        payload(after=COMMIT[:7]),
        payload(after=None),
        json.dumps({"ref": "refs/heads/main"}).encode(),
    ],
)
async def test_nonsense_that_is_signed_is_refused_clearly(
    door: httpx.AsyncClient, store: SqliteStore, body: bytes
) -> None:
    answer = await deliver(door, body)
    assert answer.status_code == 400
    assert answer.json()["error"]
    assert await runs(store) == []


async def test_another_branch_a_deletion_and_a_ping_set_nothing_off(
    door: httpx.AsyncClient, store: SqliteStore
) -> None:
    ping = b'{"zen": "Keep it logically awesome."}'
    answers = [
        await deliver(door, payload(ref="refs/heads/topic"), id="1"),
        await deliver(door, payload(ref="refs/tags/v1"), id="2"),
        await deliver(door, payload(after="0" * 40), id="3"),
        await deliver(door, ping, id="4", x_github_event="ping"),
    ]
    assert [answer.status_code for answer in answers] == [200] * 4
    assert await runs(store) == []


async def test_the_same_id_with_another_body_is_a_conflict(
    door: httpx.AsyncClient, store: SqliteStore
) -> None:
    await deliver(door, payload())
    assert (await deliver(door, payload(after="b" * 40))).status_code == 409
    assert await runs(store) == [COMMIT]


async def test_an_app_without_a_repository_takes_no_webhooks(door: httpx.AsyncClient) -> None:
    answer = await deliver(door, payload(), app="plain")
    assert answer.status_code == 404
    assert "--repository" in answer.json()["error"]


async def test_an_unknown_app_is_told(door: httpx.AsyncClient) -> None:
    assert (await deliver(door, payload(), app="shpo")).status_code == 404


async def test_a_full_disk_is_a_503_and_the_delivery_may_come_again(
    door: httpx.AsyncClient, store: SqliteStore
) -> None:
    await store.write(lambda tx: tx.exec_driver_sql("PRAGMA max_page_count = 1"))
    numbers = iter(range(1000))
    while (await deliver(door, payload(), id=str(number := next(numbers)))).status_code != 503:
        pass
    await store.write(lambda tx: tx.exec_driver_sql("PRAGMA max_page_count = 100000"))
    assert (await deliver(door, payload(), id=str(number))).status_code == 200
    assert await runs(store) == [COMMIT]


async def test_deliveries_while_one_waits_leave_the_newest(
    door: httpx.AsyncClient, store: SqliteStore, app: App
) -> None:
    for number in range(3):
        await deliver(door, payload(after=f"{number:040x}"), id=str(number))
    assert [run.commit for run in await store.read(queue.active, app.id)] == [f"{2:040x}"]
