"""The local runtime: releases are supervised processes of this machine.

Processes outlive the engine. What is known of them lies in files (`records`), so a new engine finds by pid
and birth what an earlier one has started, and adopts it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from ..config import Command
from ..errors import Conflict, PenstockError, RuntimeUnavailable, StageFailed, Unhealthy
from ..images import ImageStore
from ..settings import Settings
from ..vault import Vault
from . import Candidate, ProcessState, Route, environment, health, sandbox
from .process import Job, Limits, alive, beside, end_tree, ended, gated, run
from .records import Records, Started
from .routing import RouterClient, RouteTarget

log = logging.getLogger(__name__)

WEB = "web"

PORTS = range(20000, 30000)
"""Where apps listen: below the ports that systems give to outgoing connections. One of those could sit on an
app's port while it restarts, and a client that asks for it meanwhile could even reach itself."""

FIRST_BACKOFF = 0.2
LONGEST_BACKOFF = 30.0
SETTLED = 60.0
"""Seconds after which a process is taken to be well: its next restart waits FIRST_BACKOFF again."""

ROUND = 10.0
"""Seconds between two looks at routes, logs and supervisors."""
RETRY_ROUND = 1.0
"""The same, while the router is out of reach."""

LOG_LIMIT = 10 * 1024 * 1024
"""Bytes a process's log may grow to before its older half is dropped."""
KEPT_LOGS = 20
"""Logs of ended processes that are kept for each app."""

_TAIL_LINES = 20
_TAIL_BYTES = 16384


