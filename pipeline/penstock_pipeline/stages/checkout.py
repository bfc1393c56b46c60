"""Checkout: the exact commit, as files."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from itertools import takewhile

from .. import config, tell
from ..errors import PastCommit, RepositoryUnavailable
from ..model import Run, RunKind, RunStatus
from ..repositories import Repository
from ..store import history, queue
from .work import Outcome, Work

_NEVER_RAN = (RunStatus.SUPERSEDED, RunStatus.IGNORED)


async def checkout(work: Work) -> Outcome:
    """Lays out the commit and reads the app's configuration. Raises `PastCommit` where a webhook names a
    commit that was live before, `Invalid` for files or settings that cannot be."""
    async with work.parts.repositories.opened(work.app.name) as repository:
        await _fetch(work, repository, work.run.commit)
        await _refuse_the_past(work, repository)
        left_out = await repository.check_out(work.run.commit, work.tree)
    read = await asyncio.to_thread(config.load, work.tree)
    says = tell.clean(f"submodules are left out: {', '.join(left_out)}") if left_out else ""
    return Outcome(says, {"config": read.model_dump(mode="json")})


async def _fetch(work: Work, repository: Repository, commit: str) -> None:
    app = work.app
    if await repository.has(commit):
        return
    if app.repository is None:
        raise RepositoryUnavailable(
            f"commit {commit[:12]} is not here, and {app.name} has no repository to fetch"
        )
    await repository.fetch(app.repository, ref=app.live_ref, commit=commit)


async def _refuse_the_past(work: Work, repository: Repository) -> None:
    """A push through git comes in order; a webhook may be late, repeated, or have overtaken another, which
    then gets its place back. Who asks for a commit again means it."""
    if work.run.source == "git" or work.run.kind is not RunKind.PUSH or work.run.retry_of is not None:
        return
    commit, aside = work.run.commit[:7], await _pushed_aside(work)
    tip = await repository.find(work.app.live_ref)
    if tip is not None and await _is_part(work, tip, repository):
        wrongly = next((run for run in aside if run.superseded_by == work.run.id), None)
        why = f"{commit} is part of {tip[:7]}, which was live already; nothing to do"
    elif (wrongly := await _going_on(work, aside, repository)) is not None:
        why = f"{commit} is part of {wrongly.commit[:7]}, which came before it; that goes live instead"
    else:
        return
    if wrongly is not None:
        await work.parts.store.write(queue.accept_again, work.app, wrongly, instead_of=work.run)
    raise PastCommit(why)


async def _is_part(work: Work, tip: str, repository: Repository) -> bool:
    """Mostly a commit follows the branch's tip; its history need not be searched for it then."""
    commit = work.run.commit
    follows = await repository.find(f"{commit}^") == tip
    return not follows and await work.parts.repositories.contains(work.app.name, commit, tip)


async def _pushed_aside(work: Work) -> list[Run]:
    """The pushes that had not gone live when this one came and took their place, newest first."""
    before = await work.parts.store.read(history.recent_runs, app_id=work.app.id, before=work.run.id)
    deciding = (run for run in before if run.kind in (RunKind.PUSH, RunKind.ROLLBACK))
    return list(takewhile(lambda run: run.kind is RunKind.PUSH and run.status in _NEVER_RAN, deciding))


async def _going_on(work: Work, aside: list[Run], repository: Repository) -> Run | None:
    """The first that goes on from this one's commit. The newest brings the whole branch along; one that
    cannot be fetched was taken back meanwhile."""
    repositories, app, commit = work.parts.repositories, work.app.name, work.run.commit
    with suppress(RepositoryUnavailable):
        for newest in aside[:1]:
            await _fetch(work, repository, newest.commit)
    for run in aside:
        if run.commit != commit and await repositories.contains(app, commit, run.commit):
            return run
    return None
