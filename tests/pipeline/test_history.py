"""However long the history is, what happens often reads what it needs of it and no more."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from plugins import long_history
from sqlalchemy import Connection, event

from penstock_pipeline import orders
from penstock_pipeline.api import answers
from penstock_pipeline.dashboard import facts
from penstock_pipeline.model import App, Run, RunStatus, StageName
from penstock_pipeline.store import SqliteStore, history, queue, registry, subscriptions
from penstock_pipeline.tokens import Identity, Scope, Session

APPS, RUNS = 3, 300
HISTORY = re.compile(r"SCAN (runs|stages|events|releases|pushes|deliveries)\b")


class Watched:
    """A store that notes each statement that walks a whole table of the history."""

    def __init__(self, store: SqliteStore) -> None:
        self.store = store
        self.walks: list[str] = []
        event.listen(store._engine, "before_cursor_execute", self._look)

    def _look(
        self, connection: Connection, _cursor: Any, statement: str, parameters: Any, _context: Any, many: bool
    ) -> None:
        if many or statement.startswith(("PRAGMA", "BEGIN")):
            return
        raw: Any = connection.connection.driver_connection
        plan = [line for *_, line in raw.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)]
        newest_first = "WHERE" not in statement and "LIMIT" in statement
        if any(map(HISTORY.match, plan)) and not newest_first:
            self.walks.append(f"{plan}: {statement}")


@pytest.fixture
async def watched(tmp_path: Path) -> AsyncIterator[Watched]:
    store = SqliteStore(tmp_path / "penstock.db")
    await store.open()
    await store.write(long_history.write, apps=APPS, runs=RUNS)
    yield Watched(store)
    await store.close()


async def accept(store: SqliteStore, app: App, delivery: str) -> Run:
    known = queue.Delivery("github", delivery, "0" * 64)
    told = {"ref": app.live_ref, "commit": "a" * 40, "pusher": "ann", "source": "github"}
    accepted = await store.write(queue.accept, app, **told, delivery=known)
    assert accepted.run is not None
    return accepted.run


async def test_a_run_from_its_delivery_to_its_end_walks_no_history(watched: Watched) -> None:
    store = watched.store
    app = await store.read(registry.get, "app-0")
    assert (await accept(store, app, "1")).id == 1  # a delivery that came long ago
    await accept(store, app, "new")
    await store.write(queue.adopt, holder="one")
    (run,) = await store.write(queue.claim, holder="one", most=4)
    await store.write(queue.start_stage, run, StageName.CHECKOUT)
    done = {"says": "", "result": {}, "seconds": 1.0}
    await store.write(queue.end_stage, run, StageName.CHECKOUT, **done, next_stage=StageName.BUILD)
    release = await store.write(queue.create_release, run, image=None, manifest=None, config={})
    assert release.version == RUNS // APPS + 1
    await store.write(queue.go_live, run, release)
    await store.write(queue.finish, run.id, RunStatus.FAILED)
    failed = await store.read(history.run, run.id)
    await store.write(queue.retry, failed, StageName.CHECKOUT, actor="ann")
    assert watched.walks == []


async def test_what_is_asked_all_day_walks_no_history(watched: Watched) -> None:
    store = watched.store
    app = await store.read(registry.get, "app-0")
    run = await accept(store, app, "new")
    await store.read(answers.apps_now)
    await store.read(answers.runs_now, "app-0", None, 20)
    await store.read(answers.runs_now, None, None, 20)
    await store.read(answers.run_whole, run.id)
    await store.read(history.events_after, 0, run_id=run.id)
    await store.read(facts._board, Session(Identity("ann", Scope.MANAGE, None, 0.0), form=""))
    await store.read(facts._app_facts, "app-0")
    await store.read(facts._run_facts, run.id)
    await store.read(history.pushed_release, app.id, before=run.id)
    last = (await store.read(history.events_after, 0, run_id=run.id))[-1]
    await store.read(subscriptions.told, last)
    assert watched.walks == []


async def test_a_rollback_finds_its_release_without_walking_the_history(watched: Watched) -> None:
    store = watched.store
    app = await store.read(registry.get, "app-0")
    before = await store.read(orders._target, app, None)
    assert before.version == RUNS // APPS - 1
    assert (await store.read(orders._target, app, 7)).version == 7
    assert len(await store.read(history.releases_of, app.id, live_once=True)) == 50
    assert watched.walks == []
