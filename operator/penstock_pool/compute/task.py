"""A task: the future that `submit` returns, and the call that will fill it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")


class Call(NamedTuple):
    """A function and what it is given."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def __str__(self) -> str:
        return str(getattr(self.function, "__qualname__", self.function))


def here(call: Call) -> Any:
    """Makes the call in this thread."""
    return call.function(*call.args, **call.kwargs)


class Task(Future[T]):
    """The future of one call. Cancelled before it begins, it leaves the queue at once and never runs."""

    def __init__(self, call: Call, forget: Callable[[Task[T]], bool]) -> None:
        """`forget`: takes the task out of the queue; whether it was there."""
        super().__init__()
        self._call: Call | None = call
        self._forget = forget

    def run(self, do: Callable[[Call], Any] = here) -> None:
        """Makes the call, by `do`, and tells the outcome, whatever it is. For a rejection policy: in the
        thread that calls this."""
        call, self._call = self._call, None
        if call is None or not self.set_running_or_notify_cancel():
            return
        try:
            result = do(call)
        except BaseException as error:  # noqa: BLE001 (SystemExit too: the worker is not the task's to end)
            self.set_exception(error)
            del self  # or future, exception and this frame would hold each other
        else:
            self.set_result(result)

    def cancel(self) -> bool:
        cancelled = super().cancel()
        if cancelled and self._forget(self):
            self._tell_cancelled()
        return cancelled

    def discard(self) -> None:
        """Cancels a task that no queue holds and no worker has, for a rejection policy."""
        if super().cancel():
            self._tell_cancelled()

    def _tell_cancelled(self) -> None:
        """Those who wait for several futures hear of a cancelled one only by this."""
        self._call = None
        self.set_running_or_notify_cancel()
