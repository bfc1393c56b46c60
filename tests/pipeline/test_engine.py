"""The engine over real git and a real store, with the ports' fakes told what to do."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from plugins.engine import SERVICE, House, held, page
from plugins.house import eventually
from sqlalchemy import Connection

from penstock_pipeline import engine as engine_module
from penstock_pipeline import plan
from penstock_pipeline.cdn import Answer
from penstock_pipeline.engine import Engine
from penstock_pipeline.errors import (
    Conflict,
    EdgeUnavailable,
    Invalid,
    NotFound,
    RepositoryUnavailable,
    RuntimeUnavailable,
    StoreUnavailable,
)
from penstock_pipeline.model import App, Run, RunKind, RunStatus, StageName
from penstock_pipeline.repositories import Repository
from penstock_pipeline.runtimes import Route
from penstock_pipeline.runtimes.fake import Scripted
from penstock_pipeline.store import history, queue, registry
from penstock_pipeline.variables import Variable


async def test_a_run_passes_every_stage_and_moves_the_branch(house: House) -> None:
    run = await house.pushed(page("one", SERVICE + "test: check\n"))
    assert run.status is RunStatus.SUCCEEDED
    records = await house.store.read(history.stage_records, run.id)
    passed = [(record.stage, record.status) for record in records]
    assert passed == [(stage, "done") for stage in plan.stages(RunKind.PUSH)]
    assert await house.parts.repositories.tip("shop", "refs/heads/main") == run.commit
    assert (await house.app()).live_run == run.id
    await eventually(lambda: not (house.settings.state / "work" / str(run.id)).exists())
    assert house.parts.packing.stats().completed == 2  # the static files, when built and when uploaded


async def test_a_part_that_is_away_for_a_moment_is_tried_again(house: House) -> None:
    house.runtime.unavailable = 2
    assert (await house.pushed(page("one"))).status is RunStatus.SUCCEEDED


async def test_a_part_that_stays_away_ends_the_run_with_its_name(house: House) -> None:
    house.origin.down = True
    run = await house.pushed(page("one"))
    assert (run.status, run.error) == (RunStatus.FAILED, "the origin is down")


async def test_red_tests_end_the_run_before_anything_is_built(house: House) -> None:
    house.runtime.commands["check"] = Scripted(code=3, output=b"this is why\n")
    run = await house.pushed(page("one", SERVICE + "test: check\n"))
    assert run.error == "`check` ended with exit code 3"
    (failed,) = [
        event for event in await house.store.read(history.events_after, 0) if event.kind == "run.failed"
    ]
    assert (failed.stage, failed.data["tail"]) == (StageName.TEST, ["this is why"])
    assert [call for call, _ in house.runtime.calls if call in ("start", "switch")] == []


async def test_a_sick_candidate_gets_no_traffic_and_is_ended(house: House) -> None:
    first = await house.pushed(page("one"))
    commit = house.work.commit(page("two"))
    house.runtime.never_healthy.add(commit)
    run = await house.ended(await house.accept(commit))
    assert run.status is RunStatus.FAILED
    assert house.runtime.routes["shop"].candidate == f"shop-{first.id}"
    await eventually(lambda: list(house.runtime.running) == [f"shop-{first.id}"])
    assert house.origin.serve("shop", "/index.html") == b"one"


async def test_only_what_differs_is_purged(house: House) -> None:
    await house.pushed(page("one"))
    house.edges[0].purged.clear()
    await house.pushed(page("two"))
    assert {path for _, path in house.edges[0].purged} == {"/", "/index.html"}


async def test_an_edge_that_is_down_makes_the_run_red_and_is_owed_the_refresh(house: House) -> None:
    await house.pushed(page("one"))
    await house.edges[0].fetch("shop.localhost", "/index.html")
    house.edges[0].down = True
    run = await house.pushed(page("two"))
    assert run.status is RunStatus.FAILED
    assert run.error == (
        "v2 is live, but 1 of 2 edges do not serve it: edge-1: edge edge-1 is down\n"
        "to ask them again: penstock refresh shop"
    )
    app = await house.app()
    assert await house.store.read(queue.owed, app.id) == {"edge-1": ("/", "/index.html")}
    house.edges[0].down = False
    # the next release differs elsewhere only, yet what is owed from before is purged with it
    after = await house.pushed({**page("two"), "public/same.txt": "other"})
    assert after.status is RunStatus.SUCCEEDED
    assert (await house.edges[0].fetch("shop.localhost", "/index.html")).release == "v3"


async def test_an_edge_that_goes_away_is_asked_nothing_more(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0

    async def away(host: str, path: str) -> Answer:
        nonlocal asked
        if path == "/":
            raise EdgeUnavailable("edge edge-1 is down")
        asked += 1
        try:
            await asyncio.sleep(600)
        finally:
            asked -= 1
        raise AssertionError

    monkeypatch.setattr(house.edges[0], "fetch", away)
    run = await house.pushed(page("one"))
    assert run.error is not None
    assert "1 of 2 edges do not serve it: edge-1: edge edge-1 is down" in run.error
    assert asked == 0


async def test_a_red_refresh_is_retried_alone(house: House) -> None:
    await house.pushed(page("one"))
    await house.edges[0].fetch("shop.localhost", "/index.html")
    house.edges[0].down = True
    await house.pushed(page("two"))
    house.edges[0].down = False
    calls = len(house.runtime.calls)
    again = await house.ended(await house.orders.refresh("shop", by="ann"))
    assert again.status is RunStatus.SUCCEEDED
    assert [call for call, _ in house.runtime.calls[calls:] if call != "retire"] == []
    assert (await house.edges[0].fetch("shop.localhost", "/index.html")).release == "v2"
    assert await house.store.read(queue.owed, (await house.app()).id) == {}


async def test_a_refresh_is_of_what_is_live_when_it_comes_to_it(house: House) -> None:
    await house.pushed(page("one"))
    house.runtime.commands["check"] = Scripted(hangs=True)
    moving = await house.push(page("two", SERVICE + "test: check\n"))
    await eventually(lambda: ("execute", f"shop-{moving.id}-test") in house.runtime.calls)
    refresh = await house.orders.refresh("shop", by="ann")
    await house.orders.cancel(moving.id, by="ann")
    assert (await house.ended(refresh)).status is RunStatus.SUCCEEDED


async def test_there_must_be_something_to_refresh(house: House) -> None:
    with pytest.raises(Conflict, match="nothing of shop is live yet"):
        await house.orders.refresh("shop", by="ann")


async def test_an_edge_that_purges_nothing_is_found_out(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.pushed(page("one"))
    for edge in house.edges:
        await edge.fetch("shop.localhost", "/index.html")

    async def lie(host: str, paths: Sequence[str]) -> None:
        pass

    monkeypatch.setattr(house.edges[1], "purge", lie)
    run = await house.pushed(page("two"))
    assert run.error is not None
    assert "1 of 2 edges do not serve it: edge-2: / is stale and 1 more" in run.error


async def test_a_deleted_page_is_gone_from_every_edge(house: House) -> None:
    await house.pushed({**page("one"), "public/old.html": "old"})
    for edge in house.edges:
        assert (await edge.fetch("shop.localhost", "/old.html")).status == 200
    (house.work.folder / "public/old.html").unlink()
    assert (await house.pushed(page("one"))).status is RunStatus.SUCCEEDED
    for edge in house.edges:
        assert (await edge.fetch("shop.localhost", "/old.html")).status == 404


async def test_cancel_ends_a_run_that_moves(house: House) -> None:
    house.runtime.commands["check"] = Scripted(hangs=True)
    run = await house.push(page("one", SERVICE + "test: check\n"))
    await eventually(lambda: ("execute", f"shop-{run.id}-test") in house.runtime.calls)
    assert (await house.orders.cancel(run.id, by="ann")).status is RunStatus.CANCELLED
    with pytest.raises(Conflict, match="cancelled already"):
        await house.orders.cancel(run.id, by="ann")


async def test_cancel_takes_a_waiting_run_out_of_the_queue(house: House) -> None:
    house.runtime.commands["check"] = Scripted(hangs=True)
    first = await house.push(page("one", SERVICE + "test: check\n"))
    await eventually(lambda: ("execute", f"shop-{first.id}-test") in house.runtime.calls)
    second = await house.push(page("two"))
    assert (await house.orders.cancel(second.id, by="ann")).status is RunStatus.CANCELLED
    assert (await house.store.read(history.run, first.id)).status is RunStatus.RUNNING


async def test_a_deploy_cannot_be_cancelled_and_says_how_it_is_undone(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    switching, go_on = asyncio.Event(), asyncio.Event()
    switch = house.runtime.switch

    async def slowly(route: Route) -> None:
        switching.set()
        await go_on.wait()
        await switch(route)

    monkeypatch.setattr(house.runtime, "switch", slowly)
    run = await house.push(page("one"))
    await switching.wait()
    with pytest.raises(Conflict, match="penstock rollback shop"):
        await house.orders.cancel(run.id, by="ann")
    go_on.set()
    assert (await house.ended(run)).status is RunStatus.SUCCEEDED
    assert (await house.app()).live_run == run.id
    assert await house.parts.repositories.tip("shop", "refs/heads/main") == run.commit


async def test_a_branch_that_cannot_move_changes_nothing_visitors_see(house: House) -> None:
    first = await house.pushed(page("one"))
    lock = house.parts.repositories.path("shop") / "refs/heads/main.lock"
    lock.touch()
    run = await house.pushed(page("two"))
    assert run.status is RunStatus.FAILED
    assert run.error is not None
    assert "main.lock" in run.error
    assert house.runtime.routes["shop"].candidate == f"shop-{first.id}"
    assert house.origin.serve("shop", "/index.html") == b"one"
    await eventually(lambda: list(house.runtime.running) == [f"shop-{first.id}"])


async def test_a_switch_that_fails_is_taken_back(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(route: Route) -> None:
        raise RuntimeUnavailable("the router is away")

    first = await house.pushed(page("one"))
    monkeypatch.setattr(house.runtime, "switch", broken)
    run = await house.pushed(page("two"))
    assert (run.status, run.error) == (RunStatus.FAILED, "the router is away")
    assert house.origin.serve("shop", "/index.html") == b"one"
    assert await house.parts.repositories.tip("shop", "refs/heads/main") == first.commit


async def test_a_first_release_that_fails_to_go_live_leaves_nothing(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(route: Route) -> None:
        raise RuntimeUnavailable("the router is away")

    monkeypatch.setattr(house.runtime, "switch", broken)
    assert (await house.pushed(page("one"))).status is RunStatus.FAILED
    assert house.origin.serve("shop", "/index.html") is None
    assert await house.parts.repositories.tip("shop", "refs/heads/main") is None


async def test_a_rollback_skips_what_never_went_live(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(route: Route) -> None:
        raise RuntimeUnavailable("the router is away")

    await house.pushed(page("one"))
    with monkeypatch.context() as patched:
        patched.setattr(house.runtime, "switch", broken)
        assert (await house.pushed(page("two"))).status is RunStatus.FAILED
    assert (await house.pushed(page("three"))).status is RunStatus.SUCCEEDED
    assert house.runtime.routes["shop"].release == "v3"
    back = await house.orders.roll_back("shop", version=None, by="ann")
    assert (await house.ended(back)).status is RunStatus.SUCCEEDED
    assert house.runtime.routes["shop"].release == "v1"


class Gate:
    """Holds a function of the store, once it has done its work, until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, where: object, name: str) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()
        held = getattr(where, name)

        def holding(*args: Any, **kwargs: Any) -> Any:
            done = held(*args, **kwargs)
            if done:
                self.reached.set()
                assert self.opened.wait(20)
            return done

        monkeypatch.setattr(where, name, holding)


