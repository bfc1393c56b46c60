"""Processes of repository code: how they are started, told apart, waited for and ended, with all of theirs.

Every process carries a mark in its environment (`PENSTOCK_INSTANCE`), which all its descendants inherit, and
is in a control group of its job where there are any. So even a daemon that has left its process group and
its parent can be found and ended. In a sandbox (`sandbox`) it ends with the sandbox, whatever it did.
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

from . import cgroup
from .sandbox import ENVIRONMENT_AT

if TYPE_CHECKING:  # The front's processes load this module and do without pydantic's 10 MB.
    from ..config import Command

log = logging.getLogger(__name__)

MARK = "PENSTOCK_INSTANCE"

_GATE = "read -r go || exit 0; "
_JOIN = '[ -z "$1" ] || echo $$ >"$1/cgroup.procs" || exit 125; shift; '
_PLAIN = 'exec "$@" </dev/null'
_DEAF = f'trap "" HUP INT QUIT TERM USR1 USR2; %s "$@" {ENVIRONMENT_AT}<&0 </dev/null; exit $?'
"""A sandbox would go down with a signal that is meant for what is in it; there nothing is ignored any more.
The rest of what comes through the gate is its environment."""
_SANDBOXED = _DEAF % "exec"
_OUTLIVING = _DEAF % ""
"""A sandbox ends with its parent, which here is this shell, so as not to be the engine."""

_LIMITED = """
while [ "$1" != -- ]; do
  case $1$BASH_VERSION in -p?*) ulimit -u "$2" ;; *) ulimit "$1" "$2" ;; esac
  shift 2
