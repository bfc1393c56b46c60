"""The engine: carries runs through their stages, in order, each thing once, whatever ends in between.

What is done is recorded before the next thing begins, so a new engine resumes every run at its first stage
that is not recorded as done. One run moves at a time per app (its lease); the newest push waits, older ones
are superseded.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection

from . import plan, variables
from .errors import (
    AwaitingApproval,
    Conflict,
    MachineUnavailable,
    PastCommit,
    PenstockError,
    StageFailed,
    StoreUnavailable,
    Unavailable,
)
from .model import App, Release, Run, RunKind, RunStatus, StageName
from .stages import STAGES, Outcome, Parts, Work
from .stages.deploy import bring_back
from .store import environments, history, queue, registry

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger(__name__)

RETRY_PAUSES = (0.5, 2.0, 5.0)
"""Seconds before a stage is tried again after a part was out of reach; then the run is red."""

STORE_PAUSE = 1.0
"""Seconds between two tries to reach the store."""


@dataclass(slots=True)
class _Moving:
    """A run that this engine carries."""

    task: asyncio.Task[None]
    run: Run
    stage: StageName | None
    """Where it is; None: nothing of it was ever begun."""
    ending: dict[str, Any] = field(default_factory=dict)
    """Set when somebody ends the run: the arguments of `queue.finish`."""

    @property
    def may_be_cut(self) -> bool:
        """A deploy is not torn apart: it takes moments, and half of one would leave traffic, branch and
        record at odds."""
        return self.stage is not StageName.DEPLOY

    @property
    def is_live(self) -> bool:
        """Its release takes the traffic, or is about to: only another release can undo that."""
        after = (StageName.DEPLOY, StageName.REFRESH)
        return self.run.kind is not RunKind.REFRESH and self.stage in after


class Engine:
    """One engine over one store; `run` is its life, the other methods may be called meanwhile."""

    def __init__(self, parts: Parts, *, holder: str) -> None:
        self._parts = parts
        self._holder = holder
        self._work_folder = parts.settings.state / "work"
        self._moving: dict[int, _Moving] = {}
        self._claiming = asyncio.Lock()
        """Held while runs leave the queue: to others a run is either there or in `_moving`."""
        self._packing: dict[str, asyncio.Task[None]] = {}
        """By app, what packs its repository or has done so."""
        self._packing_turn = asyncio.Lock()

    async def run(self) -> None:
        """Brings back what is live and lost, resumes what was under way, then carries every queued run, until
        cancelled. A cancelled engine leaves its runs as they are: the next one resumes them."""
        async with asyncio.TaskGroup() as group:
            await self._bring_back()
            async with self._claiming:
                resumed = await self._write(queue.adopt, holder=self._holder)
                for run in resumed:
                    self._carry(group, run, at=await self._read(_stage_begun, run.id))
            await self._clear_leftovers(group, resumed)
            with self._parts.store.changes.watch(queue.QUEUE) as news:
                while True:
                    news.clear()
                    await self._claim(group)
                    await news.wait()

    async def cancel(self, run_id: int, *, by: str) -> Run:
        """Ends a run, its processes with it. Raises `NotFound`, or `Conflict` where it has ended already or
        its release is live."""
        async with self._claiming:
            moving = self._moving.get(run_id)
            if moving is None:
                await self._parts.store.write(queue.cancel_waiting, run_id, by=by)
            elif moving.is_live:
                raise Conflict(
                    f"run {run_id} has taken the traffic; to undo that: penstock rollback {moving.run.app}"
                )
        if moving is not None:
            await self._end(moving, {"status": RunStatus.CANCELLED, "data": {"by": by}})
        return await self._parts.store.read(history.run, run_id)

    async def overtake(self, app: App, enqueue: Callable[[Connection], Run]) -> Run:
        """Queues a run that does not wait: what moves of its app ends."""
        async with self._claiming:
            run = await self._parts.store.write(enqueue)
            others = [moving for moving in self._moving.values() if moving.run.app_id == app.id]
        for moving in others:
            await self._end(moving, {"status": RunStatus.SUPERSEDED, "superseded_by": run.id})
        return run

    # -- carrying one run

    async def _claim(self, group: asyncio.TaskGroup) -> None:
        async with self._claiming:
            room = self._parts.settings.parallel_runs - len(self._moving)
            for run in await self._write(queue.claim, holder=self._holder, most=room) if room else ():
                self._carry(group, run)

    def _carry(self, group: asyncio.TaskGroup, run: Run, *, at: StageName | None = None) -> None:
        task = group.create_task(self._to_its_end(group, run), name=f"run-{run.id}")
        self._moving[run.id] = _Moving(task, run, at)

    async def _to_its_end(self, group: asyncio.TaskGroup, run: Run) -> None:
        moving = self._moving[run.id]
        try:
            await self._end_packing(run.app)
            ending = await self._outcome(run, moving)
        except asyncio.CancelledError:
            if not moving.ending:
                raise
            ending = moving.ending
        finally:
            del self._moving[run.id]
        await self._retire(group, run.app_id)
        self._packing[run.app] = group.create_task(self._pack(run.app), name=f"pack-{run.app}")
        with contextlib.suppress(Conflict):  # from here on the app's next run may begin
            await self._write(queue.finish, run.id, **ending)
        await asyncio.to_thread(shutil.rmtree, self._work_folder / str(run.id), ignore_errors=True)

    async def _outcome(self, run: Run, moving: _Moving) -> dict[str, Any]:
        """Carries the run and says how it ended, as arguments of `queue.finish`."""
        try:
            return await self._travel(await self._work(run), moving)
        except PastCommit as past:
            return {"status": RunStatus.IGNORED, "error": str(past)}
        except AwaitingApproval:
            live = await self._read(history.live_release, run.app_id)
            data = {"live": None if live is None else live.label}
            return {"status": RunStatus.AWAITING, "data": data}
        except PenstockError as error:
            return await self._failed(run, moving, error)
        except Exception as error:
            log.exception("a fault of Penstock ended a run", extra=_about(run, moving.stage))
            return await self._failed(run, moving, PenstockError(f"a fault of Penstock's own: {error!r}"))

    async def _work(self, run: Run) -> Work:
        work, sealed = await self._read(_facts, run, self._parts)
        return replace(work, variables=variables.opened(self._parts.vault, run.app, sealed))

    async def _travel(self, work: Work, moving: _Moving) -> dict[str, Any]:
        if not work.is_live and (why := plan.pointless(work.run, work.app, work.live)):
            raise PastCommit(why)
        stage = work.todo
        if stage is not None and not moving.ending:
            self._parts.logs.drop(work.run.id, stage)
            await self._write(queue.start_stage, work.run, stage)
        while stage is not None:
            moving.stage = stage
            if moving.ending and moving.may_be_cut:
                return moving.ending
            stage = await self._pass(stage, work)
        return {"status": RunStatus.SUCCEEDED, "data": self._success(work)}

    async def _pass(self, stage: StageName, work: Work) -> StageName | None:
        """Carries out a stage, records it, and tells which one comes next."""
        began = asyncio.get_running_loop().time()
        outcome = await self._outcome_of(stage, work)
        work.results[stage] = outcome.result
        await self._write(
            queue.end_stage,
            work.run,
            stage,
            says=outcome.says,
            result=outcome.result,
            seconds=asyncio.get_running_loop().time() - began,
            also=outcome.also,
            next_stage=work.todo,
        )
        return work.todo

    async def _outcome_of(self, stage: StageName, work: Work) -> Outcome:
        for pause in RETRY_PAUSES:
            try:
                return await _attempt(stage, work)
            except Unavailable as error:
                log.warning("a part is out of reach: %s", error, extra=_about(work.run, stage))
                self._parts.logs.drop(work.run.id, stage)
                await self._write(queue.retry_stage, work.run, stage, str(error))
                await asyncio.sleep(pause)
        return await _attempt(stage, work)

    def _success(self, work: Work) -> dict[str, object]:
        waited = work.results.get(StageName.APPROVE, {}).get("waited", 0.0)
        return {"release": work.label, "url": self.url(work.app), "undo": _undo(work), "waited": waited}

    def url(self, app: App) -> str:
        """Where visitors reach an app by its host name."""
        settings = self._parts.settings
        return f"http://{settings.host(app.name)}:{settings.router_port}/"

    async def _failed(self, run: Run, moving: _Moving, error: PenstockError) -> dict[str, Any]:
        if moving.stage is not None:
            await self._write(queue.fail_stage, run, moving.stage, str(error))
        live = await self._read(history.live_release, run.app_id)
        tail = error.tail if isinstance(error, StageFailed) else ()
        data = {"tail": tail, "live": None if live is None else live.label}
        if run.kind is RunKind.CONFIGURE and live is not None and live.environment != run.environment:
            data["again"] = "the variables stay set, for the next release"
        return {"status": RunStatus.FAILED, "error": str(error), "stage": moving.stage, "data": data}

    # -- ending and cleaning up

    async def _end(self, moving: _Moving, ending: dict[str, Any]) -> None:
        """Ends a run of this engine, unless that is under way, and waits until it has ended."""
        if not moving.ending:
            moving.ending = ending
            if moving.may_be_cut:
                moving.task.cancel()
        await asyncio.wait([moving.task])

    async def _bring_back(self) -> None:
        """What is live, but lost to the runtime, comes back as it was released. This is before any run moves,
        so that it takes no traffic from a newer release."""
        served = await self._parts.runtime.serves()
        for app in await self._read(registry.all_apps):
            if app.live_run is None or app.name in served:
                continue
            try:
                await bring_back(await self._work(await self._read(history.run, app.live_run)))
                log.warning("%s was live, but unknown to this machine; it is started again", app.name)
            except (PenstockError, OSError) as error:
                log.error("%s is live, but cannot be brought back; push again: %s", app.name, error)
            except Exception:
                log.exception("%s is live, but cannot be brought back; push again", app.name)

    async def _clear_leftovers(self, group: asyncio.TaskGroup, resumed: list[Run]) -> None:
        """What an engine that died has left behind and no resumed run needs."""
        await asyncio.to_thread(_remove_all_but, self._work_folder, {str(run.id) for run in resumed})
        busy = {run.app_id for run in resumed}
        for app in await self._read(registry.all_apps):
            if app.id not in busy:
                await self._retire(group, app.id)

    async def _retire(self, group: asyncio.TaskGroup, app_id: int) -> None:
        """Everything of the app that is there now, but not live, drains and ends while other things go on."""
        app = await self._read(registry.by_id, app_id)
        keep = None if app.live_run is None else app.candidate(app.live_run)
        group.create_task(self._retire_others(app.name, keep), name=f"retire-{app.name}")

    async def _retire_others(self, app: str, keep: str | None) -> None:
        try:
            await self._parts.runtime.retire(app, keep=keep)
        except Exception:
            log.exception("an old release of %s could not be ended; the next run tries again", app)

    async def _pack(self, app: str) -> None:
        """While the app has no run: one that begins ends this, and the next one begins it anew."""
        try:
            async with self._packing_turn:
                await self._parts.repositories.pack(app)
        except Exception:
            log.exception(
                "the repository of %s could not be packed; after the next run it is tried again", app
            )

    async def _end_packing(self, app: str) -> None:
        if (packing := self._packing.pop(app, None)) is not None:
            packing.cancel()
            await asyncio.wait([packing])

    async def _read(
        self, function: Callable[Concatenate[Connection, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return await _patiently(lambda: self._parts.store.read(function, *args, **kwargs))

    async def _write(
        self, function: Callable[Concatenate[Connection, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return await _patiently(lambda: self._parts.store.write(function, *args, **kwargs))


async def _patiently(ask: Callable[[], Awaitable[T]]) -> T:
    """While the store is out of reach, waits for it: a run must not go on unrecorded."""
    told = ""
    while True:
        try:
            return await ask()
        except StoreUnavailable as error:
            if str(error) != told:
                told = str(error)
                log.error("the store is out of reach, waiting for it: %s", told)
            await asyncio.sleep(STORE_PAUSE)


async def _attempt(stage: StageName, work: Work) -> Outcome:
    """What the machine lacks just now, such as room on the disk, is as worth a retry as a part's absence. No
    error tells a secret of the app."""
    try:
        return await STAGES[stage](work)
    except StageFailed as error:
        tail = tuple(work.mask.text(line) for line in error.tail)
        raise type(error)(work.mask.text(str(error)), tail=tail) from error
    except OSError as error:
        raise MachineUnavailable(error) from error


def _undo(work: Work) -> str | None:
    """What brings back what was live before."""
    if work.run.kind is RunKind.ROLLBACK:
        return f"penstock unpin {work.app.name}"
    deployed = work.results.get(StageName.DEPLOY)
    return f"penstock rollback {work.app.name}" if deployed and deployed.get("before") else None


def _about(run: Run, stage: StageName | None) -> dict[str, object]:
    """What a line of the log says of the run it is about."""
    return {"run": run.id, "app": run.app, "trace_id": run.trace_id, "stage": stage}


def _facts(tx: Connection, run: Run, parts: Parts) -> tuple[Work, str | None]:
    """The run's work without its variables, and these as they are kept."""
    app = registry.by_id(tx, run.app_id)
    live = history.live_release(tx, app.id)
    target = live if run.kind in (RunKind.REFRESH, RunKind.CONFIGURE) else _target_of(tx, run)
    records = {record.stage: record.result for record in history.stage_records(tx, run.id) if record.done}
    of = target if run.kind is RunKind.ROLLBACK else run
    sealed = environments.sealed(tx, None if of is None else of.environment)
    return Work(run, app, parts, records, live=live, target=target), sealed


def _target_of(tx: Connection, run: Run) -> Release | None:
    if run.kind is RunKind.REDEPLOY or run.target_release is None:
        return None
    return history.release(tx, run.target_release)


def _stage_begun(tx: Connection, run_id: int) -> StageName | None:
    """The last stage that was begun, by whichever engine."""
    begun = history.stage_records(tx, run_id)
    return begun[-1].stage if begun else None


def _remove_all_but(folder: Path, names: set[str]) -> None:
    for entry in folder.iterdir() if folder.exists() else ():
        if entry.name not in names:
            shutil.rmtree(entry, ignore_errors=True)
