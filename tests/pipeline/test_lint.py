"""What is wrong or odd in a working tree is told with file and line, without a Penstock."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from penstock_pipeline.cli import commands


def lint(tree: Path, *arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(commands, ["lint", str(tree), *arguments])
    assert result.exit_code == code, result.output
    return result


def lines(tree: Path, *, code: int = 0) -> list[str]:
    return [line.removeprefix(f"{tree}/") for line in lint(tree, code=code).stdout.splitlines()]


def test_a_tree_that_is_fine_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "penstock.yaml").write_text("web: a\ntest: b\nhealth: /healthz\n")
    assert lint(tmp_path).stdout == f"{tmp_path}: fine\n"
    assert json.loads(lint(tmp_path, "--json").stdout) == []


def test_all_that_is_wrong_is_told_in_order_and_ends_with_2(tmp_path: Path) -> None:
    (tmp_path / "penstock.yaml").write_text("webb: a\nhealth: {within: 99h}\nbuild: make\n")
    first, second, third = lines(tmp_path, code=2)
    assert first.startswith("penstock.yaml:1: unknown key `webb` (did you mean `web`?)")
    assert second.startswith("penstock.yaml:2: `health.within` must be a duration")
    assert third.startswith("penstock.yaml:3: `build` must have keys")


def test_a_procfile_is_told_whole(tmp_path: Path) -> None:
    (tmp_path / "Procfile").write_text("a\nweb: a\nweb: b\nc")
    assert [line.split(":")[:2] for line in lines(tmp_path, code=2)] == [["Procfile", n] for n in "134"]


def test_nothing_at_all_is_told_with_an_example(tmp_path: Path) -> None:
    first, *example = lines(tmp_path, code=2)
    assert first.startswith("penstock.yaml: there is nothing to serve")
    assert example == ["  web: python -m shop", "  static: public"]


@pytest.mark.parametrize(
    ("yaml", "warning"),
    [
        ("web: a\nhealth: /", ": warning: there is no `test`"),
        ("processes: {b: c}\ntest: a\nhealth: /", ":3: warning: `health` is for the process `web`"),
        ("test: a\nweb: a", ":2: warning: `health` has no path"),
        ("test: a\nweb: a\nhealth: /\nbuild:\n  base: b", ":5: warning: `build.base` has no effect"),
        ("test: a\nstatic: .", ":2: warning: all of the repository is public"),
        ("test: a\nstatic: empty", ":2: warning: empty has no index.html"),
    ],
)
def test_what_is_odd_is_a_warning(tmp_path: Path, yaml: str, warning: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "index.html").touch()
    (tmp_path / "penstock.yaml").write_text(yaml)
    (told,) = lines(tmp_path)
    assert told.startswith(f"penstock.yaml{warning}")


def test_a_procfile_that_is_not_read_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "Procfile").write_text("web: a\n")
    (tmp_path / "penstock.yaml").write_text("test: a\nhealth: /\n")
    assert lint(tmp_path).stdout == f"{tmp_path}: fine\n"
    (tmp_path / "penstock.yaml").write_text("test: a\nhealth: /\nweb: b\n")
    (told,) = lines(tmp_path)
    assert "the Procfile is not read" in told


def test_findings_as_json_have_file_line_and_text(tmp_path: Path) -> None:
    (tmp_path / "penstock.yaml").write_text("web: [a\n")
    (found,) = json.loads(lint(tmp_path, "--json", code=2).stdout)
    assert (found["file"], found["line"], found["warning"]) == ("penstock.yaml", 2, False)
    assert "is not valid YAML" in found["text"]


def test_a_path_that_is_no_folder_is_told(tmp_path: Path) -> None:
    assert "is no folder" in lint(tmp_path / "none", code=2).stderr
