"""Checkout: the exact commit, as files."""

from __future__ import annotations

import asyncio

from .. import config, tell
from ..errors import PastCommit, RepositoryUnavailable
from .work import Outcome, Work


async def checkout(work: Work) -> Outcome:
    """Lays out the commit and reads the app's configuration. Raises `PastCommit` where a webhook names a
    commit that was live before, `Invalid` for files or settings that cannot be."""
    await _fetch(work)
    await _refuse_the_past(work)
    left_out = await work.parts.repositories.check_out(work.app.name, work.run.commit, work.tree)
    read = await asyncio.to_thread(config.load, work.tree)
    says = tell.clean(f"submodules are left out: {', '.join(left_out)}") if left_out else ""
    return Outcome(says, {"config": read.model_dump(mode="json")})


async def _fetch(work: Work) -> None:
    repositories, app, commit = work.parts.repositories, work.app, work.run.commit
    if await repositories.has(app.name, commit):
        return
    if app.repository is None:
        raise RepositoryUnavailable(
            f"commit {commit[:12]} is not here, and {app.name} has no repository to fetch"
        )
    await repositories.fetch(app.name, app.repository, ref=app.live_ref, commit=commit)


async def _refuse_the_past(work: Work) -> None:
    """A push through git comes in order; a webhook may be late or repeated."""
    if work.run.source == "git":
        return
    repositories, app, commit = work.parts.repositories, work.app, work.run.commit
    tip = await repositories.tip(app.name, app.live_ref)
    if tip is not None and await repositories.contains(app.name, commit, tip):
        raise PastCommit(f"{commit[:7]} is part of {tip[:7]}, which was live already; nothing to do")
