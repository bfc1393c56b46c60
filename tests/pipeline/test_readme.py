"""The README says what is: its settings, commands and examples are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.main import get_command

from penstock_pipeline import cli, config
from penstock_pipeline.model import StageName
from penstock_pipeline.settings import Settings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_every_setting_is_there_with_its_default() -> None:
    rows = dict(re.findall(r"^\| (`PENSTOCK_[^|]*) \| ([^|]*) \|", README, re.MULTILINE))
    told = {name: default for names, default in rows.items() for name in re.findall(r"PENSTOCK_(\w+)", names)}
    assert set(told) == {name.upper() for name in Settings.model_fields}
    for name, field in Settings.model_fields.items():
        default = field.default
        if isinstance(default, int | float | str) and not isinstance(default, bool):
            assert f"{default:g}" if isinstance(default, float) else str(default) in told[name.upper()]


def test_every_command_is_there() -> None:
    table = README[README.index("### Commands") : README.index("### Webhooks")]
    for command in get_command(cli.commands).commands:  # type: ignore[attr-defined]
        assert re.search(rf"\b{command}\b", table), command


def test_every_exit_code_of_the_help_is_there() -> None:
    told = re.findall(r"^  (\d+) ", get_command(cli.commands).epilog or "", re.MULTILINE)
    assert re.findall(r"^\| (\d+) \|", README, re.MULTILINE) == told


def test_every_stage_is_there_in_order() -> None:
    stages = re.findall(r"^\| (\w+) \|", README[README.index("### What happens") :], re.MULTILINE)
    assert stages[3:11] == [stage.value for stage in StageName]


def test_the_example_of_penstock_yaml_is_taken_as_it_is(tmp_path: Path) -> None:
    (example,) = re.findall(r"```yaml\n(?!apiVersion)(.*?)```", README, re.DOTALL)
    (tmp_path / "penstock.yaml").write_text(example)
    (tmp_path / "public").mkdir()
    read = config.load(tmp_path)
    assert read.processes == {"web": "python -m shop"}
    assert read.health.within == 20


@pytest.mark.parametrize("target", sorted(set(re.findall(r"^make (\w+)", README, re.MULTILINE))))
def test_every_make_target_exists(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
