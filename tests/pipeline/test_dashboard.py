"""The dashboard over a real store and real logs; live pages over a real server."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from plugins.house import eventually
from plugins.recorded import RecordingOrders

from penstock_pipeline import plan
from penstock_pipeline.dashboard import View, live, pages, router
from penstock_pipeline.dashboard.live import Cursor
from penstock_pipeline.dashboard.output import PIECE, Mark
from penstock_pipeline.model import App, Run, RunStatus, StageName
from penstock_pipeline.settings import Settings
from penstock_pipeline.store import SqliteStore, history, queue, registry
from penstock_pipeline.store.logs import Logs
from penstock_pipeline.tokens import Scope, Tokens

COMMIT = "4f51232" + "a" * 33
EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"


def urls(app: App) -> Mapping[str, Any]:
    return {
        "app": f"http://{app.name}.localhost:7080/",
        "port": f"http://127.0.0.1:{app.port}/",
        "edges": [f"http://{app.name}.localhost:7081/"],
    }


@dataclass
class House:
    """A store that tests move by hand, as an engine would."""

    view: View
    web: FastAPI

    @property
    def logs(self) -> Logs:
        return self.view.logs

    async def write(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        return await self.view.store.write(function, *args, **kwargs)

    async def app(self, name: str = "shop", branch: str = "main") -> App:
        return await self.write(registry.add, name=name, branch=branch, port=7100)

    async def push(self, app: App, commit: str = COMMIT, actor: str = "alice") -> Run:
        facts = {"ref": app.live_ref, "commit": commit, "pusher": actor, "source": "git"}
        return (await self.write(queue.accept, app, **facts)).run

    async def moving(self, app: App, stage: StageName = StageName.TEST, **push: str) -> Run:
        """A run that is in `stage`."""
        run = await self.push(app, **push)
        [run] = await self.write(queue.claim, holder="tests", most=1)
        stages = plan.stages(run.kind)
        for done in stages[: stages.index(stage)]:
            await self.stage(run, done)
        await self.write(queue.start_stage, run, stage)
        return run

    async def stage(self, run: Run, stage: StageName, says: str = "went well") -> None:
        await self.write(queue.start_stage, run, stage)
        await self.write(queue.end_stage, run, stage, says=says, result={}, seconds=0.1)

    async def live(self, app: App, **push: str) -> Run:
        """A run that went all the way."""
        run = await self.moving(app, StageName.DEPLOY, **push)
        release = await self.write(queue.create_release, run, image="sha256:1", manifest=None, config={})
        await self.write(queue.go_live, run, release)
        await self.stage(run, StageName.DEPLOY)
        await self.stage(run, StageName.REFRESH)
        data = {"undo": f"penstock rollback {app.name}"}
        await self.write(queue.finish, run.id, RunStatus.SUCCEEDED, data=data)
        return run

    async def failed(self, app: App, error: str, tail: tuple[str, ...] = ()) -> Run:
        run = await self.moving(app, StageName.START)
        await self.write(queue.fail_stage, run, StageName.START, error)
        data = {"stage": "start", "tail": tail, "live": None}
        await self.write(queue.finish, run.id, RunStatus.FAILED, error=error, data=data)
        return run

    def cookie(self, name: str = "ann", **token: Any) -> dict[str, str]:
        """What a browser of someone who signed in sends."""
        token = {"scope": Scope.MANAGE, **token}
        opened = self.view.tokens.verify(self.view.tokens.issue(name, **token))
        return {"Cookie": f"penstock={self.view.tokens.open_session(opened)}"}

    async def get(self, path: str, **headers: str) -> httpx.Response:
        transport = httpx.ASGITransport(self.web)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost:7070") as client:
            return await client.get(path, headers={**self.cookie(), **headers})


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    store = SqliteStore(tmp_path / "penstock.db")
    await store.open()
    logs = Logs(tmp_path / "logs", limit=2**24, changes=store.changes)
    tokens = Tokens(tmp_path / "token.key")
    view = View(RecordingOrders(store), tokens, store, logs, Settings(state=tmp_path), urls)
    web = FastAPI()
    web.include_router(router(view))
    yield House(view, web)
    await store.close()


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def served(house: House) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a real server, whose stop must not wait for live pages."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = _Server(uvicorn.Config(house.web, log_level="warning", lifespan="off", ws="none"))
    task = asyncio.create_task(server.serve([listener]), name="server")
    base = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        async with httpx.AsyncClient(base_url=base, timeout=10, headers=house.cookie()) as client:
            await eventually(lambda: server.started)
            yield client
    finally:
        house.view.streams.end()
        server.should_exit = True
        await task


@dataclass
class Heard:
    """One server-sent event."""

    kind: str
    id: str
    data: dict[str, str]


class Listener:
    """Reads events off a response."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._lines = response.aiter_lines()

    async def next(self) -> Heard:
        fields: dict[str, str] = {}
        async with asyncio.timeout(10):
            async for line in self._lines:
                if not line and fields:
                    return Heard(fields["event"], fields["id"], json.loads(fields["data"]))
                name, _, value = line.partition(": ")
                if name:
                    fields[name] = value
        raise EOFError

    async def comment(self) -> str:
        async with asyncio.timeout(10):
            return await anext(line async for line in self._lines if line.startswith(":"))

    async def until(self, kind: str) -> list[Heard]:
        """Every event up to the first of this kind, that one included."""
        heard = [await self.next()]
        while heard[-1].kind != kind:
            heard.append(await self.next())
        return heard


