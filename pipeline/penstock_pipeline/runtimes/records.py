"""What the local runtime knows, in files that outlive the engine:

<folder>/<candidate>/candidate       what was asked for
                     root/           the files of its image
                     <process>.json  the process as it was last started
                     <process>.log   what it prints
                     home/  tmp/
<folder>/live/<app>.json             the route its visitors take
<folder>/executing/<name>/           home and tmp of a one-off command that runs, or was cut off by a crash
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter

from ..config import Command, Health
from ..durable import aside, sync
from . import Candidate, Route
from .process import Identity

T = TypeVar("T")

_ROUTE = TypeAdapter(Route)
_CANDIDATE = TypeAdapter(Candidate)
_CANDIDATE.rebuild(_types_namespace={"Command": Command, "Health": Health})


@dataclass(frozen=True, slots=True)
class Started:
    """A process as it was last started; whether it still runs is for its identity to tell."""

    candidate: str
    process: str
    identity: Identity
    port: int | None
    restarts: int
    at: float
    """Seconds since the epoch."""


_STARTED = TypeAdapter(Started)


class Records:
    """See the module's docstring for the layout."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def folder(self, candidate: str) -> Path:
        return self._folder / candidate

    def log(self, candidate: str, process: str) -> Path:
        return self.folder(candidate) / f"{process}.log"

    def mark(self, candidate: str, process: str) -> str:
        """Unique on the machine, even beside another Penstock with an app of the same name."""
        return str(self.folder(candidate) / process)

    def executing(self, name: str) -> Path:
        return self._folder / "executing" / name

    def all_executing(self) -> list[str]:
        return [path.name for path in self._folder.glob("executing/*")]

    def keep_candidate(self, candidate: Candidate) -> None:
        """Durable when it returns."""
        folder = self.folder(candidate.name)
        for own in ("home", "tmp"):
            (folder / own).mkdir(parents=True, exist_ok=True)
        _write_durably(folder / "candidate", _CANDIDATE.dump_json(candidate))

    def candidate(self, name: str) -> Candidate | None:
        return _read(_CANDIDATE, self.folder(name) / "candidate")

    def candidates(self) -> list[Candidate]:
        found = (self.candidate(path.parent.name) for path in sorted(self._folder.glob("*/candidate")))
        return [candidate for candidate in found if candidate is not None]

    def keep_started(self, started: Started) -> None:
        """Outlives this process, not the machine: neither does what was started."""
        path = self.folder(started.candidate) / f"{started.process}.json"
        whole = path.with_suffix(".new")
        whole.write_bytes(_STARTED.dump_json(started))
        whole.replace(path)

    def started(self, candidate: str, process: str) -> Started | None:
        return _read(_STARTED, self.folder(candidate) / f"{process}.json")

    def all_started(self, candidate: Candidate) -> list[Started]:
        found = (self.started(candidate.name, process) for process in candidate.processes)
        return [started for started in found if started is not None]

    def keep_live(self, route: Route) -> None:
        """Durable when it returns."""
        _write_durably(self._folder / "live" / f"{route.app}.json", _ROUTE.dump_json(route))

    def live(self) -> list[Route]:
        found = (_read(_ROUTE, path) for path in sorted(self._folder.glob("live/*.json")))
        return [route for route in found if route is not None]


def _write_durably(path: Path, content: bytes) -> None:
    with aside(path.parent) as new:
        new.file.write(content)
        new.become(path)
    sync(path.parent)


def _read(kind: TypeAdapter[T], path: Path) -> T | None:
    """What is not there, or was torn by the end of the machine, is not known."""
    try:
        return kind.validate_json(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
