"""Deploy: the candidate becomes a release and takes the traffic."""

from __future__ import annotations

from sqlalchemy import Connection

from .. import plan
from ..errors import Conflict
from ..model import Manifest, Release, RunKind
from ..runtimes import Route
from ..store import queue
from .work import Outcome, Work


async def deploy(work: Work) -> Outcome:
    """Publishes the static files, switches the traffic, moves the branch. What edges may serve stale from now
    on is recorded before anything changes, so that no interruption can lose it."""
    stale = await _stale_paths(work)
    release = await work.parts.store.write(_make_release, work, stale)
    await work.parts.origin.publish(work.app.name, release.manifest)
    await work.parts.runtime.switch(_route(work, release))
    if work.run.kind is RunKind.PUSH:
        await _move_branch(work)
    result = {"release": release.id, "label": release.label, "version": release.version}
    return Outcome(_says(work, release), result, lambda tx: queue.go_live(tx, work.run, release))


async def _stale_paths(work: Work) -> tuple[str, ...]:
    old = await _manifest(work, None if work.live is None else work.live.manifest)
    new = await _manifest(work, work.artefact.manifest)
    return plan.changed_paths(old, new)


async def _manifest(work: Work, digest: str | None) -> Manifest | None:
    return None if digest is None else await work.parts.origin.manifest(work.app.name, digest)


def _make_release(tx: Connection, work: Work, stale: tuple[str, ...]) -> Release:
    queue.owe(tx, work.app.id, [edge.name for edge in work.parts.edges], stale)
    if work.target is not None:
        return work.target
    made = work.artefact
    config = made.config.model_dump(mode="json")
    return queue.create_release(tx, work.run, image=made.image, manifest=made.manifest, config=config)


def _route(work: Work, release: Release) -> Route:
    return Route(
        app=work.app.name,
        host=work.parts.settings.host(work.app.name),
        port=work.app.port,
        release=release.label,
        candidate=work.candidate.name if work.candidate.processes else None,
    )


async def _move_branch(work: Work) -> None:
    repositories, app, commit = work.parts.repositories, work.app, work.run.commit
    tip = await repositories.tip(app.name, app.live_ref)
    if tip != commit and not await repositories.move(app.name, app.live_ref, to=commit, expected=tip):
        raise Conflict(f"{app.branch} was moved by someone else while run {work.run.id} went live")


def _says(work: Work, release: Release) -> str:
    drains = f", {work.live.label} drains" if work.live is not None and work.live.id != release.id else ""
    return f"{release.label} takes traffic{drains}"