@asynccontextmanager
async def listening(client: httpx.AsyncClient, path: str, **headers: str) -> AsyncIterator[Listener]:
    async with client.stream("GET", path, headers=headers) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        yield Listener(response)


def events_of(page: httpx.Response) -> str:
    """Where the script of a page listens."""
    found = re.search(r'data-events="([^"]+)"', page.text)
    assert found is not None
    return found[1]


def log_of(page: str, stage: str = "test") -> str:
    """What a page shows of a log."""
    found = re.search(rf'id="log-{stage}".*?<pre[^>]*>\n(.*?)</pre>', page, re.DOTALL)
    return "" if found is None else found[1]


def text_of(heard: list[Heard]) -> str:
    """What the script makes of a log's events."""
    shown = ""
    for event in heard:
        if event.kind == "log":
            fresh = "html" in event.data
            shown = log_of(event.data["html"]) if fresh else shown + event.data["text"]
    return shown


# -- pages


async def test_an_empty_house_tells_how_to_begin(house: House) -> None:
    page = await house.get("/")
    assert page.status_code == 200
    assert "penstock apps add shop" in page.text


async def test_the_board_tells_what_is_live_what_moves_and_what_needs_a_human(house: House) -> None:
    shop, blog = await house.app("shop"), await house.app("blog")
    await house.live(shop)
    await house.moving(shop, StageName.BUILD, commit="b" * 40)
    red = await house.failed(blog, "not healthy within 20s\nand a second line")
    text = (await house.get("/")).text
    blog_card, shop_card = re.findall(r"<article.*?</article>", text, re.DOTALL)
    assert "<strong>v1</strong>" in shop_card
    assert "4f51232" in shop_card
    assert "by alice" in shop_card
    assert re.search(r"running</span>\s+build", shop_card)
    assert "Needs you" not in shop_card
    assert "Needs you" in blog_card
    assert f'href="/runs/{red.id}"' in blog_card
    assert re.search(r"failed</span>\s+at start", blog_card)
    assert "not healthy within 20s</p>" in blog_card
    assert "http://blog.localhost:7081/" in blog_card
    assert len(re.findall(r'<th scope="row">', text)) == 3


async def test_a_rollback_shows_as_pinned_until_the_next_push(house: House) -> None:
    app = await house.app()
    first = await house.live(app)
    await house.live(app, commit="b" * 40)
    release = (await house.view.store.read(history.releases_of, app.id))[-1]
    assert release.run_id == first.id
    run = await house.write(queue.roll_back, app, release, actor="bob")
    await house.write(queue.claim, holder="tests", most=1)
    await house.write(queue.go_live, run, release)
    await house.write(queue.finish, run.id, RunStatus.SUCCEEDED)
    assert "v1 stays after a rollback" in (await house.get("/")).text
    page = (await house.get(f"/runs/{run.id}")).text
    assert "rollback to v1" in page
    assert "Checkout" not in page, "a rollback has no checkout"
    await house.live(app, commit="c" * 40)
    assert "stays after a rollback" not in (await house.get("/")).text


async def test_a_newer_run_takes_the_failure_off_the_board(house: House) -> None:
    app = await house.app()
    await house.failed(app, "broken")
    assert "Needs you" in (await house.get("/")).text
    await house.push(app, commit="b" * 40)
    assert "Needs you" not in (await house.get("/")).text, "somebody has seen to it"


