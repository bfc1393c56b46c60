"""Runs in motion: accepted, claimed, advanced stage by stage, ended. The only writer of a run's status."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from sqlalchemy import Connection, Insert, bindparam, delete, func, insert, select, update

from .. import plan
from ..errors import Conflict, NotFound
from ..model import App, Push, Release, Run, RunKind, RunStatus, StageName, move
from . import history, registry, rows
from .rows import RUNS, add_event
from .schema import Instant, apps, debts, deliveries, leases, pushes, releases, runs, stages

QUEUE = "queue"
"""The topic of those who start runs: one was queued, or one ended and its app is free."""

_WAITING = (RunStatus.QUEUED, RunStatus.AWAITING)
_DECIDING = (RunKind.PUSH, RunKind.ROLLBACK)
"""What decides which commit is to be live: of those that have not ended, the newest does."""

# Statements of the hot path are built once: building one costs more than running it.
_ADD_PUSH = insert(pushes)
_ADD_RUN = insert(runs)
_ADD_DELIVERY = insert(deliveries)
# "+ 0" keeps the planner from walking an app's whole history by its own index: few runs are active.
_ACTIVE = RUNS.where(
    runs.c.status.in_([status for status in RunStatus if not status.ended]),
    runs.c.app_id + 0 == bindparam("app"),
).order_by(runs.c.id)
_CLAIMABLE = (
    RUNS.where(
        runs.c.id.in_(
            select(func.min(runs.c.id))
            .where(runs.c.status == RunStatus.QUEUED, runs.c.app_id.not_in(select(leases.c.app_id)))
            .group_by(runs.c.app_id)
        )
    )
    .order_by(runs.c.id)
    .limit(bindparam("most"))
)
_END = (
    update(runs)
    .where(runs.c.id == bindparam("run"))
    .values({name: bindparam(name) for name in ("status", "ended_at", "error", "superseded_by")})
)
_STAGE = update(stages).where(stages.c.run_id == bindparam("run"), stages.c.stage == bindparam("name"))
_BEGIN_STAGE = insert(stages)
_BEGIN_STAGE_AGAIN = _STAGE.values(
    status="started",
    attempt=stages.c.attempt + 1,
    started_at=bindparam("started_at"),
    ended_at=None,
    error=None,
)
_END_STAGE = _STAGE.values(
    {name: bindparam(name) for name in ("status", "ended_at", "says", "result", "error")}
)
_BEGIN = (
    update(runs)
    .where(runs.c.id == bindparam("run"))
    .values(
        status=bindparam("status"),
        started_at=func.coalesce(runs.c.started_at, bindparam("started_at", type_=Instant())),
        environment=bindparam("environment"),
    )
)
_ENVIRONMENT = select(apps.c.environment).where(apps.c.id == bindparam("app"))
_OWED = select(debts.c.edge, debts.c.paths).where(debts.c.app_id == bindparam("app"))
_OWE = insert(debts)
_SETTLE = delete(debts).where(
    debts.c.app_id == bindparam("app"), debts.c.edge.in_(bindparam("edges", expanding=True))
)
_LEASE = insert(leases)
_GIVE_BACK = delete(leases).where(leases.c.run_id == bindparam("run"))
_DELIVERY = select(deliveries.c.body_sha256, deliveries.c.push_id).where(
    deliveries.c.app_id == bindparam("app"),
    deliveries.c.source == bindparam("source"),
    deliveries.c.delivery_id == bindparam("id"),
)


@dataclass(frozen=True, slots=True)
class Delivery:
    """One webhook delivery, as its sender names it."""

    source: str
    id: str
    body_sha256: str


@dataclass(frozen=True, slots=True)
class Accepted:
    """What became of a push. `fresh` is false when it was known already (a delivery repeated, the same
    commit still on its way): then `run` is the one it led to before; None when it sets nothing off."""

    run: Run | None
    fresh: bool


def accept(
    tx: Connection,
    app: App,
    *,
    ref: str,
    commit: str,
    pusher: str,
    source: str,
    delivery: Delivery | None = None,
    facts: Mapping[str, object] | None = None,
) -> Accepted:
    """Takes a push in and queues its run, superseding pushes that wait; `facts` go into the accepted event.

    A push of the commit that the newest push still carries joins its run. Raises `Conflict` for a delivery
    id that came before with another body.
    """
    if delivery is not None and (known := _known_delivery(tx, app, delivery)) is not None:
        return known
    moving = active(tx, app.id)
    newest = _deciding(moving)
    if newest is not None and newest.kind is RunKind.PUSH and newest.commit == commit:
        if delivery is not None:
            _record_delivery(tx, app, delivery, newest.push_id)
        return Accepted(newest, fresh=False)
    push = store_push(tx, app, ref=ref, commit=commit, pusher=pusher, source=source)
    if delivery is not None:
        _record_delivery(tx, app, delivery, push.id)
    run = _enqueue(tx, app, RunKind.PUSH, commit=commit, actor=pusher, source=source, push_id=push.id)
    add_event(
        tx, run, "accepted", {"commit": commit, "branch": app.branch, "pusher": pusher, **(facts or {})}
    )
    _supersede_waiting(tx, moving, run)
    return Accepted(run, fresh=True)


def accept_again(tx: Connection, app: App, run: Run, *, instead_of: Run) -> None:
    """Queues a push once more that an older one has superseded, unless a newer one or a rollback waits."""
    newest = _deciding(active(tx, app.id))
    if newest is not None and newest.id == instead_of.id:
        accept(tx, app, ref=app.live_ref, commit=run.commit, pusher=run.actor, source=run.source)


def note_delivery(tx: Connection, app: App, delivery: Delivery) -> Accepted:
    """Remembers a delivery that sets nothing off (another branch, a ping)."""
    if (known := _known_delivery(tx, app, delivery)) is not None:
        return known
    _record_delivery(tx, app, delivery, None)
    return Accepted(None, fresh=True)


def store_push(tx: Connection, app: App, *, ref: str, commit: str, pusher: str, source: str) -> Push:
    """Records a push; by itself it sets nothing off."""
    values: dict[str, Any] = {"app_id": app.id, "ref": ref, "commit": commit, "pusher": pusher}
    values |= {"source": source, "received_at": rows.now()}
    return Push(id=_insert(tx, _ADD_PUSH, values), **values)


def roll_back(tx: Connection, app: App, release: Release, *, actor: str) -> Run:
    """Queues a rollback; everything of the app that waits is superseded."""
    moving = active(tx, app.id)
    run = _enqueue_for(tx, app, RunKind.ROLLBACK, release, f"rollback to {release.label}", actor)
    _supersede_waiting(tx, moving, run)
    return run


def refresh(tx: Connection, app: App, release: Release, *, actor: str) -> Run:
    """Queues a refresh of the edges, behind what moves and waits."""
    return _enqueue_for(tx, app, RunKind.REFRESH, release, "refresh of the edges", actor)


def redeploy(tx: Connection, app: App, release: Release, *, actor: str) -> Run:
    """Queues the commit of a release once more, from its checkout on, behind what moves and waits."""
    return _enqueue_for(tx, app, RunKind.REDEPLOY, release, f"redeploy of {release.commit[:7]}", actor)


def configure(tx: Connection, app: App, release: Release, *, does: str, actor: str) -> Run:
    """Queues a release under the variables of then, behind what moves and waits. `does` names the change."""
    return _enqueue_for(tx, app, RunKind.CONFIGURE, release, does, actor)


def unpin(tx: Connection, app: App, release: Release, *, actor: str) -> Run:
    """Queues the way forward to a release, behind what moves and waits."""
    return _enqueue_for(tx, app, RunKind.UNPIN, release, f"unpin, forward to {release.label}", actor)


def retry(tx: Connection, run: Run, again: StageName | None, *, actor: str) -> Run:
    """Queues a run once more, from a stage on (None: the first that it has not passed); the stages before it
    are taken over as they were recorded. Raises `Conflict` where the run has not come that far, has not ended
    red, or was overtaken."""
    begun = {record.stage: record.done for record in history.stage_records(tx, run.id)}
    done = {stage for stage, passed in begun.items() if passed}
    gated = StageName.APPROVE in (again, *begun)
    way = plan.stages(run.kind, approve=gated)
    again = again or next((stage for stage in way if stage not in done), way[0])
    _check_retry(tx, run, again)
    _check_passed(run, way, again, done)
    kept = plan.kept(done, again)
    facts = {"commit": run.commit, "actor": actor, "source": run.source, "push_id": run.push_id}
    facts |= {"target_release": run.target_release, "retry_of": run.id}
    facts |= {"release": run.release if StageName.DEPLOY in kept else None}
    new = _enqueue(tx, registry.by_id(tx, run.app_id), run.kind, **facts)
    _take_over(tx, run, new, kept)
    does = f"retry of run {run.id} from {again.value}"
    add_event(tx, new, "accepted", {"commit": run.commit, "does": does, "pusher": actor})
    tx.info["touched"].add(QUEUE)
    return new


def _check_retry(tx: Connection, run: Run, again: StageName) -> None:
    """What came after a run and left the commit that is live, or to be live, as it was is no hindrance: a
    push is retried once a missing variable is set. A refresh alone must be of the release that is live."""
    if run.kind not in plan.RETRIED:
        raise Conflict(f"run {run.id} is a {run.kind.value}: ask for it again instead of retrying it")
    if run.status not in (RunStatus.FAILED, RunStatus.CANCELLED):
        raise Conflict(f"run {run.id} {_stands(run)}; a run that has failed or was cancelled is retried")
    if (other := history.newer_run(tx, run, again)) is not None:
        raise Conflict(f"run {other.id} came after run {run.id}; retry that one, or push again")


def _check_passed(run: Run, way: Sequence[StageName], again: StageName, done: Collection[StageName]) -> None:
    if again not in way:
        raise Conflict(f"a {run.kind.value} has no {again.value}; it passes {', '.join(way)}")
    missing = next((stage for stage in way[: way.index(again)] if stage not in done), None)
    if missing is not None:
        raise Conflict(f"run {run.id} has not passed {missing.value}: retry it from there, or from before")


def _take_over(tx: Connection, old: Run, new: Run, kept: Collection[StageName]) -> None:
    for record in history.stage_records(tx, old.id):
        if record.stage in kept:
            tx.execute(_BEGIN_STAGE, {**asdict(record), "run_id": new.id})


def approve(tx: Connection, run_id: int, *, by: str) -> Run:
    """Lets a run through that waits for it; who and when is its stage's record. Raises `NotFound`, or
    `Conflict` where it does not wait, such as one that a newer push has superseded."""
    run = _known_run(tx, run_id)
    if run.status is not RunStatus.AWAITING:
        by_whom = f" by run {run.superseded_by}" if run.superseded_by else ""
        raise Conflict(f"run {run_id} {_stands(run)}{by_whom}; there is nothing to approve")
    begun = next(one for one in history.stage_records(tx, run_id) if one.stage is StageName.APPROVE)
    waited = max(0.0, (rows.now() - begun.started_at).total_seconds())
    end_stage(
        tx,
        run,
        StageName.APPROVE,
        says=f"approved by {by}",
        result={"by": by, "waited": waited},
        seconds=waited,
    )
    status = move(run_id, run.status, RunStatus.QUEUED)
    tx.execute(update(runs).where(runs.c.id == run_id).values(status=status))
    tx.info["touched"].add(QUEUE)
    return replace(run, status=status)


def _enqueue_for(tx: Connection, app: App, kind: RunKind, release: Release, does: str, actor: str) -> Run:
    facts = {"commit": release.commit, "actor": actor, "target_release": release.id}
    run = _enqueue(tx, app, kind, source=kind.value, **facts)
    add_event(tx, run, "accepted", {"commit": release.commit, "does": does, "pusher": actor})
    tx.info["touched"].add(QUEUE)
    return run


def claim(tx: Connection, *, holder: str, most: int) -> list[Run]:
    """Takes up to `most` queued runs, one an app at the most, oldest first, and the lease of each app."""
    return [_begin(tx, rows.run(row), holder) for row in tx.execute(_CLAIMABLE, {"most": most}).all()]


def adopt(tx: Connection, *, holder: str) -> list[Run]:
    """Takes over every lease: the caller knows that no other engine lives. Returns the runs to resume."""
    tx.execute(update(leases).values(holder=holder))
    query = RUNS.where(runs.c.status == RunStatus.RUNNING)
    return [rows.run(row) for row in tx.execute(query.order_by(runs.c.id))]


def active(tx: Connection, app_id: int) -> list[Run]:
    """The runs of an app that have not ended, oldest first."""
    return [rows.run(row) for row in tx.execute(_ACTIVE, {"app": app_id})]


def start_stage(tx: Connection, run: Run, stage: StageName) -> None:
    """Records that a stage begins, or begins again."""
    now = rows.now()
    if not tx.execute(_BEGIN_STAGE_AGAIN, {"run": run.id, "name": stage, "started_at": now}).rowcount:
        values = {"run_id": run.id, "stage": stage, "status": "started", "attempt": 1, "started_at": now}
        tx.execute(_BEGIN_STAGE, {**values, "says": "", "result": {}})
    add_event(tx, run, "stage.started", {}, stage=stage)


def end_stage(
    tx: Connection,
    run: Run,
    stage: StageName,
    *,
    says: str,
    result: Mapping[str, Any],
    seconds: float,
    also: Callable[[Connection], None] | None = None,
    next_stage: StageName | None = None,
) -> None:
    """Records that a stage is done, whatever else became true with it (`also`) and, in the same commit, that
    the next one begins."""
    values = {"status": "done", "ended_at": rows.now(), "says": says, "result": dict(result), "error": None}
    tx.execute(_END_STAGE, {"run": run.id, "name": stage, **values})
    if also is not None:
        also(tx)
    add_event(tx, run, "stage.done", {"says": says, "seconds": seconds}, stage=stage)
    if next_stage is not None:
        start_stage(tx, run, next_stage)


def retry_stage(tx: Connection, run: Run, stage: StageName, error: str) -> None:
    """Records that a stage begins again because a part was out of reach."""
    add_event(tx, run, "stage.retried", {"error": error}, stage=stage)
    start_stage(tx, run, stage)


def fail_stage(tx: Connection, run: Run, stage: StageName, error: str) -> None:
    values = {"status": "failed", "ended_at": rows.now(), "says": "", "result": {}, "error": error}
    tx.execute(_END_STAGE, {"run": run.id, "name": stage, **values})


def finish(
    tx: Connection,
    run_id: int,
    status: RunStatus,
    *,
    error: str | None = None,
    superseded_by: int | None = None,
    stage: StageName | None = None,
    data: Mapping[str, object] | None = None,
) -> Run:
    """Ends a run, in the stage where it failed, or sets it aside (`AWAITING`) unless a newer push or a
    rollback came meanwhile; its app's lease is given back. Raises `Conflict` where it has ended already."""
    run = _known_run(tx, run_id)
    newest = _deciding(active(tx, run.app_id)) if status is RunStatus.AWAITING else None
    if newest is not None and newest.id != run.id:
        status, superseded_by = RunStatus.SUPERSEDED, newest.id
    _end(tx, run, status, error=error, superseded_by=superseded_by, stage=stage, data=data)
    tx.execute(_GIVE_BACK, {"run": run_id})
    tx.info["touched"].add(QUEUE)
    return run


