"""What is answered: reads, each one snapshot of the store, and values as JSON."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import Connection

from ..model import App, Event, Release, Run, StageName, StageRecord
from ..runtimes import ProcessState
from ..store import history, registry
from ..store.subscriptions import Notice, Standing, Subscription

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class AppNow:
    """An app, its live release and its runs that have not ended."""

    app: App
    live: Release | None
    moving: list[Json]


def apps_now(tx: Connection) -> list[AppNow]:
    apps = registry.all_apps(tx)
    live = history.releases_by_id(tx, [app.live_release for app in apps if app.live_release is not None])
    moving = defaultdict(list)
    for run in history.moving_runs(tx):
        moving[run.app_id].append(run_of(run) | {"stage": _stage_now(tx, run)})
    return [AppNow(app, live.get(app.live_release or 0), moving[app.id]) for app in apps]


def _stage_now(tx: Connection, run: Run) -> StageName | None:
    begun = history.stage_records(tx, run.id)
    return begun[-1].stage if begun else None


def runs_now(tx: Connection, app: str | None, before: int | None, limit: int) -> list[Json]:
    app_id = None if app is None else registry.get(tx, app).id
    runs = history.recent_runs(tx, app_id=app_id, before=before, limit=limit)
    releases = history.releases_by_id(tx, [run.release for run in runs if run.release is not None])
    return [run_of(run, releases.get(run.release or 0)) for run in runs]


def run_whole(tx: Connection, run_id: int) -> Json:
    run = history.run(tx, run_id)
    release = None if run.release is None else history.release(tx, run.release)
    stages = [_values(record) for record in history.stage_records(tx, run_id)]
    tails = [event.data.get("tail") for event in history.events_after(tx, 0, run_id=run_id)]
    return {
        "run": run_of(run, release),
        "stages": stages,
        "release": None if release is None else release_of(release),
        "tail": next((tail for tail in reversed(tails) if tail), []),
    }


def printed_in(tx: Connection, run_id: int, stage: StageName) -> int:
    """The run in which the stage as it is recorded for this one really ran."""
    run = history.run(tx, run_id)
    while run.retry_of is not None and _taken_over(tx, run, stage):
        run = history.run(tx, run.retry_of)
    return run.id


def _taken_over(tx: Connection, run: Run, stage: StageName) -> bool:
    """Recorded as done, though it never began in this run."""
    begun = {event.stage for event in history.events_after(tx, 0, run_id=run.id)}
    return stage not in begun and any(one.stage is stage for one in history.stage_records(tx, run.id))


# -- values as JSON


def _values(of: Run | StageRecord | Event | ProcessState) -> Json:
    """By name. `asdict` would copy all that is in them, which costs more than sending it."""
    return {field.name: getattr(of, field.name) for field in fields(of)}


def run_of(run: Run, release: Release | None = None) -> Json:
    shown = _values(run)
    for inner in ("app_id", "push_id", "target_release", "environment"):
        del shown[inner]
    return shown | {"release": None if release is None else release.label}


def release_of(release: Release) -> Json:
    return {
        "version": release.version,
        "label": release.label,
        "commit": release.commit,
        "run": release.run_id,
        "image": release.image,
        "manifest": release.manifest,
        "config": dict(release.config),
        "created_at": release.created_at,
    }


def processes_of(app: App, observed: list[ProcessState]) -> list[Json]:
    """The app's processes; one that is not `live` belongs to a release that starts or drains."""
    live = None if app.live_run is None else app.candidate(app.live_run)
    mine = [process for process in observed if process.app == app.name]
    return [_values(process) | {"live": process.candidate == live} for process in mine]


def event_of(event: Event) -> Json:
    shown = _values(event)
    del shown["app_id"]
    return shown | {"at": event.at.isoformat()}


def subscription_of(subscription: Subscription) -> Json:
    names = ("id", "kind", "app", "url", "disabled", "dropped", "actor", "created_at")
    return {name: getattr(subscription, name) for name in names}


def standing_of(standing: Standing) -> Json:
    names = ("behind", "waiting", "dead", "next_at", "error")
    return subscription_of(standing.subscription) | {name: getattr(standing, name) for name in names}


def dead_letter_of(notice: Notice) -> Json:
    about = {"subscription": notice.subscription_id, "attempts": notice.attempts, "error": notice.error}
    return about | {"event": event_of(notice.event)}
