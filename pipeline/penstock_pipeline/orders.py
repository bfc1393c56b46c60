"""What people ask for: apps, ends of runs, ways back and forward, and variables. Most of it is a run that is
queued; the engine does the rest."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import socket
from collections.abc import Callable, Mapping

from sqlalchemy import Connection

from . import variables
from .engine import Engine
from .errors import Conflict, Invalid, NotFound
from .model import App, Release, Run, StageName, webhook_of
from .runtimes import ProcessState
from .stages import Parts
from .store import environments, history, queue, registry
from .variables import Variable

_APP_NAME = re.compile(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?")
_BRANCH = re.compile(
    r"(?!HEAD$|refs/)(?!.*(\.\.|//|/\.|@\{|\.lock(/|$)))[A-Za-z0-9_][A-Za-z0-9_./+@-]{0,200}(?<![./])"
)
_REPOSITORY = re.compile(
    r"(?!.*(://|[@:])-)"  # ssh would take such a host or path for an option
    r"(https?://|ssh://|git://|file://|/|[A-Za-z0-9_.-]+@[A-Za-z0-9_.-]+:)[^\s\x00-\x1f]+"
)


class Orders:
    """Takes orders while the engine runs; `by` is who gives them."""

    def __init__(self, parts: Parts, engine: Engine) -> None:
        self._parts = parts
        self._engine = engine
        self._registering = asyncio.Lock()

    async def register(
        self,
        name: str,
        *,
        branch: str = "main",
        repository: str | None = None,
        webhook_secret: str | None = None,
    ) -> App:
        """Makes an app. Raises `Invalid` for a name, branch or repository that cannot be, `Conflict` for a
        name that is taken, and as `Vault.seal` does."""
        _check_app(name, branch, repository, webhook_secret)
        if await self._parts.store.read(registry.find, name) is not None:
            raise Conflict(f"there is an app {name} already")
        sealed = await asyncio.to_thread(self._sealed, name, webhook_secret)
        await self._parts.repositories.create(name, branch=branch)
        async with self._registering:
            taken = {app.port for app in await self._parts.store.read(registry.all_apps)}
            return await self._parts.store.write(
                registry.add,
                name=name,
                branch=branch,
                port=_free_port(self._parts.settings.address, self._parts.settings.app_ports, taken),
                repository=repository,
                webhook_sealed=sealed,
            )

    def _sealed(self, app: str, webhook_secret: str | None) -> str | None:
        if webhook_secret is None:
            return None
        return self._parts.vault.seal(webhook_secret.encode(), about=webhook_of(app))

    async def cancel(self, run_id: int, *, by: str) -> Run:
        """As `Engine.cancel`."""
        return await self._engine.cancel(run_id, by=by)

    async def roll_back(self, app_name: str, *, version: int | None, by: str) -> Run:
        """Queues a rollback to a release (None: the one that was live before the live one was new) and ends
        what moves: a rollback does not wait. Raises `NotFound`, or `Conflict` where there is nothing to go
        back to."""
        app = await self._parts.store.read(registry.get, app_name)
        release = await self._parts.store.read(_target, app, version)
        return await self._engine.overtake(app, lambda tx: queue.roll_back(tx, app, release, actor=by))

    async def unpin(self, app_name: str, *, by: str) -> Run:
        """Queues the way from a rollback forward to what was pushed last. Raises `NotFound`, or `Conflict`
        where the app is not pinned."""
        return await self._parts.store.write(_unpin, app_name, by)

    async def refresh(self, app_name: str, *, by: str) -> Run:
        """Queues a refresh of every edge, alone. Raises `NotFound`, or `Conflict` where nothing is live."""
        return await self._parts.store.write(_of_live, queue.refresh, app_name, by)

    async def redeploy(self, app_name: str, *, by: str) -> Run:
        """Queues the live commit once more, from its checkout on. Raises `NotFound`, or `Conflict` where
        nothing is live."""
        return await self._parts.store.write(_of_live, queue.redeploy, app_name, by)

    async def retry(self, run_id: int, *, again: StageName | None, by: str) -> Run:
        """Queues a run once more from a stage on (None: the first that it has not passed). Raises `NotFound`,
        or `Conflict` where that cannot be."""
        return await self._parts.store.write(_retry, run_id, again, by)

    async def approve(self, run_id: int, *, by: str) -> Run:
        """Lets a run through that waits for it. Raises `NotFound`, or `Conflict` where it does not wait."""
        return await self._parts.store.write(queue.approve, run_id, by=by)

    # -- variables

    async def variables(self, app_name: str) -> dict[str, Variable]:
        """What the app's next release finds in its environment. Raises `NotFound`."""
        app = await self._parts.store.read(registry.get, app_name)
        sealed = await self._parts.store.read(environments.sealed, app.environment)
        return variables.opened(self._parts.vault, app.name, sealed)

    async def configure(
        self, app_name: str, changes: Mapping[str, Variable | None], *, by: str
    ) -> Run | None:
        """Changes variables (None removes one), and where something is live queues a release with them. None:
        nothing changed, or nothing is live. Raises `NotFound`, or `Invalid` for what cannot be."""
        app = await self._parts.store.read(registry.get, app_name)

        vault, does = self._parts.vault, f"variables: {variables.told(changes)}"

        def change(before: str | None) -> str | None:
            known = variables.opened(vault, app.name, before)
            after = variables.changed(known, changes)
            return None if after == known else variables.sealed(vault, app.name, after)

        return await self._parts.store.write(_configure, app, change, does, by)

    async def observe(self) -> list[ProcessState]:
        """The processes of every app, as they are now."""
        return await self._parts.runtime.observe()


