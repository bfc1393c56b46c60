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
AppName = Annotated[str, typer.Argument(metavar="APP", autocompletion=completion.apps)]
RunNumber = Annotated[int, typer.Argument(metavar="RUN", autocompletion=completion.runs)]
