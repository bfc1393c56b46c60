"""A worker's process: started when there is something to do, replaced when it dies.

    pool → worker    the packed call
    worker → pool    TAKEN, before it begins with it
    worker → pool    the packed outcome

A process that dies before it says TAKEN has not begun: another one gets the call, and nobody notices.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import Any

from .errors import WorkerDied
from .sent import pack, perform, unpack
from .task import Call

TAKEN = b"taken"

PARTING = 5.0
"""Seconds a process may take to end once nothing is left to do, or its end of the pipe is closed."""

METHODS = ("spawn", "forkserver")
"""No plain fork: a child that is copied from a process with threads may find any lock held for ever."""


def maker(start: str) -> Callable[[str], InProcess]:
    if start not in METHODS:
        raise ValueError(
            f"start={start!r}: must be one of {', '.join(METHODS)}; never fork with threads about"
        )
    context = multiprocessing.get_context(start)
    return lambda name: InProcess(name, context)


class InProcess:
    """The bench that is a process of its own."""

    def __init__(self, name: str, context: BaseContext) -> None:
        self._name = name
        self._context = context
        self._child: _Child | None = None

    def prepare(self) -> None:
        if self._child is None:
            self._child = self._start()

    def do(self, call: Call) -> Any:
        """Raises `TaskNotSendable`, `WorkerDied`, or what the call raises."""
        sent = pack(call)
        child = self._hand_over(sent, call)
        try:
            return unpack(child.answer())
        except EOFError:
            raise WorkerDied(f"the process of {self._name} {self._bury(child)} while at {call}") from None

    def close(self) -> None:
        if self._child is not None:
            self._bury(self._child)

    def forsake(self) -> None:
        if self._child is not None:
            self._child.connection.close()

    def _hand_over(self, sent: bytes, call: Call) -> _Child:
        """The child that has taken the call; a new one where the old one has died."""
        if self._child is not None:
            if self._child.take(sent):
                return self._child
            self._bury(self._child)
        self._child = child = self._start()
        if not child.take(sent):
            raise WorkerDied(
                f"the process of {self._name} {self._bury(child)} before it could begin with {call}; "
                "its standard error tells more"
            )
        return child

    def _start(self) -> _Child:
        ours, theirs = self._context.Pipe()
        child = self._context.Process(target=serve, args=(theirs,), name=self._name)  # type: ignore[attr-defined]
        try:
            child.start()
        except Exception as error:
            ours.close()
            raise WorkerDied(
                f"the process of {self._name} could not be started: {str(error).strip()}"
            ) from error
        finally:
            theirs.close()
        return _Child(ours, child)

    def _bury(self, child: _Child) -> str:
        self._child = None
        return child.end()


class _Child:
    """A process and the pipe to it."""

    def __init__(self, connection: Connection, process: BaseProcess) -> None:
        self.connection = connection
        self._process = process

    def take(self, sent: bytes) -> bool:
        """Whether it has begun with the call."""
        try:
            self.connection.send_bytes(sent)
            return self.connection.recv_bytes() == TAKEN
        except (OSError, EOFError):
            return False

    def answer(self) -> bytes:
        """Raises EOFError where it has died."""
        try:
            return self.connection.recv_bytes()
        except OSError as error:
            raise EOFError from error

    def end(self) -> str:
        """Sees to its end, and tells how that was."""
        self.connection.close()
        deadline = time.monotonic() + PARTING
        wait([self._process.sentinel], PARTING)
        while self._process.is_alive() and time.monotonic() < deadline:
            time.sleep(0.001)  # not `join`: where the process has closed its files, that waits for ever
        self._process.kill()
        self._process.join()
        code = self._process.exitcode
        self._process.close()
        return _told(code)


def _told(code: int | None) -> str:
    if code is None:
        return "ended"
    if code >= 0:
        return f"ended with exit code {code}"
    with contextlib.suppress(ValueError):
        return f"was killed by {signal.Signals(-code).name}"
    return f"was killed by signal {-code}"


def serve(connection: Connection) -> None:
    """The life of the process: until the pool's end of the pipe is closed. Ctrl-C reaches every process of a
    terminal; what it does to a task is told, an idle process just leaves."""
    with contextlib.suppress(EOFError, OSError, KeyboardInterrupt):
        while True:
            call = connection.recv_bytes()
            connection.send_bytes(TAKEN)
            connection.send_bytes(perform(call))
