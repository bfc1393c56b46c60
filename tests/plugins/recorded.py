"""Runs as the engine would record them, and an engine that does nothing else: for what reads the store."""

from __future__ import annotations

from pathlib import Path

from penstock_pipeline import plan
from penstock_pipeline.api import Api
from penstock_pipeline.errors import Conflict
from penstock_pipeline.model import App, Release, Run, RunStatus, StageName
from penstock_pipeline.receiver.forges import FORGES
from penstock_pipeline.runtimes import ProcessState
from penstock_pipeline.settings import Settings
from penstock_pipeline.store import SqliteStore, history, queue, registry
from penstock_pipeline.store.logs import Logs
from penstock_pipeline.subscribers.courier import Courier
from penstock_pipeline.subscribers.registry import Subscribers
from penstock_pipeline.tokens import Tokens
from penstock_pipeline.variables import Variable
from penstock_pipeline.vault import Vault

HOLDER = "no-engine"


async def accepted(store: SqliteStore, app: App, commit: str, *, pusher: str = "ann") -> Run:
    """A push that waits."""
    taken = await store.write(queue.accept, app, ref=app.live_ref, commit=commit, pusher=pusher, source="git")
    assert taken.run is not None
    return taken.run


async def began(store: SqliteStore, run: Run, stage: StageName) -> None:
    """The run is claimed and at this stage; those before it are done."""
    await store.write(queue.claim, holder=HOLDER, most=10)
    for name in plan.stages(run.kind):
        await store.write(queue.start_stage, run, name)
        if name is stage:
            return
        await store.write(queue.end_stage, run, name, says=f"{name} done", result={}, seconds=0.5)


async def failed(
    store: SqliteStore, run: Run, stage: StageName, error: str, tail: tuple[str, ...] = ()
) -> None:
    """The run is red at this stage."""
    await began(store, run, stage)
    await store.write(queue.fail_stage, run, stage, error)
    told = {"tail": tail, "live": None}
    await store.write(queue.finish, run.id, RunStatus.FAILED, error=error, stage=stage, data=told)


async def succeeded(store: SqliteStore, run: Run) -> Release:
    """The run is green and its release live."""
    await began(store, run, StageName.REFRESH)
    release = await store.write(queue.create_release, run, image="sha256:9ad1", manifest=None, config={})
    await store.write(queue.go_live, run, release)
    told = {"release": release.label, "url": f"http://{run.app}.localhost:7080/"}
    await store.write(queue.finish, run.id, RunStatus.SUCCEEDED, data=told)
    return release


def api_over(store: SqliteStore, state: Path) -> Api:
    """The API over a store, with an engine that only records."""
    return Api(
        orders=RecordingOrders(store),
        subscribers=Subscribers(store, Vault(state / "secrets.key"), Courier(), base="http://penstock.test"),
        store=store,
        logs=Logs(state / "logs", limit=10_000_000, changes=store.changes),
        tokens=Tokens(state / "token.key"),
        settings=Settings(state=state),
        urls=_urls,
    )


def _urls(app: App) -> dict[str, object]:
    return {
        "app": f"http://{app.name}.localhost:7080/",
        "remote": f"http://127.0.0.1:7070/git/{app.name}",
        "webhook": f"http://127.0.0.1:7070/hooks/github/{app.name}",
        "webhooks": {name: f"http://127.0.0.1:7070/hooks/{name}/{app.name}" for name in FORGES},
    }


class RecordingOrders:
    """The engine's face over a real store. It carries nothing; told to raise, it raises."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self.raises: Exception | None = None
        self.processes: list[ProcessState] = []

    async def register(
        self,
        name: str,
        *,
        branch: str = "main",
        repository: str | None = None,
        webhook_secret: str | None = None,
    ) -> App:
        self._raise()
        return await self._store.write(
            registry.add,
            name=name,
            branch=branch,
            port=7100,
            repository=repository,
            webhook_sealed=webhook_secret and f"sealed {webhook_secret}",
        )

    async def cancel(self, run_id: int, *, by: str) -> Run:
        self._raise()
        await self._store.write(queue.finish, run_id, RunStatus.CANCELLED, data={"by": by})
        return await self._store.read(history.run, run_id)

    async def roll_back(self, app_name: str, *, version: int | None, by: str) -> Run:
        self._raise()
        app = await self._store.read(registry.get, app_name)
        releases = await self._store.read(history.releases_of, app.id)
        wanted = [release for release in releases if release.version == (version or release.version)]
        if not wanted:
            raise Conflict(f"{app_name} has nothing to go back to")
        return await self._store.write(queue.roll_back, app, wanted[-1], actor=by)

    async def refresh(self, app_name: str, *, by: str) -> Run:
        self._raise()
        app = await self._store.read(registry.get, app_name)
        (live, *_) = await self._store.read(history.releases_of, app.id)
        return await self._store.write(queue.refresh, app, live, actor=by)

    async def variables(self, app_name: str) -> dict[str, Variable]:
        return {}

    async def observe(self) -> list[ProcessState]:
        self._raise()
        return self.processes

    def _raise(self) -> None:
        if self.raises is not None:
            raise self.raises
