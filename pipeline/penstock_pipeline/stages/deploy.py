"""Deploy: the candidate becomes a release and takes the traffic."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import Connection

from .. import plan
from ..model import Manifest, Release, RunKind
from ..runtimes import Route
from ..store import history, queue
from .work import Outcome, Work


async def deploy(work: Work) -> Outcome:
    """Moves the branch, publishes the static files, switches the traffic: all of it, or nothing. What edges
    may serve stale from now on is recorded before anything changes, so that no interruption can lose it."""
    stale = await _stale_paths(work)
    release = await work.parts.store.write(_make_release, work, stale)
    async with _branch_moved(work):
        await _switch(work, release)
    result = {"release": release.id, "label": release.label, "version": release.version}
    result |= {"before": None if work.live is None else work.live.id}
    return Outcome(_says(work, release), result, lambda tx: queue.go_live(tx, work.run, release))


async def bring_back(work: Work) -> None:
    """Starts the live release, which this run made, and gives it the traffic, on a machine that knows nothing
    of it any more. What still runs of it is adopted."""
    assert work.live is not None
    await work.parts.runtime.start(work.candidate)
    await work.parts.runtime.switch(_route(work, work.live))


async def _stale_paths(work: Work) -> tuple[str, ...]:
    old = await _manifest(work, None if work.live is None else work.live.manifest)
    new = await _manifest(work, work.artefact.manifest)
    return plan.changed_paths(old, new)


async def _manifest(work: Work, digest: str | None) -> Manifest | None:
    return None if digest is None else await work.parts.origin.manifest(work.app.name, digest)


def _make_release(tx: Connection, work: Work, stale: tuple[str, ...]) -> Release:
    queue.owe(tx, work.app.id, [edge.name for edge in work.parts.edges], stale)
    if work.run.kind is RunKind.ROLLBACK and work.target is not None:
        return work.target
    made = work.artefact
    config = made.config.model_dump(mode="json")
    return queue.create_release(
        tx,
        work.run,
        image=made.image,
        manifest=made.manifest,
        config=config,
        environment=work.run.environment,
    )


def _route(work: Work, release: Release) -> Route:
    return Route(
        app=work.app.name,
        host=work.parts.settings.host(work.app.name),
        port=work.app.port,
        release=release.label,
        candidate=work.candidate.name if work.candidate.processes else None,
    )


@asynccontextmanager
async def _branch_moved(work: Work) -> AsyncIterator[None]:
    """The branch is at the run's commit from here on, or back where it was if the block fails. It comes
    first: whatever stands in its way, visitors have seen nothing yet."""
    if work.run.kind is not RunKind.PUSH:
        yield
        return
    repositories, app, commit = work.parts.repositories, work.app.name, work.run.commit
    ref = work.app.live_ref
    tip = await repositories.tip(app, ref)
    before = tip if tip != commit else await _pushed_before(work)
    if tip != commit:
        await repositories.move(app, ref, to=commit, expected=tip)
    try:
        yield
    except Exception:
        if before != commit:
            await repositories.move(app, ref, to=before, expected=commit)
        raise


async def _pushed_before(work: Work) -> str | None:
    """Where the branch stood when this run came, if it was an attempt cut off by a crash that moved it."""
    pushed = await work.parts.store.read(history.pushed_release, work.app.id, before=work.run.id)
    return None if pushed is None else pushed.commit


async def _switch(work: Work, release: Release) -> None:
    """Where the traffic cannot be switched, the static files are those of before again."""
    origin, app = work.parts.origin, work.app.name
    try:
        await origin.publish(app, release.manifest)
        await work.parts.runtime.switch(_route(work, release))
    except Exception:
        await origin.publish(app, None if work.live is None else work.live.manifest)
        raise


def _says(work: Work, release: Release) -> str:
    drains = f", {work.live.label} drains" if work.live is not None and work.live.id != release.id else ""
    return f"{release.label} takes traffic{drains}"
