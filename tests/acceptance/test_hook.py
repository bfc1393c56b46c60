"""Pushes to a repository elsewhere reach Penstock by its hook: each once, in order, whatever happens."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from os import kill
from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest
from plugins.penstock import Penstock, Repository, static

from penstock_pipeline.hook.spool import Spool

SECRET = "a secret of sixteen"


class Elsewhere:
    """A bare repository on another server, with Penstock's hook, and a working copy that pushes to it."""

    def __init__(self, penstock: Penstock, app: str) -> None:
        self.bare = penstock.folder / f"{app}.git"
        subprocess.run(["git", "init", "--quiet", "--bare", "-b", "main", str(self.bare)], check=True)
        penstock.api("/apps", {"name": app, "repository": str(self.bare), "webhook_secret": SECRET})
        (penstock.folder / "secret").write_text(f"{SECRET}\n")
        self.install(penstock.urls(app)["webhooks"]["generic"], penstock.folder / "secret")
        self.copy = Repository(penstock.folder / f"{app}-copy")
        self.copy.git("remote", "add", "origin", str(self.bare))
        self.spool = Spool(self.bare)

    def install(self, url: str, secret: Path) -> None:
        command = [sys.executable, "-m", "penstock_pipeline", "hook", "--install", str(self.bare)]
        subprocess.run([*command, "--url", url, "--secret-file", str(secret)], check=True, timeout=60)

    def push(self, version: str) -> tuple[str, str]:
        """The commit, and what the pusher was told."""
        commit = self.copy.commit(static(version))
        pushed = self.copy.push("origin", "main")
        assert pushed.code == 0, pushed.said
        return commit, pushed.said

    def end(self) -> None:
        with suppress(OSError), self.spool.alone() as ended:
            if not ended:
                kill(int((self.spool.folder / "lock").read_text()), SIGKILL)


@pytest.fixture
def elsewhere(penstock: Penstock) -> Iterator[Elsewhere]:
    elsewhere = Elsewhere(penstock, "shop")
    yield elsewhere
    elsewhere.end()


def told(penstock: Penstock, elsewhere: Elsewhere, commits: list[str]) -> list[dict[str, Any]]:
    """The runs, oldest first, once nothing waits and nothing moves."""
    deadline = time.monotonic() + 60
    while True:
        runs: list[dict[str, Any]] = penstock.api("/runs?app=shop&limit=100")[::-1]
        moving = [run for run in runs if run["status"] in ("queued", "running")]
        if len(runs) >= len(commits) and not moving and not elsewhere.spool.waiting():
            return runs
        assert time.monotonic() < deadline, (runs, elsewhere.spool.waiting())
        time.sleep(0.05)


def serves(penstock: Penstock, version: str) -> bool:
    return penstock.ask(penstock.urls("shop")["app"]).body.decode() == f"<h1>{version}</h1>\n"


def test_a_push_elsewhere_goes_live_here(penstock: Penstock, elsewhere: Elsewhere) -> None:
    commit, said = elsewhere.push("one")
    assert f"remote: -----> Accepted   {commit[:7]} on main as run 1" in said
    (run,) = told(penstock, elsewhere, [commit])
    assert (run["status"], run["commit"], run["source"]) == ("succeeded", commit, "generic")
    assert serves(penstock, "one")


def test_pushes_while_penstock_is_dead_are_all_told_in_order_when_it_is_back(
    penstock: Penstock, elsewhere: Elsewhere
) -> None:
    first, _ = elsewhere.push("zero")
    told(penstock, elsewhere, [first])
    penstock.kill()
    pushed = [elsewhere.push(version) for version in ("one", "two", "three")]
    assert "Penstock is away (Connection refused); 3 pushes are kept" in pushed[-1][1]
    penstock.start()
    commits = [first, *(commit for commit, _ in pushed)]
    runs = told(penstock, elsewhere, commits)
    assert [run["commit"] for run in runs] == commits
    assert runs[-1]["status"] == "succeeded"
    assert serves(penstock, "three")


def test_a_push_that_is_told_by_a_clock_that_is_wrong_is_told_again_when_it_is_right(
    penstock: Penstock, elsewhere: Elsewhere
) -> None:
    penstock.stop()
    penstock.clock = penstock.folder / "clock"
    penstock.clock.write_text("-400")
    penstock.start()
    commit, said = elsewhere.push("one")
    assert "s away from the clock here, 300 are allowed: set the clock" in said
    assert elsewhere.spool.waiting()
    penstock.clock.write_text("0")
    (run,) = told(penstock, elsewhere, [commit])
    assert run["status"] == "succeeded"


def test_a_penstock_that_dies_again_and_again_loses_no_push(penstock: Penstock, elsewhere: Elsewhere) -> None:
    commits = []
    for number in range(6):
        commits.append(elsewhere.push(str(number))[0])
        if number % 3 == 0:
            penstock.kill()
        elif number % 3 == 2:
            penstock.start()
    runs = told(penstock, elsewhere, commits)
    assert [run["commit"] for run in runs] == commits
    assert {run["status"] for run in runs} <= {"succeeded", "superseded", "ignored"}
    assert serves(penstock, "5")


def test_submodules_that_would_run_something_are_never_looked_at(
    penstock: Penstock, elsewhere: Elsewhere
) -> None:
    ran = penstock.folder / "ran"
    commands = (f"ext::sh -c 'touch {ran}'", f"file://{penstock.folder}/secret", f"--upload-pack=touch {ran}")
    modules = "".join(
        f'[submodule "m{number}"]\n\tpath = m{number}\n\turl = "{url}"\n\tupdate = !touch {ran}\n'
        for number, url in enumerate(commands)
    )
    files = {**static("one"), ".gitmodules": modules, ".lfsconfig": f'[lfs]\n\turl = "ext::touch {ran}"\n'}
    elsewhere.copy.write(files)
    for number in range(len(commands)):
        entry = f"160000,{'1' * 40},m{number}"
        elsewhere.copy.git("update-index", "--add", "--cacheinfo", entry)
    elsewhere.copy.git("add", *files)
    elsewhere.copy.git("commit", "--quiet", "--message", "modules")
    commit = elsewhere.copy.git("rev-parse", "HEAD").stdout.strip()
    assert elsewhere.copy.push("origin", "main").code == 0
    (run,) = told(penstock, elsewhere, [commit])
    assert run["status"] == "succeeded"
    assert serves(penstock, "one")
    assert not ran.exists()