done
shift
exec "$@"
"""
"""Takes options of `ulimit` with their values, up to `--`. That of processes is -p in dash, -u in bash."""

_SHELL = ("/bin/sh", "-c")

_GRACE = 5
"""Seconds of processor time between the signal that tells of its limit (SIGXCPU) and the end by SIGKILL."""

_CHUNK = 65536
_PIPE = 1024 * 1024
"""Bytes a pipe holds at most (Linux' default for fs.pipe-max-size)."""

_KILL_PATIENCE = 10.0
"""Seconds killed processes have to vanish; only one stuck in the kernel needs longer."""

_LINGER = 1.0
"""Seconds a control group may take to be let go by those who have ended."""

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
    """What each process of a job may use: open files, bytes of address space, bytes of one file, seconds of
    processor time; and how many processes and threads the job may have. None: no limit. Never more than this
    process may itself, since nobody can raise that."""

    files: int
    memory: int | None = None
    file_size: int | None = None
    cpu: int | None = None
    processes: int | None = None

    def arguments(self) -> tuple[str, ...]:
        """Options of the shell's `ulimit`, in its units: KiB of memory, blocks of 512 bytes of a file."""
        cpu = None if self.cpu is None else self.cpu + _GRACE
        wanted = (
            ("-n", _within(self.files, resource.RLIMIT_NOFILE), 1),
            ("-v", _within(self.memory, resource.RLIMIT_AS), 1024),
            ("-f", _within(self.file_size, resource.RLIMIT_FSIZE), 512),
            ("-St", _within(self.cpu, resource.RLIMIT_CPU), 1),
            ("-Ht", _within(cpu, resource.RLIMIT_CPU), 1),
        )
        told = [part for name, most, unit in wanted if most is not None for part in (name, str(most // unit))]
        return ("-c", "0", *told)

    def reached(self, end: End) -> str | None:
        """The limit that has ended a command which is red, as far as that can be known, and how it is set."""
        if end.code == -signal.SIGXCPU:
            return f"used more than {self.cpu} s of processor time (PENSTOCK_LIMIT_CPU)"
        if end.code == -signal.SIGXFSZ:
            return f"wrote more than {self.file_size} bytes into a file (PENSTOCK_LIMIT_FILE_SIZE)"
        if end.crowded:
            return f"wanted more than {self.processes} processes at once (PENSTOCK_LIMIT_PROCESSES)"
        return None


def _within(wanted: int | None, kind: int) -> int | None:
    most = resource.getrlimit(kind)[1]
    return wanted if wanted is None or most == resource.RLIM_INFINITY else min(wanted, most)


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be run. `env` is the whole environment, the mark in it; `sandbox` goes before the command
    (`sandbox.Isolation.around`)."""

    command: Command
    cwd: Path
    env: Mapping[str, str]
    limits: Limits
    sandbox: tuple[str, ...] = ()

    @property
    def mark(self) -> str:
        return self.env[MARK]

    def outer_env(self) -> Mapping[str, str]:
        """The environment of whatever starts the command. A sandbox is made without the command's own: that
        holds its secrets, and might tell the loader to load something."""
        return {name: self.env[name] for name in ("PATH", MARK)} if self.sandbox else self.env

    def key(self) -> bytes:
        """What opens the gate, and what a sandbox has yet to hear (`bwrap --args`)."""
        said = [part for pair in self.env.items() for part in ("--setenv", *pair)] if self.sandbox else []
        return b"go\n" + b"".join(os.fsencode(part) + b"\0" for part in said)

    def limited(self) -> tuple[str, ...]:
        """The command under its limits, in its sandbox. There alone RLIMIT_NPROC counts just its own."""
        command = (*_SHELL, self.command) if isinstance(self.command, str) else self.command
        limits = self.limits.arguments()
        if self.sandbox and self.limits.processes is not None:
            limits += ("-p", str(_within(self.limits.processes, resource.RLIMIT_NPROC)))
        return (*self.sandbox, *_SHELL, _LIMITED, "penstock", *limits, "--", *command)


# One-off commands


@dataclass(frozen=True, slots=True)
class End:
    """How a command ended: its exit code (negative: the signal that ended it), and whether its limit has kept
    it from starting a process."""

    code: int
    crowded: bool


async def run(job: Job, *, output: Callable[[bytes], None], patience: float) -> End:
    """Run a command to its end, its combined output going to `output` as it comes. Nothing it started is
    left. If it is cancelled, or `output` raises, all is told to end, and killed after `patience` seconds."""
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, "rb", buffering=0) as reader:
        with os.fdopen(write_end, "wb") as writer, gated(job, writer.fileno(), outlives=False) as child:
            pass
        try:
            return await _follow(child, job.mark, reader.fileno(), output)
        except BaseException:
            await end_tree(child, job.mark, patience=patience)
            raise


async def _follow(child: Identity, mark: str, reader: int, output: Callable[[bytes], None]) -> End:
    os.set_blocking(reader, False)
    async with beside(_pump(reader, output), _until_ended(child)) as (pump, end):
        await asyncio.wait({pump, end}, return_when=asyncio.FIRST_COMPLETED)
        if pump.done():
            pump.result()
        await end
    crowded = cgroup.was_full(mark)
    _kill_group(child)
    code = await end_tree(child, mark, patience=0)
    _drain(reader, output)
    if code is None:
        raise ChildProcessError("somebody else has taken its exit code")
    return End(code, crowded)


async def _pump(reader: int, output: Callable[[bytes], None]) -> None:
    while True:
        await _readable(reader)
        chunk = os.read(reader, _CHUNK)
        if not chunk:
            return
        output(chunk)


def _drain(reader: int, output: Callable[[bytes], None]) -> None:
    """Takes what the pipe holds, never waiting for more."""
    with suppress(BlockingIOError):
        for _ in range(_PIPE // _CHUNK):
            chunk = os.read(reader, _CHUNK)
            if not chunk:
                return
            output(chunk)


# Processes that outlive this one


@contextmanager
def gated(job: Job, output: int, *, outlives: bool = True) -> Iterator[Identity]:
    """A process that begins its work when the block is left in good order, and then needs us no more. If
    the block raises, or if this very process dies in it, the command never runs. `output` is a descriptor.
    One in a sandbox ends with this process unless it `outlives` it."""
    how = _PLAIN if not job.sandbox else _OUTLIVING if outlives else _SANDBOXED
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, "rb") as gate, os.fdopen(write_end, "wb", buffering=0) as go:
        child = None
        try:
            child = _spawn(_GATE + _JOIN + how, job, stdin=gate.fileno(), output=output)
            yield child
        except BaseException:
            go.close()
            if child is not None:
                os.waitpid(child.pid, 0)
            cgroup.remove(job.mark)
            raise
        with suppress(BrokenPipeError):  # killed already: whoever watches it will see
            go.write(job.key())


def _spawn(script: str, job: Job, *, stdin: int, output: int) -> Identity:
    group = None if job.limits.processes is None else cgroup.make(job.mark, job.limits.processes)
    popen = subprocess.Popen(
        (*_SHELL, script, "penstock", str(group or ""), *job.limited()),
        cwd=job.cwd,
        env=job.outer_env(),
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
    """The exit code of a child of ours that has ended; with it its entry in the process table goes. Shells
    and sandboxes tell by 128 + n that signal n has ended what they ran, and so it is taken."""
    if not _is(process):
        return None
    try:
        pid, status = os.waitpid(process.pid, os.WNOHANG)
    except ChildProcessError:
        return None
    return _code(os.waitstatus_to_exitcode(status)) if pid else None


def _code(code: int) -> int:
    return 128 - code if 128 < code < 128 + signal.SIGRTMIN else code


async def end_tree(leader: Identity | None, mark: str, *, patience: float) -> int | None:
    """End a process with its group and everything else of its job: SIGTERM, and SIGKILL for what is left
    after `patience` seconds. When it returns, all is gone. Returns the exit code as `ended` does."""
    group = leader.pid if leader and _is(leader) else None
    gone = await _clear(group, mark, signal.SIGTERM, patience)
    if not gone:
        cgroup.close(mark)
        gone = await _clear(group, mark, signal.SIGKILL, _KILL_PATIENCE)
    if not gone:
        log.error("processes of %s cannot be killed", mark)
    await _remove_group(mark)
    return reap(leader) if leader else None


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


async def _remove_group(mark: str) -> None:
    """Processes on their way out are listed no more, and yet hold it for a moment."""
    deadline = time.monotonic() + _LINGER
    while not cgroup.remove(mark) and time.monotonic() < deadline:  # noqa: ASYNC110  there is no event
        await asyncio.sleep(0.005)


def _members(group: int | None, mark: str) -> set[psutil.Process]:
    """Looks again before it says that there is nobody: a daemon may fork and leave behind a look's back."""
    return _seen(group, mark) or _seen(group, mark)


def _seen(group: int | None, mark: str) -> set[psutil.Process]:
    """A control group has them all, but for a leader that has not joined it yet."""
    pids = cgroup.members(mark)
    if pids is None:
        pids = frozenset(pid for pid in psutil.pids() if _belongs(pid, group, mark))
    elif group is not None and _belongs(group, group, mark):
        pids |= {group}
    found = map(_running, pids)
    return {process for process in found if process is not None}


def _belongs(pid: int, group: int | None, mark: str) -> bool:
    """Not one that has ended meanwhile or belongs to another user."""
    with suppress(psutil.Error, OSError):
        return os.getpgid(pid) == group or f"{MARK}={mark}" in _environment(pid)
    return False


def _environment(pid: int) -> list[str]:
    if sys.platform == "linux":  # as psutil does, without the object
        return os.fsdecode(Path(f"/proc/{pid}/environ").read_bytes()).split("\0")
    return [f"{name}={value}" for name, value in psutil.Process(pid).environ().items()]


def _running(pid: int) -> psutil.Process | None:
    """None for a zombie."""
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        return process if process.status() != psutil.STATUS_ZOMBIE else None
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
