"""The tables. Every change here needs a migration in `migrations/versions`; a test compares the two."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)


class Instant(TypeDecorator[datetime]):
    """A moment in UTC, kept as seconds since 1970, so that it sorts and compares in every database."""

    impl = Float(53)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> float | None:
        return None if value is None else value.timestamp()

    def process_result_value(self, value: float | None, dialect: Any) -> datetime | None:
        return None if value is None else datetime.fromtimestamp(value, UTC)


metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

apps = Table(
    "apps",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(40), nullable=False, unique=True),
    Column("branch", String(255), nullable=False),
    Column("port", Integer, nullable=False),
    Column("repository", Text),
    Column("webhook_sealed", Text),
    Column("live_release", Integer),
    Column("live_run", Integer),
    Column("pinned", Boolean, nullable=False),
    Column("environment", Integer),
    Column("created_at", Instant, nullable=False),
    sqlite_autoincrement=True,
)

pushes = Table(
    "pushes",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("app_id", ForeignKey("apps.id"), nullable=False, index=True),
    Column("ref", Text, nullable=False),
    Column("commit", String(64), nullable=False),
    Column("pusher", Text, nullable=False),
    Column("source", String(20), nullable=False),
    Column("received_at", Instant, nullable=False),
    sqlite_autoincrement=True,
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("app_id", ForeignKey("apps.id"), primary_key=True),
    Column("source", String(20), primary_key=True),
    Column("delivery_id", String(200), primary_key=True),
    Column("body_sha256", String(64), nullable=False),
    Column("push_id", ForeignKey("pushes.id")),
    Column("received_at", Instant, nullable=False),
)

runs = Table(
    "runs",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("app_id", ForeignKey("apps.id"), nullable=False),
    Column("kind", String(20), nullable=False),
    Column("status", String(20), nullable=False),
    Column("commit", String(64), nullable=False),
    Column("actor", Text, nullable=False),
    Column("source", String(20), nullable=False),
    Column("trace_id", String(32), nullable=False),
    Column("push_id", ForeignKey("pushes.id")),
    Column("target_release", Integer),
    Column("release", Integer),
    Column("created_at", Instant, nullable=False),
    Column("started_at", Instant),
    Column("ended_at", Instant),
    Column("error", Text),
    Column("superseded_by", Integer),
    Column("retry_of", Integer),
    Column("environment", Integer),
    Index(None, "status", "id"),
    Index(None, "app_id", "id"),
    Index(None, "push_id"),
    Index(None, "release"),
    sqlite_autoincrement=True,
)

stages = Table(
    "stages",
    metadata,
    Column("run_id", ForeignKey("runs.id"), primary_key=True),
    Column("stage", String(20), primary_key=True),
    Column("status", String(20), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("started_at", Instant, nullable=False),
    Column("ended_at", Instant),
    Column("says", Text, nullable=False),
    Column("result", JSON, nullable=False),
    Column("error", Text),
)

events = Table(
    "events",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("run_id", ForeignKey("runs.id"), nullable=False),
    Column("app_id", ForeignKey("apps.id"), nullable=False),
    Column("at", Instant, nullable=False),
    Column("kind", String(40), nullable=False),
    Column("stage", String(20)),
    Column("data", JSON, nullable=False),
    Index(None, "run_id", "id"),
    sqlite_autoincrement=True,
)

releases = Table(
    "releases",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("app_id", ForeignKey("apps.id"), nullable=False),
    Column("version", Integer, nullable=False),
    Column("run_id", ForeignKey("runs.id"), nullable=False, unique=True),
    Column("commit", String(64), nullable=False),
    Column("image", Text),
    Column("manifest", Text),
    Column("config", JSON, nullable=False),
    Column("environment", Integer),
    Column("created_at", Instant, nullable=False),
    UniqueConstraint("app_id", "version"),
    sqlite_autoincrement=True,
)

environments = Table(
    "environments",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("app_id", ForeignKey("apps.id"), nullable=False, index=True),
    Column("sealed", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("created_at", Instant, nullable=False),
    sqlite_autoincrement=True,
)
"""An app's variables as a whole, sealed; each change adds a row, since releases keep theirs."""

leases = Table(
    "leases",
    metadata,
    Column("app_id", ForeignKey("apps.id"), primary_key=True),
    Column("run_id", ForeignKey("runs.id"), nullable=False),
    Column("holder", String(40), nullable=False),
    Column("taken_at", Instant, nullable=False),
)

debts = Table(
    "debts",
    metadata,
    Column("app_id", ForeignKey("apps.id"), primary_key=True),
    Column("edge", String(100), primary_key=True),
    Column("paths", JSON, nullable=False),
)

subscriptions = Table(
    "subscriptions",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("app_id", ForeignKey("apps.id")),
    Column("kind", String(20), nullable=False),
    Column("url", Text, nullable=False),
    Column("sealed", Text),
    Column("cursor", Integer, nullable=False),
    Column("disabled", Text),
    Column("dropped", Integer, nullable=False),
    Column("actor", Text, nullable=False),
    Column("created_at", Instant, nullable=False),
    sqlite_autoincrement=True,
)
"""Who is told of events outside. Every event up to `cursor` was delivered or has a row in `notices`."""

notices = Table(
    "notices",
    metadata,
    Column("subscription_id", ForeignKey("subscriptions.id"), primary_key=True),
    Column("event_id", ForeignKey("events.id"), primary_key=True),
    Column("attempts", Integer, nullable=False),
    Column("next_at", Instant),
    Column("error", Text, nullable=False),
)
"""Events that could not be delivered yet. `next_at` NULL: given up, the dead letters."""