async def test_a_run_shows_its_stages_its_error_and_the_last_lines(house: House) -> None:
    app = await house.app()
    run = await house.failed(app, "no answer", tail=("KeyError: 'PORT'",))
    text = (await house.get(f"/runs/{run.id}")).text
    stages = re.findall(r'<li class="(\w+)">\s*<span class="name">(\w+)</span>', text)
    assert stages == [
        *(
            (state, name)
            for state, name in zip(["done"] * 4, ["Checkout", "Test", "Build", "Upload"], strict=True)
        ),
        ("failed", "Start"),
        ("skipped", "Deploy"),
        ("skipped", "Refresh"),
    ]
    assert "Failed at start" in text
    assert "KeyError: &#39;PORT&#39;" in text
    assert "Nothing serves." in text
    assert run.trace_id in text
    assert "data-events" not in text, "a run that has ended never changes"


@pytest.mark.parametrize("status", [status for status in RunStatus if status.ended])
async def test_every_ending_is_told_in_words(house: House, status: RunStatus) -> None:
    app = await house.app()
    run = await house.moving(app)
    error = "3333334 is part of v41 already" if status is RunStatus.IGNORED else None
    await house.write(queue.finish, run.id, status, error=error, superseded_by=7, data={"by": "bob"})
    for path in ("/", f"/runs/{run.id}"):
        assert f"</span> {status.value}</span>" in (await house.get(path)).text


async def test_a_superseded_run_links_to_the_one_that_took_its_place(house: House) -> None:
    app = await house.app()
    old = await house.push(app)
    new = await house.push(app, commit="b" * 40)
    assert f'<a href="/runs/{new.id}">run {new.id}</a>' in (await house.get(f"/runs/{old.id}")).text


@pytest.mark.parametrize(
    "number", ["999", "abc", "-1", "9" * 30, "²", "%00", "1/logs/build", "1/logs/nothing", "7/events"]
)
async def test_what_is_not_there_is_told_by_a_page(house: House, number: str) -> None:
    await house.push(await house.app())
    page = await house.get(f"/runs/{number}")
    assert page.status_code == 404
    assert "Not found" in page.text
    assert 'href="/"' in page.text


async def test_a_store_out_of_reach_is_told_by_a_page(house: House) -> None:
    await house.write(lambda tx: tx.exec_driver_sql("ALTER TABLE apps RENAME TO gone"))
    page = await house.get("/")
    assert page.status_code == 503
    assert "no such table" in page.text


# -- strangers' words


async def test_no_word_of_a_stranger_becomes_markup(house: House) -> None:
    app = await house.app(EVIL, branch=EVIL)
    await house.live(app, commit=EVIL, actor=EVIL)
    red = await house.failed(app, EVIL, tail=(EVIL,))
    moving = await house.moving(app, commit=f"{EVIL}2", actor=EVIL)
    with house.logs.open(moving.id, StageName.TEST) as log:
        log.write(f"{EVIL}\n".encode())
    blog = await house.app("blog", branch=EVIL)
    await house.live(blog, commit=EVIL, actor=EVIL)
    paths = ("/", "/apps/blog", f"/runs/{red.id}", f"/runs/{moving.id}")
    texts = [(await house.get(path)).text for path in paths]
    async with served(house) as client:
        for path in ("/events", f"/runs/{moving.id}/events"):
            async with listening(client, path) as stream:
                texts.append((await stream.next()).data["html"])
                if "runs" in path:
                    texts.append((await stream.next()).data["html"])
    for text in texts:
        assert "&lt;script&gt;" in text
        assert "<script>" not in text
        assert "<img src=x" not in text


async def test_control_characters_of_strangers_do_not_reach_the_page(house: House) -> None:
    app = await house.app()
    run = await house.moving(app, actor="al\u202eice\x1b[31m\x07")
    with house.logs.open(run.id, StageName.TEST) as log:
        log.write("10%\r50%\r100% \x1b[32mgreen\x1b[0m \u202e\x00done\n".encode())
    page = (await house.get(f"/runs/{run.id}")).text
    assert "alice" in page
    assert log_of(page) == "100% green done\n"


async def test_pages_bring_nothing_inline_and_say_so_to_the_browser(house: House) -> None:
    run = await house.failed(await house.app(), "broken")
    for path in ("/", f"/runs/{run.id}", "/runs/999", f"/runs/{run.id}/logs/test", "/assets/live.js"):
        page = await house.get(path)
        assert page.headers["content-security-policy"].startswith("default-src 'self'")
        assert page.headers["x-frame-options"] == "DENY"
        assert page.headers["x-content-type-options"] == "nosniff"
        assert page.headers["referrer-policy"] == "same-origin"
        if page.headers["content-type"].startswith("text/html"):
            assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?! type=\"module\" src=\"/)", page.text)


