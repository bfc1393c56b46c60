"""Options that many commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import completion

State = Annotated[
    Path | None,
    typer.Option("--state", metavar="DIR", help="State folder of the Penstock to talk to."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def _no_path(name: str) -> str:
    """A name is part of the URLs that are asked; with a slash it would be another one."""
    if "/" in name:
        raise typer.BadParameter(f"{name!r} is no name of an app; see: penstock apps")
    return name


AppName = Annotated[str, typer.Argument(metavar="APP", autocompletion=completion.apps, callback=_no_path)]
RunNumber = Annotated[int, typer.Argument(metavar="RUN", autocompletion=completion.runs)]
