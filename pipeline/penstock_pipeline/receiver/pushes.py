"""Pushes through git: judged, accepted, followed. The hook of a repository talks to this over a unix socket,
one JSON object a line: it sends the push, then prints each `say` until the `verdicts` come."""

from __future__ import annotations

import asyncio
import json
import logging
import shlex
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import tell
from ..errors import InvalidPush, MachineUnavailable, PenstockError, RepositoryUnavailable, Unavailable
from ..model import App, Run, RunKind, RunStatus
from ..repositories import Repositories
from ..store import SqliteStore, history, queue, registry
from ..store.follow import follow
from ..store.logs import Logs
from . import proc_receive

log = logging.getLogger(__name__)

Say = Callable[[str], Awaitable[None]]

SOCKET_PATH_LIMIT = 100
"""Bytes a unix socket's path may have: 108 on Linux, 104 elsewhere."""

REQUEST_LIMIT = 64 * 1024 * 1024
"""Bytes the commands of one push may have: some 400,000 tags."""


@dataclass(frozen=True, slots=True)
class Command:
    """What a push asks of one ref."""

    ref: str
    old: str | None
    new: str | None


class Pushes:
    """The engine's end of the hooks' line."""

    def __init__(self, store: SqliteStore, logs: Logs, repositories: Repositories) -> None:
        self.store = store
        self.logs = logs
        self.repositories = repositories
        self.answering: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._order: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    @asynccontextmanager
    async def listening(self, path: Path) -> AsyncIterator[None]:
        """Serves the hooks while open. Raises `Unavailable` for a path too long for a socket."""
        if len(str(path).encode()) > SOCKET_PATH_LIMIT:
            raise Unavailable(
                f"{path} is too long for a socket ({SOCKET_PATH_LIMIT} bytes); use a shorter --state"
            )
        path.unlink(missing_ok=True)
        async with asyncio.TaskGroup() as group:

            def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                task = group.create_task(self._answer(reader, writer), name="hook")
                self.answering.add(task)
                task.add_done_callback(self.answering.discard)

            self._server = await asyncio.start_unix_server(answer, path, limit=REQUEST_LIMIT)
            path.chmod(0o600)
            try:
                yield
            finally:
                self.end()

    def end(self) -> None:
        """Lets every hook go: each tells its pusher that Penstock stops and what was accepted goes on."""
        if self._server is not None:
            self._server.close()
        for task in self.answering:
            task.cancel()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def send(**message: object) -> None:
            writer.write(json.dumps(message).encode() + b"\n")
            await writer.drain()

        try:
            request = json.loads(await reader.readline())
            await send(verdicts=await self._judge_all(request, lambda line: send(say=line)))
        except (ConnectionError, ValueError, KeyError, TypeError) as error:
            log.warning("a hook left or spoke nonsense: %r", error)
        finally:
            writer.close()

    async def _judge_all(self, request: dict[str, Any], say: Say) -> dict[str, str]:
        commands = [Command(ref, _oid(old), _oid(new)) for old, new, ref in request["commands"]]
        pusher, forced = request["pusher"], "force" in request["options"]
        try:
            app = await self.store.read(registry.get, request["app"])
        except PenstockError as error:
            return dict.fromkeys((command.ref for command in commands), await _refuse(error, say))
        commands.sort(key=lambda command: command.ref == app.live_ref)
        pushes = [_Push(self, app, command, pusher, forced, say) for command in commands]
        return {push.ref: await push.verdict() for push in pushes}

    def in_order(self, app: App) -> asyncio.Lock:
        """Pushes of an app are accepted one after the other."""
        return self._order[app.name]


