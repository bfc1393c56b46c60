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


SEEN_AFTER = (0.5, 1.0, 2.0)
"""Seconds between looks at the registered branch: a webhook may come before its commit is seen there."""


async def checkout(work: Work) -> Outcome:
    """Lays out the commit and reads the app's configuration. Raises `PastCommit` where a webhook names a
    commit that was live before, or is not on its branch any more, `Invalid` for files or settings that
    cannot be."""
    async with work.parts.repositories.opened(work.app.name) as repository:
        seen = await _fetch(work, repository, work.run.commit)
        if _may_be_late(work.run):
            await _refuse_the_past(work, repository, seen)
        left_out = await repository.check_out(work.run.commit, work.tree)
    read = await asyncio.to_thread(config.load, work.tree)
    says = tell.clean(f"submodules are left out: {', '.join(left_out)}") if left_out else ""
    return Outcome(says, {"config": read.model_dump(mode="json")})


async def _fetch(work: Work, repository: Repository, commit: str) -> bool:
    """Whether the commit was seen on the branch of the registered repository."""
    app = work.app
    if await repository.has(commit):
        return False
    if app.repository is None:
        raise RepositoryUnavailable(
            f"commit {commit[:12]} is not here, and {app.name} has no repository to fetch"
        )
    return await repository.fetch(app.repository, ref=app.live_ref, commit=commit)


def _may_be_late(run: Run) -> bool:
    """A push through git comes in order; a webhook may be late, repeated, or have overtaken another. Who asks
    for a commit again means it."""
    return run.source != "git" and run.kind is RunKind.PUSH and run.retry_of is None


async def _refuse_the_past(work: Work, repository: Repository, seen: bool) -> None:
    """What an older push has overtaken gets its place back."""
    commit, aside = work.run.commit[:7], await _pushed_aside(work)
    tip = await repository.find(work.app.live_ref)
    if tip is not None and await _is_part(work, tip, repository):
        wrongly = next((run for run in aside if run.superseded_by == work.run.id), None)
        why = f"{commit} is part of {tip[:7]}, which was live already; nothing to do"
    elif (wrongly := await _going_on(work, aside, repository)) is not None:
        why = f"{commit} is part of {wrongly.commit[:7]}, which came before it; that goes live instead"
    elif not seen and (now := await _moved_away(work, repository)) is not None:
        wrongly = await _part_of(work, aside, now)
        why = f"{commit} is not on {work.app.branch} of the registered repository, which is at {now[:7]}"
    else:
        return
    if wrongly is not None:
        await work.parts.store.write(queue.accept_again, work.app, wrongly, instead_of=work.run)
    raise PastCommit(why)


async def _moved_away(work: Work, repository: Repository) -> str | None:
    """Where the branch of the registered repository is, if it neither holds the commit nor comes to hold it
    soon: then a force-push has taken it back."""
    app = work.app
    if app.repository is None:
        return None
    for pause in (0.0, *SEEN_AFTER):
        await asyncio.sleep(pause)
        tip = await repository.fetch_branch(app.repository, app.live_ref)
        if await work.parts.repositories.contains(app.name, work.run.commit, tip):
            return None
    return tip


async def _part_of(work: Work, aside: list[Run], tip: str) -> Run | None:
    """The newest that had its place taken and is on the branch."""
    for run in aside:
        taken = run.status is RunStatus.SUPERSEDED
        if taken and await work.parts.repositories.contains(work.app.name, run.commit, tip):
            return run
    return None


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
