"""An engine over real git and a real store, with the ports' fakes told what to do."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from plugins.house import eventually
from plugins.penstock import Repository

from penstock_pipeline import engine as engine_module
from penstock_pipeline.cdn import RELEASE_PATH
from penstock_pipeline.cdn.fake import FakeEdge, FakeOrigin
from penstock_pipeline.engine import Engine
from penstock_pipeline.images.memory import MemoryImages
from penstock_pipeline.model import App, Run, RunStatus
from penstock_pipeline.orders import Orders
from penstock_pipeline.repositories import Repositories
from penstock_pipeline.runtimes.fake import FakeRuntime
from penstock_pipeline.settings import Settings
from penstock_pipeline.stages import Parts
from penstock_pipeline.store import SqliteStore, history, queue, registry
from penstock_pipeline.store.logs import Logs
from penstock_pipeline.vault import Vault
from penstock_pool.compute import ComputePool

SERVICE = "web: serve\nstatic: public\n"


class House:
    """An engine with everything around it, and a working copy to make commits in."""

    def __init__(self, folder: Path, edges: Sequence[str] = ("edge-1", "edge-2")) -> None:
        self.settings = Settings(state=folder, refresh_timeout=0.2, app_ports=0)
        self.store = SqliteStore(folder / "penstock.db")
        self.runtime = FakeRuntime()
        self.origin = FakeOrigin()
        self.edges = tuple(FakeEdge(name, self._behind) for name in edges)
        self.parts = Parts(
            settings=self.settings,
            store=self.store,
            vault=Vault(folder / "secrets.key"),
            logs=Logs(folder / "logs", limit=100_000, changes=self.store.changes),
            repositories=Repositories(folder / "repositories", hooks=folder / "hooks", size_limit=10**9),
            runtime=self.runtime,
            images=MemoryImages(),
            packing=ComputePool(1, name="packing"),
            origin=self.origin,
            edges=self.edges,
        )
        self.engine = Engine(self.parts, holder="one")
        self.work = Repository(folder / "work-copy")

    @property
    def orders(self) -> Orders:
        return Orders(self.parts, self.engine)

    def _behind(self, host: str, path: str) -> tuple[int, bytes, str | None]:
        route = self.runtime.routes.get("shop")
        label = None if route is None else route.release
        if path == RELEASE_PATH:
            return 200, (label or "").encode(), label
        body = self.origin.serve("shop", path)
        return (404, b"", label) if body is None else (200, body, label)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        self.task = asyncio.create_task(self.engine.run(), name="engine")
        try:
            yield
        finally:
            await self.stop()

    async def stop(self) -> None:
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task

    async def app(self) -> App:
        return await self.store.read(registry.get, "shop")

    async def push(self, files: dict[str, str], *, source: str = "git") -> Run:
        """Commits and accepts, as the git door does."""
        commit = await asyncio.to_thread(self.work.commit, files)
        return await self.accept(commit, source=source)

    async def accept(self, commit: str, *, source: str = "git") -> Run:
        app = await self.app()
        bare = str(self.parts.repositories.path("shop"))
        await asyncio.to_thread(self.work.git, "push", "--quiet", bare, f"{commit}:refs/keep/{commit}")
        accepted = await self.store.write(
            queue.accept, app, ref=app.live_ref, commit=commit, pusher="ann", source=source
        )
        assert accepted.run is not None
        return accepted.run

    async def ended(self, run: Run) -> Run:
        """The run once it has ended, or waits for approval."""

        async def probe() -> Run | None:
            now = await self.store.read(history.run, run.id)
            return now if now.status.ended or now.status is RunStatus.AWAITING else None

        found = await eventually(probe)
        assert found is not None
        return found

    async def pushed(self, files: dict[str, str]) -> Run:
        return await self.ended(await self.push(files))


@pytest.fixture
async def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    monkeypatch.setattr(engine_module, "RETRY_PAUSES", (0.0, 0.0))
    house = House(tmp_path)
    await house.store.open()
    await house.orders.register("shop")
    async with house.running():
        yield house
    await house.store.close()


class Held:
    """A call that waits: `reached` once somebody makes it, answered after `go`."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.go = asyncio.Event()


@contextmanager
def held(port: Any, call: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    """The first call of a port's method waits, later ones do not."""
    held, real = Held(), getattr(port, call)

    async def wait(*args: Any, **kwargs: Any) -> Any:
        if not held.reached.is_set():
            held.reached.set()
            await held.go.wait()
        return await real(*args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(port, call, wait)
        yield held
        held.go.set()


def page(text: str, config: str = SERVICE) -> dict[str, str]:
    return {
        "public/index.html": text,
        "public/same.txt": "same",
        "serve": "#!/bin/sh\n",
        "penstock.yaml": config,
    }
