"""The config file, read again while the service runs: an operator, or a person, writes other sizes into it,
and no connection and no request is lost over that."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from penstock_data.errors import InvalidSettings, Problem
from penstock_data.settings import Settings, Source

log = logging.getLogger("penstock_data")

EVERY = 1.0
"""Seconds between two looks."""

AT_ONCE = frozenset(("generation", "min", "max", "checkout_timeout", "heartbeat"))
"""What a pool that runs can be told; the rest waits for a restart."""


class Follower:
    """`async with` it: looks at the file again and again."""

    def __init__(self, source: Source, settings: Settings, adjust: Callable[[Settings], None]) -> None:
        """`settings`: as they were read from there. `adjust` may raise a `Problem`."""
        self._source, self._file, self._adjust = source, source.file, adjust
        self._settings = settings
        self._seen: bytes | None = None
        """The file as it was when it was last read; None: nobody knows what these settings were read from."""
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Follower:
        self._task = asyncio.create_task(self._follow(), name="penstock-data-follow")
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait({self._task})

    async def _follow(self) -> None:
        while True:
            try:
                await self.look()
            except Exception:
                log.exception("%s could not be followed", self._file)
            await asyncio.sleep(EVERY)

    async def look(self) -> None:
        """Does what the file says, if that is something else than the last time. What is wrong in it is
        logged, and what was in force stays."""
        try:
            found = await asyncio.to_thread(self._file.read_bytes)
        except OSError as error:
            found = b""
            if self._seen != found:
                log.warning("%s: %s; what it said last stays in force", self._file, error.strerror)
        if found == self._seen:
            return
        self._seen = found
        if found:
            self._read(found)

    def _read(self, content: bytes) -> None:
        try:
            settings = self._source.read(content)
            self._adjust(settings)
        except (InvalidSettings, Problem) as error:
            log.error("%s; what was in force stays in force", _at(self._file, error))
            return
        changed = [name for name in Settings.model_fields if _differ(name, settings, self._settings)]
        self._settings = settings
        told = {name: getattr(settings, name) for name in changed if name in AT_ONCE}
        if told:
            log.info("%s: in force is now %s", self._file, ", ".join(f"{it}={told[it]}" for it in told))
        if waits := [name for name in changed if name not in AT_ONCE]:
            log.warning("%s: a restart is needed for %s", self._file, ", ".join(waits))


def _at(file: Path, error: Exception) -> str:
    told = str(error)
    return told if told.startswith(str(file)) else f"{file}: {told}"


def _differ(name: str, one: Settings, other: Settings) -> bool:
    return bool(getattr(one, name) != getattr(other, name))
