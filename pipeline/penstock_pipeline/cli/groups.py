"""Nouns with verbs of their own: `penstock config shop` lists, `penstock config set shop A=b` changes."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

LIST = "list"


class Listing(TyperGroup):
    """Lists where no verb is given: `config shop` is short for `config list shop`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        verbs = (*self.commands, *ctx.help_option_names)
        completing = ctx.resilient_parsing and not args
        if not completing and (not args or args[0] not in verbs):
            args = [LIST, *args]
        return super().parse_args(ctx, args)

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Verbs, and what the short form takes."""
        offered = super().shell_complete(ctx, incomplete)
        for parameter in self.commands[LIST].params:
            if parameter.param_type_name == "argument":
                offered += parameter.shell_complete(ctx, incomplete)
        return offered


def group(name: str, about: str) -> typer.Typer:
    """A noun; one of its commands must be called `list`."""
    return typer.Typer(name=name, help=about, cls=Listing, rich_markup_mode=None)
