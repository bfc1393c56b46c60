"""Who may come after whom: pushes, people's orders and approvals that meet, over an engine with fakes."""

from __future__ import annotations

from importlib import import_module

import pytest
from plugins.engine import SERVICE, House, held, page
from sqlalchemy import update

from penstock_pipeline.errors import Conflict
from penstock_pipeline.model import Run, RunStatus
from penstock_pipeline.repositories import Repository
from penstock_pipeline.store import history, queue
from penstock_pipeline.store.schema import apps
from penstock_pipeline.variables import Variable

CHECKOUT = import_module("penstock_pipeline.stages.checkout")

GATED = SERVICE + "approve: true\n"


async def now(house: House, run: Run) -> Run:
    return await house.store.read(history.run, run.id)


async def live_commit(house: House) -> str:
    release = await house.store.read(history.live_release, (await house.app()).id)
    assert release is not None
    return release.commit


async def fetched_from_work(house: House) -> None:
    """From now on the app's commits are fetched from the working copy."""
    forge = update(apps).values(repository=str(house.work.folder))
    await house.store.write(lambda tx: tx.execute(forge))


async def told(house: House, commit: str) -> Run:
    """A webhook's push of a commit that is still to be fetched."""
    app = await house.app()
    facts = {"ref": app.live_ref, "pusher": "ann", "source": "github"}
    accepted = await house.store.write(queue.accept, app, commit=commit, **facts)
    assert accepted.run is not None
    return accepted.run


# -- approval