async def test_everything_a_page_refers_to_is_there(house: House) -> None:
    page = await house.get("/")
    paths = re.findall(r'(?:src|href)="(/[^"]+)"', page.text)
    for path in {*paths, "/favicon.ico"}:
        assert (await house.get(path)).status_code == 200, path
    assert (await house.get("/assets/..%2f__init__.py")).status_code == 404


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("localhost:7070", 200),
        ("127.0.0.1:7070", 200),
        ("[::1]:7070", 200),
        ("Penstock.localhost:7070", 200),
        ("evil.example:7070", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("evillocalhost", 403),
        ("", 403),
    ],
)
async def test_on_loopback_only_names_of_this_machine_are_answered(
    house: House, host: str, status: int
) -> None:
    for path in ("/", "/events", "/assets/style.css") if status == 403 else ("/", "/assets/style.css"):
        page = await house.get(path, Host=host)
        assert page.status_code == status
    if status == 403:
        assert "http://localhost:7070/" in page.text


async def test_bound_to_the_network_any_name_is_answered(house: House) -> None:
    view = house.view
    open_view = replace(view, settings=view.settings.model_copy(update={"address": "0.0.0.0"}))
    web = FastAPI()
    web.include_router(router(open_view))
    assert (await House(open_view, web).get("/", Host="deploy.example.com")).status_code == 200


# -- live


async def test_a_write_to_the_store_reaches_an_open_page(house: House) -> None:
    app = await house.app()
    where = events_of(await house.get("/"))
    async with served(house) as client, listening(client, where) as stream:
        run = await house.push(app)
        heard = await stream.next()
        assert heard.kind == "page"
        assert f'href="/runs/{run.id}"' in heard.data["html"]
        assert heard.data["says"] == f"shop: run {run.id} queued."


async def test_a_page_that_is_up_to_date_hears_nothing_twice(house: House) -> None:
    app = await house.app()
    await house.push(app)
    where = events_of(await house.get("/"))
    async with served(house) as client:
        async with listening(client, where) as stream:
            await house.push(app, commit="b" * 40)
            last = await stream.next()
        async with listening(client, where, **{"Last-Event-ID": last.id}) as stream:
            run = await house.push(app, commit="c" * 40)
            assert f'href="/runs/{run.id}"' in (await stream.next()).data["html"]


async def test_a_quiet_stream_is_kept_alive(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "KEEP_ALIVE", 0.05)
    where = events_of(await house.get("/"))
    async with served(house) as client, listening(client, where) as stream:
        assert await stream.comment() == ": nothing new"


async def test_output_arrives_line_by_line_and_the_stream_ends_with_the_run(house: House) -> None:
    run = await house.moving(await house.app())
    where = events_of(await house.get(f"/runs/{run.id}"))
    async with served(house) as client, listening(client, where) as stream:
        with house.logs.open(run.id, StageName.TEST) as log:
            log.write(b"one\ntw")
            assert text_of([first := await stream.next()]) == "one\n"
            log.write("ø\nthree".encode())
            assert (second := await stream.next()).data == {"stage": "test", "text": "twø\n"}
        await house.write(queue.finish, run.id, RunStatus.CANCELLED)
        heard = await stream.until("end")
        assert text_of([first, second, *heard]) == "one\ntwø\nthree"
        assert "cancelled" in next(event for event in heard if event.kind == "page").data["html"]
        with pytest.raises(EOFError):
            await stream.next()


async def test_connecting_again_neither_loses_nor_repeats_a_line(house: House) -> None:
    run = await house.moving(await house.app())
    with house.logs.open(run.id, StageName.TEST) as log:
        log.write(b"before the page\n")
        page = await house.get(f"/runs/{run.id}")
        shown, last = log_of(page.text), ""
        async with served(house) as client:
            for number in range(5):
                again = {"Last-Event-ID": last} if last else {}
                log.write(f"while nobody listens {number}\n".encode())
                async with listening(client, events_of(page), **again) as stream:
                    log.write(f"while it listens {number}\n".encode())
                    while f"while it listens {number}" not in shown:
                        heard = await stream.next()
                        shown, last = shown + heard.data["text"], heard.id
    assert shown.encode() == house.logs.read(run.id, StageName.TEST)


async def test_a_second_attempt_takes_the_place_of_the_first(house: House) -> None:
    run = await house.moving(await house.app())
    with house.logs.open(run.id, StageName.TEST) as log:
        log.write(b"first\n")
    async with served(house) as client, listening(client, f"/runs/{run.id}/events") as stream:
        assert text_of(await stream.until("log")) == "first\n"
        house.logs.drop(run.id, StageName.TEST)
        await house.write(queue.retry_stage, run, StageName.TEST, "the runtime does not answer")
        heard = await stream.until("log")
        assert text_of(heard) == "", "what the first attempt said is not the second's"
        assert "because the runtime does not answer" in heard[0].data["html"]
        with house.logs.open(run.id, StageName.TEST) as log:
            log.write(b"second, and longer\n")
            heard += await stream.until("log")
    assert text_of(heard) == "second, and longer\n"


