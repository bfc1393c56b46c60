"""Tasks for compute pools: some that a test lets end, some that a worker process can import."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


class Gate:
    """A task that tells when it begins and ends when the test says so."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self._open = threading.Event()

    def __call__(self) -> Gate:
        self.began.set()
        assert self._open.wait(30), "the test never opened the gate"
        return self

    def open(self) -> None:
        self._open.set()


@contextmanager
def gates(number: int) -> Iterator[list[Gate]]:
    """Opened at the latest when the test ends, so that no thread is left."""
    made = [Gate() for _ in range(number)]
    try:
        yield made
    finally:
        for gate in made:
            gate.open()


def until(probe: Callable[[], object], *, within: float = 30.0) -> None:
    """Polls until it is true, for tests without an event loop."""
    deadline = time.monotonic() + within
    while not probe():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.001)


def ended(pid: int) -> bool:
    """No process any more, or one that is dead and not yet waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


# -- for worker processes


class Awkward(Exception):
    """Pickle takes it, and cannot make it again."""

    def __init__(self, name: str, number: int) -> None:
        super().__init__(f"{name} is {number}")


def fail(error: BaseException) -> None:
    raise error


def fail_awkwardly() -> None:
    raise Awkward("it", 7)


def a_lock() -> object:
    return threading.Lock()


def mark_and_wait(mark: Path, go: Path) -> int:
    """Tells its process by a file, ends when there is another."""
    mark.with_suffix(".new").write_text(str(os.getpid()))
    mark.with_suffix(".new").rename(mark)
    until(go.exists, within=30)
    return os.getpid()


def close_every_file() -> None:
    os.closerange(3, 256)
    threading.Event().wait()
