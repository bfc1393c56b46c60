"""What the benchmark asks of Penstock, as its users would."""

from __future__ import annotations

import json
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from deliveries import SECRET, Hook
from harness import pss, seconds
from plugins.penstock import Penstock, Repository, service
from repositories import Upstream


class ByPenstock:
    """Runs without work, set off by webhooks."""

    def __init__(self, running: Penstock, apps: list[Upstream]) -> None:
        self._running = running
        self._hooks = {app.name: hooked(running, app.name, app.path) for app in apps}

    def run(self, app: Upstream, number: int) -> float:
        """Seconds of a run of this commit, from acceptance to end, as its record has it."""
        run = self._push(app, number)
        time.sleep(0.1)  # not asked while it moves
        return lasted(self._running.finished(run)["run"])

    def carry(self, apps: list[Upstream], numbers: range) -> float:
        """Seconds until these commits of every app are live, each pushed once the one before is; from the
        first acceptance to the last end, as the records have it."""
        runs = len(apps) * len(numbers)
        moving = {self._push(app, numbers[0]): (app, iter(numbers[1:])) for app in apps}
        ended: list[dict[str, Any]] = []
        while moving:
            time.sleep(0.25)  # asking costs the engine as well; the other apps have runs enough meanwhile
            for run in self._ended(set(moving), newest=runs):
                app, rest = moving.pop(run["id"])
                ended.append(run)
                if (following := next(rest, None)) is not None:
                    moving[self._push(app, following)] = (app, rest)
        return max(_at(run, "ended_at") for run in ended) - min(_at(run, "created_at") for run in ended)

    def _ended(self, runs: set[int], *, newest: int) -> list[dict[str, Any]]:
        """Those of these runs that have ended, as they should."""
        told = self._running.api(f"/runs?limit={newest}")
        ended = [run for run in told if run["id"] in runs and run["status"] not in ("queued", "running")]
        assert all(run["status"] == "succeeded" for run in ended), ended
        return ended

    def _push(self, app: Upstream, number: int) -> int:
        run: int = json.loads(self._hooks[app.name].tell(app.advance(number)))["run"]
        return run


def hooked(running: Penstock, name: str, upstream: Path) -> Hook:
    """Registers an app with a repository elsewhere."""
    running.api("/apps", {"name": name, "repository": str(upstream), "webhook_secret": SECRET})
    return Hook(running.urls(name)["webhook"], name)


def lasted(run: dict[str, Any]) -> float:
    """Seconds from a run's acceptance to its end, as its record has it."""
    assert run["status"] == "succeeded", run
    return _at(run, "ended_at") - _at(run, "created_at")


def _at(run: dict[str, Any], moment: str) -> float:
    return datetime.fromisoformat(run[moment]).timestamp()


class Service:
    """A small service that a person pushes and rolls back."""

    def __init__(self, running: Penstock) -> None:
        self._running = running
        self._repository: Repository = running.add("service")
        self.push(-1)

    def push(self, number: int) -> float:
        """Seconds until the push of this version has returned: it is live then."""
        self._repository.commit(service(f"version {number}"))
        took = seconds(self._push)
        assert self._serves() == f"version {number}"
        return took

    def _push(self) -> None:
        pushed = self._repository.push()
        assert pushed.code == 0, pushed.said

    def roll_back(self, *, to: int) -> float:
        """Seconds until the run has ended and visitors get that version."""
        return seconds(lambda: self._roll_back(to))

    def _roll_back(self, to: int) -> None:
        run = self._running.api("/apps/service/rollback", {})["id"]
        lasted(self._running.finished(run)["run"])
        assert self._serves() == f"version {to}"

    def _serves(self) -> str:
        return self._running.ask(f"{self._running.urls('service')['app']}version").body.decode()


def memory(running: Penstock) -> dict[str, float]:
    """Megabytes of everything of Penstock's own; apps are not."""
    front = json.loads((running.state / "front" / "front.json").read_text())
    children: dict[str, int] = front["children"]
    parts = {
        "engine": [running.client["pid"]],
        "front": [front["pid"]],
        "router": [children.pop("router")],
        "edges": list(children.values()),
    }
    return {name: sum(map(pss, pids)) for name, pids in parts.items()}