async def test_a_page_that_missed_the_second_attempt_starts_afresh(house: House) -> None:
    run = await house.moving(await house.app())
    await house.write(queue.retry_stage, run, StageName.TEST, "the runtime does not answer")
    with house.logs.open(run.id, StageName.TEST) as log:
        log.write(b"second, and longer\n")
    async with served(house) as client, listening(client, f"/runs/{run.id}/events?after=;test=1@6") as stream:
        assert text_of(await stream.until("log")) == "second, and longer\n"


async def test_of_a_long_log_the_end_is_shown_and_the_whole_is_there_to_take(house: House) -> None:
    run = await house.moving(await house.app())
    whole = b"".join(b"line %07d \xc3\xb8\n" % number for number in range(200_000))
    with house.logs.open(run.id, StageName.TEST) as log:
        log.write(whole)
    page = (await house.get(f"/runs/{run.id}")).text
    shown = log_of(page).encode()
    assert 0 < len(shown) <= PIECE
    assert whole.endswith(b"\n" + shown)
    assert f"<code>penstock logs {run.id} --stage test</code>" in page
    taken = await house.get(f"/runs/{run.id}/logs/test")
    assert taken.headers["content-type"].startswith("text/plain")
    assert taken.content == whole


async def test_a_page_that_is_far_behind_gets_all_of_it(house: House) -> None:
    run = await house.moving(await house.app())
    whole = b"".join(b"line %06d\n" % number for number in range(30_000)) + b"x" * (3 * PIECE)
    with house.logs.open(run.id, StageName.TEST) as log:
        log.write(whole)
    await house.write(queue.finish, run.id, RunStatus.CANCELLED)
    async with served(house) as client, listening(client, f"/runs/{run.id}/events?after=;test=1@0") as stream:
        texts = [event.data["text"] for event in await stream.until("end") if event.kind == "log"]
    assert "".join(texts).encode() == whole
    assert max(map(len, texts)) <= PIECE


async def test_a_stream_ends_with_its_session(house: House) -> None:
    await house.app()
    cookie = house.cookie(seconds=2)
    async with served(house) as client, listening(client, "/events", **cookie) as stream:
        await stream.next()
        with pytest.raises(EOFError):
            await stream.next()


async def test_a_page_that_is_closed_leaves_nothing_behind(house: House) -> None:
    run = await house.moving(await house.app())
    async with served(house) as client:
        for path in ("/events", f"/runs/{run.id}/events"):
            async with listening(client, path) as stream:
                await stream.next()
                assert len(house.view.streams) == 1
            await eventually(lambda: len(house.view.streams) == 0)


async def test_a_server_that_stops_does_not_wait_for_open_pages(house: House) -> None:
    async with served(house) as client, listening(client, "/events") as stream:
        await stream.next()
        house.view.streams.end()
        with pytest.raises(EOFError):
            await stream.next()


# -- small decisions


@pytest.mark.parametrize("text", ["", "4f51;test=1@65", ";test=2@0;build=1@7", "4f51"])
def test_a_cursor_reads_what_it_writes(text: str) -> None:
    assert str(Cursor.parse(text)) == text


@pytest.mark.parametrize("text", ["é", "4f51;test", "4f51;test=1@-1", "x" * 9999, "4f51;test=1@" + "9" * 99])
def test_text_that_is_no_cursor_has_seen_nothing(text: str) -> None:
    assert Cursor.parse(text) == Cursor()


def test_a_cursor_knows_stages_only() -> None:
    assert Cursor.parse("4f51;nothing=1@5;test=1@5").marks == {StageName.TEST: Mark(1, 5)}


@pytest.mark.parametrize(
    ("seconds", "ago", "elapsed"),
    [
        (0, "just now", "0s"),
        (59, "just now", "59s"),
        (61, "1 min ago", "1m 01s"),
        (7500, "2 h ago", "2h 05m"),
        (200_000, "2 d ago", "55h 33m"),
        (-5, "just now", "0s"),
    ],
)
def test_times_read_as_people_say_them(seconds: int, ago: str, elapsed: str) -> None:
    now = datetime.now(UTC)
    then = now - timedelta(seconds=seconds)
    assert (pages.ago(then, now), pages.elapsed(then, now)) == (ago, elapsed)