def cancel_waiting(tx: Connection, run_id: int, *, by: str) -> None:
    """Cancels a run that waits for its turn or for approval. Raises `NotFound`, or `Conflict` where it does
    neither."""
    run = _known_run(tx, run_id)
    if run.status not in _WAITING:
        raise Conflict(f"run {run_id} {_stands(run)} already")
    _end(tx, run, RunStatus.CANCELLED, data={"by": by})


def create_release(
    tx: Connection,
    run: Run,
    *,
    image: str | None,
    manifest: str | None,
    config: Mapping[str, Any],
    environment: int | None = None,
) -> Release:
    """The release of a run: made once, then always the same one."""
    mine = select(releases).where(releases.c.run_id == run.id)
    if (there := tx.execute(mine).first()) is not None:
        return rows.release(there)
    last = tx.execute(select(func.max(releases.c.version)).where(releases.c.app_id == run.app_id)).scalar()
    values: dict[str, Any] = {"app_id": run.app_id, "version": (last or 0) + 1, "run_id": run.id}
    values |= {"commit": run.commit, "image": image, "manifest": manifest, "config": dict(config)}
    values |= {"environment": environment, "created_at": rows.now()}
    return Release(id=_insert(tx, insert(releases), values), **values)


def owe(tx: Connection, app_id: int, edges: Collection[str], paths: Collection[str]) -> None:
    """From now on each edge may serve these paths stale, besides those it owes already."""
    before = owed(tx, app_id)
    settle(tx, app_id, edges)
    for edge in edges:
        tx.execute(_OWE, {"app_id": app_id, "edge": edge, "paths": sorted({*paths, *before.get(edge, ())})})


