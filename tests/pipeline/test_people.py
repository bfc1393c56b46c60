"""People in the loop: approval, retry, redeploy, variables, pin and unpin, over an engine with fakes."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from plugins.engine import SERVICE, House, held, page
from plugins.house import eventually
from sqlalchemy import Connection, update

from penstock_pipeline import variables
from penstock_pipeline.engine import Engine
from penstock_pipeline.errors import Conflict, Invalid, NotFound
from penstock_pipeline.model import Release, Run, RunKind, RunStatus, StageName
from penstock_pipeline.runtimes.fake import Scripted
from penstock_pipeline.store import history, schema
from penstock_pipeline.tell import Narrator
from penstock_pipeline.variables import Variable

GATED = SERVICE + "approve: true\n"


async def live(house: House) -> Release:
    app = await house.app()
    assert app.live_release is not None
    return await house.store.read(history.release, app.live_release)


async def stages(house: House, run: Run) -> list[str]:
    return [record.stage for record in await house.store.read(history.stage_records, run.id) if record.done]


def env(house: House) -> dict[str, str]:
    """What the process that serves finds in its environment."""
    candidate = house.runtime.routes["shop"].candidate
    assert candidate is not None
    return dict(house.runtime.running[candidate].env)


async def told(house: House, run: Run) -> list[str]:
    """What a run has said to people."""
    narrator = Narrator(run.id)
    events = await house.store.read(history.events_after, 0, run_id=run.id)
    return [line for event in events for line in narrator.event(event)]


async def both(house: House, *runs: Run) -> list[Run]:
    return [await house.ended(run) for run in runs]


# -- approval


async def test_a_push_waits_for_approval_after_its_upload_and_is_not_live(house: House) -> None:
    first = await house.pushed(page("one"))
    run = await house.pushed(page("two", GATED))
    assert run.status is RunStatus.AWAITING
    assert run.ended_at is None
    assert await stages(house, run) == ["checkout", "test", "build", "upload"]
    assert (await house.app()).live_run == first.id
    assert house.origin.serve("shop", "/index.html") == b"one"


async def test_who_approved_and_when_is_recorded_and_the_run_goes_on_to_its_end(house: House) -> None:
    run = await house.pushed(page("one", GATED))
    await house.orders.approve(run.id, by="ann")
    ended = await house.ended(run)
    assert ended.status is RunStatus.SUCCEEDED
    records = {record.stage: record for record in await house.store.read(history.stage_records, run.id)}
    approved = records[StageName.APPROVE]
    assert (approved.says, approved.result["by"]) == ("approved by ann", "ann")
    assert approved.ended_at is not None
    assert ended.started_at == run.started_at


async def test_the_time_that_people_took_is_not_the_run_s(house: House) -> None:
    run = await house.pushed(page("one", GATED))

    def days_ago(tx: Connection) -> None:
        asked = datetime.now(UTC) - timedelta(days=2)
        tx.execute(update(schema.runs).values(created_at=asked))
        tx.execute(update(schema.stages).values(started_at=asked))

    await house.store.write(days_ago)
    await house.orders.approve(run.id, by="ann")
    await house.ended(run)
    told = {
        event.kind: event.data for event in await house.store.read(history.events_after, 0, run_id=run.id)
    }
    assert told["run.succeeded"]["seconds"] < 3600


async def test_an_approval_outlives_the_engine_that_asked_for_it(house: House) -> None:
    run = await house.pushed(page("one", GATED))
    await house.stop()
    house.engine = Engine(house.parts, holder="two")
    async with house.running():
        await house.orders.approve(run.id, by="ann")
        assert (await house.ended(run)).status is RunStatus.SUCCEEDED


async def test_an_approval_that_nobody_needs_is_refused(house: House) -> None:
    run = await house.pushed(page("one"))
    with pytest.raises(Conflict, match="succeeded; there is nothing to approve"):
        await house.orders.approve(run.id, by="ann")
    with pytest.raises(NotFound):
        await house.orders.approve(999, by="ann")


async def test_of_two_that_approve_at_once_one_does(house: House) -> None:
    run = await house.pushed(page("one", GATED))
    asked = (house.orders.approve(run.id, by=name) for name in ("ann", "ben"))
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert sorted(type(answer).__name__ for answer in answers) == ["Conflict", "Run"]
    assert (await house.ended(run)).status is RunStatus.SUCCEEDED


async def test_a_newer_push_supersedes_one_that_waits_for_approval(house: House) -> None:
    old, new = await house.pushed(page("one", GATED)), await house.pushed(page("two", GATED))
    old = await house.ended(old)
    assert (old.status, old.superseded_by) == (RunStatus.SUPERSEDED, new.id)
    with pytest.raises(Conflict, match=f"superseded by run {new.id}"):
        await house.orders.approve(old.id, by="ann")


async def test_a_rollback_supersedes_one_that_waits_for_approval(house: House) -> None:
    for text in ("one", "two"):
        await house.pushed(page(text))
    waiting = await house.pushed(page("three", GATED))
    rollback = await house.orders.roll_back("shop", version=None, by="ann")
    old, done = await both(house, waiting, rollback)
    assert (old.status, old.superseded_by) == (RunStatus.SUPERSEDED, rollback.id)
    assert done.status is RunStatus.SUCCEEDED


async def test_one_that_waits_for_approval_can_be_cancelled(house: House) -> None:
    run = await house.pushed(page("one", GATED))
    await house.orders.cancel(run.id, by="ann")
    assert (await house.ended(run)).status is RunStatus.CANCELLED


async def test_the_same_commit_pushed_again_joins_the_run_that_waits(house: House) -> None:
    run = await house.pushed(page("one", GATED))
    assert (await house.accept(run.commit)).id == run.id


# -- retry


async def test_a_retry_begins_at_the_stage_that_failed(house: House) -> None:
    house.runtime.commands["check"] = Scripted(code=0)
    commit = house.work.commit(page("one", SERVICE + "test: check\n"))
    house.runtime.never_healthy.add(commit)
    red = await house.ended(await house.accept(commit))
    house.runtime.never_healthy.clear()
    retried = await house.ended(await house.orders.retry(red.id, again=None, by="ann"))
    assert (retried.status, retried.retry_of, retried.commit) == (RunStatus.SUCCEEDED, red.id, red.commit)
    assert [call for call, _ in house.runtime.calls].count("execute") == 1
    assert (await house.app()).live_run == retried.id


async def test_a_retry_from_upload_lays_the_files_out_again(house: House) -> None:
    house.origin.down = True
    red = await house.pushed(page("one"))
    house.origin.down = False
    retried = await house.ended(await house.orders.retry(red.id, again=StageName.UPLOAD, by="ann"))
    assert retried.status is RunStatus.SUCCEEDED
    assert house.origin.serve("shop", "/index.html") == b"one"


async def test_a_retry_from_refresh_asks_the_edges_alone(house: House) -> None:
    house.edges[0].down = True
    red = await house.pushed(page("one"))
    assert red.status is RunStatus.FAILED
    house.edges[0].down = False
    before = len(house.runtime.calls)
    retried = await house.ended(await house.orders.retry(red.id, again=None, by="ann"))
    assert retried.status is RunStatus.SUCCEEDED
    assert not {"start", "switch"} & {call for call, _ in house.runtime.calls[before:]}
    assert (await house.app()).live_run == red.id


async def test_a_retry_cannot_leave_out_what_has_not_passed(house: House) -> None:
    house.runtime.commands["check"] = Scripted(code=1)
    red = await house.pushed(page("one", SERVICE + "test: check\n"))
    with pytest.raises(Conflict, match="has not passed test"):
        await house.orders.retry(red.id, again=StageName.START, by="ann")


async def test_a_retry_never_goes_backwards(house: House) -> None:
    commit = house.work.commit(page("one"))
    house.runtime.never_healthy.add(commit)
    red = await house.ended(await house.accept(commit))
    newer = await house.pushed(page("two"))
    with pytest.raises(Conflict, match=f"run {newer.id} came after"):
        await house.orders.retry(red.id, again=None, by="ann")


async def test_a_refresh_of_what_variables_have_replaced_is_not_retried(house: House) -> None:
    house.edges[0].down = True
    red = await house.pushed(page("one"))
    house.edges[0].down = False
    configured = await house.orders.configure("shop", {"DATABASE": Variable("here")}, by="ann")
    assert configured is not None
    await house.ended(configured)
    with pytest.raises(Conflict, match=f"run {configured.id} came after"):
        await house.orders.retry(red.id, again=None, by="ann")


async def test_what_went_well_is_not_retried(house: House) -> None:
    run = await house.pushed(page("one"))
    with pytest.raises(Conflict, match="succeeded"):
        await house.orders.retry(run.id, again=None, by="ann")


async def test_a_retry_keeps_the_approval(house: House) -> None:
    commit = house.work.commit(page("one", GATED))
    house.runtime.never_healthy.add(commit)
    run = await house.ended(await house.accept(commit))
    await house.orders.approve(run.id, by="ann")
    red = await house.ended(await eventually(lambda: run))
    await eventually_failed(house, red)
    house.runtime.never_healthy.clear()
    retried = await house.ended(await house.orders.retry(run.id, again=None, by="ben"))
    assert retried.status is RunStatus.SUCCEEDED
    assert "approve" in await stages(house, retried)


async def test_an_approval_that_was_given_before_a_cancel_is_kept(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.pushed(page("one"))
    run = await house.pushed(page("two", GATED))
    with held(house.edges[0], "fetch", monkeypatch) as fetch:
        await house.orders.refresh("shop", by="ann")
        await fetch.reached.wait()
        await house.orders.approve(run.id, by="ann")
        await house.orders.cancel(run.id, by="ben")
    retried = await house.ended(await house.orders.retry(run.id, again=None, by="ben"))
    assert retried.status is RunStatus.SUCCEEDED


async def test_a_retry_does_not_lead_past_an_approval(house: House) -> None:
    run = await house.pushed(page("one", GATED))
    await house.orders.cancel(run.id, by="ann")
    with pytest.raises(Conflict, match="has not passed approve"):
        await house.orders.retry(run.id, again=StageName.START, by="ann")
    retried = await house.ended(await house.orders.retry(run.id, again=None, by="ann"))
    assert retried.status is RunStatus.AWAITING


async def test_a_push_is_retried_once_a_missing_variable_is_set(house: House) -> None:
    await house.pushed(page("one"))
    commit = house.work.commit(page("two"))
    house.runtime.never_healthy.add(commit)
    red = await house.ended(await house.accept(commit))
    configured = await house.orders.configure("shop", {"KEY": Variable("found")}, by="ann")
    assert configured is not None
    await house.ended(configured)
    house.runtime.never_healthy.clear()
    retried = await house.ended(await house.orders.retry(red.id, again=None, by="ann"))
    assert retried.status is RunStatus.SUCCEEDED
    assert (await live(house)).commit == commit
    assert env(house) == {"KEY": "found"}


async def test_new_variables_that_did_not_go_live_are_retried(house: House) -> None:
    first = await house.pushed(page("one"))
    house.runtime.never_healthy.add(first.commit)
    red = await house.orders.configure("shop", {"COLOUR": Variable("red")}, by="ann")
    assert red is not None
    assert (await house.ended(red)).status is RunStatus.FAILED
    assert (await told(house, red))[-2:] == [
        f" !     v1 serves.   log: penstock logs {red.id}",
        f" !     the variables stay set, for the next release; to try again: penstock retry {red.id}",
    ]
    house.runtime.never_healthy.clear()
    with pytest.raises(Conflict, match="a configure has no build"):
        await house.orders.retry(red.id, again=StageName.BUILD, by="ann")
    retried = await house.ended(await house.orders.retry(red.id, again=None, by="ann"))
    assert (retried.status, retried.kind) == (RunStatus.SUCCEEDED, RunKind.CONFIGURE)
    assert env(house) == {"COLOUR": "red"}


async def test_the_refresh_of_a_release_that_is_not_live_any_more_is_not_retried(house: House) -> None:
    house.edges[0].down = True
    red = await house.pushed(page("one"))
    house.edges[0].down = False
    configured = await house.orders.configure("shop", {"A": Variable("1")}, by="ann")
    assert configured is not None
    await house.ended(configured)
    with pytest.raises(Conflict, match=f"run {configured.id} came after"):
        await house.orders.retry(red.id, again=None, by="ann")


async def test_a_webhook_that_came_too_late_does_not_stand_in_the_way_of_a_retry(house: House) -> None:
    first = await house.pushed(page("one"))
    commit = house.work.commit(page("two"))
    house.runtime.never_healthy.add(commit)
    red = await house.ended(await house.accept(commit))
    await house.ended(await house.accept(first.commit, source="github"))
    house.runtime.never_healthy.clear()
    retried = await house.ended(await house.orders.retry(red.id, again=None, by="ann"))
    assert retried.status is RunStatus.SUCCEEDED


async def eventually_failed(house: House, run: Run) -> None:
    async def failed() -> bool:
        return (await house.store.read(history.run, run.id)).status is RunStatus.FAILED

    await eventually(failed)


# -- redeploy


async def test_a_redeploy_makes_a_release_of_the_live_commit(house: House) -> None:
    first = await house.pushed(page("one"))
    again = await house.ended(await house.orders.redeploy("shop", by="ann"))
    assert (again.status, again.kind, again.commit) == (RunStatus.SUCCEEDED, RunKind.REDEPLOY, first.commit)
    release = await live(house)
    assert (release.version, release.commit) == (2, first.commit)
    assert "checkout" in await stages(house, again)


async def test_a_redeploy_needs_something_live(house: House) -> None:
    with pytest.raises(Conflict, match="nothing of shop is live"):
        await house.orders.redeploy("shop", by="ann")


async def test_a_redeploy_while_pinned_stays_on_the_commit_that_is_live(house: House) -> None:
    first, _ = await house.pushed(page("one")), await house.pushed(page("two"))
    await house.ended(await house.orders.roll_back("shop", version=None, by="ann"))
    await house.ended(await house.orders.redeploy("shop", by="ann"))
    assert (await live(house)).commit == first.commit


# -- pin and unpin


async def test_unpin_goes_forward_to_what_was_pushed_last(house: House) -> None:
    _, second = await house.pushed(page("one")), await house.pushed(page("two"))
    await house.ended(await house.orders.roll_back("shop", version=None, by="ann"))
    assert (await house.app()).pinned
    run = await house.ended(await house.orders.unpin("shop", by="ann"))
    assert run.status is RunStatus.SUCCEEDED
    assert not (await house.app()).pinned
    assert (await live(house)).commit == second.commit
    assert house.origin.serve("shop", "/index.html") == b"two"


async def test_only_what_is_pinned_is_unpinned(house: House) -> None:
    await house.pushed(page("one"))
    with pytest.raises(Conflict, match="not pinned"):
        await house.orders.unpin("shop", by="ann")


async def test_new_variables_leave_the_pin(house: House) -> None:
    first, second = await house.pushed(page("one")), await house.pushed(page("two"))
    await house.ended(await house.orders.roll_back("shop", version=None, by="ann"))
    run = await house.orders.configure("shop", {"A": Variable("1")}, by="ann")
    assert run is not None
    await house.ended(run)
    assert (await house.app()).pinned
    assert (await live(house)).commit == first.commit
    await house.ended(await house.orders.unpin("shop", by="ann"))
    assert (await live(house)).commit == second.commit
    assert env(house)["A"] == "1"


@pytest.mark.parametrize("order", ["configure", "redeploy", "push"])
async def test_a_rollback_never_leads_to_the_release_that_one_before_has_left(
    house: House, order: str
) -> None:
    first, bad = await house.pushed(page("one")), await house.pushed(page("bad"))
    back = await house.ended(await house.orders.roll_back("shop", version=None, by="ann"))
    assert (await told(house, back))[-1].endswith("undo: penstock unpin shop")
    match order:
        case "configure":
            after = await house.orders.configure("shop", {"A": Variable("1")}, by="ann")
        case "redeploy":
            after = await house.orders.redeploy("shop", by="ann")
        case _:
            after = await house.push(page("three"))
    assert after is not None
    assert (await told(house, await house.ended(after)))[-1].endswith("undo: penstock rollback shop")
    await house.ended(await house.orders.roll_back("shop", version=None, by="ann"))
    assert (await live(house)).version == 1
    assert (await live(house)).commit == first.commit != bad.commit


async def test_the_undo_of_an_unpin_leads_back_to_where_it_was_pinned(house: House) -> None:
    for text in ("one", "two"):
        await house.pushed(page(text))
    await house.ended(await house.orders.roll_back("shop", version=None, by="ann"))
    await house.ended(await house.orders.unpin("shop", by="ann"))
    await house.ended(await house.orders.roll_back("shop", version=None, by="ann"))
    assert (await live(house)).version == 1


# -- variables


async def test_a_change_of_variables_is_a_release_for_which_nothing_is_built(house: House) -> None:
    await house.pushed(page("one"))
    before = await live(house)
    run = await house.orders.configure("shop", {"COLOUR": Variable("red")}, by="ann")
    assert run is not None
    assert (await house.ended(run)).status is RunStatus.SUCCEEDED
    after = await live(house)
    assert (after.version, after.image, after.manifest) == (2, before.image, before.manifest)
    assert env(house) == {"COLOUR": "red"}
    assert await stages(house, run) == ["start", "deploy", "refresh"]


async def test_variables_of_an_app_that_is_not_live_wait_for_its_first_push(house: House) -> None:
    assert await house.orders.configure("shop", {"COLOUR": Variable("red")}, by="ann") is None
    await house.pushed(page("one"))
    assert env(house) == {"COLOUR": "red"}


async def test_a_value_that_is_set_already_sets_nothing_off(house: House) -> None:
    await house.orders.configure("shop", {"COLOUR": Variable("red")}, by="ann")
    await house.pushed(page("one"))
    assert await house.orders.configure("shop", {"COLOUR": Variable("red")}, by="ann") is None


async def test_a_rollback_brings_the_variables_of_its_release_back(house: House) -> None:
    await house.orders.configure("shop", {"COLOUR": Variable("red")}, by="ann")
    await house.pushed(page("one"))
    run = await house.orders.configure("shop", {"COLOUR": None, "SIZE": Variable("9")}, by="ann")
    assert run is not None
    await house.ended(run)
    assert env(house) == {"SIZE": "9"}
    await house.ended(await house.orders.roll_back("shop", version=1, by="ann"))
    assert env(house) == {"COLOUR": "red"}
    assert await house.orders.variables("shop") == {"SIZE": Variable("9")}


async def test_a_push_that_waited_long_goes_live_under_the_variables_of_now(house: House) -> None:
    await house.pushed(page("one"))
    waiting = await house.pushed(page("two", GATED))
    run = await house.orders.configure("shop", {"COLOUR": Variable("red")}, by="ann")
    assert run is not None
    await house.ended(run)
    await house.orders.approve(waiting.id, by="ann")
    await house.ended(waiting)
    await eventually(lambda: env(house) == {"COLOUR": "red"})


async def test_two_changes_at_once_both_last(house: House) -> None:
    changes = ({"A": Variable("1")}, {"B": Variable("2")})
    await asyncio.gather(*(house.orders.configure("shop", change, by="ann") for change in changes))
    assert set(await house.orders.variables("shop")) == {"A", "B"}


async def test_no_value_lies_in_the_database(house: House, tmp_path: Path) -> None:
    await house.orders.configure("shop", {"KEY": Variable("hunter2hunter2", secret=True)}, by="ann")
    await house.pushed(page("one"))
    files = list(tmp_path.glob("penstock.db*"))
    assert files
    assert not any(b"hunter2" in path.read_bytes() for path in files)


async def test_a_secret_is_masked_in_logs_and_errors(house: House) -> None:
    await house.orders.configure("shop", {"KEY": Variable("hunter2hunter2", secret=True)}, by="ann")
    house.runtime.commands["make"] = Scripted(code=2, output=b"the key is hunter2hunter2\n")
    run = await house.pushed(page("one", SERVICE + "build: {run: make}\n"))
    assert run.status is RunStatus.FAILED
    logged = house.parts.logs.read(run.id, StageName.BUILD)
    assert logged == b"the key is [secret]\n"
    events = await house.store.read(history.events_after, 0)
    assert "hunter2" not in repr(events)


async def test_a_fault_of_our_own_tells_no_secret(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(candidate: object) -> None:
        raise LookupError(candidate)

    await house.orders.configure("shop", {"KEY": Variable("hunter2hunter2", secret=True)}, by="ann")
    monkeypatch.setattr(house.runtime, "start", broken)
    run = await house.pushed(page("one"))
    assert run.error is not None
    assert "a fault of Penstock's own: LookupError(Candidate(" in run.error
    assert "hunter2" not in run.error + repr(await house.orders.variables("shop"))


@pytest.mark.parametrize(
    ("name", "variable", "why"),
    [
        ("1A", Variable("x"), "begin with a letter"),
        ("A-B", Variable("x"), "begin with a letter"),
        ("A\n", Variable("x"), "begin with a letter"),
        ("PORT", Variable("x"), "not an app's to set"),
        ("PENSTOCK_APP", Variable("x"), "not an app's to set"),
        ("LD_PRELOAD", Variable("x"), "not an app's to set"),
        ("A", Variable("x\0y"), "NUL"),
        ("A", Variable("\ud800"), "UTF-8"),
        ("A", Variable("x" * 40_000), "32,768 bytes"),
        ("A", Variable("abc", secret=True), "cannot be masked"),
        ("GONE", None, "there is no variable GONE"),
    ],
)
async def test_a_variable_that_cannot_be_is_refused(
    house: House, name: str, variable: Variable | None, why: str
) -> None:
    with pytest.raises(Invalid, match=why) as refused:
        await house.orders.configure("shop", {name: variable}, by="ann")
    assert variable is None or len(variable.value) < 2 or variable.value not in str(refused.value)


def test_an_app_has_no_more_variables_than_a_sandbox_takes() -> None:
    many = {f"A{number}": Variable("x") for number in range(variables.MANY)}
    assert variables.changed({}, many).keys() == many.keys()
    with pytest.raises(Invalid, match=r"at most 1,000 variables; these would be 1,001"):
        variables.changed(many, {"ONE_MORE": Variable("x")})
    assert variables.changed(many, {"ONE_MORE": Variable("x"), "A0": None})


# -- what a crash leaves


async def test_a_deploy_that_a_crash_cut_off_and_that_fails_then_takes_the_branch_back(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await house.pushed(page("one"))
    switching = asyncio.Event()

    async def never(_route: object) -> None:
        switching.set()
        await asyncio.sleep(600)

    with monkeypatch.context() as patched:
        patched.setattr(house.runtime, "switch", never)
        run = await house.push(page("two"))
        await switching.wait()
        await house.stop()
    assert await house.parts.repositories.tip("shop", "refs/heads/main") == run.commit
    house.runtime.unavailable = 99
    house.engine = Engine(house.parts, holder="two")
    async with house.running():
        assert (await house.ended(run)).status is RunStatus.FAILED
        assert await house.parts.repositories.tip("shop", "refs/heads/main") == first.commit
