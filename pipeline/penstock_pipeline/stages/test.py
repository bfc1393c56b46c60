"""Test: the app's own tests decide whether there is anything to build."""

from __future__ import annotations

import asyncio
import shutil

from ..model import StageName
from .command import execute
from .work import Outcome, Work


async def test(work: Work) -> Outcome:
    """Runs `test` in a copy of the checkout, so that what tests leave behind is never built. Raises
    `StageFailed` with the last lines."""
    if work.config.test is None:
        return Outcome()
    tree = work.folder / "test"
    await asyncio.to_thread(shutil.rmtree, tree, ignore_errors=True)
    await asyncio.to_thread(shutil.copytree, work.tree, tree, symlinks=True)
    timeout = work.parts.settings.test_timeout
    await execute(work, StageName.TEST, work.config.test, tree=tree, timeout=timeout)
    return Outcome(f"passed under {work.parts.runtime.isolation}")