def go_live(tx: Connection, run: Run, release: Release) -> None:
    """The release is the app's live one from now on. A rollback pins it, a push and the way forward take the
    pin away; where the commit stays the same, so does the pin."""
    live: dict[str, Any] = {"live_release": release.id, "live_run": run.id}
    if run.kind not in (RunKind.CONFIGURE, RunKind.REDEPLOY):
        live["pinned"] = run.kind is RunKind.ROLLBACK
    tx.execute(update(apps).where(apps.c.id == run.app_id).values(live))
    tx.execute(update(runs).where(runs.c.id == run.id).values(release=release.id))


def owed(tx: Connection, app_id: int) -> dict[str, tuple[str, ...]]:
    """By edge, the paths that it may still serve stale."""
    return {row.edge: tuple(row.paths) for row in tx.execute(_OWED, {"app": app_id})}


def settle(tx: Connection, app_id: int, edges: Collection[str]) -> None:
    """These edges were seen to serve the live release."""
    tx.execute(_SETTLE, {"app": app_id, "edges": edges})


def _stands(run: Run) -> str:
    """`is queued`, `has failed`, `was cancelled`."""
    match run.status:
        case RunStatus.SUCCEEDED | RunStatus.FAILED:
            return f"has {run.status.value}"
        case RunStatus.CANCELLED | RunStatus.SUPERSEDED | RunStatus.IGNORED:
            return f"was {run.status.value}"
        case _:
            return f"is {run.status.value}"


