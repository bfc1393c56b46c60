"""Who gets in at the dashboard, and which forms move anything: over a real engine, with the ports' fakes."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from fastapi import FastAPI
from plugins.engine import SERVICE, House, page
from plugins.engine import house as house

from penstock_pipeline.dashboard import View, router, sign_in
from penstock_pipeline.errors import Forbidden
from penstock_pipeline.model import Run, RunKind, RunStatus
from penstock_pipeline.store import history
from penstock_pipeline.tokens import (
    INVITATION,
    ISSUER,
    SESSION,
    SESSION_AUDIENCE,
    Identity,
    Scope,
    Tokens,
)
from penstock_pipeline.variables import Variable

BASE = "http://localhost:7070"
OURS = {"Origin": BASE}
GATED = SERVICE + "approve: true\n"
ACTIONS = (
    "/runs/1/approve",
    "/runs/1/cancel",
    "/runs/1/retry",
    "/apps/shop/rollback/1",
    "/apps/shop/unpin",
    "/apps/shop/redeploy",
    "/apps/shop/refresh",
)


@dataclass
class Door:
    """The dashboard over an engine, and the browsers that people use."""

    house: House
    tokens: Tokens
    web: FastAPI

    def browser(self, **headers: str) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.ASGITransport(self.web), base_url=BASE, headers=headers)

    async def signed_in(self, name: str = "ann", scope: Scope = Scope.MANAGE, **token: Any) -> Window:
        window = Window(self.browser())
        answer = await window.sign_in(self.tokens.issue(name, scope, **token))
        assert answer.status_code == 303, answer.text
        return window

    async def runs(self) -> list[Run]:
        return await self.house.store.read(history.recent_runs)


@dataclass
class Window:
    """A browser in which a person looks at pages and presses buttons."""

    client: httpx.AsyncClient

    async def sign_in(self, token: str, **fields: str) -> httpx.Response:
        return await self.client.post("/sign-in", data={"token": token, **fields}, headers=OURS)

    async def get(self, path: str) -> httpx.Response:
        return await self.client.get(path)

    async def form(self) -> str:
        """What the forms of this session carry."""
        found = re.search(r'name="form" value="(\w+)"', (await self.get("/")).text)
        assert found is not None
        return found[1]

    async def press(self, path: str, **headers: str) -> httpx.Response:
        data = {"form": await self.form()}
        return await self.client.post(path, data=data, headers={**OURS, **headers})


@pytest.fixture
async def door(house: House, tmp_path: Path) -> Door:
    tokens = Tokens(tmp_path / "token.key")
    urls = {"app": "http://app.localhost/", "port": "http://127.0.0.1/", "edges": []}
    parts = house.parts
    view = View(house.orders, tokens, house.store, parts.logs, house.settings, lambda _app: urls)
    web = FastAPI()
    web.include_router(router(view))
    return Door(house, tokens, web)


def button(answer: httpx.Response, path: str) -> bool:
    return f'action="{path}"' in answer.text


# -- signing in


async def test_without_a_session_every_page_leads_to_the_sign_in_and_no_stream_tells_anything(
    door: Door,
) -> None:
    await door.house.pushed(page("one"))
    async with door.browser() as stranger:
        for path in ("/", "/apps/shop", "/runs/1", "/runs/999", "/apps/nothing"):
            answer = await stranger.get(path)
            assert (answer.status_code, answer.text) == (303, "")
            inside = f"?next={path}" if path != "/" else ""
            assert answer.headers["location"] == f"/sign-in{inside}"
        assert (await stranger.get("/runs/1/logs/test")).headers["location"] == "/sign-in"
        for path in ("/events", "/apps/shop/events", "/runs/1/events"):
            answer = await stranger.get(path)
            assert answer.status_code == 401
            assert "shop" not in answer.text


async def test_a_token_opens_a_session_whose_cookie_no_script_and_no_other_site_gets(door: Door) -> None:
    window = Window(door.browser())
    answer = await window.sign_in(door.tokens.issue("ann", Scope.MANAGE), next="/apps/shop")
    assert (answer.status_code, answer.headers["location"]) == (303, "/apps/shop")
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("penstock=")
    assert {"HttpOnly", "Path=/", "SameSite=strict"} <= set(cookie.split("; "))
    assert "Domain" not in cookie
    assert SESSION - 60 < int(re.findall(r"Max-Age=(\d+)", cookie)[0]) <= SESSION
    shown = await window.get("/apps/shop")
    assert shown.status_code == 200
    assert ">ann<" in shown.text


async def test_over_https_the_cookie_never_travels_unencrypted(door: Door) -> None:
    async with door.browser() as client:
        data = {"token": door.tokens.issue("ann", Scope.MANAGE)}
        origin = {"Origin": "https://localhost:7070"}
        answer = await client.post("/sign-in", data=data, headers=origin)
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("__Host-penstock=")
    assert "Secure" in cookie
    async with door.browser(Cookie=cookie.partition(";")[0]) as client:
        assert (await client.get("/")).status_code == 200


async def test_a_session_ends_with_the_token_it_was_opened_with(door: Door) -> None:
    who = door.tokens.verify(door.tokens.issue("ann", Scope.MANAGE, seconds=60))
    assert door.tokens.session(door.tokens.open_session(who)).who.expires <= time.time() + 60
    long = door.tokens.verify(door.tokens.issue("ann", Scope.MANAGE))
    assert door.tokens.session(door.tokens.open_session(long)).who.expires <= time.time() + SESSION


async def test_signing_out_takes_the_cookie_away(door: Door) -> None:
    window = await door.signed_in()
    assert (await window.press("/sign-out")).headers["location"] == "/sign-in"
    assert (await window.get("/")).status_code == 303


async def test_an_invitation_works_once(door: Door) -> None:
    text = door.tokens.invite(door.tokens.verify(door.tokens.issue("ann", Scope.MANAGE)))
    assert (await Window(door.browser()).sign_in(text)).status_code == 303
    again = await Window(door.browser()).sign_in(text)
    assert again.status_code == 403
    assert "used already" in again.text
    assert "penstock dashboard" in again.text


def test_an_invitation_goes_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = Tokens(tmp_path / "token.key")
    text = tokens.invite(Identity("ann", Scope.MANAGE, None, time.time() + 60))
    later = time.monotonic() + INVITATION + 1
    monkeypatch.setattr(time, "monotonic", lambda: later)
    with pytest.raises(Forbidden, match="too old"):
        tokens.admit(text)


@pytest.mark.parametrize(
    "inside",
    [
        "https://evil.example/",
        "//evil.example",
        "/\\evil.example",
        "/runs/1\r\nSet-Cookie: a=b",
        "/runs/../../x",
        "javascript:alert(1)",
        "/sign-out",
        "/%2f/evil.example",
        "",
        "é",
    ],
)
async def test_a_sign_in_leads_nowhere_else(door: Door, inside: str) -> None:
    window = Window(door.browser())
    assert 'name="next" value="/">' in (await window.client.get("/sign-in", params={"next": inside})).text
    answer = await window.sign_in(door.tokens.issue("ann", Scope.MANAGE), next=inside)
    assert answer.headers["location"] == "/"


async def test_wrong_tokens_are_told_and_soon_have_to_wait(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    window = Window(door.browser())
    for number in range(sign_in.WRONG_TOKENS):
        answer = await window.sign_in("no.such.token" if number else "é.\0.\r\n")
        assert answer.status_code == 403
        assert "not valid here" in answer.text
        assert "set-cookie" not in answer.headers
    answer = await window.sign_in(good := door.tokens.issue("ann", Scope.MANAGE))
    assert answer.status_code == 429
    assert 0 < int(answer.headers["retry-after"]) <= sign_in.WRONG_WITHIN
    assert "too many wrong tokens" in answer.text
    monkeypatch.setattr(sign_in, "WRONG_WITHIN", 0.0)
    assert (await window.sign_in(good)).status_code == 303


def test_only_the_address_that_tries_has_to_wait_and_is_soon_forgotten() -> None:
    now = 0.0
    throttle = sign_in.Throttle(clock=lambda: now)
    for _ in range(sign_in.WRONG_TOKENS):
        throttle.check("10.0.0.1")
        throttle.note("10.0.0.1")
    throttle.check("10.0.0.2")
    with pytest.raises(sign_in.Throttled):
        throttle.check("10.0.0.1")
    now = sign_in.WRONG_WITHIN
    throttle.check("10.0.0.1")
    throttle.note("10.0.0.2")
    assert set(throttle._wrong) == {"10.0.0.2"}


async def test_a_cookie_that_was_made_elsewhere_or_has_expired_is_none(door: Door, tmp_path: Path) -> None:
    now = int(time.time())
    good = {"iss": ISSUER, "aud": SESSION_AUDIENCE, "sub": "eve", "iat": now, "exp": now + 60}
    good |= {"scope": "manage", "app": None, "jti": "x"}
    key = (tmp_path / "token.key").read_bytes()
    token = door.tokens.issue("eve", Scope.MANAGE)
    cookie = door.tokens.open_session(door.tokens.verify(token))
    head, body, signature = cookie.split(".")
    bad = (
        jwt.encode({**good, "exp": now - 1}, key, "HS256"),
        jwt.encode(good, b"k" * 32, "HS256"),
        jwt.encode(good, "", "none"),
        f"{head}.{body[:-2]}AA.{signature}",
        token,
        "nonsense",
        "",
        "a.b.c",
        f"{head}.{body}.{signature}.x",
    )
    for value in bad:
        async with door.browser(Cookie=f"penstock={value}") as client:
            assert (await client.get("/")).status_code == 303, value
    async with door.browser(Cookie=f"penstock={jwt.encode(good, key, 'HS256')}") as client:
        assert (await client.get("/")).status_code == 200, "the others fail for what they are told to"
    with pytest.raises(Forbidden):
        door.tokens.verify(cookie)


# -- looking on


async def test_a_token_for_pushes_looks_and_does_not_act(door: Door) -> None:
    await door.house.pushed(page("one"))
    run = await door.house.pushed(page("two", GATED))
    window = await door.signed_in("bob", Scope.PUSH)
    for path in ("/", "/apps/shop", f"/runs/{run.id}"):
        shown = await window.get(path)
        assert "bob, looking on" in shown.text
        assert re.findall(r'action="(.*?)"', shown.text) == ["/sign-out"]
    for path in ACTIONS:
        answer = await window.press(path)
        assert answer.status_code == 403
        assert "you may look, not act" in answer.text
    assert len(await door.runs()) == 2


async def test_a_token_for_one_app_sees_nothing_of_the_others(door: Door) -> None:
    await door.house.orders.register("blog")
    run = await door.house.pushed(page("one"))
    window = await door.signed_in("bob", Scope.PUSH, app="blog")
    board = (await window.get("/")).text
    assert "blog" in board
    assert "shop" not in board
    for path in ("/apps/shop", f"/runs/{run.id}", f"/runs/{run.id}/events", f"/runs/{run.id}/logs/test"):
        answer = await window.get(path)
        assert answer.status_code == 404
        assert "penstock-test" not in answer.text
    assert (await window.get("/apps/shop/events")).status_code == 404


# -- the buttons


async def test_an_approval_lets_the_run_through_and_tells_who_it_was(door: Door) -> None:
    await door.house.pushed(page("one"))
    run = await door.house.pushed(page("two", GATED))
    window = await door.signed_in("ann")
    for path in ("/", "/apps/shop", f"/runs/{run.id}"):
        shown = await window.get(path)
        assert button(shown, f"/runs/{run.id}/approve"), path
        assert "awaits approval" in shown.text
    assert "Not live." in (shown := await window.get(f"/runs/{run.id}")).text
    assert "v1 serves meanwhile" in shown.text
    answer = await window.press(f"/runs/{run.id}/approve")
    assert (answer.status_code, answer.headers["location"]) == (303, f"/runs/{run.id}")
    assert (await door.house.ended(run)).status is RunStatus.SUCCEEDED
    shown = await window.get(f"/runs/{run.id}")
    assert re.search(r"approved by ann\s+<span class=\"quiet\">\s*<time", shown.text)
    assert not button(shown, f"/runs/{run.id}/approve")


async def test_what_was_approved_or_superseded_meanwhile_is_told(door: Door) -> None:
    run = await door.house.pushed(page("one", GATED))
    ann, bob = await door.signed_in("ann"), await door.signed_in("bob")
    await ann.press(f"/runs/{run.id}/approve")
    await door.house.ended(run)
    answer = await bob.press(f"/runs/{run.id}/approve")
    assert answer.status_code == 409
    assert "nothing to approve" in answer.text
    assert f'href="/runs/{run.id}">See how it is now' in answer.text
    old = await door.house.pushed(page("two", GATED))
    new = await door.house.pushed(page("three", GATED))
    answer = await bob.press(f"/runs/{old.id}/approve")
    assert answer.status_code == 409
    assert f"superseded by run {new.id}" in answer.text


async def test_back_to_a_release_and_forward_again(door: Door) -> None:
    first = await door.house.pushed(page("one"))
    await door.house.pushed(page("two"))
    window = await door.signed_in("ann")
    shown = await window.get("/apps/shop")
    assert button(shown, "/apps/shop/rollback/1")
    assert not button(shown, "/apps/shop/rollback/2"), "it is live"
    back = (await window.press("/apps/shop/rollback/1")).headers["location"]
    run = (await door.runs())[0]
    assert (back, run.kind, run.actor) == (f"/runs/{run.id}", RunKind.ROLLBACK, "ann")
    await door.house.ended(run)
    assert (await door.house.app()).live_release == first.release
    shown = await window.get("/")
    assert "v1 stays after a rollback" in shown.text
    assert button(shown, "/apps/shop/unpin")
    await window.press("/apps/shop/unpin")
    await door.house.ended((await door.runs())[0])
    shown = await window.get("/")
    assert not button(shown, "/apps/shop/unpin")
    assert not (await door.house.app()).pinned


async def test_a_red_run_is_retried_and_both_tell_of_it(door: Door) -> None:
    red = await door.house.pushed({"penstock.yaml": "web: serve\nstatic: nowhere\n"})
    assert red.status is RunStatus.FAILED
    window = await door.signed_in("ann")
    assert button(await window.get("/"), f"/runs/{red.id}/retry")
    assert button(await window.get(f"/runs/{red.id}"), f"/runs/{red.id}/retry")
    answer = await window.press(f"/runs/{red.id}/retry")
    run = (await door.runs())[0]
    assert answer.headers["location"] == f"/runs/{run.id}"
    shown = await window.get(f"/runs/{run.id}")
    assert f"retry of run {red.id} from" in shown.text
    assert f'href="/runs/{red.id}"' in shown.text
    await door.house.ended(run)
    assert not button(await window.get(f"/runs/{red.id}"), f"/runs/{red.id}/retry"), "another came after it"


async def test_a_red_push_can_be_retried_after_its_variables_were_set(door: Door) -> None:
    await door.house.pushed(page("one"))
    red = await door.house.pushed({"penstock.yaml": "web: serve\nstatic: nowhere\n"})
    configured = await door.house.orders.configure("shop", {"A": Variable("1")}, by="ann")
    assert configured is not None
    await door.house.ended(configured)
    window = await door.signed_in("ann")
    assert button(await window.get(f"/runs/{red.id}"), f"/runs/{red.id}/retry")


async def test_a_run_that_awaits_approval_can_be_cancelled(door: Door) -> None:
    run = await door.house.pushed(page("one", GATED))
    window = await door.signed_in("ann")
    assert (await window.press(f"/runs/{run.id}/cancel")).status_code == 303
    shown = await window.get(f"/runs/{run.id}")
    assert "Cancelled by ann." in shown.text
    assert not button(shown, f"/runs/{run.id}/cancel")


async def test_the_edges_are_refreshed_and_the_live_commit_is_redeployed(door: Door) -> None:
    await door.house.pushed(page("one"))
    window = await door.signed_in("ann")
    for path, kind in (("/apps/shop/refresh", RunKind.REFRESH), ("/apps/shop/redeploy", RunKind.REDEPLOY)):
        assert button(await window.get("/apps/shop"), path)
        await window.press(path)
        run = (await door.runs())[0]
        assert (run.kind, run.actor) == (kind, "ann")
        assert (await door.house.ended(run)).status is RunStatus.SUCCEEDED


async def test_the_page_of_an_app_names_its_variables_and_never_their_values(door: Door) -> None:
    changes = {"GREETING": Variable("hello-world"), "KEY": Variable("s3cr3t-value", secret=True)}
    await door.house.orders.configure("shop", changes, by="ann")
    text = (await (await door.signed_in()).get("/apps/shop")).text
    assert "<code>GREETING</code>" in text
    assert '<code>KEY</code> <span class="quiet">secret' in text
    assert "hello-world" not in text
    assert "s3cr3t" not in text


async def test_what_needs_a_human_is_first_on_the_board(door: Door) -> None:
    for name in ("aaa", "bbb"):
        await door.house.orders.register(name)
    await door.house.pushed(page("one", GATED))
    text = (await (await door.signed_in()).get("/")).text
    assert re.findall(r'<h2 id="app-(\w+)"', text) == ["shop", "aaa", "bbb"]


# -- attacks on the buttons


@pytest.mark.parametrize("path", [*ACTIONS, "/sign-out"])
async def test_a_form_from_elsewhere_moves_nothing(door: Door, path: str) -> None:
    await door.house.pushed(page("one"))
    await door.house.pushed(page("two", GATED))
    window, other = await door.signed_in("ann"), await door.signed_in("ann")
    own, foreign = await window.form(), await other.form()
    assert own != foreign
    for form, headers in (
        ("", OURS),
        (foreign, OURS),
        (own[:-1], OURS),
        ("é", OURS),
        (own, {}),
        (own, {"Origin": "null"}),
        (own, {"Origin": "http://evil.example"}),
        (own, {"Origin": "http://localhost:7100"}),
        (own, {"Origin": "http://["}),
        (own, {"Sec-Fetch-Site": "same-site", **OURS}),
        (own, {"Sec-Fetch-Site": "cross-site", **OURS}),
        (own, {"Sec-Fetch-Site": "none"}),
    ):
        answer = await window.client.post(path, data={"form": form}, headers=headers)
        assert answer.status_code == 403, (form, headers)
        assert "This did not work" in answer.text
    async with door.browser() as stranger:
        answer = await stranger.post(path, data={"form": own}, headers=OURS)
        assert answer.status_code == 401
    runs = await door.runs()
    assert [run.status for run in runs] == [RunStatus.AWAITING, RunStatus.SUCCEEDED]
    assert (await window.get("/")).status_code == 200


@pytest.mark.parametrize("path", [*ACTIONS, "/sign-out"])
async def test_nothing_but_a_form_moves_anything(door: Door, path: str) -> None:
    await door.house.pushed(page("one", GATED))
    window = await door.signed_in("ann")
    for method in ("GET", "HEAD", "PUT", "DELETE"):
        answer = await window.client.request(method, path, headers=OURS)
        assert answer.status_code in (404, 405), method
    assert [run.status for run in await door.runs()] == [RunStatus.AWAITING]
    assert (await window.get("/")).status_code == 200


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b'{"form": "x"}', "application/json"),
        (b"form=x", "text/plain"),
        (b"form=" + b"x" * 20_000, "application/x-www-form-urlencoded"),
        (b"&".join(b"a%d=b" % number for number in range(99)), "application/x-www-form-urlencoded"),
        (b"\xff\xfe", "application/x-www-form-urlencoded"),
        (b"form=%ff", "application/x-www-form-urlencoded"),
    ],
)
async def test_what_is_no_form_of_ours_is_told_by_a_page(door: Door, body: bytes, content_type: str) -> None:
    window = await door.signed_in("ann")
    for path in ("/sign-in", "/apps/shop/refresh"):
        headers = {**OURS, "Content-Type": content_type}
        answer = await window.client.post(path, content=body, headers=headers)
        assert answer.status_code == 422, answer.text
        assert "<h1>This did not work</h1>" in answer.text


async def test_a_sign_in_from_another_site_is_refused(door: Door) -> None:
    async with door.browser() as client:
        data = {"token": door.tokens.issue("eve", Scope.MANAGE)}
        answer = await client.post("/sign-in", data=data, headers={"Origin": "http://evil.example"})
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


async def test_no_page_is_framed_or_kept_and_none_holds_the_cookie(door: Door) -> None:
    run = await door.house.pushed(page("one", GATED))
    window = await door.signed_in("ann")
    cookie = window.client.cookies["penstock"]
    answers = [
        await window.get(path) for path in ("/", "/apps/shop", f"/runs/{run.id}", "/sign-in", "/runs/9")
    ]
    answers += [await window.press("/apps/shop/unpin"), await window.client.post("/apps/shop/unpin")]
    for answer in answers:
        assert answer.headers["x-frame-options"] == "DENY"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert "form-action 'self'" in answer.headers["content-security-policy"]
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert cookie not in answer.text


@pytest.mark.parametrize(
    "path", ["/apps/%3Cscript%3E/unpin", "/apps/shop/rollback/x", "/apps/shop/rollback/99", "/runs/-1/cancel"]
)
async def test_what_is_not_there_cannot_be_moved(door: Door, path: str) -> None:
    answer = await (await door.signed_in("ann")).press(path)
    assert answer.status_code == 404
    assert "<script>" not in answer.text