class LocalRuntime:
    """The Runtime port on this machine. `supervise` must run for releases to be kept alive."""

    def __init__(
        self, settings: Settings, images: ImageStore, router: RouterClient, origin: Path, vault: Vault
    ) -> None:
        self._settings = settings
        self._images = images
        self._router = router
        self._origin = origin
        self._limits = Limits(
            files=settings.limit_files,
            memory=settings.limit_memory,
            file_size=settings.limit_file_size,
            processes=settings.limit_processes,
        )
        self._records = Records(settings.state / "runtime", vault)
        self._executing: set[str] = set()
        self._sweeping = asyncio.Lock()
        self._leaving: set[str] = set()
        self._clearing = asyncio.Lock()
        """Held where the logs of ended processes are counted, each in a thread of its own."""
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self._routing = asyncio.Lock()
        self._changed = asyncio.Event()

    @property
    def isolation(self) -> str:
        return str(sandbox.choose(self._settings.sandbox))

    def _sandbox(self, tree: Path, own: Path) -> tuple[str, ...]:
        """What goes before a command in `tree`; the state folder, other apps in it, is not to be seen."""
        isolation, settings = sandbox.choose(self._settings.sandbox), self._settings
        return isolation.around(tree, own, hidden=settings.state, shown=settings.sandbox_shows)

    # One-off commands

    async def execute(
        self,
        command: Command,
        *,
        name: str,
        tree: Path,
        env: Mapping[str, str],
        output: Callable[[bytes], None],
        timeout: float,
    ) -> int:
        """See the port. Python packages that pip installs go into the tree (`environment`)."""
        own = self._records.executing(name)
        shown = command if isinstance(command, str) else " ".join(command)
        with self._claimed(name), _reachable(f"`{shown}` cannot be run"):
            async with self._sweeping:
                await self._end_leftover(name)
            for folder in ("home", "tmp"):
                (own / folder).mkdir(parents=True, exist_ok=True)
            whole = environment.of_command(tree, own, env, mark=str(own))
            limits = replace(self._limits, cpu=self._settings.limit_cpu)
            job = Job(command, tree, whole, limits, self._sandbox(tree, own))
            try:
                return await self._run(job, shown, output, timeout)
            finally:
                await asyncio.to_thread(_remove, own)

    async def _run(self, job: Job, shown: str, output: Callable[[bytes], None], timeout: float) -> int:
        try:
            async with asyncio.timeout(timeout) as limit:
                end = await run(job, output=output, patience=self._settings.stop_timeout)
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise StageFailed(f"`{shown}` ran longer than {timeout:g} s and was ended") from error
        if end.code and (reached := job.limits.reached(end)):
            raise StageFailed(f"`{shown}` {reached}")
        return end.code

    @contextmanager
    def _claimed(self, name: str) -> Iterator[None]:
        self._executing.add(name)
        try:
            yield
        finally:
            self._executing.discard(name)

    async def _end_leftover(self, name: str) -> None:
        """Of an attempt that a crash of the engine has cut off: what it started may still run."""
        own = self._records.executing(name)
        if own.exists():
            await end_tree(None, str(own), patience=self._settings.stop_timeout)
            await asyncio.to_thread(_remove, own)

    # Start

    async def start(self, candidate: Candidate) -> None:
        if candidate.image is None or not candidate.processes:
            return
        with _reachable(f"{candidate.name} cannot be started"):
            await asyncio.to_thread(self._records.keep_candidate, candidate)
            await self._lay_out(candidate)
            for process in candidate.processes:
                self._ensure(candidate, process)

    async def _lay_out(self, candidate: Candidate) -> None:
        if candidate.image is not None:
            await self._images.unpack(candidate.image, self._records.folder(candidate.name) / "root")

    def _ensure(self, candidate: Candidate, process: str) -> Started:
        """What runs is adopted. There is no await in here, so nothing can be started twice."""
        last = self._records.started(candidate.name, process)
        if last is not None and alive(last.identity):
            return last
        port = self._port(last) if process == WEB else None
        restarts = 0 if last is None else last.restarts + 1
        with (
            self._records.log(candidate.name, process).open("ab") as output,
            gated(self._job(candidate, process, port), output.fileno()) as identity,
        ):
            started = Started(candidate.name, process, identity, port, restarts, time.time())
            self._records.keep_started(started)
        return started

    def _job(self, candidate: Candidate, process: str, port: int | None) -> Job:
        folder = self._records.folder(candidate.name)
        mark = self._records.mark(candidate.name, process)
        env = environment.of_process(candidate, process, port, folder, mark=mark)
        root = folder / "root"
        return Job(candidate.processes[process], root, env, self._limits, self._sandbox(root, folder))

    def _port(self, last: Started | None) -> int:
        """The one it had, so that its route stays, unless somebody else has taken it meanwhile."""
        if last is not None and last.port is not None and _is_free(last.port):
            return last.port
        everything = self._records.candidates()
        taken = {started.port for candidate in everything for started in self._records.all_started(candidate)}
        for port in secrets.SystemRandom().sample(PORTS, 200):
            if port not in taken and _is_free(port):
                return port
        raise RuntimeUnavailable(f"no free port was found between {PORTS.start} and {PORTS.stop}")

    # Health

    async def healthy(self, candidate: Candidate) -> int:
        if candidate.image is None or not candidate.processes:
            return 0
        started = {process: self._started(candidate, process) for process in candidate.processes}
        served = started.get(WEB)
        port = None if served is None else served.port
        checks = health.Checks(health.probe(candidate.health, self._settings.host(candidate.app), port))
        await self._checked(checks, [served] if served else [*started.values()], candidate.health.within)
        return checks.count

    def _started(self, candidate: Candidate, process: str) -> Started:
        started = self._records.started(candidate.name, process)
        if started is None:
            raise RuntimeUnavailable(f"{process} of {candidate.name} was not started on this machine")
        return started

    async def _checked(self, checks: health.Checks, watched: list[Started], within: float) -> None:
        async with beside(checks.passed(), *(self._died(one) for one in watched)) as tasks:
            done, _ = await asyncio.wait(tasks, timeout=within, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        if not done:
            reason = f"{watched[0].process} was not healthy within {within:g} s: {checks.last}"
            raise Unhealthy(reason, tail=self._tail(watched[0]))

    async def _died(self, started: Started) -> None:
        """Raises `Unhealthy` when it does."""
        code = await ended(started.identity)
        reason = f"{started.process} ended{_how(code)} before it was healthy"
        raise Unhealthy(reason, tail=self._tail(started))

    def _tail(self, started: Started) -> tuple[str, ...]:
        with (
            suppress(FileNotFoundError),
            self._records.log(started.candidate, started.process).open("rb") as file,
        ):
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
            return tuple(file.read().decode("utf-8", "replace").splitlines()[-_TAIL_LINES:])
        return ()

    # Traffic

    async def switch(self, route: Route) -> None:
        """The record comes last: until it is there, supervision goes back to the route before. So a switch
        that fails has changed nothing for long, and one cut off by a crash is simply made again."""
        async with self._routing:
            await self._router.put(route.app, self._target(route))
            with _reachable(f"the route of {route.app} cannot be recorded"):
                await asyncio.to_thread(self._records.keep_live, route)
        self._changed.set()

    def _target(self, route: Route) -> RouteTarget:
        return RouteTarget(
            host=route.host,
            port=route.port,
            release=route.release,
            upstream=None if route.candidate is None else self._upstream(route.candidate),
            origin=str(self._origin / route.app),
        )

    def _upstream(self, candidate: str) -> str | None:
        """None for a candidate that serves nothing."""
        if self._records.candidate(candidate) is None:
            raise Conflict(f"{candidate} was not started on this machine, so it can have no traffic")
        web = self._records.started(candidate, WEB)
        return None if web is None else f"127.0.0.1:{web.port}"

    # The end of a release

    async def retire(self, app: str, *, keep: str | None) -> None:
        """Of several calls at once, each candidate is ended by one."""
        for candidate in self._records.candidates(app):
            if candidate.name not in {keep, *self._leaving} and self._records.candidate(candidate.name):
                await self._retire(candidate)

    async def _retire(self, candidate: Candidate) -> None:
        self._leaving.add(candidate.name)
        try:
            await self._drained(candidate)
            await self._leave_alone(candidate.name)
            await self._end(self._records.all_started(candidate))
            async with self._clearing:
                with _reachable(f"{candidate.name} cannot be cleared away"):
                    await asyncio.to_thread(self._clear_away, candidate)
        finally:
            self._leaving.discard(candidate.name)

    async def _drained(self, candidate: Candidate) -> None:
        upstream = self._upstream(candidate.name)
        pause = 0.01
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settings.drain_timeout):
                while upstream and await self._router.inflight(upstream):
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, 0.5)

    async def _end(self, everything: list[Started]) -> None:
        patience = self._settings.stop_timeout
        async with asyncio.TaskGroup() as group:
            for started in everything:
                mark = self._records.mark(started.candidate, started.process)
                group.create_task(end_tree(started.identity, mark, patience=patience), name=f"end of {mark}")

    def _clear_away(self, candidate: Candidate) -> None:
        kept = self._settings.state / "logs" / "apps" / candidate.app
        kept.mkdir(parents=True, exist_ok=True)
        for process in candidate.processes:
            with suppress(FileNotFoundError):
                self._records.log(candidate.name, process).replace(kept / f"{candidate.name}-{process}.log")
        for old in sorted(kept.iterdir(), key=lambda path: path.stat().st_mtime)[:-KEPT_LOGS]:
            old.unlink()
        folder = self._records.folder(candidate.name)
        _remove(folder / "root")  # first: cut off here, it is still known
        _remove(folder)

    async def stop(self) -> None:
        """Ends all that runs, once its requests are through; not beside `supervise`, whose next begin brings
        back what is live."""
        async with asyncio.TaskGroup() as group:
            for candidate in self._records.candidates():
                group.create_task(self._stop(candidate), name=f"stop of {candidate.name}")
            group.create_task(self._end(self._records.strays()), name="end of what is hardly known")
            group.create_task(self._end_leftovers(), name="end of cut-off commands")

    async def _stop(self, candidate: Candidate) -> None:
        with suppress(RuntimeUnavailable):  # without a router there are no requests
            await self._drained(candidate)
        await self._end(self._records.all_started(candidate))

    # What runs

    async def observe(self) -> list[ProcessState]:
        return [
            _state(candidate, started)
            for candidate in self._records.candidates()
            for started in self._records.all_started(candidate)
        ]

    async def serves(self) -> set[str]:
        """Not those whose records are gone, torn, or as another version wrote them."""
        routes, known = self._records.live(), {candidate.name for candidate in self._records.candidates()}
        return {route.app for route in routes if route.candidate is None or route.candidate in known}

    # Supervision

    async def supervise(self) -> None:
        """Keeps live releases running, their routes known to the router and their logs small, until it is
        cancelled. What runs goes on running then."""
        async with asyncio.TaskGroup() as owner:
            owner.create_task(self._end_leftovers(), name="end of cut-off commands")
            while True:
                self._changed.clear()
                pause = ROUND if await self._look_after(owner) else RETRY_ROUND
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._changed.wait()

    async def _look_after(self, owner: asyncio.TaskGroup) -> bool:
        """False: not everything could be done just now."""
        try:
            await self._match_keepers(owner)
            restored = await self._restore_routes()
            await asyncio.to_thread(self._trim_logs)
        except OSError as error:
            log.error("releases cannot be looked after just now: %s", error)
            return False
        return restored

    async def _end_leftovers(self) -> None:
        for name in self._records.all_executing():
            async with self._sweeping:
                if name not in self._executing:
                    await self._end_leftover(name)

    async def _match_keepers(self, owner: asyncio.TaskGroup) -> None:
        wanted = self._to_keep()
        for name in wanted:
            keeper = self._keepers.get(name)
            if keeper is None or keeper.done():
                self._keepers[name] = owner.create_task(self._keep(name), name=f"keeper of {name}")
        for name in set(self._keepers) - wanted:
            await self._leave_alone(name)

    def _to_keep(self) -> set[str]:
        return {route.candidate for route in self._records.live() if route.candidate} - self._leaving

    async def _leave_alone(self, candidate: str) -> None:
        keeper = self._keepers.pop(candidate, None)
        if keeper is not None:
            keeper.cancel()
            await asyncio.wait({keeper})

    async def _keep(self, name: str) -> None:
        """A trouble is told and ends it; the next round tries again."""
        candidate = self._records.candidate(name)
        if candidate is None:
            log.error("%s is live, but nothing is known of it on this machine; push again", name)
            return
        try:
            await self._lay_out(candidate)
            async with asyncio.TaskGroup() as group:
                for process in candidate.processes:
                    group.create_task(self._keep_running(candidate, process), name=f"{process} of {name}")
        except* (PenstockError, OSError) as group_of_errors:
            for error in group_of_errors.exceptions:
                log.error("%s cannot be kept running: %s", name, error)

    async def _keep_running(self, candidate: Candidate, process: str) -> None:
        mark = self._records.mark(candidate.name, process)
        started = self._records.started(candidate.name, process) or self._ensure(candidate, process)
        pause = FIRST_BACKOFF
        while True:
            code = await ended(started.identity)
            await end_tree(started.identity, mark, patience=0)
            if time.time() - started.at >= SETTLED:
                pause = FIRST_BACKOFF
            self._say(started, f"{process} ended{_how(code)}, restart {started.restarts + 1} in {pause:g} s")
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_BACKOFF)
            started = self._ensure(candidate, process)
            self._changed.set()  # it may have come up on another port

    def _say(self, started: Started, line: str) -> None:
        with suppress(OSError), self._records.log(started.candidate, started.process).open("a") as file:
            file.write(f"penstock: {line}\n")

    async def _restore_routes(self) -> bool:
        """False: the router is out of reach just now."""
        try:
            async with self._routing:
                known = await self._router.routes()
                for route in self._records.live():
                    await self._restore(route, known.get(route.app))
        except RuntimeUnavailable as error:
            log.warning("routes cannot be restored just now: %s", error)
            return False
        return True

    async def _restore(self, route: Route, known: RouteTarget | None) -> None:
        try:
            target = self._target(route)
            if target != known:
                await self._router.put(route.app, target)
        except Conflict as error:
            log.error("the route of %s cannot be restored: %s", route.app, error)

    def _trim_logs(self) -> None:
        for candidate in self._records.candidates():
            for process in candidate.processes:
                with suppress(FileNotFoundError):
                    _trim(self._records.log(candidate.name, process))


