"""What Tab offers, asked as a shell asks; and nothing, at once, where no Penstock answers."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from plugins.penstock import Penstock, static

PROGRAM = "from penstock_pipeline.cli import commands; commands(prog_name='penstock')"


def offered(line: str, state: Path) -> list[str]:
    """As bash asks: the words of the line, the last one being unfinished."""
    words = line.split(" ")
    asked = {"_PENSTOCK_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        env={**os.environ, **asked, "PENSTOCK_STATE": str(state)},
        timeout=30,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.fixture(scope="module")
def shop(shared_penstock: Penstock) -> Penstock:
    repository = shared_penstock.add("shop")
    repository.commit(static("one"))
    assert repository.push().code == 0
    shared_penstock.add("news")
    shared_penstock.api("/apps/shop/variables", {"variables": {"LEVEL": {"value": "debug"}}})
    return shared_penstock


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("penstock rollb", ["rollback"]),
        ("penstock rollback ", ["news", "shop"]),
        ("penstock rollback s", ["shop"]),
        ("penstock runs --app n", ["news"]),
        ("penstock config s", ["set", "shop"]),
        ("penstock config set n", ["news"]),
        ("penstock config unset shop L", ["LEVEL"]),
        ("penstock retry 1 --from b", ["build"]),
        ("penstock logs --stage te", ["test"]),
    ],
)
def test_what_fits_is_offered(shop: Penstock, line: str, words: list[str]) -> None:
    assert offered(line, shop.state) == words


def test_runs_and_releases_are_offered(shop: Penstock) -> None:
    assert "1" in offered("penstock show ", shop.state)
    assert "v1" in offered("penstock rollback shop ", shop.state)


def test_where_no_penstock_runs_nothing_is_offered_or_said(tmp_path: Path) -> None:
    for line in ("penstock rollback ", "penstock show ", "penstock config unset shop "):
        assert offered(line, tmp_path) == []


def test_a_penstock_that_does_not_answer_is_not_waited_for(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        address = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        (tmp_path / "client.json").write_text(f'{{"url": "{address}", "token": "t"}}')
        began = time.monotonic()
        assert offered("penstock rollback ", tmp_path) == []
        assert time.monotonic() - began < 30  # a command would wait for a minute


def test_the_script_for_a_shell_can_be_had() -> None:
    told = subprocess.run(
        [sys.executable, "-c", PROGRAM, "--show-completion", "bash"],
        capture_output=True,
        text=True,
        env={**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"},
        timeout=30,
        check=True,
    )
    assert "_PENSTOCK_COMPLETE=complete_bash" in told.stdout
