"""`penstock run` tests and builds a working tree as a push would, without a Penstock."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from plugins.penstock import Penstock, Repository, service

PROGRAM = [sys.executable, "-m", "penstock_pipeline", "run"]


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "shop")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """With a folder of the test's own for what is left behind."""
    (tmp_path / "tmp").mkdir()
    return {**os.environ, "TMPDIR": str(tmp_path / "tmp")}


def run(
    folder: Path, environment: dict[str, str], *arguments: str, code: int = 0
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*PROGRAM, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert list(Path(environment["TMPDIR"]).iterdir()) == []
    return done


def test_what_is_said_is_what_the_push_says_and_the_digest_is_the_same(
    shared_penstock: Penstock, environment: dict[str, str]
) -> None:
    repository = shared_penstock.add("shop")
    repository.write(service("one", test="echo tested", build="{run: echo built}"))
    tried = run(repository.folder, environment)
    repository.commit()
    pushed = repository.push()
    for stage in ("Test", "Build"):
        (line,) = [line for line in tried.stdout.splitlines() if line.startswith(f"-----> {stage}")]
        assert re.sub(r"  \S+$", "", line) in pushed.said
    assert "sha256:" in tried.stdout
    assert "2 static files" in tried.stdout
    assert tried.stdout.splitlines()[0] == "       tested"
    assert "nothing is deployed" in tried.stdout.splitlines()[-1]


def test_it_takes_what_git_would_take(repository: Repository, environment: dict[str, str]) -> None:
    repository.commit({"gone": "", "kept": "old", "tracked.log": "", "sub/a": ""})
    files = {".gitignore": "*.log\n/cache\n", "kept": "new", "fresh": "", "other.log": "", "cache/x": ""}
    repository.write({**files, "penstock.yaml": "web: serve\ntest: ls -A; cat kept\n"})
    (repository.folder / "gone").unlink()
    before = repository.git("status", "--porcelain").stdout
    told = run(repository.folder / "sub", environment).stdout.splitlines()
    assert [line.strip() for line in told if line.startswith("   ")] == [
        ".gitignore",
        "fresh",
        "kept",
        "penstock.yaml",
        "sub",
        "tracked.log",
        "new",
    ]
    assert repository.git("status", "--porcelain").stdout == before


def test_submodules_that_are_not_there_and_files_that_became_folders_are_no_trouble(
    repository: Repository, environment: dict[str, str]
) -> None:
    repository.commit({"page": "", "penstock.yaml": "web: serve\ntest: find page\n"})
    repository.git("update-index", "--add", "--cacheinfo", f"160000,{'a' * 40},module")
    (repository.folder / "module").mkdir()
    (repository.folder / "page").unlink()
    repository.write({"page/index.html": ""})
    assert "       page/index.html\n" in run(repository.folder, environment).stdout


def test_red_tests_end_with_1_and_nothing_is_built(
    repository: Repository, environment: dict[str, str]
) -> None:
    repository.write({"penstock.yaml": "web: serve\ntest: echo no; exit 3\nbuild: {run: echo built}\n"})
    told = run(repository.folder, environment, code=1).stdout.splitlines()
    assert told == ["       no", " !     Test: `echo no; exit 3` ended with exit code 3"]


def test_variables_are_there_for_the_build(repository: Repository, environment: dict[str, str]) -> None:
    repository.write({"penstock.yaml": "web: serve\nbuild: {run: 'echo $A-$B'}\n"})
    assert "       b=c-d\n" in run(repository.folder, environment, "--env", "A=b=c", "--env", "B=d").stdout
    assert "names PORT" in run(repository.folder, environment, "--env", "PORT=1", code=2).stderr
    assert "NAME=VALUE" in run(repository.folder, environment, "--env", "A", code=2).stderr


def test_what_a_push_would_refuse_is_refused(repository: Repository, environment: dict[str, str]) -> None:
    repository.write({"penstock.yaml": "webb: serve\n"})
    assert (
        "Checkout: penstock.yaml:1: unknown key `webb`" in run(repository.folder, environment, code=1).stdout
    )
    repository.write({"penstock.yaml": "web: serve\n"})
    (repository.folder / "out").symlink_to("/etc")
    assert " !     Checkout: " in run(repository.folder, environment, code=1).stdout


def test_a_folder_without_git_is_told(tmp_path: Path, environment: dict[str, str]) -> None:
    assert "is not in a git repository" in run(tmp_path, environment, code=2).stderr
    assert "is no folder" in run(tmp_path, environment, "none", code=2).stderr


def test_ctrl_c_ends_all_of_it(repository: Repository, environment: dict[str, str]) -> None:
    repository.write({"penstock.yaml": "web: serve\ntest: echo here; sleep 3600\n"})
    with subprocess.Popen(
        PROGRAM, cwd=repository.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"       here\n"
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode == 130
    assert list(Path(environment["TMPDIR"]).iterdir()) == []