async def test_a_cancel_in_the_moment_of_the_claim_holds(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch, queue, "claim")
    accepting = asyncio.create_task(house.push(page("one")))
    await eventually(gate.reached.is_set)
    run = await accepting
    cancelling = asyncio.create_task(house.orders.cancel(run.id, by="ann"))
    await house.store.read(history.run, run.id)
    gate.opened.set()
    assert (await cancelling).status is RunStatus.CANCELLED
    assert (await house.pushed(page("two"))).status is RunStatus.SUCCEEDED
    assert [name for call, name in house.runtime.calls if call == "start"] == [f"shop-{run.id + 1}"]


async def test_a_cancel_that_comes_too_late_is_told(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch, queue, "finish")
    run = await house.push(page("one"))
    await eventually(gate.reached.is_set)
    cancelling = asyncio.create_task(house.orders.cancel(run.id, by="ann"))
    await house.store.read(history.run, run.id)
    gate.opened.set()
    with pytest.raises(Conflict, match="succeeded already"):
        await cancelling
    assert (await house.ended(run)).status is RunStatus.SUCCEEDED


async def test_a_second_cancel_does_not_disturb_the_first(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, ending, go_on = asyncio.Event(), asyncio.Event(), asyncio.Event()
    cleaned = []

    async def execute(*_: object, **__: object) -> int:
        running.set()
        try:
            await asyncio.sleep(600)
        finally:
            ending.set()
            await go_on.wait()
            cleaned.append(True)
        return 0

    monkeypatch.setattr(house.runtime, "execute", execute)
    run = await house.push(page("one", SERVICE + "test: check\n"))
    await running.wait()
    first = asyncio.create_task(house.orders.cancel(run.id, by="ann"))
    await ending.wait()
    second = asyncio.create_task(house.orders.cancel(run.id, by="bob"))
    await house.store.read(history.run, run.id)
    go_on.set()
    assert {(await first).status, (await second).status} == {RunStatus.CANCELLED}
    assert cleaned == [True]


async def test_a_deploy_cut_off_by_a_crash_cannot_be_cancelled_either(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    switching = asyncio.Event()

    async def never(route: Route) -> None:
        switching.set()
        await asyncio.sleep(600)

    with monkeypatch.context() as patched:
        patched.setattr(house.runtime, "switch", never)
        run = await house.push(page("one"))
        await switching.wait()
        await house.stop()
    gate = Gate(monkeypatch, engine_module, "_facts")
    house.engine = Engine(house.parts, holder="two")
    async with house.running():
        await eventually(gate.reached.is_set)
        with pytest.raises(Conflict, match="has taken the traffic"):
            await house.orders.cancel(run.id, by="ann")
        gate.opened.set()
        assert (await house.ended(run)).status is RunStatus.SUCCEEDED
        assert (await house.app()).live_run == run.id
        assert house.runtime.routes["shop"].candidate == f"shop-{run.id}"
        assert f"shop-{run.id}" in house.runtime.running


async def test_a_store_that_cannot_be_read_for_a_moment_does_not_end_the_engine(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "STORE_PAUSE", 0.0)
    by_id, failing = registry.by_id, [True, True]

    def away(tx: Connection, app_id: int) -> App:
        if failing and failing.pop():
            raise StoreUnavailable("on purpose")
        return by_id(tx, app_id)

    monkeypatch.setattr(registry, "by_id", away)
    await house.pushed(page("one"))
    assert failing == []
    assert (await house.pushed(page("two"))).status is RunStatus.SUCCEEDED


async def test_a_machine_without_room_for_a_moment_is_tried_again(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_out, full = Repository.check_out, [True]

    async def once_full(repository: Repository, commit: str, folder: Path) -> tuple[str, ...]:
        if full and full.pop():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
        return await check_out(repository, commit, folder)

    monkeypatch.setattr(Repository, "check_out", once_full)
    run = await house.pushed(page("one"))
    assert run.status is RunStatus.SUCCEEDED
    events = await house.store.read(history.events_after, 0, run_id=run.id)
    (again,) = [event.data["error"] for event in events if event.kind == "stage.retried"]
    assert "No space left on device" in str(again)


async def test_a_rollback_does_not_wait_and_holds_until_the_next_push(house: House) -> None:
    await house.pushed(page("one"))
    await house.pushed(page("two"))
    house.runtime.commands["check"] = Scripted(hangs=True)
    moving = await house.push(page("three", SERVICE + "test: check\n"))
    await eventually(lambda: ("execute", f"shop-{moving.id}-test") in house.runtime.calls)
    back = await house.orders.roll_back("shop", version=None, by="ann")
    assert (await house.ended(back)).status is RunStatus.SUCCEEDED
    ended = await house.store.read(history.run, moving.id)
    assert (ended.status, ended.superseded_by) == (RunStatus.SUPERSEDED, back.id)
    assert house.origin.serve("shop", "/index.html") == b"one"
    assert house.runtime.routes["shop"].release == "v1"
    assert (await house.app()).pinned
    await house.pushed(page("four"))
    assert not (await house.app()).pinned
    assert house.runtime.routes["shop"].release == "v3"


async def test_there_must_be_something_to_go_back_to(house: House) -> None:
    with pytest.raises(Conflict, match="no release before"):
        await house.orders.roll_back("shop", version=None, by="ann")
    with pytest.raises(NotFound, match="no release v7"):
        await house.orders.roll_back("shop", version=7, by="ann")


async def test_an_older_commit_from_a_webhook_is_ignored(house: House) -> None:
    first = await house.pushed(page("one"))
    await house.pushed(page("two"))
    late = await house.ended(await house.accept(first.commit, source="github"))
    assert late.status is RunStatus.IGNORED
    assert house.origin.serve("shop", "/index.html") == b"two"


async def test_a_repository_is_packed_once_its_run_has_ended_and_never_beside_the_next(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    with held(house.parts.repositories, "pack", monkeypatch) as pack:
        assert (await house.pushed(page("one"))).status is RunStatus.SUCCEEDED
        await pack.reached.wait()
        packing = next(task for task in asyncio.all_tasks() if task.get_name() == "pack-shop")
        assert (await house.pushed(page("two"))).status is RunStatus.SUCCEEDED
        assert packing.cancelled()


async def test_a_repository_that_cannot_be_packed_ends_nothing(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fails(app: str) -> None:
        raise RepositoryUnavailable("no room on the disk")

    monkeypatch.setattr(house.parts.repositories, "pack", fails)
    for text in ("one", "two"):
        assert (await house.pushed(page(text))).status is RunStatus.SUCCEEDED
        await eventually(lambda: "the repository of shop could not be packed" in caplog.text)


async def test_webhooks_out_of_order_lose_no_push(house: House) -> None:
    house.runtime.commands["check"] = Scripted(hangs=True)
    first = await house.push(page("one", SERVICE + "test: check\n"))
    await eventually(lambda: ("execute", f"shop-{first.id}-test") in house.runtime.calls)
    older, newer = (house.work.commit(page(text)) for text in ("two", "three"))
    overtaken = await house.accept(newer, source="github")
    late = await house.accept(older, source="github")
    await house.orders.cancel(first.id, by="ann")
    assert (await house.ended(overtaken)).superseded_by == late.id
    ended = await house.ended(late)
    assert (ended.status, ended.error) == (
        RunStatus.IGNORED,
        f"{older[:7]} is part of {newer[:7]}, which came before it; that goes live instead",
    )
    (again, *_) = await house.store.read(history.recent_runs)
    assert (again.commit, again.source) == (newer, "github")
    assert (await house.ended(again)).status is RunStatus.SUCCEEDED
    assert house.origin.serve("shop", "/index.html") == b"three"


async def test_a_rollback_stays_until_a_push_goes_live(house: House) -> None:
    first = await house.pushed(page("one"))
    await house.pushed(page("two"))
    await house.ended(await house.orders.roll_back("shop", version=None, by="ann"))
    late = await house.ended(await house.accept(first.commit, source="github"))
    assert late.status is RunStatus.IGNORED
    assert (await house.app()).pinned
    await house.pushed(page("three"))
    assert not (await house.app()).pinned


async def test_an_engine_that_stops_leaves_its_run_to_the_next_one(tmp_path: Path) -> None:
    house = House(tmp_path)
    await house.store.open()
    await house.orders.register("shop")
    house.runtime.commands["check"] = Scripted(hangs=True)
    async with house.running():
        run = await house.push(page("one", SERVICE + "test: check\n"))
        await eventually(lambda: ("execute", f"shop-{run.id}-test") in house.runtime.calls)
    assert (await house.store.read(history.run, run.id)).status is RunStatus.RUNNING
    house.runtime.commands.clear()
    house.engine = Engine(house.parts, holder="two")
    async with house.running():
        assert (await house.ended(run)).status is RunStatus.SUCCEEDED
    records = {
        record.stage: record.attempt for record in await house.store.read(history.stage_records, run.id)
    }
    assert records[StageName.CHECKOUT] == 1
    assert records[StageName.TEST] == 2
    await house.store.close()


async def test_what_is_live_and_lost_to_the_runtime_comes_back_as_it_was(house: House) -> None:
    await house.orders.configure("shop", {"GREETING": Variable("hello")}, by="ann")
    run = await house.pushed(page("one"))
    await eventually(lambda: ("retire", "shop") in house.runtime.calls)
    await house.stop()
    lost, route = dict(house.runtime.running), dict(house.runtime.routes)
    house.runtime.running.clear()
    house.runtime.routes.clear()
    house.engine = Engine(house.parts, holder="two")
    async with house.running():
        await eventually(lambda: house.runtime.routes == route)
        assert house.runtime.running == lost
        assert lost[f"shop-{run.id}"].env == {"GREETING": "hello"}
        assert (await house.pushed(page("two"))).status is RunStatus.SUCCEEDED


@pytest.mark.parametrize("why", [RuntimeUnavailable("it is away"), KeyError("image")])
async def test_what_cannot_be_brought_back_stands_in_no_other_push_s_way(
    house: House, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, why: Exception
) -> None:
    async def cannot(_work: object) -> None:
        raise why

    monkeypatch.setattr(engine_module, "bring_back", cannot)
    await house.pushed(page("one"))
    await house.stop()
    house.runtime.routes.clear()
    house.engine = Engine(house.parts, holder="two")
    async with house.running():
        assert (await house.pushed(page("two"))).status is RunStatus.SUCCEEDED
    assert "shop is live, but cannot be brought back; push again" in caplog.text
    assert str(why) in caplog.text


async def test_a_fault_of_our_own_is_told_as_such(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(route: Route) -> None:
        raise ZeroDivisionError("on purpose")

    monkeypatch.setattr(house.runtime, "switch", broken)
    run = await house.pushed(page("one"))
    assert run.error == "a fault of Penstock's own: ZeroDivisionError('on purpose')"


async def test_a_name_that_is_no_text_ends_its_run_and_not_the_engine(house: House) -> None:
    house.work.write(page("one"))
    (house.work.folder / os.fsdecode(b"\xff")).symlink_to("/etc/passwd")
    run = await house.pushed({})
    assert run.error == r"the link \udcff leads out of the repository, to '/etc/passwd'"
    house.work.git("rm", "--quiet", "--force", "--", os.fsdecode(b"\xff"))
    assert (await house.pushed(page("one"))).status is RunStatus.SUCCEEDED


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"name": "-x"},
        {"name": "Shop"},
        {"name": "a/b"},
        {"name": "x" * 41},
        {"name": "x", "branch": "--upload-pack=x"},
        {"name": "x", "branch": "a..b"},
        {"name": "x", "branch": "a b"},
        {"name": "x", "branch": "a.lock"},
        {"name": "x", "repository": "ext::sh -c id", "webhook_secret": "s" * 16},
        {"name": "x", "repository": "--upload-pack=id", "webhook_secret": "s" * 16},
        {"name": "x", "repository": "https://example.com/x.git"},
        {"name": "x", "repository": "https://example.com/x.git", "webhook_secret": "short"},
    ],
)
async def test_an_app_that_cannot_be_is_refused(house: House, wrong: dict[str, str]) -> None:
    with pytest.raises(Invalid):
        await house.orders.register(**wrong)  # type: ignore[arg-type]
    assert [app.name for app in await house.store.read(registry.all_apps)] == ["shop"]


async def test_the_words_of_an_attempt_are_gone_before_the_next_is_recorded(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute, found = house.runtime.execute, []

    async def once_away(*args: Any, **kwargs: Any) -> int:
        if not found:
            kwargs["output"](b"first\n")
            found.append(b"")
            raise RuntimeUnavailable("it is away")
        return await execute(*args, **kwargs)

    retry_stage = queue.retry_stage

    def looks(tx: Connection, run: Run, stage: StageName, error: str) -> None:
        found.append(house.parts.logs.read(run.id, stage))
        retry_stage(tx, run, stage, error)

    monkeypatch.setattr(house.runtime, "execute", once_away)
    monkeypatch.setattr(queue, "retry_stage", looks)
    run = await house.pushed(page("one", SERVICE + "test: check\n"))
    assert run.status is RunStatus.SUCCEEDED
    assert found == [b"", b""]