def _known_run(tx: Connection, run_id: int) -> Run:
    if (run := rows.run_by_id(tx, run_id)) is None:
        raise NotFound(f"no run {run_id}; see: penstock runs")
    return run


def _enqueue(tx: Connection, app: App, kind: RunKind, **facts: Any) -> Run:
    values: dict[str, Any] = {"app_id": app.id, "kind": kind, "status": RunStatus.QUEUED, **facts}
    values |= {"trace_id": secrets.token_hex(16), "created_at": rows.now()}
    return Run(id=_insert(tx, _ADD_RUN, values), app=app.name, **values)


def _begin(tx: Connection, run: Run, holder: str) -> Run:
    """The variables are those of now: a push that waited for long must not bring back older ones."""
    now = rows.now()
    lease = {"app_id": run.app_id, "run_id": run.id, "holder": holder, "taken_at": now}
    tx.execute(_LEASE, lease)
    environment = tx.execute(_ENVIRONMENT, {"app": run.app_id}).scalar_one()
    begun = {"status": move(run.id, run.status, RunStatus.RUNNING), "environment": environment}
    tx.execute(_BEGIN, {"run": run.id, "started_at": now, **begun})
    return replace(run, started_at=run.started_at or now, **begun)


def _deciding(moving: list[Run]) -> Run | None:
    return next((run for run in reversed(moving) if run.kind in _DECIDING), None)


