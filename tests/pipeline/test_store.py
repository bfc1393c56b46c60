"""The store keeps what it was told, says when it cannot, and wakes those who wait."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event, text

from penstock_pipeline.errors import Conflict, NotFound, StoreUnavailable
from penstock_pipeline.model import App, Run, RunStatus, StageName, webhook_of
from penstock_pipeline.store import SqliteStore, history, migrations, queue, registry, rows
from penstock_pipeline.store.follow import follow
from penstock_pipeline.store.logs import Logs
from penstock_pipeline.store.schema import metadata
from penstock_pipeline.tell import Heard, Output, Silence
from penstock_pipeline.vault import Vault

HOLDER = "this-engine"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(tmp_path / "penstock.db")
    await store.open()
    yield store
    await store.close()


@pytest.fixture
async def app(store: SqliteStore) -> App:
    return await store.write(registry.add, name="shop", branch="main", port=7100)


async def push(
    store: SqliteStore, app: App, commit: str, delivery: queue.Delivery | None = None
) -> queue.Accepted:
    return await store.write(
        queue.accept, app, ref=app.live_ref, commit=commit, pusher="ann", source="git", delivery=delivery
    )


async def pushed(store: SqliteStore, app: App, commit: str) -> Run:
    accepted = await push(store, app, commit)
    assert accepted.run is not None
    return accepted.run


async def status(store: SqliteStore, run: Run) -> RunStatus:
    return (await store.read(history.run, run.id)).status


@pytest.mark.parametrize("before", ["nothing", "a version before the first"])
def test_a_new_and_a_migrated_database_have_the_schema(tmp_path: Path, before: str) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'penstock.db'}", isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        if before != "nothing":
            connection.exec_driver_sql("CREATE TABLE alembic_version (version_num VARCHAR(32) PRIMARY KEY)")
    for _ in range(2):
        migrations.upgrade(engine)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, metadata) == []
        assert context.get_current_revision() == migrations.HEAD
    engine.dispose()


async def test_what_a_database_of_the_first_version_holds_is_read_after_its_migration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_first_version(tmp_path / "penstock.db", monkeypatch)
    store = SqliteStore(tmp_path / "penstock.db")
    vault = Vault(tmp_path / "secrets.key")
    await store.open(new=False, vault=vault)
    app = await store.read(registry.get, "shop")
    assert (app.live_release, app.environment) == (3, None)
    assert vault.open(app.webhook_sealed or "", about=webhook_of("shop")) == b"hunter2 hunter2"
    newest, *_ = await store.read(history.recent_runs, app_id=app.id)
    assert (newest.id, newest.status, newest.retry_of) == (3, RunStatus.SUCCEEDED, None)
    before = await store.read(history.release_before, app.id, 3)
    assert before is not None
    assert (before.version, before.environment) == (1, None)  # v2 never took traffic
    await store.close()
    assert not [file for file in tmp_path.glob("penstock.db*") if b"hunter2" in file.read_bytes()]


def database(path: Path) -> Engine:
    return create_engine(f"sqlite:///{path}", isolation_level="AUTOCOMMIT")


def make_first_version(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = database(path)
    with monkeypatch.context() as old, engine.connect() as connection:
        old.setattr(migrations, "HEAD", "0001")
        connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        connection.exec_driver_sql("CREATE TABLE alembic_version (version_num VARCHAR(32) PRIMARY KEY)")
        migrations.upgrade(engine)
        for row in FIRST_VERSION:
            connection.exec_driver_sql(row)
    engine.dispose()


def upgrade(path: Path, before_each: Callable[[], object] = lambda: None) -> None:
    engine = database(path)
    event.listen(engine, "before_cursor_execute", lambda *_: before_each())
    try:
        migrations.upgrade(engine, Vault(path.parent / "secrets.key"))
    finally:
        engine.dispose()


def is_migrated(path: Path) -> bool:
    engine = database(path)
    with engine.connect() as connection:
        same = compare_metadata(MigrationContext.configure(connection), metadata) == []
        kept = connection.exec_driver_sql("SELECT count(*) FROM runs").scalar() == 3
    engine.dispose()
    return same and kept


def test_a_migration_that_is_killed_at_any_statement_is_made_by_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, moments = tmp_path / "state", tmp_path / "moments"
    folder.mkdir()
    moments.mkdir()
    make_first_version(folder / "penstock.db", monkeypatch)

    def as_a_kill_leaves_it() -> None:
        shutil.copytree(folder, moments / str(len(list(moments.iterdir()))))

    upgrade(folder / "penstock.db", as_a_kill_leaves_it)
    left = [moment / "penstock.db" for moment in moments.iterdir()]
    assert len(left) > 10
    for path in left:
        upgrade(path)
        assert is_migrated(path)


def test_a_migration_that_fails_at_any_statement_is_made_by_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "penstock.db"
    make_first_version(path, monkeypatch)
    failures = 0
    while fails_after(path, failures):
        failures += 1
    assert failures > 10
    assert is_migrated(path)


def fails_after(path: Path, statements: int) -> bool:
    left = [None] * statements
    try:
        upgrade(path, left.pop)
    except IndexError:
        return True
    return False


FIRST_VERSION = (
    "INSERT INTO apps VALUES (1, 'shop', 'main', 7100, NULL, 'hunter2 hunter2', 3, 3, 0, 1.0)",
    *(
        f"INSERT INTO pushes VALUES ({n}, 1, 'refs/heads/main', '{n:040}', 'ann', 'git', {n}.0)"
        for n in (1, 2, 3)
    ),
    *(
        f"INSERT INTO runs VALUES ({n}, 1, 'push', '{status}', '{n:040}', 'ann', 'git', '{n:032}', {n}, "
        f"NULL, {release}, {n}.0, {n}.1, {n}.2, NULL, NULL)"
        for n, status, release in ((1, "succeeded", 1), (2, "failed", "NULL"), (3, "succeeded", 3))
    ),
    *(
        f"INSERT INTO releases VALUES ({n}, 1, {n}, {n}, '{n:040}', NULL, NULL, '{{}}', {n}.0)"
        for n in (1, 2, 3)
    ),
    *(
        f"INSERT INTO stages VALUES ({n}, 'deploy', 'done', 1, {n}.0, {n}.1, '', "
        f'\'{{"release": {n}, "label": "v{n}", "version": {n}}}\', NULL)'
        for n in (1, 3)
    ),
)


def test_the_newest_migration_is_the_head() -> None:
    scripts = ScriptDirectory(str(Path(migrations.__file__).parent))
    assert scripts.get_current_head() == migrations.HEAD


async def test_a_write_that_returned_survives_a_sigkill(tmp_path: Path) -> None:
    program = f"""
