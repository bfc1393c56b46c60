"""The hook of repositories that are kept elsewhere."""

from __future__ import annotations

from typing import Any

import typer

AS_GIVEN: dict[str, Any] = {
    "context_settings": {"ignore_unknown_options": True, "allow_extra_args": True},
    "add_help_option": False,
}
"""The hook reads its own options: it is also run without the command line around it, which starts faster."""


def hook(context: typer.Context) -> None:
    """As the hook of a repository elsewhere, tell Penstock of pushes."""
    from ..hook.__main__ import main

    raise typer.Exit(main(context.args))
