"""Rows to the model's values."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, bindparam, insert, select

from ..model import App, Event, Release, Run, RunKind, RunStatus, StageName, StageRecord
from . import schema
from .changes import EVENTS

RUNS = select(*schema.runs.c, schema.apps.c.name.label("app")).select_from(schema.runs.join(schema.apps))
"""Every run with its app's name; reads narrow it down."""

# Statements of the hot path are built once: building one costs more than running it.
_RUN_BY_ID = RUNS.where(schema.runs.c.id == bindparam("id"))
_ADD_EVENT = insert(schema.events)
_EVENT = tuple(schema.events.c.keys())


def now() -> datetime:
    return datetime.now(UTC)


def app(row: Any) -> App:
    values = dict(row._mapping)
    values.pop("created_at")
    return App(**values)


def run(row: Any) -> Run:
    values = dict(row._mapping)
    values["kind"] = RunKind(values["kind"])
    values["status"] = RunStatus(values["status"])
    return Run(**values)


def stage(row: Any) -> StageRecord:
    values = dict(row._mapping)
    values["stage"] = StageName(values["stage"])
    return StageRecord(**values)


def event(row: Any) -> Event:
    """The row may hold more than the event."""
    values = {name: row._mapping[name] for name in _EVENT}
    values["stage"] = None if values["stage"] is None else StageName(values["stage"])
    return Event(**values)


def release(row: Any) -> Release:
    return Release(**row._mapping)


def run_by_id(tx: Connection, run_id: int) -> Run | None:
    row = tx.execute(_RUN_BY_ID, {"id": run_id}).first()
    return None if row is None else run(row)


def add_event(
    tx: Connection, of: Run, kind: str, data: Mapping[str, object], *, stage: StageName | None = None
) -> None:
    """Writes an event and makes sure that the run's watchers are woken after the commit."""
    values = {"run_id": of.id, "app_id": of.app_id, "at": now(), "kind": kind, "stage": stage}
    tx.execute(_ADD_EVENT, {**values, "data": dict(data)})
    tx.info["touched"].update((of.id, EVENTS))
