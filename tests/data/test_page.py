"""The service's page says what is: its settings, its errors."""

from __future__ import annotations

import re
from pathlib import Path

from penstock_data import errors
from penstock_data.settings import Settings

PAGE = (Path(__file__).parents[2] / "operator/penstock_data/README.md").read_text()


def part(title: str) -> str:
    return PAGE[PAGE.index(f"## {title}\n") :].split("\n## ")[0]


def test_every_setting_is_told_with_its_default() -> None:
    told = dict(re.findall(r"^\| `(\w+)` \| ([^|]*) \|", part("Run it"), re.MULTILINE))
    assert list(told) == list(Settings.model_fields)
    for name, field in Settings.model_fields.items():
        if isinstance(field.default, bool | int | float | str):
            shown = str(field.default).lower() if isinstance(field.default, bool) else str(field.default)
            assert told[name] == f"`{shown}`", name


def test_every_error_is_told_with_its_status() -> None:
    told = dict(re.findall(r"^\| `([a-z-]+)` \| (\d+) \|", part("Errors"), re.MULTILINE))

    def below(kind: type[errors.Problem]) -> list[type[errors.Problem]]:
        return [kind, *(each for under in kind.__subclasses__() for each in below(under))]

    kinds = {kind.slug: str(kind.status) for kind in below(errors.Problem) if "slug" in vars(kind)}
    assert told == kinds
