"""The API answers those who may manage, and says what is wrong to all others."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from plugins import recorded

from penstock_pipeline import errors
from penstock_pipeline.api import Api, problems, router
from penstock_pipeline.model import App, StageName
from penstock_pipeline.runtimes import ProcessState
from penstock_pipeline.store import SqliteStore, history, registry, subscriptions
from penstock_pipeline.tokens import Scope, Tokens

COMMIT = "4f51232" + "a" * 33
OTHER = "9ad1c0f" + "b" * 33


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    store = SqliteStore(tmp_path / "penstock.db")
    await store.open()
    yield recorded.api_over(store, tmp_path)
    await store.close()


@pytest.fixture
async def shop(api: Api) -> App:
    return await api.store.write(registry.add, name="shop", branch="main", port=7100)


@pytest.fixture
async def anyone(api: Api) -> AsyncIterator[httpx.AsyncClient]:
    web = FastAPI()
    problems(web)
    web.include_router(router(api), prefix="/api")
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(web), base_url="http://penstock/api"
    ) as client:
        yield client


@pytest.fixture
def manager(api: Api, anyone: httpx.AsyncClient) -> httpx.AsyncClient:
    anyone.headers["authorization"] = f"Bearer {api.tokens.issue('ann', Scope.MANAGE)}"
    return anyone


def engine(api: Api) -> recorded.RecordingOrders:
    assert isinstance(api.orders, recorded.RecordingOrders)
    return api.orders


def detail(answer: httpx.Response, status: int) -> str:
    """What a problem document says, which must have this status."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert problem["type"] == "about:blank"
    assert problem["title"] == HTTPStatus(status).phrase
    return str(problem["detail"])


# -- who may


@pytest.mark.parametrize("authorization", ["", "Bearer", "Bearer nonsense", "Basic YTpi", "Bearer a.b.c"])
async def test_nobody_gets_in_without_a_valid_token(anyone: httpx.AsyncClient, authorization: str) -> None:
    answer = await anyone.get("/apps", headers={"authorization": authorization})
    assert "token" in detail(answer, 401)
    assert answer.headers["www-authenticate"] == "Bearer"


async def test_a_token_of_another_penstock_is_refused(anyone: httpx.AsyncClient, tmp_path: Path) -> None:
    token = Tokens(tmp_path / "other.key").issue("eve", Scope.MANAGE)
    detail(await anyone.get("/status", headers={"authorization": f"Bearer {token}"}), 401)


async def test_an_expired_token_is_told_to_be_expired(api: Api, anyone: httpx.AsyncClient) -> None:
    token = api.tokens.issue("ann", Scope.MANAGE, seconds=-5)
    answer = await anyone.get("/apps", headers={"authorization": f"Bearer {token}"})
    assert "expired" in detail(answer, 401)


async def test_a_token_for_pushes_manages_nothing(api: Api, anyone: httpx.AsyncClient, shop: App) -> None:
    anyone.headers["authorization"] = f"Bearer {api.tokens.issue('ann', Scope.PUSH, app='shop')}"
    for method, path in (
        ("GET", "/apps"),
        ("GET", "/apps/shop"),
        ("POST", "/apps"),
        ("POST", "/apps/shop/rollback"),
        ("GET", "/runs/1/follow"),
        ("GET", "/runs/1/logs/test"),
        ("POST", "/tokens"),
        ("POST", "/invitations"),
    ):
        assert "penstock token --manage" in detail(await anyone.request(method, path, json={}), 403)


async def test_nothing_of_a_body_is_read_before_the_token_is_checked(anyone: httpx.AsyncClient) -> None:
    async def body() -> AsyncIterator[bytes]:
        pytest.fail("the body was read")
        yield b""

    detail(await anyone.post("/apps", content=body(), headers={"content-type": "application/json"}), 401)


# -- errors


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.Invalid("wrong"), 422),
        (errors.InvalidConfig("wrong", file="penstock.yaml", line=3), 422),
        (errors.Forbidden("wrong"), 403),
        (errors.NotFound("wrong"), 404),
        (errors.Conflict("wrong"), 409),
        (errors.Unavailable("wrong"), 503),
        (errors.RuntimeUnavailable("wrong"), 503),
        (errors.PenstockError("wrong"), 500),
    ],
)
async def test_every_error_is_a_problem_document(
    api: Api, manager: httpx.AsyncClient, error: Exception, status: int
) -> None:
    engine(api).raises = error
    assert detail(await manager.get("/status"), status) == str(error)


