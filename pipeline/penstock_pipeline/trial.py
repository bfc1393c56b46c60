"""A trial: the stages that make a release, on a working tree. Nothing is deployed, no Penstock has to run.

What git would take of the working tree becomes a commit in a repository of the trial's own; from there on it
is the path of every push. Everything lies in a folder that is gone afterwards.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from penstock_pool.compute import ComputePool

from . import tell, variables
from .cdn.folder import FolderOrigin
from .errors import Invalid, StageFailed
from .images.layout import OciLayout
from .model import App, Event, Run, RunKind, RunStatus, StageName
from .repositories import Repositories
from .runtimes.local import LocalRuntime
from .runtimes.routing import RouterClient
from .settings import Settings
from .stages import STAGES, Parts, Work
from .store import SqliteStore
from .store.follow import LogReader
from .store.logs import Logs
from .variables import Variable
from .vault import Vault

TRIED = (StageName.CHECKOUT, StageName.TEST, StageName.BUILD)

_RUN = 1
_BRANCH = "main"

Say = Callable[[str], None]


async def run(tree: Path, env: Mapping[str, str], say: Say) -> bool:
    """Tests and builds the working tree that `tree` lies in, and says what a push would say of it. `env` are
    the app's variables. Whether all is green. Raises `Invalid` where there is no git repository."""
    given = variables.changed({}, {name: Variable(value) for name, value in env.items()})
    top = await asyncio.to_thread(_top, tree)
    began = time.monotonic()
    with TemporaryDirectory(prefix="penstock-run-") as folder:
        async with _parts(Settings(state=Path(folder))) as parts:
            work = await _work(parts, top, given)
            if not await _travel(work, say):
                return False
    say(f"=====> green in {tell.duration(time.monotonic() - began)}; nothing is deployed")
    return True


@asynccontextmanager
async def _parts(settings: Settings) -> AsyncIterator[Parts]:
    """What these stages need of a Penstock; the store stays closed, since nothing is recorded."""
    state = settings.state
    store, vault = SqliteStore(state / "none.db"), Vault(state / "key")
    packing = ComputePool(name="packing")
    images = OciLayout(state / "images", packing)
    router = RouterClient(state / "none.sock")
    try:
        yield Parts(
            settings=settings,
            store=store,
            vault=vault,
            logs=Logs(state / "logs", limit=settings.log_limit, changes=store.changes),
            repositories=Repositories(
                state / "repositories", hooks=state / "hooks", size_limit=settings.repository_limit
            ),
            runtime=LocalRuntime(settings, images, router, state / "origin", vault),
            images=images,
            packing=packing,
            origin=FolderOrigin(state / "origin"),
            edges=(),
        )
    finally:
        await router.close()
        await store.close()
        await asyncio.to_thread(packing.shutdown)


async def _work(parts: Parts, top: Path, given: variables.Variables) -> Work:
    name = re.sub(r"[^a-z0-9]+", "-", top.name.lower()).strip("-") or "app"
    app = App(id=1, name=name, branch=_BRANCH, port=0)
    await parts.repositories.create(name, branch=_BRANCH)
    commit = await asyncio.to_thread(_commit, top, parts.repositories.path(name))
    run = Run(
        id=_RUN,
        app_id=app.id,
        app=name,
        kind=RunKind.PUSH,
        status=RunStatus.RUNNING,
        commit=commit,
        actor="you",
        source="git",
        trace_id="",
        created_at=datetime.now(UTC),
    )
    return Work(run=run, app=app, parts=parts, results={}, live=None, target=None, variables=given)


async def _travel(work: Work, say: Say) -> bool:
    narrator = tell.Narrator(work.run.id)
    for stage in TRIED:
        began = time.monotonic()
        try:
            async with _heard(work, stage, narrator, say):
                outcome = await STAGES[stage](work)
        except (StageFailed, Invalid) as error:
            for line in tell.problem(f"{stage.value.title()}: {error}"):
                say(line)
            return False
        work.results[stage] = outcome.result
        data = {"says": outcome.says, "seconds": time.monotonic() - began}
        for line in narrator.event(
            Event(0, work.run.id, work.app.id, datetime.now(UTC), "stage.done", stage, data)
        ):
            say(line)
    return True


@asynccontextmanager
async def _heard(work: Work, stage: StageName, narrator: tell.Narrator, say: Say) -> AsyncIterator[None]:
    """What the stage prints is said while it prints it."""
    reader = LogReader(work.parts.logs, work.run.id)

    def rest() -> None:
        for output in reader.rest(stage):
            for line in narrator.lines(output):
                say(line)

    async def listen() -> None:
        with work.parts.store.changes.watch(work.run.id) as news:
            while True:
                await news.wait()
                news.clear()
                rest()

    listening = asyncio.create_task(listen(), name=f"listen-{stage}")
    try:
        yield
    finally:
        listening.cancel()
        await asyncio.wait([listening])
        rest()


# -- git


def _top(tree: Path) -> Path:
    try:
        said = _git("rev-parse", "--show-toplevel", cwd=tree)
    except subprocess.CalledProcessError as error:
        raise Invalid(
            f"{tree} is not in a git repository; penstock run takes what git would: git init"
        ) from error
    return Path(os.fsdecode(said.removesuffix(b"\n")))


def _commit(top: Path, bare: Path) -> str:
    """A commit in `bare` of all that lies in the working tree and is not ignored, committed or not."""
    there = _git("ls-files", "--cached", "--others", "--exclude-standard", "-z", cwd=top)
    paths = b"".join(b"%b\0" % path for path in there.split(b"\0") if _is_taken(top, path))
    into = {"GIT_DIR": str(bare), "GIT_WORK_TREE": str(top), "GIT_INDEX_FILE": str(bare / "trial")}
    try:
        _git("update-index", "--add", "--remove", "-z", "--stdin", cwd=top, env=into, given=paths)
    except subprocess.CalledProcessError as error:
        raise Invalid(f"git does not take the working tree: {_last_line(error)}") from error
    tree = _git("write-tree", cwd=top, env=into).decode().strip()
    return (
        _git("commit-tree", tree, "-m", "the working tree", cwd=top, env={**into, **_NOBODY}).decode().strip()
    )


def _is_taken(top: Path, path: bytes) -> bool:
    """Whether git can add it. It also names folders: where a submodule is not checked out, and where a file
    was that is tracked."""
    if not path or path.endswith(b"/"):
        return False
    there = top / os.fsdecode(path)
    return there.is_symlink() or not there.is_dir() or (there / ".git").exists()


_NOBODY = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "penstock run"), ("EMAIL", "run@penstock.invalid"))
}


def _git(*arguments: str, cwd: Path, env: Mapping[str, str] | None = None, given: bytes = b"") -> bytes:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run(
        ["git", *arguments],
        cwd=cwd,
        env={**environment, **(env or {})},
        input=given,
        capture_output=True,
        check=True,
    )
    return done.stdout


def _last_line(error: subprocess.CalledProcessError) -> str:
    said = error.stderr.decode(errors="replace").strip().splitlines()
    return str(said[-1]) if said else f"exit code {error.returncode}"
