"""Apps: registered, found, changed."""

from __future__ import annotations

import difflib

from sqlalchemy import Connection, insert, select

from ..errors import Conflict, NotFound
from ..model import App
from . import rows
from .schema import apps


def add(
    tx: Connection,
    *,
    name: str,
    branch: str,
    port: int,
    repository: str | None = None,
    webhook_sealed: str | None = None,
) -> App:
    """Registers an app. Raises `Conflict` when the name is taken."""
    if find(tx, name) is not None:
        raise Conflict(f"there is an app {name} already")
    tx.execute(
        insert(apps).values(
            name=name,
            branch=branch,
            port=port,
            repository=repository,
            webhook_sealed=webhook_sealed,
            pinned=False,
            created_at=rows.now(),
        )
    )
    return get(tx, name)


def find(tx: Connection, name: str) -> App | None:
    row = tx.execute(select(apps).where(apps.c.name == name)).first()
    return None if row is None else rows.app(row)


def get(tx: Connection, name: str) -> App:
    """Raises `NotFound`, naming the app that is meant, or else those there are."""
    if (app := find(tx, name)) is not None:
        return app
    known = [other.name for other in all_apps(tx)]
    if near := difflib.get_close_matches(name, known, n=1):
        raise NotFound(f"no app {name!r}; did you mean {near[0]}?")
    raise NotFound(f"no app {name!r}; there are: {', '.join(known) or 'none yet: penstock apps add NAME'}")


def by_id(tx: Connection, app_id: int) -> App:
    return rows.app(tx.execute(select(apps).where(apps.c.id == app_id)).one())


def all_apps(tx: Connection) -> list[App]:
    return [rows.app(row) for row in tx.execute(select(apps).order_by(apps.c.name))]
