"""Refresh: only green when every edge serves the release."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any, TypeVar

from .. import plan
from ..cdn import RELEASE_PATH, Edge
from ..errors import EdgeUnavailable, StageFailed
from ..model import Manifest
from ..store import queue
from .work import Outcome, Work

T = TypeVar("T")

AT_ONCE = 8
"""Paths asked of one edge at the same time."""


async def refresh(work: Work) -> Outcome:
    """Purges on each edge what it may serve stale, then asks it and compares, again until it is right. Raises
    `StageFailed` naming the edges that are not right within `refresh_timeout`."""
    digest = work.artefact.manifest
    manifest = None if digest is None else await work.parts.origin.manifest(work.app.name, digest)
    edges = work.parts.edges
    owed = await work.parts.store.read(queue.owed, work.app.id)
    refreshes = (_Refresh(work, edge, manifest).until_right(owed.get(edge.name, ())) for edge in edges)
    problems = await _together(refreshes)
    right = [edge.name for edge, problem in zip(edges, problems, strict=True) if problem is None]
    wrong = [problem for problem in problems if problem is not None]
    total = len(edges)
    if wrong:
        await work.parts.store.write(queue.settle, work.app.id, right)
        raise StageFailed(
            f"{work.label} is live, but {len(wrong)} of {total} edges do not serve it: {'; '.join(wrong)}\n"
            f"to ask them again: penstock refresh {work.app.name}"
        )
    purged = max((len(owed.get(name, ())) for name in right), default=0)
    says = f"{purged} {'path' if purged == 1 else 'paths'} purged, {total} of {total} edges verified"
    return Outcome(says, also=lambda tx: queue.settle(tx, work.app.id, right))


async def _together(calls: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """What the calls return, in order. The first error ends the others too: none is left behind."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(call, name="refresh") for call in calls]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from errors
    return [task.result() for task in tasks]


class _Refresh:
    """The refresh of one edge."""

    def __init__(self, work: Work, edge: Edge, manifest: Manifest | None) -> None:
        self._work = work
        self._edge = edge
        self._manifest = manifest
        self._host = work.parts.settings.host(work.app.name)

    async def until_right(self, owed: Sequence[str]) -> str | None:
        """What is still wrong when time is up; None: all is right."""
        deadline = asyncio.get_running_loop().time() + self._work.parts.settings.refresh_timeout
        stale, pause = list(owed), 0.05
        while True:
            problem, stale = await self._once(stale)
            if problem is None:
                return None
            if asyncio.get_running_loop().time() + pause > deadline:
                return f"{self._edge.name}: {problem}"
            await asyncio.sleep(pause)
            pause = min(pause * 2, 2.0)

    async def _once(self, stale: list[str]) -> tuple[str | None, list[str]]:
        try:
            if stale:
                await self._edge.purge(self._host, stale)
            wrong = [path for path in await self._compare(stale) if path is not None]
            if wrong:
                return f"{wrong[0]} is stale" + (f" and {len(wrong) - 1} more" if wrong[1:] else ""), wrong
            return await self._other_release(), []
        except EdgeUnavailable as error:
            return str(error), stale

    async def _compare(self, paths: Iterable[str]) -> list[str | None]:
        turn = asyncio.Semaphore(AT_ONCE)

        async def wrong(path: str) -> str | None:
            async with turn:
                return None if await self._right(path) else path

        return await _together(wrong(path) for path in paths)

    async def _right(self, path: str) -> bool:
        """Bytes as in the manifest; a path that is gone must not answer with a file that was there before."""
        answer = await self._edge.fetch(self._host, path)
        expected = plan.expected(self._manifest, path)
        if expected is None:
            return answer.status != 200 or answer.release == self._work.label
        return answer.status == 200 and answer.sha256 == expected

    async def _other_release(self) -> str | None:
        answer = await self._edge.fetch(self._host, RELEASE_PATH)
        label = self._work.label
        return (
            None
            if answer.release == label
            else f"answers with {answer.release or 'no release'} instead of {label}"
        )
