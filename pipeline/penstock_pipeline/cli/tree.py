"""A working tree, looked at before it is pushed; no Penstock has to run."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import Invalid
from . import screen, variables
from .options import AsJson

if TYPE_CHECKING:
    from ..config.lint import Finding

Tree = Annotated[
    Path, typer.Argument(metavar="PATH", help="The folder of the repository.", show_default="here")
]


def schema() -> None:
    """Print the JSON Schema of penstock.yaml, for editors.

    \b
    Example:
      penstock schema > penstock.schema.json
    and as the first line of penstock.yaml:
      # yaml-language-server: $schema=penstock.schema.json
    """
    from ..config.schema import schema as made

    screen.document(made())


def lint(path: Tree = Path(), as_json: AsJson = False) -> None:
    """Check penstock.yaml and Procfile of a working tree.

    Prints file:line: text; what a push would be refused for ends with exit code 2,
    warnings with 0.

    \b
    Example:
      penstock lint
      penstock lint ../shop
    """
    from ..config.lint import lint as look

    found = look(_folder(path))
    if as_json:
        screen.document([asdict(finding) for finding in found])
    for finding in () if as_json else found:
        _tell(path, finding)
    if not as_json and not found:
        screen.say(f"{path}: fine")
    raise typer.Exit(2 if any(not finding.warning for finding in found) else 0)


def run(
    path: Tree = Path(),
    env: Annotated[
        list[str] | None,
        typer.Option("--env", metavar="NAME=VALUE", help="A variable of the app; repeat for more."),
    ] = None,
) -> None:
    """Test and build a working tree, as a push would.

    Takes what git would take: files that are not committed too, ignored ones not.
    Nothing is deployed. Exit code 1 where a push would be red.

    \b
    Example:
      penstock run
      penstock run ../shop --env CURRENCY=EUR
    """
    import asyncio

    from .. import trial

    given = dict(variables.pair(text) for text in env or ())
    raise typer.Exit(0 if asyncio.run(trial.run(_folder(path), given, screen.say)) else 1)


def _folder(path: Path) -> Path:
    if not path.is_dir():
        raise Invalid(f"{path} is no folder; name the one that holds penstock.yaml")
    return path


def _tell(path: Path, finding: Finding) -> None:
    where = str(path / finding.file) if finding.line is None else f"{path / finding.file}:{finding.line}"
    first, *more = finding.text.splitlines()
    warning, style = ("warning: ", "yellow") if finding.warning else ("", "red")
    screen.say(f"{where}: {warning}{first}", style=style)
    for line in more:
        screen.say(f"  {line}")