import asyncio, os, signal
from pathlib import Path
from penstock_pipeline.store import SqliteStore, registry
async def main():
    store = SqliteStore(Path({str(tmp_path)!r}) / "penstock.db")
    await store.open()
    await store.write(registry.add, name="shop", branch="main", port=1)
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""
    ended = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", program], check=False)
    assert ended.returncode == -signal.SIGKILL
    store = SqliteStore(tmp_path / "penstock.db")
    await store.open()
    assert (await store.read(registry.get, "shop")).name == "shop"
    await store.close()


async def test_the_files_are_their_owners_alone(store: SqliteStore, app: App) -> None:
    files = [store.path, *store.path.parent.glob("penstock.db-*")]
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    assert len(files) > 1


async def test_a_commit_is_synchronous(store: SqliteStore) -> None:
    assert await store.read(lambda tx: tx.execute(text("PRAGMA synchronous")).scalar()) == 2


async def test_writes_that_wait_share_a_commit(store: SqliteStore, app: App) -> None:
    accepted = await asyncio.gather(*(push(store, app, f"{number:040x}") for number in range(200)))
    assert len({one.run.id for one in accepted if one.run}) == 200
    assert len(await store.read(queue.active, app.id)) == 1


async def test_a_write_that_fails_leaves_nothing_and_spoils_no_other(store: SqliteStore, app: App) -> None:
    def half(tx: object) -> None:
        registry.add(tx, name="half", branch="main", port=1)  # type: ignore[arg-type]
        raise ValueError("on purpose")

    failed, made = await asyncio.gather(
        store.write(half),
        store.write(registry.add, name="whole", branch="main", port=2),
        return_exceptions=True,
    )
    assert isinstance(failed, ValueError)
    assert isinstance(made, App)
    assert [one.name for one in await store.read(registry.all_apps)] == ["shop", "whole"]


