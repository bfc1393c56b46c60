from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from plugins.house import eventually

from penstock_pipeline.config import Command
from penstock_pipeline.runtimes import cgroup, process
from penstock_pipeline.runtimes.process import MARK, Identity, Job, Limits

LIMITS = Limits(256, None)
STUBBORN = "trap '' TERM; echo ready; while :; do sleep 600; done"
DAEMON = "(setsid sleep 600 </dev/null >/dev/null 2>&1 & echo $! >daemon); echo ready; sleep 600"


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Callable[..., Job]]:
    env = {"PATH": os.environ["PATH"], MARK: str(tmp_path)}

    def make(command: Command, *, limits: Limits = LIMITS) -> Job:
        return Job(command, tmp_path, env, limits)

    yield make
    assert marked(str(tmp_path)) == []


def marked(mark: str) -> list[psutil.Process]:
    return list(process._members(None, mark))


def nothing(_: bytes) -> None:
    pass


async def collect(job: Job) -> tuple[int, str]:
    chunks: list[bytes] = []
    end = await process.run(job, output=chunks.append, patience=5)
    return end.code, b"".join(chunks).decode()


async def test_a_string_is_run_by_the_shell_and_a_list_as_it_is(job: Callable[..., Job]) -> None:
    assert await collect(job("echo $((20 + 1)); echo wrong >&2; exit 3")) == (3, "21\nwrong\n")
    assert await collect(job(("echo", "$((20 + 1))"))) == (0, "$((20 + 1))\n")


async def test_a_signal_that_ends_a_command_is_a_negative_code(job: Callable[..., Job]) -> None:
    assert await collect(job("kill -SEGV $$")) == (-signal.SIGSEGV, "")


async def test_a_command_that_is_not_there_says_so(job: Callable[..., Job]) -> None:
    code, said = await collect(job(("no-such-command",)))
    assert code == 127
    assert "no-such-command: not found" in said


