"""Processes of repository code: how they are started, told apart, waited for and ended, with all of theirs.

Every process carries a mark in its environment (`PENSTOCK_INSTANCE`), which all its descendants inherit.
So even a daemon that has left its group and its parent can be found and ended.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:  # The front's processes load this module and do without pydantic's 10 MB.
    from ..config import Command

log = logging.getLogger(__name__)

MARK = "PENSTOCK_INSTANCE"

_LIMITED = 'ulimit -c 0; ulimit -n "$1"; [ -z "$2" ] || ulimit -v "$2"; shift 2; exec "$@"'
_GATED = "read -r go || exit 0; exec </dev/null; " + _LIMITED

_CHUNK = 65536
_PIPE = 1024 * 1024
"""Bytes a pipe holds at most (Linux' default for fs.pipe-max-size)."""

_KILL_PATIENCE = 10.0
"""Seconds killed processes have to vanish; only one stuck in the kernel needs longer."""

_POLL = 0.05
"""Seconds between two looks at a process where the system cannot tell of its end."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A process, told apart from all others that ever have its pid. It does not depend on the wall clock,
    which may be set while the process runs."""

    pid: int
    birth: str


@dataclass(frozen=True, slots=True)
class Limits:
    """What a process may use: open files, and bytes of address space (None: no limit). Never more than
    this process may itself, since nobody can raise that."""

    files: int
    memory: int | None

    def arguments(self) -> tuple[str, str]:
        """For the launcher: number of files, KiB of memory or nothing."""
        files = _within(self.files, resource.RLIMIT_NOFILE)
        memory = "" if self.memory is None else str(_within(self.memory, resource.RLIMIT_AS) // 1024)
        return str(files), memory


def _within(wanted: int, kind: int) -> int:
    most = resource.getrlimit(kind)[1]
    return wanted if most == resource.RLIM_INFINITY else min(wanted, most)


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be run. `env` is the whole environment, the mark in it."""

    command: Command
    cwd: Path
    env: Mapping[str, str]
    limits: Limits

    @property
    def mark(self) -> str:
        return self.env[MARK]


# One-off commands


async def run(job: Job, *, output: Callable[[bytes], None], patience: float) -> int:
    """Run a command to its end, its combined output going to `output` as it comes. Returns the exit code
    (negative: the signal that ended it). Nothing it started is left in its group. If it is cancelled, or
    `output` raises, everything that carries its mark is told to end and after `patience` seconds killed."""
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, "rb", buffering=0) as reader:
        with os.fdopen(write_end, "wb", buffering=0) as writer:
            child = _spawn(_LIMITED, job, stdin=subprocess.DEVNULL, output=writer.fileno())
        try:
            return await _follow(child, job.mark, reader.fileno(), output)
        except BaseException:
            await end_tree(child, job.mark, patience=patience)
            raise
        finally:
            _kill_group(child)


async def _follow(child: Identity, mark: str, reader: int, output: Callable[[bytes], None]) -> int:
    os.set_blocking(reader, False)
    async with beside(_pump(reader, output), _until_ended(child)) as (pump, end):
        await asyncio.wait({pump, end}, return_when=asyncio.FIRST_COMPLETED)
        if pump.done():
            pump.result()
        await end
    _kill_group(child)
    code = reap(child)
    if not _drain(reader, output):
        # Someone outside the group still holds the pipe: a daemon left behind.
        await end_tree(child, mark, patience=0)
    if code is None:
        raise ChildProcessError("somebody else has taken its exit code")
    return code


async def _pump(reader: int, output: Callable[[bytes], None]) -> None:
    while True:
        await _readable(reader)
        chunk = os.read(reader, _CHUNK)
        if not chunk:
            return
        output(chunk)


def _drain(reader: int, output: Callable[[bytes], None]) -> bool:
    """Takes what the pipe holds, never waiting for more. True: nobody can write to it any longer."""
    with suppress(BlockingIOError):
        for _ in range(_PIPE // _CHUNK):
            chunk = os.read(reader, _CHUNK)
            if not chunk:
                return True
            output(chunk)
    return False


# Processes that outlive this one


@contextmanager
def gated(job: Job, *, output: int) -> Iterator[Identity]:
    """A process that begins its work when the block is left in good order, and then needs us no more. If
    the block raises, or if this very process dies in it, the command never runs. `output` is a descriptor."""
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, "rb") as gate, os.fdopen(write_end, "wb", buffering=0) as go:
        child = _spawn(_GATED, job, stdin=gate.fileno(), output=output)
        try:
            yield child
        except BaseException:
            go.close()
            os.waitpid(child.pid, 0)
            raise
        with suppress(BrokenPipeError):  # killed already: whoever watches it will see
            go.write(b"go\n")


def _spawn(script: str, job: Job, *, stdin: int, output: int) -> Identity:
    command = ("/bin/sh", "-c", job.command) if isinstance(job.command, str) else job.command
    popen = subprocess.Popen(
        ("/bin/sh", "-c", script, "penstock", *job.limits.arguments(), *command),
        cwd=job.cwd,
        env=job.env,
        stdin=stdin,
        stdout=output,
        stderr=output,
        start_new_session=True,
    )
    # From here on it is waited for by its pid, or by nobody: Popen must neither wait nor warn.
    popen.returncode = 0
    return identify(popen.pid)


# Who is who


def identify(pid: int) -> Identity:
    """Raises ProcessLookupError."""
    return Identity(pid, _look(pid)[0])


def alive(process: Identity) -> bool:
    """Whether it runs. A zombie does not, even when its parent takes its time to reap it."""
    with suppress(ProcessLookupError):
        return _look(process.pid) == (process.birth, True)
    return False


def _is(process: Identity) -> bool:
    """Whether the pid is still its own: it runs, or is a zombie."""
    with suppress(ProcessLookupError):
        return _look(process.pid)[0] == process.birth
    return False


def _look(pid: int) -> tuple[str, bool]:
    """The birth of whoever has this pid, and whether it runs. Raises ProcessLookupError."""
    if sys.platform != "linux":
        return _look_elsewhere(pid)
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except FileNotFoundError as error:
        raise ProcessLookupError(pid) from error
    # "pid (name) state ppid …": the name may hold anything; field 22 is the start in ticks since the boot.
    fields = stat.rpartition(")")[2].split()
    return f"{_boot()}/{fields[19]}", fields[0] not in "ZX"


def _look_elsewhere(pid: int) -> tuple[str, bool]:
    try:
        process = psutil.Process(pid)
        return str(process.create_time()), process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess as error:
        raise ProcessLookupError(pid) from error


@functools.cache
def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


# The end of a process


async def ended(process: Identity) -> int | None:
    """Waits until the process has ended and reaps it. Returns its exit code (negative: the signal that ended
    it); None where nobody can know: it is not our child, because an earlier engine started it."""
    await _until_ended(process)
    return reap(process)


async def _until_ended(process: Identity) -> None:
    handle = _open(process.pid)
    if handle is None:
        while alive(process):  # noqa: ASYNC110  there is no event to wait for
            await asyncio.sleep(_POLL)
        return
    try:
        if alive(process):
            await _readable(handle)
    finally:
        os.close(handle)


def _open(pid: int) -> int | None:
    """A descriptor that becomes readable when the process ends; None where the system has none to give."""
    if sys.platform == "linux":
        with suppress(OSError):
            return os.pidfd_open(pid)
    return None


def reap(process: Identity) -> int | None:
    """The exit code of a child of ours that has ended; with it its entry in the process table goes."""
    if not _is(process):
        return None
    try:
        pid, status = os.waitpid(process.pid, os.WNOHANG)
    except ChildProcessError:
        return None
    return os.waitstatus_to_exitcode(status) if pid else None


async def end_tree(leader: Identity | None, mark: str, *, patience: float) -> None:
    """End a process with its group and everything that carries its mark: SIGTERM, and SIGKILL for what is
    left after `patience` seconds. When it returns, all is gone."""
    group = leader.pid if leader and _is(leader) else None
    gone = await _clear(group, mark, signal.SIGTERM, patience)
    if not gone and not await _clear(group, mark, signal.SIGKILL, _KILL_PATIENCE):
        log.error("processes of %s cannot be killed", mark)
    if leader:
        reap(leader)


async def _clear(group: int | None, mark: str, number: signal.Signals, within: float) -> bool:
    """Signals each member once, those born meanwhile too. True when none is left."""
    deadline = time.monotonic() + within
    told: set[psutil.Process] = set()
    pause = 0.005
    while members := await asyncio.to_thread(_members, group, mark):
        for member in members - told:
            with suppress(psutil.Error):
                member.send_signal(number)
        told |= members
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        await asyncio.sleep(min(pause, left))
        pause = min(pause * 2, 0.25)
    return True


def _members(group: int | None, mark: str) -> set[psutil.Process]:
    """Looks again before it says that there is nobody: a daemon may fork and leave behind a look's back."""
    return _seen(group, mark) or _seen(group, mark)


def _seen(group: int | None, mark: str) -> set[psutil.Process]:
    found = (_belonging(pid, group, mark) for pid in psutil.pids())
    return {process for process in found if process is not None}


def _belonging(pid: int, group: int | None, mark: str) -> psutil.Process | None:
    """None also for one that has ended meanwhile, is a zombie, or belongs to another user."""
    with suppress(psutil.Error, OSError):
        process = psutil.Process(pid)
        ours = os.getpgid(pid) == group or process.environ().get(MARK) == mark
        return process if ours and process.status() != psutil.STATUS_ZOMBIE else None
    return None


def _kill_group(leader: Identity) -> None:
    """At once and without waiting. A group that still has its leader, be it a zombie, cannot be another's."""
    if _is(leader):
        with suppress(ProcessLookupError):
            os.killpg(leader.pid, signal.SIGKILL)


# Waiting


@asynccontextmanager
async def beside(*work: Coroutine[Any, Any, None]) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Tasks that live no longer than the block, which looks after them itself."""
    tasks = [asyncio.create_task(one, name=str(one)) for one in work]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)