async def test_bad_input_is_named(manager: httpx.AsyncClient) -> None:
    assert detail(await manager.post("/apps", json={}), 422) == "name: Field required"
    assert "colour: Extra inputs" in detail(
        await manager.post("/apps", json={"name": "shop", "colour": 1}), 422
    )
    answer = await manager.post("/apps", content=b"{", headers={"content-type": "application/json"})
    assert "JSON" in detail(answer, 422)
    assert detail(await manager.get("/runs", params={"limit": 0}), 422).startswith("limit: ")
    assert detail(await manager.get("/runs/x"), 422).startswith("run_id: ")


async def test_a_number_no_store_can_hold_is_bad_input(manager: httpx.AsyncClient) -> None:
    for path in (f"/runs/{2**64}", f"/runs?before={2**64}", f"/runs/1/events?after={2**64}"):
        detail(await manager.get(path), 422)


async def test_what_is_not_there_is_not_found(manager: httpx.AsyncClient, shop: App) -> None:
    for path in ("/runs/7", "/runs/7/events", "/runs/7/follow", "/runs/7/logs/test"):
        assert detail(await manager.get(path), 404) == "no run 7; see: penstock runs"
    for path in ("/apps/shoe", "/apps/shoe/releases", "/runs?app=shoe"):
        assert detail(await manager.get(path), 404) == "no app 'shoe'; did you mean shop?"


# -- apps


async def test_an_app_is_made_with_a_token_for_it_alone(api: Api, manager: httpx.AsyncClient) -> None:
    answer = await manager.post("/apps", json={"name": "shop"})
    assert answer.status_code == 201
    made = answer.json()
    assert made["app"]["name"] == "shop"
    assert made["remote"] == "/git/shop"
    assert made["webhook"] is None
    identity = api.tokens.verify(made["token"])
    assert identity.may_push("shop")
    assert not identity.may_push("other")
    assert identity.name == "ann", "pushes are told to be by who asked"


async def test_a_name_that_is_taken_is_a_conflict(manager: httpx.AsyncClient, shop: App) -> None:
    assert "already" in detail(await manager.post("/apps", json={"name": "shop"}), 409)


async def test_a_webhook_secret_is_made_up_and_told_once(manager: httpx.AsyncClient) -> None:
    repository = "https://forge.example/shop.git"
    made = (await manager.post("/apps", json={"name": "shop", "repository": repository})).json()
    secret = made["webhook_secret"]
    assert len(secret) >= 32
    assert made["webhook"].endswith("/hooks/github/shop")
    assert secret not in (await manager.get("/apps")).text
    assert secret not in (await manager.get("/status")).text


async def test_an_app_says_what_is_live_and_what_moves(
    api: Api, manager: httpx.AsyncClient, shop: App
) -> None:
    live = await recorded.accepted(api.store, shop, COMMIT)
    await recorded.succeeded(api.store, live)
    moving = await recorded.accepted(api.store, shop, OTHER)
    await recorded.began(api.store, moving, StageName.BUILD)
    (listed,) = (await manager.get("/apps")).json()
    assert listed == (await manager.get("/apps/shop")).json()
    assert (listed["live"]["label"], listed["live"]["commit"], listed["live"]["run"]) == (
        "v1",
        COMMIT,
        live.id,
    )
    assert [(run["id"], run["status"], run["stage"]) for run in listed["moving"]] == [
        (moving.id, "running", "build")
    ]
    assert listed["urls"]["app"] == "http://shop.localhost:7080/"


async def test_releases_come_newest_first_and_one_is_live(
    api: Api, manager: httpx.AsyncClient, shop: App
) -> None:
    for commit in (COMMIT, OTHER):
        await recorded.succeeded(api.store, await recorded.accepted(api.store, shop, commit))
    releases = (await manager.get("/apps/shop/releases")).json()
    assert [(release["label"], release["live"]) for release in releases] == [("v2", True), ("v1", False)]


async def test_a_rollback_is_queued_in_the_name_of_who_asks(
    api: Api, manager: httpx.AsyncClient, shop: App
) -> None:
    for commit in (COMMIT, OTHER):
        await recorded.succeeded(api.store, await recorded.accepted(api.store, shop, commit))
    answer = await manager.post("/apps/shop/rollback", json={"version": 1})
    assert answer.status_code == 202
    run = answer.json()
    assert (run["kind"], run["commit"], run["actor"]) == ("rollback", COMMIT, "ann")
    assert (await manager.post("/apps/shop/rollback")).status_code == 202, "a body is not needed"
    assert not (await manager.get("/apps/shop")).json()["pinned"], "nothing was rolled back yet"