async def test_a_command_has_only_its_environment_its_limits_and_no_input(
    job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_SECRET", "never seen")
    _, said = await collect(job("env"))
    assert "never seen" not in said
    limits = Limits(files=99, memory=64 * 1024 * 1024)
    assert await collect(job("ulimit -n; ulimit -v; ulimit -c; cat", limits=limits)) == (0, "99\n65536\n0\n")


async def test_a_limit_above_what_may_be_given_is_lowered(job: Callable[..., Job]) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert await collect(job("ulimit -n", limits=Limits(hard + 1, None))) == (0, f"{hard}\n")


async def test_what_a_command_leaves_in_its_group_is_gone_when_it_ends(
    job: Callable[..., Job], tmp_path: Path
) -> None:
    assert await collect(job("sleep 600 & echo left behind")) == (0, "left behind\n")
    await eventually(lambda: not marked(str(tmp_path)))


async def test_a_daemon_that_holds_the_output_is_ended_and_not_waited_for(job: Callable[..., Job]) -> None:
    assert await collect(job("setsid sleep 600 & echo done")) == (0, "done\n")


@pytest.mark.parametrize("command", [STUBBORN, DAEMON])
async def test_when_cancelled_all_that_a_command_started_is_ended(
    job: Callable[..., Job], tmp_path: Path, command: str
) -> None:
    begun = asyncio.Event()
    running = asyncio.create_task(process.run(job(command), output=lambda _: begun.set(), patience=0.1))
    await begun.wait()
    await eventually(lambda: len(marked(str(tmp_path))) >= 2)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert marked(str(tmp_path)) == []


async def test_a_cancelled_command_may_end_in_good_order(job: Callable[..., Job], tmp_path: Path) -> None:
    begun = asyncio.Event()
    polite = f"{sys.executable} -c 'import signal, sys, pathlib\n" + (
        'signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path("bye").touch(), sys.exit()))\n'
        "print(1, flush=True); signal.pause()'; true"
    )
    running = asyncio.create_task(process.run(job(polite), output=lambda _: begun.set(), patience=10))
    await begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (tmp_path / "bye").exists()


async def test_an_output_that_cannot_be_written_ends_the_command(job: Callable[..., Job]) -> None:
    def full(_: bytes) -> None:
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space left"):
        await process.run(job("echo hello; sleep 600"), output=full, patience=5)


async def test_a_flood_of_output_does_not_fill_the_memory(job: Callable[..., Job]) -> None:
    sizes: list[int] = []
    before = psutil.Process().memory_info().rss
    end = await process.run(
        job("head -c 50000000 /dev/zero"), output=lambda chunk: sizes.append(len(chunk)), patience=5
    )
    assert (end.code, sum(sizes)) == (0, 50_000_000)
    assert psutil.Process().memory_info().rss - before < 10_000_000


async def test_a_gated_command_runs_once_the_block_is_left(job: Callable[..., Job], tmp_path: Path) -> None:
    with (
        (tmp_path / "log").open("ab") as log,
        process.gated(job("echo ran; exit 4"), log.fileno()) as child,
    ):
        assert process.alive(child)
        assert (tmp_path / "log").read_text() == ""
    assert await process.ended(child) == 4
    assert (tmp_path / "log").read_text() == "ran\n"


async def test_a_gated_command_never_runs_when_the_block_fails(
    job: Callable[..., Job], tmp_path: Path
) -> None:
    with (
        (tmp_path / "log").open("ab") as log,
        pytest.raises(OSError, match="disk full"),
        process.gated(job("echo ran"), log.fileno()) as child,
    ):
        raise OSError("disk full")
    assert not process.alive(child)
    assert (tmp_path / "log").read_text() == ""


async def test_what_could_not_be_started_leaves_no_control_group(
    job: Callable[..., Job], tmp_path: Path
) -> None:
    begun = job("echo ran", limits=Limits(256, processes=8))
    with (
        (tmp_path / "log").open("ab") as log,
        pytest.raises(OSError, match="disk full"),
        process.gated(begun, log.fileno()),
    ):
        raise OSError("disk full")
    assert cgroup.members(begun.mark) is None
    with pytest.raises(FileNotFoundError):
        await collect(replace(begun, cwd=tmp_path / "gone"))
    assert cgroup.members(begun.mark) is None


async def test_a_control_group_goes_as_soon_as_those_who_ended_let_it_go(job: Callable[..., Job]) -> None:
    """The kernel holds it for a moment; so does a group within it."""
    mark = job("").mark
    group = cgroup.make(mark, 8)
    if group is None:
        pytest.skip("no control groups can be made here")
    (group / "held").mkdir()
    asyncio.get_running_loop().call_later(0.05, (group / "held").rmdir)
    await process.end_tree(None, mark, patience=0)
    assert not group.exists()


async def test_a_gated_command_never_runs_when_its_starter_is_killed(tmp_path: Path) -> None:
    script = f"""
import os, signal
from pathlib import Path
from penstock_pipeline.runtimes.process import Job, Limits, gated
here = {str(tmp_path)!r}
job = Job("echo ran >here", Path(here), {{"PENSTOCK_INSTANCE": here}}, Limits(256, None))
with gated(job, 1) as child:
    print(child.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    starter = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", script], stdout=subprocess.PIPE, check=False
    )
    assert starter.returncode == -signal.SIGKILL
    assert int(starter.stdout) > 0
    await eventually(lambda: not marked(str(tmp_path)))
    assert not (tmp_path / "here").exists()


async def test_a_zombie_is_not_alive_and_still_tells_its_code() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(5)
    me = Identity(pid, process._look(pid)[0])
    await eventually(lambda: not process.alive(me))
    assert await process.ended(me) == 5
    assert await process.ended(me) is None


async def test_another_process_with_the_same_pid_is_not_taken_for_it() -> None:
    other = Identity(os.getpid(), "another birth")
    assert not process.alive(other)
    assert await process.ended(other) is None


async def test_the_end_of_a_process_of_another_parent_is_noticed() -> None:
    parent = await asyncio.create_subprocess_exec(
        "sh", "-c", "sleep 600 >/dev/null & echo $!; wait", stdout=subprocess.PIPE
    )
    assert parent.stdout
    pid = int(await parent.stdout.readline())
    grandchild = Identity(pid, process._look(pid)[0])
    waiting = asyncio.create_task(process.ended(grandchild))
    os.kill(pid, signal.SIGKILL)
    assert await asyncio.wait_for(waiting, 10) is None
    await parent.wait()


async def test_where_the_system_tells_of_no_end_it_is_polled(
    job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_open", lambda pid: None)
    assert await collect(job("echo hello; exit 3")) == (3, "hello\n")
