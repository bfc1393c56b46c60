"""What takes long to make and is made once: programs and images, shared by all clones of a person."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def kept(name: str, make: Callable[[Path], None]) -> Path:
    """A file or folder of the cache; `make` is given the path to put it at if it is not there.

    The name says all that decides what comes out, so nothing is ever made anew in place. Who comes second
    waits for who is making it; who is killed meanwhile leaves nothing that looks finished.
    """
    there = folder() / name
    if there.exists():
        os.utime(there)
        return there
    with _alone(name):
        if not there.exists():
            with tempfile.TemporaryDirectory(dir=folder(), prefix=f"unfinished-{name}-") as unfinished:
                make(Path(unfinished) / name)
                (Path(unfinished) / name).rename(there)
    return there


def forgotten(pattern: str, after: float = 24 * 3600) -> None:
    """Removes what nobody has asked for in a day, of things that change with every change of ours."""
    for thing in folder().glob(pattern):
        with suppress(FileNotFoundError):  # somebody else forgot it as well
            if thing.stat().st_mtime < time.time() - after:
                thing.unlink()


def folder() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    found = Path(home) / "penstock-tests"
    found.mkdir(parents=True, exist_ok=True)
    return found


@contextmanager
def _alone(name: str) -> Iterator[None]:
    """One maker of each thing at a time; what a killed one left of it goes first."""
    locks = folder() / "locks"
    locks.mkdir(exist_ok=True)
    with (locks / name).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for abandoned in folder().glob(f"unfinished-{name}-*"):
            shutil.rmtree(abandoned, ignore_errors=True)
        yield
