"""What the pages know: each read on one snapshot of the store, then pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select

from .. import plan
from ..errors import NotFound, Unsealable
from ..model import App, Release, Run, RunKind, RunStatus, StageName, StageRecord
from ..store import history, registry, rows, schema
from ..tokens import Session
from .view import View

RECENT = 30
"""Runs that a page lists."""


@dataclass(frozen=True, slots=True)
class Live:
    """The release that serves, the run that took it live, and when."""

    release: Release
    run: Run
    since: datetime


@dataclass(frozen=True, slots=True)
class Moving:
    """A run on its way, the stage it is in (None: it waits for its turn), and since when."""

    run: Run
    stage: StageName | None
    since: datetime

    @property
    def awaits(self) -> bool:
        """Whether it waits for a person."""
        return self.run.status is RunStatus.AWAITING


@dataclass(frozen=True, slots=True)
class Failure:
    """The newest run that came to a verdict was red; `stage` None: before its first stage."""

    run: Run
    stage: StageName | None

    @property
    def may_be_retried(self) -> bool:
        return self.run.kind in plan.RETRIED


@dataclass(frozen=True, slots=True)
class Card:
    """All there is to say of one app at a glance."""

    app: App
    live: Live | None
    moving: tuple[Moving, ...]
    failure: Failure | None

    @property
    def pinned_to(self) -> Release | None:
        """Where a rollback holds the app."""
        return self.live.release if self.live and self.app.pinned else None

    @property
    def awaiting(self) -> Moving | None:
        """What waits for a person to let it through."""
        return next((move for move in self.moving if move.awaits), None)

    @property
    def needs_someone(self) -> bool:
        return self.failure is not None or self.awaiting is not None


@dataclass(frozen=True, slots=True)
class Board:
    """The first page; what needs a human is first on it, then what moves."""

    cards: tuple[Card, ...]
    recent: tuple[Run, ...]


@dataclass(frozen=True, slots=True)
class AppFacts:
    """The page of one app. `releases` newest first, each of which took traffic once; `variables` by name, and
    whether they are secret, never their values; None: they cannot be read."""

    card: Card
    releases: tuple[Release, ...]
    recent: tuple[Run, ...]
    variables: Mapping[str, bool] | None

    @property
    def live_version(self) -> int:
        """0: nothing is live."""
        return self.card.live.release.version if self.card.live else 0


@dataclass(frozen=True, slots=True)
class Station:
    """One stage of a run as people see it: `state` is waiting, running, awaiting (a person's approval), done,
    failed, stopped (the run ended under it) or skipped (the run ended before it)."""

    name: StageName
    state: str
    record: StageRecord | None
    again_because: str | None

    @property
    def seconds(self) -> float | None:
        """How long it took; None when it has not ended."""
        if self.record is None or self.record.ended_at is None:
            return None
        return max(0.0, (self.record.ended_at - self.record.started_at).total_seconds())


@dataclass(frozen=True, slots=True)
class RunFacts:
    """The page of one run. `does` says what it is where it is not simply a push, `ending` what its last event
    says, `retries` why stages began again; `overtaken`: another run of the app came after it."""

    run: Run
    app: App
    release: Release | None
    target: Release | None
    records: tuple[StageRecord, ...]
    does: str | None
    ending: Mapping[str, Any]
    retries: Mapping[StageName | None, str]
    overtaken: bool

    @property
    def stations(self) -> tuple[Station, ...]:
        records = {record.stage: record for record in self.records}
        stages = plan.stages(self.run.kind, approve=self._asks)
        return tuple(self._station(name, records.get(name)) for name in stages)

    @property
    def _asks(self) -> bool:
        """Whether the app, as it was checked out, asks for approval."""
        read = (record.result.get("config") for record in self.records)
        return any(config["approve"] for config in read if config)

    @property
    def stage(self) -> StageName | None:
        """Where the run is, or where it ended badly."""
        states = ("running", "awaiting", "failed", "stopped")
        return next((one.name for one in self.stations if one.state in states), None)

    @property
    def may_be_cancelled(self) -> bool:
        """Until its release takes the traffic."""
        live = self.stage in (StageName.DEPLOY, StageName.REFRESH) and self.run.kind is not RunKind.REFRESH
        return not self.run.status.ended and not live

    @property
    def may_be_retried(self) -> bool:
        red = self.run.status in (RunStatus.FAILED, RunStatus.CANCELLED)
        return red and self.run.kind in plan.RETRIED and not self.overtaken

    def _station(self, name: StageName, record: StageRecord | None) -> Station:
        again = self.retries.get(name) if record is not None and not record.done else None
        return Station(name, _state(self.run, record), record, again)


def version(facts: Board | AppFacts | RunFacts) -> str:
    """Changes exactly when the facts do."""
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


async def board(view: View, session: Session) -> Board:
    """Of the apps that the session sees."""
    return await view.store.read(_board, session)


async def app(view: View, session: Session, name: str) -> AppFacts:
    """Raises `NotFound`, also for what the session does not see."""
    if not session.sees(name):
        raise NotFound(f"no app {name!r}")
    known = await view.store.read(_app_facts, name)
    try:
        variables = await view.orders.variables(name)
    except Unsealable:
        return known
    return replace(known, variables={name: variable.secret for name, variable in variables.items()})


async def run(view: View, session: Session, run_id: int) -> RunFacts:
    """Raises `NotFound`, also for what the session does not see."""
    known = await view.store.read(_run_facts, run_id)
    if not session.sees(known.app.name):
        raise NotFound(f"no run {run_id}")
    return known


def _board(tx: Connection, session: Session) -> Board:
    apps = [app for app in registry.all_apps(tx) if session.sees(app.name)]
    cards = sorted(_cards(tx, apps), key=lambda card: (not card.needs_someone, not card.moving))
    only = None if session.who.app is None else next((app.id for app in apps), 0)
    return Board(tuple(cards), tuple(history.recent_runs(tx, app_id=only, limit=RECENT)))


def _app_facts(tx: Connection, name: str) -> AppFacts:
    app = registry.get(tx, name)
    (card,) = _cards(tx, [app])
    releases = history.releases_of(tx, app.id, live_once=True)
    recent = history.recent_runs(tx, app_id=app.id, limit=RECENT)
    return AppFacts(card, tuple(releases), tuple(recent), variables=None)


def _cards(tx: Connection, apps: list[App]) -> list[Card]:
    moving = history.moving_runs(tx)
    verdicts = _last_verdicts(tx)
    lives = _runs(tx, [app.live_run for app in apps if app.live_run is not None])
    read = _Read(
        moving=moving,
        verdicts={run.app_id: run for run in verdicts},
        lives={run.id: run for run in lives},
        releases=history.releases_by_id(
            tx, [app.live_release for app in apps if app.live_release is not None]
        ),
        records=_records(tx, [run.id for run in (*moving, *verdicts, *lives)]),
    )
    return [_card(app, read) for app in apps]


def _run_facts(tx: Connection, run_id: int) -> RunFacts:
    run = history.run(tx, run_id)
    events = history.events_after(tx, 0, run_id=run_id)
    again = StageName.CHECKOUT if run.release is None else StageName.REFRESH
    return RunFacts(
        run=run,
        app=registry.by_id(tx, run.app_id),
        release=None if run.release is None else history.release(tx, run.release),
        target=None if run.target_release is None else history.release(tx, run.target_release),
        records=tuple(history.stage_records(tx, run_id)),
        does=next((event.data.get("does") for event in events if event.kind == "accepted"), None),
        ending=next((event.data for event in reversed(events) if event.kind.startswith("run.")), {}),
        retries={event.stage: event.data["error"] for event in events if event.kind == "stage.retried"},
        overtaken=history.newer_run(tx, run, again) is not None,
    )


@dataclass(frozen=True, slots=True)
class _Read:
    """What the cards are made of: runs by app or by id, releases by id, stage records by run."""

    moving: list[Run]
    verdicts: Mapping[int, Run]
    lives: Mapping[int, Run]
    releases: Mapping[int, Release]
    records: Mapping[int, list[StageRecord]]


def _last_verdicts(tx: Connection) -> list[Run]:
    """Of each app the newest run that is green or red: the others say nothing of the app's health."""
    other = schema.runs.alias()
    newest = (
        select(other.c.id)
        .where(
            other.c.app_id == schema.apps.c.id, other.c.status.in_((RunStatus.SUCCEEDED, RunStatus.FAILED))
        )
        .order_by(other.c.id.desc())
        .limit(1)
        .correlate(schema.apps)
        .scalar_subquery()
    )
    return [rows.run(row) for row in tx.execute(rows.RUNS.where(schema.runs.c.id == newest))]


def _runs(tx: Connection, ids: Iterable[int]) -> list[Run]:
    return [rows.run(row) for row in tx.execute(rows.RUNS.where(schema.runs.c.id.in_(ids)))]


def _records(tx: Connection, run_ids: Iterable[int]) -> dict[int, list[StageRecord]]:
    found: dict[int, list[StageRecord]] = {run_id: [] for run_id in run_ids}
    for row in tx.execute(select(schema.stages).where(schema.stages.c.run_id.in_(found))):
        found[row.run_id].append(rows.stage(row))
    return found


def _card(app: App, read: _Read) -> Card:
    moving = tuple(_moving(run, read.records[run.id]) for run in read.moving if run.app_id == app.id)
    verdict = read.verdicts.get(app.id)
    if verdict is None or verdict.status is not RunStatus.FAILED or moving:
        return Card(app, _live(app, read), moving, None)
    return Card(app, _live(app, read), moving, _failure(verdict, read))


def _live(app: App, read: _Read) -> Live | None:
    if app.live_release is None or app.live_run is None:
        return None
    release = read.releases[app.live_release]
    deployed = (one.ended_at for one in read.records[app.live_run] if one.stage is StageName.DEPLOY)
    return Live(release, read.lives[app.live_run], next(deployed, None) or release.created_at)


def _moving(run: Run, records: list[StageRecord]) -> Moving:
    if (now := next((record for record in records if record.status == "started"), None)) is None:
        return Moving(run, None, run.started_at or run.created_at)
    return Moving(run, now.stage, now.started_at)


def _failure(run: Run, read: _Read) -> Failure:
    return Failure(run, next((one.stage for one in read.records[run.id] if one.status == "failed"), None))


def _state(run: Run, record: StageRecord | None) -> str:
    if record is None:
        return "skipped" if run.status.ended else "waiting"
    if record.status != "started":
        return record.status
    if run.status is RunStatus.AWAITING:
        return "awaiting"
    return "stopped" if run.status.ended else "running"
