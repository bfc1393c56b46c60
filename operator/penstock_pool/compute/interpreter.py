"""A worker's interpreter (PEP 734): a GIL of its own in the same process, so threads that really compute at
once. What is sent is pickled, as to a process; what ends the process ends them all."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any

from .sent import pack, perform, unpack
from .task import Call


def maker() -> Callable[[str], InInterpreter]:
    if sys.version_info < (3, 14):
        has = ".".join(map(str, sys.version_info[:2]))
        raise ValueError(f"kind='interpreter' needs Python 3.14 or newer, this is {has}: use 'process'")
    return lambda name: InInterpreter()


class InInterpreter:
    """The bench that is an interpreter of its own."""

    def __init__(self) -> None:
        self._interpreter: Any = None

    def prepare(self) -> None:
        if self._interpreter is None:
            made = importlib.import_module("concurrent.interpreters").create()
            made.exec(f"import sys; sys.path[:] = {sys.path!r}")
            self._interpreter = made

    def do(self, call: Call) -> Any:
        """Raises `TaskNotSendable`, or what the call raises."""
        sent = pack(call)
        self.prepare()
        return unpack(self._interpreter.call(perform, sent))

    def close(self) -> None:
        if self._interpreter is not None:
            self._interpreter.close()

    def forsake(self) -> None:
        pass