class _Push:
    """One command of a push on its way to a verdict: "" where it is done, else why not."""

    def __init__(
        self, pushes: Pushes, app: App, command: Command, pusher: str, forced: bool, say: Say
    ) -> None:
        self._store = pushes.store
        self._logs = pushes.logs
        self._repositories = pushes.repositories
        self._order = pushes.in_order(app)
        self._app = app
        self._command = command
        self._pusher = pusher
        self._forced = forced
        self._say = say

    @property
    def ref(self) -> str:
        return self._command.ref

    async def verdict(self) -> str:
        try:
            return await self._judge()
        except PenstockError as error:
            return await _refuse(error, self._say)
        except ConnectionError:
            raise
        except OSError as error:
            return await _refuse(MachineUnavailable(error), self._say)
        except Exception as error:
            log.exception("a fault of Penstock refused a push to %s", self._app.name)
            return await _refuse(PenstockError(f"a fault of Penstock's own: {error!r}"), self._say)

    async def _judge(self) -> str:
        if tell.clean(self.ref) != self.ref:
            raise InvalidPush(f"{self.ref!r}: names of branches and tags must be plain text in UTF-8")
        if self._command.ref != self._app.live_ref:
            return await self._keep()
        async with self._order:
            await self._check()
            accepted = await self._accept()
        assert accepted.run is not None
        if not accepted.fresh:
            await self._say(tell.status("Joined", f"run {accepted.run.id} carries this commit already"))
        return await self._follow(accepted.run.id)

    async def _keep(self) -> str:
        """A ref that does not go live is git's business alone; it is stored, and said so."""
        app, command, name = self._app, self._command, self._command.ref.split("/", 2)[-1]
        if f"{command.ref}/".startswith(f"{app.live_ref}/") or app.live_ref.startswith(f"{command.ref}/"):
            raise InvalidPush(f"git cannot keep {name} beside {app.branch}, the branch that goes live")
        await self._repositories.move(app.name, command.ref, to=command.new, expected=command.old)
        if command.new is None:
            await self._say(tell.status("Deleted", name))
        else:
            await self._store.write(queue.store_push, app, **self._event(command.new))
            await self._say(
                tell.status("Stored", f"{name} at {command.new[:7]}; only {app.branch} goes live")
            )
        return ""

    def _event(self, commit: str) -> dict[str, Any]:
        return {"ref": self._command.ref, "commit": commit, "pusher": self._pusher, "source": "git"}

    async def _check(self) -> None:
        """An older commit never overwrites a newer one. Raises `InvalidPush`."""
        app, command = self._app, self._command
        if command.new is None:
            raise InvalidPush(f"{app.branch} is the branch that is live; it cannot be deleted")
        if not await self._repositories.is_commit(app.name, command.new):
            raise InvalidPush(f"{command.new[:7]} is not a commit")
        tip = await self._repositories.tip(app.name, app.live_ref)
        if command.old != tip:
            raise InvalidPush(f"{app.branch} has moved meanwhile; fetch first")
        rewrites = tip is not None and not await self._repositories.contains(app.name, tip, command.new)
        if not (rewrites or self._forced):  # git lets a rewrite through only where the pusher forced it
            await self._check_moving(command.new)

    async def _check_moving(self, new: str) -> None:
        active = await self._store.read(queue.active, self._app.id)
        newest = next((run for run in reversed(active) if run.kind is RunKind.PUSH), None)
        if newest is None or await self._repositories.contains(self._app.name, newest.commit, new):
            return
        raise InvalidPush(
            f"run {newest.id} is on its way with {newest.commit[:7]}, which this push does not contain:\n"
            "wait for it and fetch, or put this one in its place: git push -o force"
        )

    async def _accept(self) -> queue.Accepted:
        app, commit = self._app, self._command.new or ""
        event = self._event(commit)
        accepted = await self._store.write(queue.accept, app, **event, facts=await self._ahead(commit))
        if accepted.fresh and accepted.run is not None and accepted.run.push_id is not None:
            await self._keep_objects(accepted.run.push_id, commit)
        return accepted

    async def _keep_objects(self, push_id: int, commit: str) -> None:
        """The push is accepted: where git gives it no ref, its objects still stay until the next clean-up."""
        try:
            await self._repositories.keep(self._app.name, push_id, commit)
        except RepositoryUnavailable as error:
            log.error("accepted push %s has no ref of its own: %s", push_id, error)

    async def _ahead(self, commit: str) -> dict[str, object]:
        if self._app.live_release is None:
            return {}
        live = await self._store.read(history.release, self._app.live_release)
        return {
            "live": live.label,
            "ahead": await self._repositories.ahead(self._app.name, live.commit, commit),
        }

    async def _follow(self, run_id: int) -> str:
        """Says what happens until the run has ended; its outcome is the push's."""
        narrator = tell.Narrator(run_id)
        async for heard in follow(self._store, self._logs, run_id):
            for line in narrator.lines(heard):
                await self._say(line)
        return _verdict(await self._store.read(history.run, run_id))


async def _refuse(error: PenstockError, say: Say) -> str:
    """Tells why, and gives the verdict."""
    for line in tell.problem(str(error)):
        await say(line)
    return str(error).splitlines()[0][:200]


def _verdict(run: Run) -> str:
    """A run that moves again was approved while its pusher heard that it waits for that."""
    match run.status:
        case RunStatus.SUCCEEDED | RunStatus.IGNORED:
            return ""
        case RunStatus.AWAITING | RunStatus.QUEUED | RunStatus.RUNNING:
            return ""
        case RunStatus.SUPERSEDED:
            return f"superseded by run {run.superseded_by}"
        case RunStatus.FAILED:
            first, *_ = (run.error or "").splitlines() or [""]
            return f"run {run.id} failed: {tell.clean(first)[:120]}"
        case _:
            return f"run {run.id} was {run.status.value}"


def _oid(value: str) -> str | None:
    return None if set(value) == {"0"} else value


def install_hooks(folder: Path, socket: Path) -> None:
    """Writes the hooks that every repository uses."""
    folder.mkdir(parents=True, exist_ok=True)
    command = shlex.join([sys.executable, "-IS", str(Path(proc_receive.__file__)), str(socket)])
    hook = folder / "proc-receive"
    hook.write_text(f"#!/bin/sh\nexec {command}\n")
    hook.chmod(0o755)
