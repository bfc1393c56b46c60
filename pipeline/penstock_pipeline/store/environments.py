"""The variables of apps, as sealed text: each change is a new row, since releases keep theirs."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection, insert, select, update

from ..model import App
from . import registry, rows
from .schema import apps, environments

Change = Callable[[str | None], str | None]
"""From what is sealed now (None: nothing was ever set) to what is to be; None: nothing changes."""


def sealed(tx: Connection, environment: int | None) -> str | None:
    """The text that was kept under a number."""
    if environment is None:
        return None
    query = select(environments.c.sealed).where(environments.c.id == environment)
    return str(tx.execute(query).scalar_one())


def change(tx: Connection, app_id: int, change: Change, *, actor: str) -> App | None:
    """Makes a change in one step, so that two at a time both last. None: it changed nothing."""
    app = registry.by_id(tx, app_id)
    after = change(sealed(tx, app.environment))
    if after is None:
        return None
    values = {"app_id": app_id, "sealed": after, "actor": actor, "created_at": rows.now()}
    (environment,) = tx.execute(insert(environments), values).inserted_primary_key or (0,)
    tx.execute(update(apps).where(apps.c.id == app_id).values(environment=environment))
    return registry.by_id(tx, app_id)
