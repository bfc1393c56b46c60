"""A test that hangs is told, with what everybody waits for, instead of holding up the whole run.

After `LIMIT` seconds in one phase of a test (set-up, call, tear-down) it is interrupted as by Ctrl-C and has
failed, with the stacks of all threads and asyncio tasks in its report; the others go on. One that even that
does not end, ends the run as long again afterwards."""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import io
import os
import signal
import sys
import threading
import traceback
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

LIMIT = 300.0
"""Seconds: the longest tests take a tenth of it on a machine that does nothing else."""

_terminal = os.dup(2)
"""Not what pytest captures."""


class Hang(Exception):
    """Not ended in time; says where everything stands."""


@contextmanager
def bounded(seconds: float) -> Iterator[None]:
    """Raises `Hang` in place of what the interruption does. In the main thread; one inside
    another takes its place."""
    told: list[str] = []

    def interrupt(*_: object) -> None:
        told.append(f"not ended after {seconds:g} s\n{_stacks()}")
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    faulthandler.dump_traceback_later(seconds + LIMIT, exit=True, file=_terminal)
    try:
        yield
    except BaseException as error:
        if told:
            raise Hang(told[0]) from error
        raise
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    if told:
        raise Hang(told[0])


def _stacks() -> str:
    out, names = io.StringIO(), {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():
        print(f"thread {names.get(ident, ident)}", *traceback.format_stack(frame), sep="\n", file=out)
    for task in gc.get_objects():
        if isinstance(task, asyncio.Task) and not task.done():
            print(f"task {task.get_name()}", *_awaited(task.get_coro()), sep="\n  ", file=out)
    return out.getvalue()


def _awaited(work: Any) -> Iterator[str]:
    """Where it stands, and what it awaits, and what that awaits."""
    while frame := getattr(work, "cr_frame", None) or getattr(work, "gi_frame", None):
        yield f'File "{frame.f_code.co_filename}", line {frame.f_lineno}, in {frame.f_code.co_name}'
        work = getattr(work, "cr_await", None) or getattr(work, "gi_yieldfrom", None)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup() -> Generator[None, object, object]:
    with bounded(LIMIT):
        return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call() -> Generator[None, object, object]:
    with bounded(LIMIT):
        return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown() -> Generator[None, object, object]:
    with bounded(LIMIT):
        return (yield)