async def test_a_push_that_came_while_another_was_built_takes_its_place_before_the_gate(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    with held(house.origin, "upload", monkeypatch) as upload:
        older = await house.push(page("one", GATED))
        await upload.reached.wait()
        newer = await house.push(page("two", GATED))
    assert (await house.ended(newer)).status is RunStatus.AWAITING
    older = await now(house, older)
    assert (older.status, older.superseded_by) == (RunStatus.SUPERSEDED, newer.id)
    with pytest.raises(Conflict, match=f"superseded by run {newer.id}"):
        await house.orders.approve(older.id, by="ann")


async def test_a_rollback_in_the_moment_before_the_gate_closes_takes_its_place(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    for text in ("one", "two"):
        await house.pushed(page(text))
    with held(house.engine, "_retire", monkeypatch) as retire:
        run = await house.push(page("three", GATED))
        await retire.reached.wait()
        rollback = await house.orders.roll_back("shop", version=None, by="ann")
    assert (await house.ended(rollback)).status is RunStatus.SUCCEEDED
    run = await now(house, run)
    assert (run.status, run.superseded_by) == (RunStatus.SUPERSEDED, rollback.id)


async def test_one_that_is_approved_and_waits_for_its_turn_gives_way_to_a_newer_push(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.pushed(page("one"))
    waiting = await house.pushed(page("two", GATED))
    with held(house.edges[0], "fetch", monkeypatch) as fetch:
        await house.orders.refresh("shop", by="ann")
        await fetch.reached.wait()
        await house.orders.approve(waiting.id, by="ann")
        newer = await house.push(page("three"))
    assert (await house.ended(newer)).status is RunStatus.SUCCEEDED
    assert (await now(house, waiting)).superseded_by == newer.id


async def test_a_late_webhook_does_not_lose_the_push_that_waits_for_approval(house: House) -> None:
    await house.pushed(page("one"))
    older, newer = (house.work.commit(page(text, GATED)) for text in ("two", "three"))
    waiting = await house.ended(await house.accept(newer, source="github"))
    assert waiting.status is RunStatus.AWAITING
    run = await house.orders.configure("shop", {"A": Variable("1")}, by="ann")
    assert run is not None
    await house.ended(run)
    late = await house.ended(await house.accept(older, source="github"))
    assert late.status is RunStatus.IGNORED
    (again, *_) = await house.store.read(history.recent_runs)
    assert (await house.ended(again)).status is RunStatus.AWAITING
    assert again.commit == newer


async def test_a_webhook_of_what_is_live_already_gives_the_place_back_that_it_took(house: House) -> None:
    first = await house.pushed(page("one"))
    waiting = await house.pushed(page("two", GATED))
    late = await house.ended(await house.accept(first.commit, source="github"))
    assert late.status is RunStatus.IGNORED
    assert (await now(house, waiting)).superseded_by == late.id
    (again, *_) = await house.store.read(history.recent_runs)
    assert (again.id, again.commit) == (late.id + 1, waiting.commit)
    assert (await house.ended(again)).status is RunStatus.AWAITING
    repeated = await house.ended(await house.accept(first.commit, source="github"))
    assert repeated.status is RunStatus.IGNORED
    (again, *_) = await house.store.read(history.recent_runs)
    assert (await house.ended(again)).status is RunStatus.AWAITING


# -- orders that wait behind a push


async def test_a_late_webhook_does_not_lose_the_push_it_took_the_place_of(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.pushed(page("one"))
    with held(house.edges[0], "fetch", monkeypatch) as fetch:
        await house.orders.refresh("shop", by="ann")
        await fetch.reached.wait()
        older, newer = (house.work.commit(page(text)) for text in ("two", "three"))
        await house.accept(newer, source="github")
        late = await house.accept(older, source="github")
        await house.orders.configure("shop", {"A": Variable("1")}, by="ann")
    assert (await house.ended(late)).status is RunStatus.IGNORED
    again = max(await house.store.read(history.recent_runs), key=lambda run: run.id)
    assert (await house.ended(again)).status is RunStatus.SUCCEEDED
    assert await live_commit(house) == newer


async def test_a_push_that_was_never_fetched_is_not_lost_to_an_older_one_that_is_here(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.pushed(page("one"))
    await fetched_from_work(house)
    older = house.work.commit(page("two"))
    house.runtime.never_healthy.add(older)
    await house.ended(await house.accept(older, source="github"))
    newer = house.work.commit(page("three"))
    with held(house.edges[0], "fetch", monkeypatch) as fetch:
        await house.orders.refresh("shop", by="ann")
        await fetch.reached.wait()
        await told(house, newer)
        repeated = await house.accept(older, source="github")
    assert (await house.ended(repeated)).status is RunStatus.IGNORED
    (again, *_) = await house.store.read(history.recent_runs)
    assert (await house.ended(again)).status is RunStatus.SUCCEEDED
    assert await live_commit(house) == newer


async def test_a_redeploy_that_waited_while_a_push_went_live_does_not_go_back(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.pushed(page("one"))
    with held(house.runtime, "healthy", monkeypatch) as healthy:
        second = await house.push(page("two"))
        await healthy.reached.wait()
        redeploy = await house.orders.redeploy("shop", by="ann")
    ended = await house.ended(redeploy)
    assert (ended.status, ended.error) == (
        RunStatus.IGNORED,
        f"v2 of {second.commit[:7]} went live meanwhile; nothing to do",
    )
    assert await live_commit(house) == second.commit


async def test_an_unpin_that_waited_while_a_push_went_live_does_not_go_back(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    for text in ("one", "two"):
        await house.pushed(page(text))
    await house.ended(await house.orders.roll_back("shop", version=None, by="ann"))
    with held(house.runtime, "healthy", monkeypatch) as healthy:
        third = await house.push(page("three"))
        await healthy.reached.wait()
        unpin = await house.orders.unpin("shop", by="ann")
    ended = await house.ended(unpin)
    assert (ended.status, ended.error) == (RunStatus.IGNORED, "shop is not pinned any more; nothing to do")
    assert await live_commit(house) == third.commit


async def test_unpinned_twice_is_unpinned_once(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("one", "two"):
        await house.pushed(page(text))
    await house.ended(await house.orders.roll_back("shop", version=None, by="ann"))
    with held(house.runtime, "healthy", monkeypatch) as healthy:
        first = await house.orders.unpin("shop", by="ann")
        await healthy.reached.wait()
        second = await house.orders.unpin("shop", by="ben")
    assert (await house.ended(first)).status is RunStatus.SUCCEEDED
    assert (await house.ended(second)).status is RunStatus.IGNORED


async def test_a_redeploy_leaves_the_pin(house: House) -> None:
    _, second = await house.pushed(page("one")), await house.pushed(page("two"))
    await house.ended(await house.orders.roll_back("shop", version=None, by="ann"))
    await house.ended(await house.orders.redeploy("shop", by="ann"))
    assert (await house.app()).pinned
    await house.ended(await house.orders.unpin("shop", by="ann"))
    assert await live_commit(house) == second.commit


async def test_a_push_does_not_take_the_place_of_new_variables(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.pushed(page("one"))
    with held(house.edges[0], "fetch", monkeypatch) as fetch:
        await house.orders.refresh("shop", by="ann")
        await fetch.reached.wait()
        configure = await house.orders.configure("shop", {"A": Variable("1")}, by="ann")
        gated = await house.push(page("two", GATED))
    assert configure is not None
    assert (await house.ended(configure)).status is RunStatus.SUCCEEDED
    assert (await house.ended(gated)).status is RunStatus.AWAITING


# -- webhooks of a branch that was pushed by force


@pytest.fixture
async def forced(house: House, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Two commits after the live one, of which the second was pushed by force over the first."""
    monkeypatch.setattr(CHECKOUT, "SEEN_AFTER", (0.0, 0.0))
    first = await house.pushed(page("one"))
    await fetched_from_work(house)
    taken_back = house.work.commit(page("two"))
    house.work.git("reset", "--quiet", "--hard", first.commit)
    return taken_back, house.work.commit(page("three"))


@pytest.mark.parametrize("here", [False, True])
async def test_a_late_webhook_of_what_was_taken_back_by_force_does_not_go_live(
    house: House, forced: tuple[str, str], here: bool
) -> None:
    taken_back, newer = forced
    assert (await house.ended(await told(house, newer))).status is RunStatus.SUCCEEDED
    late = await house.ended(
        await (house.accept(taken_back, source="github") if here else told(house, taken_back))
    )
    assert (late.status, late.error) == (
        RunStatus.IGNORED,
        f"{taken_back[:7]} is not on main of the registered repository, which is at {newer[:7]}",
    )
    assert await live_commit(house) == newer


async def test_a_late_webhook_of_what_was_taken_back_gives_the_place_back_that_it_took(
    house: House, forced: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken_back, newer = forced
    with held(house.edges[0], "fetch", monkeypatch) as fetch:
        await house.orders.refresh("shop", by="ann")
        await fetch.reached.wait()
        waiting = await told(house, newer)
        late = await told(house, taken_back)
    assert (await house.ended(late)).status is RunStatus.IGNORED
    assert (await now(house, waiting)).superseded_by == late.id
    (again, *_) = await house.store.read(history.recent_runs)
    assert (await house.ended(again)).status is RunStatus.SUCCEEDED
    assert await live_commit(house) == newer


async def test_a_branch_that_was_pushed_back_by_force_does_not_go_forward_again(
    house: House, forced: tuple[str, str]
) -> None:
    taken_back, newer = forced
    house.work.git("reset", "--quiet", "--hard", f"{newer}^")
    assert (await house.ended(await told(house, taken_back))).status is RunStatus.IGNORED


async def test_a_webhook_may_come_before_its_branch_is_seen(
    house: House, forced: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sooner, real = forced[0], Repository.fetch_branch

    async def seen_the_next_time(repository: Repository, url: str, ref: str) -> str:
        tip = await real(repository, url, ref)
        house.work.git("update-ref", ref, sooner)
        return tip

    monkeypatch.setattr(Repository, "fetch_branch", seen_the_next_time)
    assert (await house.ended(await told(house, sooner))).status is RunStatus.SUCCEEDED
