"""What the shell is offered when somebody presses Tab: names that the Penstock knows, or nothing.

Answers come within a second or not at all, and no problem is ever told: somebody is in the middle of a line.
"""

from __future__ import annotations

from typing import Any

import typer

from ..errors import PenstockError
from .client import Client

PATIENCE = 0.8
"""Seconds."""

_MANY = 50

Offers = list[tuple[str, str]]
"""What can stand there, and what it is."""


def apps(ctx: typer.Context) -> Offers:
    return [(app["name"], app["live"]["label"] if app["live"] else "") for app in _asked(ctx, "/apps")]


def runs(ctx: typer.Context) -> Offers:
    """Newest first, as many as one looks through."""
    return [(str(run["id"]), f"{run['app']} {run['status']}") for run in _asked(ctx, "/runs", limit=_MANY)]


def versions(ctx: typer.Context) -> Offers:
    """Releases of the app that stands before."""
    return [(one["label"], one["commit"][:7]) for one in _asked(ctx, f"/apps/{ctx.params['app']}/releases")]


def variables(ctx: typer.Context) -> Offers:
    """Of the app that stands before."""
    return [(name, "") for name in _asked(ctx, f"/apps/{ctx.params['app']}/variables")]


def _asked(ctx: typer.Context, path: str, **query: object) -> Any:
    try:
        return Client.find(ctx.params.get("state"), patience=PATIENCE).get(path, **query)
    except (PenstockError, OSError):
        return ()