# -- runs


async def test_runs_are_paged_newest_first_and_by_app(
    api: Api, manager: httpx.AsyncClient, shop: App
) -> None:
    other = await api.store.write(registry.add, name="other", branch="main", port=7101)
    await recorded.succeeded(api.store, await recorded.accepted(api.store, shop, COMMIT))
    await recorded.accepted(api.store, other, COMMIT)
    await recorded.accepted(api.store, shop, OTHER)

    async def numbers(**query: object) -> list[int]:
        return [run["id"] for run in (await manager.get("/runs", params=query)).json()]  # type: ignore[arg-type]

    assert await numbers() == [3, 2, 1]
    assert await numbers(limit=1) == [3]
    assert await numbers(before=3) == [2, 1]
    assert await numbers(app="shop") == [3, 1]
    oldest = (await manager.get("/runs")).json()[-1]
    assert (oldest["status"], oldest["release"], oldest["app"]) == ("succeeded", "v1", "shop")


async def test_a_red_run_shows_where_and_why(api: Api, manager: httpx.AsyncClient, shop: App) -> None:
    run = await recorded.accepted(api.store, shop, COMMIT)
    await recorded.failed(api.store, run, StageName.START, "the app ended", ("no price list", "bye"))
    whole = (await manager.get(f"/runs/{run.id}")).json()
    assert (whole["run"]["status"], whole["run"]["error"]) == ("failed", "the app ended")
    assert whole["tail"] == ["no price list", "bye"]
    assert whole["release"] is None
    assert [stage["stage"] for stage in whole["stages"]] == ["checkout", "test", "build", "upload", "start"]
    assert [stage["status"] for stage in whole["stages"]] == [*["done"] * 4, "failed"]


async def test_a_green_run_shows_its_release(api: Api, manager: httpx.AsyncClient, shop: App) -> None:
    run = await recorded.accepted(api.store, shop, COMMIT)
    await recorded.succeeded(api.store, run)
    whole = (await manager.get(f"/runs/{run.id}")).json()
    assert (whole["release"]["label"], whole["run"]["release"]) == ("v1", "v1")


async def test_a_run_is_cancelled_once(api: Api, manager: httpx.AsyncClient, shop: App) -> None:
    run = await recorded.accepted(api.store, shop, COMMIT)
    assert (await manager.post(f"/runs/{run.id}/cancel")).json()["status"] == "cancelled"
    assert (await manager.get(f"/runs/{run.id}/events")).json()[-1]["data"]["by"] == "ann"
    detail(await manager.post(f"/runs/{run.id}/cancel"), 409)


async def test_events_come_in_order_and_after_one_that_is_known(
    api: Api, manager: httpx.AsyncClient, shop: App
) -> None:
    run = await recorded.accepted(api.store, shop, COMMIT)
    await recorded.began(api.store, run, StageName.TEST)
    events = (await manager.get(f"/runs/{run.id}/events")).json()
    assert [event["kind"] for event in events] == ["accepted", "stage.started", "stage.done", "stage.started"]
    later = await manager.get(f"/runs/{run.id}/events", params={"after": events[1]["id"]})
    assert later.json() == events[2:]


async def test_what_was_said_so_far_does_not_wait_for_the_end(
    api: Api, manager: httpx.AsyncClient, shop: App
) -> None:
    run = await recorded.accepted(api.store, shop, COMMIT)
    await recorded.began(api.store, run, StageName.TEST)
    with api.logs.open(run.id, StageName.TEST) as log:
        log.write(b"12 passed\n")
    answer = await manager.get(f"/runs/{run.id}/follow", params={"wait": "false"})
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.text.splitlines() == [
        "-----> Accepted   4f51232 on main as run 1",
        "-----> Checkout   checkout done  500ms",
        "       12 passed",
    ]


async def test_who_follows_hears_what_happens_until_the_end(
    api: Api, manager: httpx.AsyncClient, shop: App
) -> None:
    run = await recorded.accepted(api.store, shop, COMMIT)
    lines = asyncio.create_task(manager.get(f"/runs/{run.id}/follow"), name="lines")
    events = asyncio.create_task(manager.get(f"/runs/{run.id}/follow?format=json"), name="events")
    await recorded.failed(api.store, run, StageName.BUILD, "no wood")
    assert (await lines).text.splitlines()[-2:] == [
        " !     Build: no wood",
        " !     nothing serves.   log: penstock logs 1",
    ]
    kinds = [json.loads(line)["kind"] for line in (await events).text.splitlines() if line]
    assert (kinds[0], kinds[-1], kinds.count("stage.done")) == ("accepted", "run.failed", 2)