def _of_live(tx: Connection, enqueue: Callable[..., Run], app_name: str, by: str) -> Run:
    """Queues something with the live release. Raises `Conflict` where nothing is live."""
    app = registry.get(tx, app_name)
    if (live := history.live_release(tx, app.id)) is None:
        raise Conflict(f"nothing of {app.name} is live yet: push first")
    return enqueue(tx, app, live, actor=by)


def _unpin(tx: Connection, app_name: str, by: str) -> Run:
    app = registry.get(tx, app_name)
    release = history.pushed_release(tx, app.id)
    if not app.pinned or release is None:
        raise Conflict(f"{app.name} is not pinned: it serves what was pushed last")
    return queue.unpin(tx, app, release, actor=by)


def _retry(tx: Connection, run_id: int, again: StageName | None, by: str) -> Run:
    return queue.retry(tx, history.run(tx, run_id), again, actor=by)


def _configure(tx: Connection, app: App, change: environments.Change, does: str, by: str) -> Run | None:
    configured = environments.change(tx, app.id, change, actor=by)
    live = history.live_release(tx, app.id)
    if configured is None or live is None:
        return None
    return queue.configure(tx, configured, live, does=does, actor=by)


def _target(tx: Connection, app: App, version: int | None) -> Release:
    if version is not None:
        if (found := history.release_of(tx, app.id, version)) is not None:
            return found
        raise NotFound(f"{app.name} has no release v{version}; see: penstock releases {app.name}")
    live = app.live_release
    if live is not None and (before := history.release_before(tx, app.id, live)) is not None:
        return before
    raise Conflict(f"{app.name} has no release before the live one to go back to")


def _check_app(name: str, branch: str, repository: str | None, webhook_secret: str | None) -> None:
    if not _APP_NAME.fullmatch(name):
        raise Invalid(f"app name {name!r}: use 1 to 40 of a-z, 0-9 and -, starting with a letter")
    if not _BRANCH.fullmatch(branch):
        raise Invalid(f"branch {branch!r} is not the name of a branch; it looks like main")
    if repository is not None and not _REPOSITORY.fullmatch(repository):
        raise Invalid(f"repository {repository!r}: use an https, ssh, git or file URL, or an absolute path")
    if repository is not None and (webhook_secret is None or len(webhook_secret) < 16):
        raise Invalid("a repository for webhooks needs a webhook secret of at least 16 characters")


def _free_port(address: str, first: int, taken: set[int]) -> int:
    """The first free port from `first` on (0: whichever the system gives) that no app has."""
    for port in range(first, 65536) if first else itertools.repeat(0, 1000):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((address, port))
            if (found := int(probe.getsockname()[1])) not in taken:
                return found
    raise Conflict("no free port for another app")