async def test_a_disk_that_is_full_is_told_and_survived(store: SqliteStore, app: App) -> None:
    await store.write(lambda tx: tx.exec_driver_sql("PRAGMA max_page_count = 40"))
    big = {"facts": {"padding": "x" * 100_000}}
    with pytest.raises(StoreUnavailable, match="full"):
        for number in range(50):
            await store.write(
                queue.accept,
                app,
                ref="r",
                commit=f"{number:040x}",
                pusher="p",
                source="git",
                **big,  # type: ignore[arg-type]
            )
    await store.read(registry.get, "shop")
    await store.write(lambda tx: tx.exec_driver_sql("PRAGMA max_page_count = 1000000"))
    await pushed(store, app, "a" * 40)


def test_the_writer_commits_what_it_has_and_ends_in_peace_when_its_loop_is_gone(tmp_path: Path) -> None:
    began, go_on = threading.Event(), threading.Event()

    def slow(tx: Connection) -> None:
        registry.add(tx, name="shop", branch="main", port=1)
        began.set()
        assert go_on.wait(20)

    async def leave_in_the_middle() -> SqliteStore:
        store = SqliteStore(tmp_path / "penstock.db")
        await store.open()
        writing = asyncio.create_task(store.write(slow))
        await asyncio.to_thread(began.wait, 20)
        writing.cancel()
        return store

    store = asyncio.run(leave_in_the_middle())
    go_on.set()
    asyncio.run(store.close())

    async def names() -> list[str]:
        store = SqliteStore(tmp_path / "penstock.db")
        await store.open()
        try:
            return [app.name for app in await store.read(registry.all_apps)]
        finally:
            await store.close()

    assert asyncio.run(names()) == ["shop"]