async def test_a_log_is_given_whole(api: Api, manager: httpx.AsyncClient, shop: App) -> None:
    run = await recorded.accepted(api.store, shop, COMMIT)
    assert "none yet" in detail(await manager.get(f"/runs/{run.id}/logs/test"), 404)
    printed = b"".join(b"%d \xff\x1b[31m\n" % number for number in range(100_000))
    with api.logs.open(run.id, StageName.TEST) as log:
        log.write(printed)
    answer = await manager.get(f"/runs/{run.id}/logs/test")
    assert answer.content == printed
    assert "it has: test" in detail(await manager.get(f"/runs/{run.id}/logs/build"), 404)
    assert "stage: " in detail(await manager.get(f"/runs/{run.id}/logs/secrets"), 422)


# -- the whole


async def test_the_status_shows_processes_and_what_moves(
    api: Api, manager: httpx.AsyncClient, shop: App
) -> None:
    engine(api).processes = [ProcessState("shop", "shop-1", "web", 4711, 7190, 2, 1.0)]
    run = await recorded.accepted(api.store, shop, COMMIT)
    status: dict[str, Any] = (await manager.get("/status")).json()
    assert status["apps"][0]["processes"][0]["pid"] == 4711
    assert status["apps"][0]["live"] is None
    assert [moving["id"] for moving in status["moving"]] == [run.id]
    assert status["state"] == str(api.settings.state)


async def test_an_invitation_is_for_who_asked_and_for_the_browser_alone(
    api: Api, manager: httpx.AsyncClient
) -> None:
    answer = await manager.post("/invitations")
    assert answer.status_code == 201
    path, _, invitation = answer.json()["path"].partition("#")
    assert path == "/sign-in"
    assert api.tokens.admit(invitation).name == "ann"


async def test_tokens_are_issued_for_what_is_asked(api: Api, manager: httpx.AsyncClient, shop: App) -> None:
    answer = await manager.post(
        "/tokens", json={"name": "ci", "scope": "push", "app": "shop", "seconds": 3600}
    )
    assert answer.status_code == 201
    identity = api.tokens.verify(answer.json()["token"])
    assert (identity.name, identity.scope, identity.app) == ("ci", Scope.PUSH, "shop")
    manage = (await manager.post("/tokens", json={"name": "ci", "scope": "manage"})).json()["token"]
    assert (await manager.get("/apps", headers={"authorization": f"bearer {manage}"})).status_code == 200


@pytest.mark.parametrize(
    ("wrong", "status"),
    [
        ({"app": "shoe"}, 404),
        ({"app": "shop", "scope": "manage"}, 422),
        ({"scope": "god"}, 422),
        ({"seconds": 0}, 422),
        ({"seconds": 10**12}, 422),
        ({"name": "ann\x1b[2J"}, 422),
        ({"name": ""}, 422),
        ({"name": "ann\n"}, 422),
    ],
)
async def test_a_token_that_makes_no_sense_is_not_issued(
    manager: httpx.AsyncClient, shop: App, wrong: dict[str, Any], status: int
) -> None:
    detail(await manager.post("/tokens", json={"name": "ci", "scope": "push", **wrong}), status)


# -- bodies that are not what they should be


@pytest.mark.parametrize(
    "body",
    [
        b'{"name": "shop", "repository": "https://forge.example/\\ud800"}',
        b'{"name": "shop", "repository": "https://forge.example/%b"}' % (b"x" * 5000),
        b'{"name": "shop", "\\ud800": 1}',
    ],
)
async def test_text_that_nothing_can_keep_is_refused(manager: httpx.AsyncClient, body: bytes) -> None:
    answer = await manager.post("/apps", content=body, headers={"content-type": "application/json"})
    detail(answer, 422)
    assert (await manager.get("/apps")).json() == []


async def test_a_body_is_counted_while_it_is_read(manager: httpx.AsyncClient) -> None:
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 8192
            yield b" " * 8192

    assert "bytes" in detail(await manager.post("/apps", content=endless()), 413)
    assert read < 1_000_000


