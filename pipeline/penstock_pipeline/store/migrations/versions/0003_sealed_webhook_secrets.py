"""Secrets of webhooks lie sealed, as all others do."""

import sqlalchemy as sa
from alembic import context, op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.execute("PRAGMA secure_delete=ON")  # what was plain is overwritten in the file
    op.execute("ALTER TABLE apps RENAME COLUMN webhook_secret TO webhook_sealed")
    apps = sa.table("apps", sa.column("id"), sa.column("name"), sa.column("webhook_sealed"))
    vault, connection = context.config.attributes["vault"], op.get_bind()
    for app in connection.execute(sa.select(apps).where(apps.c.webhook_sealed.is_not(None))).all():
        sealed = vault.seal(app.webhook_sealed.encode(), about=f"the webhook of {app.name}")
        connection.execute(sa.update(apps).where(apps.c.id == app.id).values(webhook_sealed=sealed))
