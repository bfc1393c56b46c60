"""Variables of apps, retries, and who is told of events."""

import sqlalchemy as sa
from alembic import op

from penstock_pipeline.store.schema import Instant

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    for table in ("apps", "runs", "releases"):
        op.add_column(table, sa.Column("environment", sa.Integer(), nullable=True))
    op.add_column("runs", sa.Column("retry_of", sa.Integer(), nullable=True))
    for column in ("push_id", "release"):
        op.create_index(op.f(f"ix_runs_{column}"), "runs", [column], unique=False)
    op.create_table(
        "environments",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("app_id", sa.Integer(), nullable=False),
        sa.Column("sealed", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.ForeignKeyConstraint(["app_id"], ["apps.id"], name=op.f("fk_environments_app_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_environments")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_environments_app_id"), "environments", ["app_id"], unique=False)
    op.create_table(
        "subscriptions",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("app_id", sa.Integer(), nullable=True),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("sealed", sa.Text(), nullable=True),
        sa.Column("cursor", sa.Integer(), nullable=False),
        sa.Column("disabled", sa.Text(), nullable=True),
        sa.Column("dropped", sa.Integer(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.ForeignKeyConstraint(["app_id"], ["apps.id"], name=op.f("fk_subscriptions_app_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_subscriptions")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "notices",
        sa.Column("subscription_id", sa.Integer(), nullable=False),
        sa.Column("event_id", sa.Integer(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_at", Instant(), nullable=True),
        sa.Column("error", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["event_id"], ["events.id"], name=op.f("fk_notices_event_id")),
        sa.ForeignKeyConstraint(
            ["subscription_id"], ["subscriptions.id"], name=op.f("fk_notices_subscription_id")
        ),
        sa.PrimaryKeyConstraint("subscription_id", "event_id", name=op.f("pk_notices")),
    )