async def test_what_the_framework_refuses_is_a_problem_document_too(manager: httpx.AsyncClient) -> None:
    detail(await manager.get("/nowhere"), 404)
    json_type = {"content-type": "application/json"}
    detail(await manager.post("/apps", content=b"[" * 50_000, headers=json_type), 400)
    answer = await manager.delete("/apps")
    detail(answer, 405)
    assert "GET" in answer.headers["allow"]


# -- subscriptions


async def test_a_subscription_is_added_listed_and_removed(manager: httpx.AsyncClient, shop: App) -> None:
    added = await manager.post("/subscriptions", json={"url": "http://127.0.0.1:9/hook", "app": "shop"})
    assert added.status_code == 201
    assert added.json()["secret"].startswith("whsec_")
    (listed,) = (await manager.get("/subscriptions")).json()
    assert listed["url"] == "http://127.0.0.1:9/hook"
    assert (listed["kind"], listed["app"], listed["actor"]) == ("webhook", "shop", "ann")
    assert (listed["behind"], listed["waiting"], listed["dead"], listed["error"]) == (0, 0, 0, None)
    assert added.json()["secret"] not in (await manager.get("/subscriptions")).text
    assert (await manager.post(f"/subscriptions/{listed['id']}/remove")).status_code == 200
    assert (await manager.get("/subscriptions")).json() == []


async def test_a_forge_is_added_with_its_token_which_is_never_answered(
    manager: httpx.AsyncClient, shop: App
) -> None:
    wanted = {"kind": "gitea", "app": "shop", "token": "t0ken-of-ann", "repository": "you/shop"}
    added = await manager.post("/subscriptions", json={**wanted, "url": "http://127.0.0.1:9/api/v1"})
    assert added.status_code == 201
    assert added.json()["subscription"]["url"] == "http://127.0.0.1:9/api/v1/repos/you/shop"
    assert "t0ken-of-ann" not in added.text + (await manager.get("/subscriptions")).text


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({}, 422, "a webhook needs its url"),
        ({"url": "http://169.254.169.254/"}, 422, "metadata"),
        ({"url": "http://127.0.0.1/", "token": "x"}, 422, "neither a token"),
        ({"url": "http://127.0.0.1/", "app": "nope"}, 404, "nope"),
        ({"kind": "github", "app": "shop"}, 422, "token"),
        ({"kind": "github", "app": "shop", "token": "x"}, 422, "--repository"),
        ({"kind": "bitbucket", "app": "shop", "token": "x"}, 422, "none of github"),
        ({"url": "http://127.0.0.1/", "extra": 1}, 422, "extra"),
    ],
)
async def test_a_subscription_that_cannot_be_is_refused(
    manager: httpx.AsyncClient, shop: App, body: dict[str, Any], status: int, says: str
) -> None:
    assert says in detail(await manager.post("/subscriptions", json=body), status)
    assert (await manager.get("/subscriptions")).json() == []


async def test_a_ping_that_does_not_arrive_says_why(manager: httpx.AsyncClient, shop: App) -> None:
    number = (await manager.post("/subscriptions", json={"url": "http://127.0.0.1:1/"})).json()[
        "subscription"
    ]["id"]
    assert "127.0.0.1" in detail(await manager.post(f"/subscriptions/{number}/test"), 503)
    for verb in ("test", "retry", "remove"):
        assert "penstock events" in detail(await manager.post(f"/subscriptions/{number + 1}/{verb}"), 404)


async def test_dead_letters_are_listed_and_retried(api: Api, manager: httpx.AsyncClient, shop: App) -> None:
    number = (await manager.post("/subscriptions", json={"url": "http://127.0.0.1:1/"})).json()[
        "subscription"
    ]["id"]
    run = await recorded.accepted(api.store, shop, COMMIT)
    (event,) = await api.store.read(history.events_after, 0, run_id=run.id)
    await api.store.write(subscriptions.failed, number, event.id, error="answers 500", next_at=None)
    (letter,) = (await manager.get("/subscriptions/dead")).json()
    assert (letter["subscription"], letter["event"]["id"], letter["error"]) == (
        number,
        event.id,
        "answers 500",
    )
    assert "dead letter" in detail(
        await manager.post(f"/subscriptions/{number}/retry", json={"event": 999}), 404
    )
    assert (await manager.post(f"/subscriptions/{number}/retry")).json() == {"retried": 1}
    assert (await manager.get("/subscriptions/dead")).json() == []
