"""The runtime that only remembers what it was told: for tests of whatever drives a runtime."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..config import Command
from ..errors import Conflict, RuntimeUnavailable, StageFailed, Unhealthy
from . import Candidate, ProcessState, Route


@dataclass(frozen=True, slots=True)
class Scripted:
    """What a command does when it is executed."""

    code: int = 0
    output: bytes = b""
    hangs: bool = False


class FakeRuntime:
    """Everything goes well until it is told otherwise:

    - `commands[command] = Scripted(code=3)`   what `execute` of that command does
    - `fails_to_start.add(commit)`             its web process ends with exit code 1 at once
    - `never_healthy.add(commit)`              it runs, but answers 500
    - `unavailable = 2`                        the next two calls raise `RuntimeUnavailable`

    `calls` lists every call in order, as its name and whom it was about.
    """

    isolation = "a fake, which runs nothing"

    def __init__(self) -> None:
        self.commands: dict[Command, Scripted] = {}
        self.fails_to_start: set[str] = set()
        self.never_healthy: set[str] = set()
        self.unavailable = 0
        self.calls: list[tuple[str, str]] = []
        self.running: dict[str, Candidate] = {}
        self.routes: dict[str, Route] = {}
        self._states: dict[str, list[ProcessState]] = {}
        self._numbers = itertools.count(1)

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
        self._called("execute", name)
        scripted = self.commands.get(command, Scripted())
        output(scripted.output)
        if scripted.hangs:
            await self._hang(command, timeout)
        return scripted.code

    async def _hang(self, command: Command, timeout: float) -> None:
        await asyncio.sleep(timeout)
        shown = command if isinstance(command, str) else " ".join(command)
        raise StageFailed(f"`{shown}` ran longer than {timeout:g} s and was ended")

    async def start(self, candidate: Candidate) -> None:
        self._called("start", candidate.name)
        if candidate.image is None or not candidate.processes or candidate.name in self.running:
            return
        self.running[candidate.name] = candidate
        self._states[candidate.name] = [self._born(candidate, process) for process in candidate.processes]

    def _born(self, candidate: Candidate, process: str) -> ProcessState:
        number = next(self._numbers)
        return ProcessState(
            app=candidate.app,
            candidate=candidate.name,
            process=process,
            pid=number,
            port=20000 + number if process == "web" else None,
            restarts=0,
            started_at=time.time(),
        )

    async def healthy(self, candidate: Candidate) -> int:
        self._called("healthy", candidate.name)
        if candidate.image is None or not candidate.processes:
            return 0
        if candidate.name not in self.running:
            raise RuntimeUnavailable(f"{candidate.name} was not started")
        if candidate.commit in self.fails_to_start:
            raise Unhealthy("web ended with exit code 1 before it was healthy", tail=("it cannot start",))
        if candidate.commit in self.never_healthy:
            within = candidate.health.within
            raise Unhealthy(f"web was not healthy within {within:g} s: GET / answered 500", tail=("oh no",))
        return 1

    async def switch(self, route: Route) -> None:
        self._called("switch", route.app)
        if route.candidate is not None and route.candidate not in self.running:
            raise Conflict(f"{route.candidate} was not started, so it can have no traffic")
        self.routes[route.app] = route

    async def retire(self, app: str, *, keep: str | None) -> None:
        self._called("retire", app)
        for name, candidate in list(self.running.items()):
            if candidate.app == app and name != keep:
                del self.running[name], self._states[name]

    async def observe(self) -> list[ProcessState]:
        self._called("observe", "")
        return [state for states in self._states.values() for state in states]

    async def serves(self) -> set[str]:
        return {app for app, route in self.routes.items() if route.candidate in {None, *self.running}}

    def _called(self, call: str, about: str) -> None:
        self.calls.append((call, about))
        if self.unavailable:
            self.unavailable -= 1
            raise RuntimeUnavailable(f"told to be unavailable for {call}")
