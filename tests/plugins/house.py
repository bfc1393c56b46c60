"""What every suite may use: short temporary folders and polling with a deadline."""

from __future__ import annotations

import asyncio
import shutil
import signal
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

T = TypeVar("T")


def pytest_configure() -> None:
    """Who starts the tests in the background of a script has Ctrl-C ignored in them and in all they start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where several processes share the tests, each takes whole files, and one takes all that need a
    Kubernetes: what they share is made once."""
    for item in items:
        shared = {"apiserver", "cluster"} & set(getattr(item, "fixturenames", ()))
        item.add_marker(pytest.mark.xdist_group("kubernetes" if shared else item.path.name))


@pytest.fixture
def short_tmp() -> Iterator[Path]:
    """A temporary folder with a short path: unix sockets live in it (108 bytes at most)."""
    folder = Path(tempfile.mkdtemp(prefix="pst-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


async def eventually(probe: Callable[[], Awaitable[T] | T], *, within: float = 10.0) -> T:
    """Polls `probe` until it returns something true; fails after `within` seconds with the last answer."""
    deadline = time.monotonic() + within
    while True:
        answer = probe()
        value: T = await answer if isinstance(answer, Awaitable) else answer
        if value:
            return value
        if time.monotonic() > deadline:
            pytest.fail(f"not within {within} s; last answer: {value!r}")
        await asyncio.sleep(0.01)
