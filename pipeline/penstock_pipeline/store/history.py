"""What was and is: reads for the engine, the dashboard, the API and those who follow a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, exists, select

from ..errors import NotFound
from ..model import Event, Release, Run, RunKind, RunStatus, StageName, StageRecord
from . import rows
from .rows import RUNS
from .schema import apps, events, releases, runs, stages

_TOOK_TRAFFIC = exists().where(runs.c.release == releases.c.id)
_MOVING = [status for status in RunStatus if not status.ended]


def run(tx: Connection, run_id: int) -> Run:
    """Raises `NotFound`."""
    if (found := rows.run_by_id(tx, run_id)) is None:
        raise NotFound(f"no run {run_id}; see: penstock runs")
    return found


def recent_runs(
    tx: Connection, *, app_id: int | None = None, before: int | None = None, limit: int = 20
) -> list[Run]:
    """Newest first; `before` pages."""
    query = RUNS.order_by(runs.c.id.desc()).limit(limit)
    if app_id is not None:
        query = query.where(runs.c.app_id == app_id)
    if before is not None:
        query = query.where(runs.c.id < before)
    return [rows.run(row) for row in tx.execute(query)]


def newer_run(tx: Connection, than: Run, again: StageName) -> Run | None:
    """The newest run of the same app that came after this one and stands in the way of its retry from a stage
    on. A refresh does not, nor do new variables, unless the release that they replaced is to be refreshed."""
    beside = (RunKind.REFRESH,) if again is StageName.REFRESH else (RunKind.REFRESH, RunKind.CONFIGURE)
    newer = RUNS.where(
        runs.c.app_id == than.app_id,
        runs.c.id > than.id,
        runs.c.kind.not_in(beside),
        runs.c.status != RunStatus.IGNORED,
    )
    row = tx.execute(newer.order_by(runs.c.id.desc()).limit(1)).first()
    return None if row is None else rows.run(row)


def moving_runs(tx: Connection) -> list[Run]:
    """Every run that has not ended, oldest first."""
    query = RUNS.where(runs.c.status.in_(_MOVING)).order_by(runs.c.id)
    return [rows.run(row) for row in tx.execute(query)]


def stage_records(tx: Connection, run_id: int) -> list[StageRecord]:
    """In the order in which a run passes them."""
    records = [rows.stage(row) for row in tx.execute(select(stages).where(stages.c.run_id == run_id))]
    return sorted(records, key=lambda record: list(StageName).index(record.stage))


def events_after(tx: Connection, after: int, *, run_id: int | None = None, limit: int = 500) -> list[Event]:
    """Events with a higher id, in order."""
    query = select(events).where(events.c.id > after).order_by(events.c.id).limit(limit)
    if run_id is not None:
        query = query.where(events.c.run_id == run_id)
    return [rows.event(row) for row in tx.execute(query)]


def release(tx: Connection, release_id: int) -> Release:
    return rows.release(tx.execute(select(releases).where(releases.c.id == release_id)).one())


def live_release(tx: Connection, app_id: int) -> Release | None:
    """What serves; None: nothing is live yet."""
    query = select(releases).join(apps, apps.c.live_release == releases.c.id).where(apps.c.id == app_id)
    row = tx.execute(query).first()
    return None if row is None else rows.release(row)


def releases_of(tx: Connection, app_id: int, *, limit: int = 50, live_once: bool = False) -> list[Release]:
    """Newest first; `live_once` leaves out those that never took traffic."""
    query = select(releases).where(releases.c.app_id == app_id).order_by(releases.c.version.desc())
    if live_once:
        query = query.where(_TOOK_TRAFFIC)
    return [rows.release(row) for row in tx.execute(query.limit(limit))]


def release_of(tx: Connection, app_id: int, version: int) -> Release | None:
    row = tx.execute(
        select(releases).where(releases.c.app_id == app_id, releases.c.version == version)
    ).first()
    return None if row is None else rows.release(row)


def release_before(tx: Connection, app_id: int, live: int) -> Release | None:
    """What the live release took the traffic from when it was new. That is not always the version below it: a
    rollback may have left that one. Where it is not recorded, the newest older one that took traffic."""
    made = select(stages.c.result).join(releases, releases.c.run_id == stages.c.run_id)
    deployed = tx.execute(made.where(releases.c.id == live, stages.c.stage == StageName.DEPLOY)).scalar()
    if deployed and "before" in deployed:
        return None if deployed["before"] is None else release(tx, deployed["before"])
    version = select(releases.c.version).where(releases.c.id == live).scalar_subquery()
    query = select(releases).where(
        releases.c.app_id == app_id, releases.c.version < version.correlate(None), _TOOK_TRAFFIC
    )
    row = tx.execute(query.order_by(releases.c.version.desc()).limit(1)).first()
    return None if row is None else rows.release(row)


def pushed_release(tx: Connection, app_id: int, *, before: int | None = None) -> Release | None:
    """The release that a push took live last (`before` a run): where the branch stands."""
    query = (
        select(releases)
        .join(runs, runs.c.release == releases.c.id)
        .where(runs.c.app_id == app_id, runs.c.kind == RunKind.PUSH)
        .order_by(runs.c.id.desc())
    )
    if before is not None:
        query = query.where(runs.c.id < before)
    row = tx.execute(query.limit(1)).first()
    return None if row is None else rows.release(row)


def releases_by_id(tx: Connection, ids: Sequence[int]) -> dict[int, Release]:
    query: Any = select(releases).where(releases.c.id.in_(ids))
    return {row.id: rows.release(row) for row in tx.execute(query)}