@contextmanager
def _reachable(failure: str) -> Iterator[None]:
    """A full disk or a full process table pass: worth a retry."""
    try:
        yield
    except OSError as error:
        raise RuntimeUnavailable(f"{failure}: {error}") from error


def _remove(folder: Path) -> None:
    """With the folders in it that nobody may write to, as Go makes them for the modules it downloads."""
    for inside, _, _ in os.walk(folder):
        with suppress(OSError):
            Path(inside).chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # What is left of an ended process's connections must not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def _how(code: int | None) -> str:
    if code is None:
        return ""
    return f" with exit code {code}" if code >= 0 else f" by signal {-code} ({signal.strsignal(-code)})"


def _state(candidate: Candidate, started: Started) -> ProcessState:
    lives = alive(started.identity)
    return ProcessState(
        app=candidate.app,
        candidate=candidate.name,
        process=started.process,
        pid=started.identity.pid if lives else None,
        port=started.port,
        restarts=started.restarts,
        started_at=started.at if lives else None,
    )


def _trim(log: Path) -> None:
    """Keeps the newer half where it is too long. The process goes on appending to the same file."""
    with log.open("r+b") as file:
        size = os.fstat(file.fileno()).st_size
        if size <= LOG_LIMIT:
            return
        file.seek(size - LOG_LIMIT // 2)
        file.readline()
        kept = file.read()
        file.seek(0)
        file.write(kept)
        file.truncate()
