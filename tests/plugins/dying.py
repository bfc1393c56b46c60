"""`penstock up`, but the engine ends itself by SIGKILL when it is told to: `dying.py FILE up …`.

While FILE holds `POINT NUMBER MOMENT`, the engine dies the NUMBERth time (from 1) that it passes the point,
`before` or `after` what happens there. A point is `write`, a commit of the store (before: nothing is on the
disk; after: all is, and nobody has heard), or an effect such as `LocalRuntime.switch`.

With ` full` behind it the engine lives, and finds the disk of its state folder filled to the last byte. With
`census` in FILE it lives, and writes all that it passes behind it.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from penstock_pipeline.cdn.embedded import EmbeddedEdge
from penstock_pipeline.cdn.folder import FolderOrigin
from penstock_pipeline.cli import main
from penstock_pipeline.images.layout import OciLayout
from penstock_pipeline.repositories import Repositories, Repository
from penstock_pipeline.runtimes.local import LocalRuntime
from penstock_pipeline.runtimes.records import Records
from penstock_pipeline.runtimes.routing import RouterClient
from penstock_pipeline.store import SqliteStore

WRITE = "write"
FULL = "full"
FILLER = "filler"
OWNERS: Mapping[type, Sequence[str]] = {
    Repositories: ("keep", "move"),
    Repository: ("fetch", "check_out"),
    LocalRuntime: ("execute", "start", "switch", "retire"),
    OciLayout: ("pack", "push", "unpack"),
    FolderOrigin: ("upload", "publish"),
    EmbeddedEdge: ("purge",),
}
EFFECTS = tuple(f"{owner.__name__}.{name}" for owner, names in OWNERS.items() for name in names)
FETCH = "Repository.fetch"
"""The one that only pushes to repositories elsewhere come to."""

PARTS: Mapping[type, Sequence[str]] = {RouterClient: ("put",), Records: ("keep_started",)}
"""What some effects are made of: `switch` puts a route, then records it; `start` records a process that still
waits at its gate."""

CENSUS = "census"


class Fate:
    """Counts how often the point in the file was passed since it was written there."""

    def __init__(self, file: Path, state: Path) -> None:
        self._file = file
        self._state = state
        self._order = ""
        self._passed = 0

    def meet(self, point: str, moment: str) -> None:
        try:
            order = self._file.read_text()
        except FileNotFoundError:
            return
        if order.startswith(CENSUS):
            with contextlib.suppress(FileNotFoundError), self._file.open("r+") as file:
                file.seek(0, os.SEEK_END)
                file.write(f"\n{point} {moment}")
            return
        if order != self._order:
            self._order, self._passed = order, 0
        wanted, number, when, *what = order.split()
        if (point, moment) == (wanted, when):
            self._passed += 1
            if self._passed == int(number):
                self._strike(*what)

    def _strike(self, what: str = "death") -> None:
        if what != FULL:
            os.kill(os.getpid(), signal.SIGKILL)
        fill(self._state)
        self._file.unlink()


def fill(folder: Path) -> None:
    """Takes what room there is on the folder's disk."""
    with (folder / FILLER).open("ab", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            with contextlib.suppress(OSError):
                while file.write(bytes(size)) == size:
                    pass


def around(fate: Fate, point: str, effect: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(effect)
    async def deadly(*args: Any, **kwargs: Any) -> Any:
        fate.meet(point, "before")
        answer = await effect(*args, **kwargs)
        fate.meet(point, "after")
        return answer

    @functools.wraps(effect)
    def deadly_at_once(*args: Any, **kwargs: Any) -> Any:
        fate.meet(point, "before")
        answer = effect(*args, **kwargs)
        fate.meet(point, "after")
        return answer

    return deadly if inspect.iscoroutinefunction(effect) else deadly_at_once


def doom(fate: Fate) -> None:
    for owner, names in (*OWNERS.items(), *PARTS.items()):
        for name in names:
            setattr(owner, name, around(fate, f"{owner.__name__}.{name}", getattr(owner, name)))
    SqliteStore._commit = around(fate, WRITE, SqliteStore._commit)  # type: ignore[method-assign]


if __name__ == "__main__":
    doom(Fate(Path(sys.argv.pop(1)), Path(sys.argv[sys.argv.index("--state") + 1])))
    main()
