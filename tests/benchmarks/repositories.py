"""What is pushed: repositories elsewhere, each with the commits that its branch will be at one by one."""

from __future__ import annotations

import subprocess
from pathlib import Path

from plugins.penstock import Repository, static


class Upstream:
    """A repository that an app is registered with. Every commit is a page of its own and the test `true`."""

    def __init__(self, name: str, here: Path, commits: int) -> None:
        self.name = name
        self.path = here / name
        work = Repository(here / f"{name}-work")
        self._commits = [work.commit(static(f"version {number}", test="true")) for number in range(commits)]
        git("clone", "--quiet", "--bare", str(work.folder), str(self.path))

    def advance(self, number: int) -> str:
        """Its branch is at this commit from now on."""
        commit = self._commits[number]
        git("--git-dir", str(self.path), "update-ref", "refs/heads/main", commit)
        return commit


def bare(where: Path) -> Path:
    """A repository that has no commit, and takes durably what is pushed to it."""
    git("init", "--quiet", "--bare", "--initial-branch=main", str(where))
    git("--git-dir", str(where), "config", "core.fsync", "all")
    return where


def git(*arguments: str) -> None:
    subprocess.run(["git", *arguments], check=True, capture_output=True)
