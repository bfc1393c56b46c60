"""The command line: `penstock`.

What asks a running Penstock goes through its API (`client`) and imports nothing heavy; only `up`, `down` and
`demo` load the engine. Answers go to standard output, problems to standard error.
"""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperGroup

from ..errors import Forbidden, PenstockError, Unavailable
from . import apps, events, hook, house, runs, screen, tree, variables

_EPILOG = """\
\b
Exit codes:
  0    done; the run that was followed is green, or waits for approval
  1    the run that was followed is red, cancelled or superseded
  2    wrong usage, or Penstock refuses what is asked
  3    Penstock, or a part it needs, cannot be reached; doctor found a problem
  4    not allowed
  130  left with Ctrl-C; runs go on

\b
Commands find Penstock through its state folder (--state or PENSTOCK_STATE), or
elsewhere through PENSTOCK_URL and PENSTOCK_TOKEN (penstock token --manage).
"""


_IN_ORDER: tuple[Callable[..., None] | typer.Typer, ...] = (
    house.up,
    house.down,
    house.demo,
    house.status,
    house.doctor,
    house.dashboard,
    apps.group,
    apps.releases,
    runs.runs,
    runs.show,
    runs.logs,
    runs.approve,
    runs.cancel,
    runs.retry,
    runs.redeploy,
    runs.rollback,
    runs.unpin,
    runs.refresh,
    variables.config,
    variables.secrets,
    hook.hook,
    events.events,
    events.statuses,
    tree.lint,
    tree.run,
    tree.schema,
    house.token,
    house.version,
)
"""As the help lists them."""


class _Commands(TyperGroup):
    """Where every error becomes one or two lines and an exit code."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [_name(command) for command in _IN_ORDER]

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except PenstockError as error:
            screen.problem(str(error))
            raise typer.Exit(_exit_code(error)) from error
        except BrokenPipeError:  # the reader of a pipe has left: no error of anybody
            raise
        except OSError as error:
            screen.problem(f"{error.filename or 'this machine'}: {error.strerror or error}")
            raise typer.Exit(3) from error


def _exit_code(error: PenstockError) -> int:
    match error:
        case Unavailable():
            return 3
        case Forbidden():
            return 4
        case _:
            return 2


def _name(command: Callable[..., None] | typer.Typer) -> str:
    return str(command.info.name) if isinstance(command, typer.Typer) else command.__name__


def _commands() -> typer.Typer:
    root = typer.Typer(
        name="penstock",
        cls=_Commands,
        help="git push to a release that every edge serves.",
        epilog=_EPILOG,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for command in _IN_ORDER:
        if isinstance(command, typer.Typer):
            root.add_typer(command)
        else:
            root.command(**hook.AS_GIVEN if command is hook.hook else {})(command)
    return root


commands = _commands()


def main() -> None:
    """The entry point of `penstock`."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, io.UnsupportedOperation):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    commands()
