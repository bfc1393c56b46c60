"""Where a worker does its tasks. One bench a worker; only the worker's own thread calls it.

1. `prepare`   so that the first task finds it ready; may be left out.
2. `do`        makes a call and returns or raises its outcome. Any number of times.
3. `close`     once, after the last call.
4. `forsake`   instead, in a forked child: gives up what the fork copied and leaves the parent's as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol

from .task import Call, here

Kind = Literal["thread", "process", "interpreter"]


class Bench(Protocol):
    """Life cycle in the module's docstring."""

    def prepare(self) -> None: ...

    def do(self, call: Call) -> Any: ...

    def close(self) -> None: ...

    def forsake(self) -> None: ...


class InThread:
    """The worker's thread itself."""

    def prepare(self) -> None:
        pass

    def do(self, call: Call) -> Any:
        return here(call)

    def close(self) -> None:
        pass

    def forsake(self) -> None:
        pass


def maker(kind: Kind, start: str) -> Callable[[str], Bench]:
    """What makes a bench, given its worker's name. Raises ValueError for a kind that is not there."""
    match kind:
        case "thread":
            return lambda name: InThread()
        case "process":
            from . import process  # multiprocessing is not paid for by those who use threads

            return process.maker(start)
        case "interpreter":
            from . import interpreter

            return interpreter.maker()
    raise ValueError(f"kind={kind!r}: must be 'thread', 'process' or 'interpreter'")
