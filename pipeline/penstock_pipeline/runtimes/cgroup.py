"""Control groups, where this process may make some: they count the processes of a job, and know each of them.

No process leaves its control group by forking, by a session of its own or by clearing its environment. They
also bind root, which RLIMIT_NPROC does not. Files as in the kernel's documentation of the pids controller
(admin-guide/cgroup-v1/pids and cgroup-v2), where both versions agree.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def make(mark: str, processes: int) -> Path | None:
    """The group of the job with this mark, which holds so many processes and threads at most; None where
    there are no groups to be had."""
    group = _of(mark)
    if group is not None:
        group.mkdir(exist_ok=True)
        (group / "pids.max").write_text(str(processes))
    return group


def members(mark: str) -> frozenset[int] | None:
    """Pids of all that run in the group of a job; None where it has no group."""
    group = _of(mark)
    if group is not None:
        with suppress(FileNotFoundError):
            return frozenset(map(int, (group / "cgroup.procs").read_text().split()))
    return None


def was_full(mark: str) -> bool:
    """Whether the limit has ever kept the job from starting a process."""
    group = _of(mark)
    if group is not None:
        with suppress(FileNotFoundError):
            return "max 0" not in (group / "pids.events").read_text().splitlines()
    return False


def close(mark: str) -> None:
    """Whoever is in it starts no other process any more."""
    group = _of(mark)
    if group is not None:
        with suppress(FileNotFoundError):
            (group / "pids.max").write_text("0")


def remove(mark: str) -> bool:
    """Once nothing runs in it; else it stays, and this is False."""
    group = _of(mark)
    if group is not None:
        try:
            group.rmdir()
        except FileNotFoundError:
            return True
        except OSError:
            return False
    return True


@functools.cache
def available() -> Path | None:
    """The folder in which groups can be made, found by making one."""
    for root in _roots():
        with suppress(OSError):
            attempt = root / f"penstock-attempt-{os.getpid()}"
            attempt.mkdir()
            try:
                if (attempt / "pids.max").exists() and os.access(attempt / "pids.max", os.W_OK):
                    return root
            finally:
                attempt.rmdir()
    return None


def _roots() -> Iterator[Path]:
    """Where the pids controller is mounted: alone or with others (version 1), or all in one (version 2)."""
    with suppress(OSError):
        for line in Path("/proc/self/mounts").read_text().splitlines():
            _, folder, kind, options, *_ = line.split()
            if kind == "cgroup2" or (kind == "cgroup" and "pids" in options.split(",")):
                yield Path(folder)


def _of(mark: str) -> Path | None:
    root = available()
    name = hashlib.sha256(mark.encode(errors="surrogateescape")).hexdigest()[:24]
    return None if root is None else root / f"penstock-{name}"