async def test_a_clock_that_is_set_back_makes_no_negative_time(
    store: SqliteStore, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await pushed(store, app, "a" * 40)
    await store.write(queue.claim, holder=HOLDER, most=1)
    for stage in (StageName.CHECKOUT, StageName.TEST):
        hour_ago = datetime.now(UTC) - timedelta(hours=1)
        await store.write(queue.start_stage, run, stage)
        monkeypatch.setattr(rows, "now", lambda at=hour_ago: at)
    await store.write(queue.finish, run.id, RunStatus.SUCCEEDED)
    assert (await store.read(history.events_after, 0, run_id=run.id))[-1].data["seconds"] == 0
    records = await store.read(history.stage_records, run.id)
    assert [record.stage for record in records] == [StageName.CHECKOUT, StageName.TEST]


async def test_a_log_that_begins_again_is_read_again(store: SqliteStore, app: App, tmp_path: Path) -> None:
    run = await pushed(store, app, "a" * 40)
    await store.write(queue.start_stage, run, StageName.BUILD)
    logs = Logs(tmp_path / "logs", limit=10_000, changes=store.changes)
    heard = follow(store, logs, run.id)
    with logs.open(run.id, StageName.BUILD) as log:
        log.write(b"the first attempt\n")
        assert await next_output(heard) == b"the first attempt\n"
    with logs.open(run.id, StageName.BUILD) as log:
        log.write(b"the second\n")
        assert await next_output(heard) == b"the second\n"
    await heard.aclose()


async def next_output(heard: AsyncGenerator[Heard]) -> bytes:
    async with asyncio.timeout(10):
        async for item in heard:
            if isinstance(item, Output):
                return item.data
    raise AssertionError


async def test_a_file_that_is_no_database_is_refused_with_its_name(tmp_path: Path) -> None:
    file = tmp_path / "penstock.db"
    file.write_text("this is a letter, not a database" * 100)
    store = SqliteStore(file)
    with pytest.raises(StoreUnavailable, match=r"penstock\.db"):
        await store.open()
    await store.close()


async def test_a_write_waits_for_another_process_that_holds_the_database(
    store: SqliteStore, app: App, tmp_path: Path
) -> None:
    other = sqlite3.connect(tmp_path / "penstock.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    waiting = asyncio.ensure_future(pushed(store, app, "a" * 40))
    await asyncio.sleep(0)
    other.execute("COMMIT")
    other.close()
    assert (await waiting).status is RunStatus.QUEUED


async def test_a_newer_push_supersedes_one_that_waits_and_says_so(store: SqliteStore, app: App) -> None:
    first = await pushed(store, app, "a" * 40)
    second = await pushed(store, app, "b" * 40)
    ended = await store.read(history.run, first.id)
    assert (ended.status, ended.superseded_by) == (RunStatus.SUPERSEDED, second.id)


async def test_a_run_that_moves_is_not_superseded(store: SqliteStore, app: App) -> None:
    first = await pushed(store, app, "a" * 40)
    await store.write(queue.claim, holder=HOLDER, most=4)
    await pushed(store, app, "b" * 40)
    assert await status(store, first) is RunStatus.RUNNING


async def test_one_run_moves_per_app(store: SqliteStore, app: App) -> None:
    other = await store.write(registry.add, name="blog", branch="main", port=7101)
    await pushed(store, app, "a" * 40)
    await pushed(store, other, "a" * 40)
    claimed = await store.write(queue.claim, holder=HOLDER, most=4)
    assert [run.app for run in claimed] == ["shop", "blog"]
    await pushed(store, app, "b" * 40)
    assert await store.write(queue.claim, holder=HOLDER, most=4) == []
    await store.write(queue.finish, claimed[0].id, RunStatus.FAILED, error="red")
    assert [run.commit for run in await store.write(queue.claim, holder=HOLDER, most=4)] == ["b" * 40]


async def test_the_same_commit_joins_the_run_that_carries_it(store: SqliteStore, app: App) -> None:
    first = await push(store, app, "a" * 40)
    again = await push(store, app, "a" * 40)
    assert (first.fresh, again.fresh) == (True, False)
    assert first.run is not None
    assert again.run is not None
    assert again.run.id == first.run.id


async def test_the_same_commit_after_its_run_ended_is_a_new_run(store: SqliteStore, app: App) -> None:
    first = await pushed(store, app, "a" * 40)
    await store.write(queue.claim, holder=HOLDER, most=1)
    await store.write(queue.finish, first.id, RunStatus.FAILED, error="red")
    assert (await pushed(store, app, "a" * 40)).id != first.id


async def test_a_hundred_deliveries_of_one_webhook_are_one_run(store: SqliteStore, app: App) -> None:
    delivery = queue.Delivery("github", "4711", "body")
    accepted = await asyncio.gather(*(push(store, app, "a" * 40, delivery) for _ in range(100)))
    assert len({one.run.id for one in accepted if one.run}) == 1
    assert sum(one.fresh for one in accepted) == 1


async def test_a_delivery_id_with_another_body_is_refused(store: SqliteStore, app: App) -> None:
    await push(store, app, "a" * 40, queue.Delivery("github", "4711", "body"))
    with pytest.raises(Conflict, match="4711"):
        await push(store, app, "b" * 40, queue.Delivery("github", "4711", "other"))


async def test_a_run_ends_once(store: SqliteStore, app: App) -> None:
    run = await pushed(store, app, "a" * 40)
    await store.write(queue.finish, run.id, RunStatus.CANCELLED)
    with pytest.raises(Conflict, match="cancelled"):
        await store.write(queue.finish, run.id, RunStatus.FAILED)


async def test_a_release_is_made_once_per_run_and_counted_per_app(store: SqliteStore, app: App) -> None:
    first, second = await pushed(store, app, "a" * 40), await pushed(store, app, "b" * 40)
    made = [
        await store.write(queue.create_release, run, image=None, manifest=None, config={})
        for run in (first, first, second)
    ]
    assert [release.label for release in made] == ["v1", "v1", "v2"]


async def test_an_edge_owes_what_was_never_verified(store: SqliteStore, app: App) -> None:
    await store.write(queue.owe, app.id, ["edge-1"], ["/b", "/a"])
    await store.write(queue.owe, app.id, ["edge-1"], ["/c", "/a"])
    assert await store.read(queue.owed, app.id) == {"edge-1": ("/a", "/b", "/c")}
    await store.write(queue.settle, app.id, ["edge-1"])
    assert await store.read(queue.owed, app.id) == {}


async def test_an_unknown_app_is_told_with_those_there_are(store: SqliteStore, app: App) -> None:
    with pytest.raises(NotFound, match=r"no app 'shpo'; did you mean shop\?"):
        await store.read(registry.get, "shpo")


async def test_followers_hear_events_and_output_in_order(
    store: SqliteStore, app: App, tmp_path: Path
) -> None:
    run = await pushed(store, app, "a" * 40)
    logs = Logs(tmp_path / "logs", limit=10_000, changes=store.changes)
    heard: list[object] = []

    async def listen() -> None:
        async for item in follow(store, logs, run.id):
            heard.append(item.data if isinstance(item, Output) else getattr(item, "kind", item))

    listening = asyncio.create_task(listen())
    await store.write(queue.claim, holder=HOLDER, most=1)
    await store.write(queue.start_stage, run, StageName.TEST)
    with logs.open(run.id, StageName.TEST) as log:
        log.write(b"one\n")
        log.write(b"two\n")
    await store.write(queue.end_stage, run, StageName.TEST, says="passed", result={}, seconds=1)
    await store.write(queue.finish, run.id, RunStatus.SUCCEEDED)
    await asyncio.wait_for(listening, 10)
    assert [item for item in heard if isinstance(item, str)] == [
        "accepted", "stage.started", "stage.done", "run.succeeded"
    ]  # fmt: skip
    assert b"".join(item for item in heard if isinstance(item, bytes)) == b"one\ntwo\n"
    assert heard.index("stage.done") > max(i for i, item in enumerate(heard) if isinstance(item, bytes))


async def test_followers_are_told_of_silence(store: SqliteStore, app: App, tmp_path: Path) -> None:
    run = await pushed(store, app, "a" * 40)
    await store.write(queue.start_stage, run, StageName.BUILD)
    logs = Logs(tmp_path / "logs", limit=10_000, changes=store.changes)
    async for item in follow(store, logs, run.id, beat=0.01):
        if isinstance(item, Silence):
            assert item.stage is StageName.BUILD
            return


async def test_who_has_heard_all_of_a_run_that_rests_waits_for_nothing(
    store: SqliteStore, app: App, tmp_path: Path
) -> None:
    run = await pushed(store, app, "a" * 40)
    await store.write(queue.claim, holder=HOLDER, most=1)
    await store.write(queue.start_stage, run, StageName.APPROVE)
    logs = Logs(tmp_path / "logs", limit=10_000, changes=store.changes)

    async def heard(after: int) -> list[Heard]:
        async with asyncio.timeout(10):
            return [item async for item in follow(store, logs, run.id, after=after, beat=0.01)]

    await store.write(queue.finish, run.id, RunStatus.AWAITING)
    *_, last = await store.read(history.events_after, 0, run_id=run.id)
    assert (await heard(last.id - 1), await heard(last.id)) == ([last], [])
    await store.write(queue.cancel_waiting, run.id, by="ann")
    *_, last = await store.read(history.events_after, 0, run_id=run.id)
    assert (await heard(last.id - 1), await heard(last.id)) == ([last], [])


async def test_a_log_is_bounded_and_says_what_it_dropped(store: SqliteStore, tmp_path: Path) -> None:
    logs = Logs(tmp_path / "logs", limit=2000, changes=store.changes)
    with logs.open(7, StageName.BUILD) as log:
        for _ in range(100):
            log.write(b"x" * 100)
    kept = logs.path(7, StageName.BUILD).read_bytes()
    assert kept.startswith(b"x" * 2000)
    assert b"full at 2,000 bytes; 8,000 more were dropped" in kept
    assert len(kept) < 2200