def _supersede_waiting(tx: Connection, moving: list[Run], by: Run) -> None:
    """A rollback takes the place of everything that waits, a push that of pushes: what somebody asked of the
    live release takes moments, and may not be lost to a push that turns out red or waits for approval.
    Those who start runs are woken only where one can start: while the app's run moves, none can."""
    for waiting in moving:
        replaced = by.kind is RunKind.ROLLBACK or waiting.kind is RunKind.PUSH
        if replaced and waiting.status in _WAITING:
            _end(tx, waiting, RunStatus.SUPERSEDED, superseded_by=by.id)
    if not any(run.status is RunStatus.RUNNING for run in moving):
        tx.info["touched"].add(QUEUE)


def _end(
    tx: Connection,
    run: Run,
    status: RunStatus,
    *,
    error: str | None = None,
    superseded_by: int | None = None,
    stage: StageName | None = None,
    data: Mapping[str, object] | None = None,
) -> None:
    now = rows.now()
    values = {"status": move(run.id, run.status, status), "ended_at": now if status.ended else None}
    tx.execute(_END, {"run": run.id, **values, "error": error, "superseded_by": superseded_by})
    told: dict[str, Any] = {"error": error, "superseded_by": superseded_by, **(data or {})}
    took = (now - run.created_at).total_seconds() - told.pop("waited", 0.0)
    told["seconds"] = max(0.0, took)  # clocks are set back at times
    add_event(tx, run, f"run.{status.value}", told, stage=stage)


def _known_delivery(tx: Connection, app: App, delivery: Delivery) -> Accepted | None:
    row = tx.execute(_DELIVERY, {"app": app.id, "source": delivery.source, "id": delivery.id}).first()
    if row is None:
        return None
    if row.body_sha256 != delivery.body_sha256:
        raise Conflict(f"delivery {delivery.id} came before with another body; it was not taken again")
    return Accepted(None if row.push_id is None else _run_of_push(tx, row.push_id), fresh=False)


def _run_of_push(tx: Connection, push_id: int) -> Run | None:
    row = tx.execute(RUNS.where(runs.c.push_id == push_id).order_by(runs.c.id).limit(1)).first()
    return None if row is None else rows.run(row)


def _record_delivery(tx: Connection, app: App, delivery: Delivery, push_id: int | None) -> None:
    values = {"app_id": app.id, "source": delivery.source, "delivery_id": delivery.id, "push_id": push_id}
    tx.execute(_ADD_DELIVERY, {**values, "body_sha256": delivery.body_sha256, "received_at": rows.now()})


def _insert(tx: Connection, statement: Insert, values: Mapping[str, Any]) -> int:
    (key,) = tx.execute(statement, values).inserted_primary_key or (0,)
    return int(key)
