"""Following a run to its end, and what its end means to who waits for it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from . import screen
from .client import Client

Detach = Annotated[bool, typer.Option("--detach", help="Do not wait for the outcome.")]

_RED = ("failed", "cancelled", "superseded")


def await_outcome(
    client: Client, run: dict[str, Any], *, detach: bool, as_json: bool, after: int = 0
) -> None:
    """Ends with the run's outcome as exit code, or at once where it is not to be waited for. Events up to
    `after` are known already."""
    if not detach:
        raise typer.Exit(follow(client, run["id"], as_json, after=after))
    if as_json:
        screen.document(run)
    else:
        screen.say(f"run {run['id']} is on its way; follow it: penstock logs -f {run['id']}")


def follow(client: Client, run: int, as_json: bool, *, after: int = 0) -> int:
    """Says what happens until the run has ended or waits for approval; the exit code that this means."""
    try:
        told = client.lines(f"/runs/{run}/follow", format="json" if as_json else "lines", after=after)
        for line in told:
            if not as_json:
                screen.say(line.decode("utf-8", "replace"))
            elif line.strip():
                screen.raw(line)
        status = client.get(f"/runs/{run}")["run"]["status"]
    except KeyboardInterrupt:
        screen.problem(f"detached; the run goes on: penstock logs -f {run}")
        return 130
    return 1 if status in _RED else 0
