"""Workers that are processes: one that dies takes its task with it, and nothing else."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from plugins import compute_tasks
from plugins.compute_tasks import ended, until

from penstock_pool.compute import ComputePool, TaskNotSendable, WorkerDied


@pytest.fixture(params=["spawn", "forkserver"], scope="module")
def shared(request: pytest.FixtureRequest) -> Iterator[ComputePool]:
    with ComputePool(1, kind="process", start=request.param, name="shared") as pool:
        yield pool


@pytest.fixture
def pool() -> Iterator[ComputePool]:
    with ComputePool(2, kind="process", name="pack") as pool:
        yield pool


def held(pool: ComputePool, folder: Path, name: str) -> tuple[Any, int, Callable[[], None]]:
    """A task under way: its future, its process, and what lets it end."""
    mark, go = folder / f"{name}.pid", folder / f"{name}.go"
    future = pool.submit(compute_tasks.mark_and_wait, mark, go)
    until(mark.exists)
    return future, int(mark.read_text()), go.touch


def test_tasks_run_in_another_process_and_stay_in_it(shared: ComputePool) -> None:
    first, second = (shared.submit(os.getpid).result() for _ in range(2))
    assert first == second != os.getpid()


def test_an_exception_comes_back_with_what_the_worker_saw(shared: ComputePool) -> None:
    error = shared.submit(int, "x").exception()
    assert isinstance(error, ValueError)
    assert "In the worker:" in error.__notes__[0]
    assert "invalid literal" in error.__notes__[0]


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_a_process_lives_on_whatever_its_task_raises(shared: ComputePool, error: BaseException) -> None:
    before = shared.submit(os.getpid).result()
    assert type(shared.submit(compute_tasks.fail, error).exception()) is type(error)
    assert shared.submit(os.getpid).result() == before


def test_what_cannot_be_pickled_is_told_in_the_future(shared: ComputePool) -> None:
    with pytest.raises(TaskNotSendable, match="<lambda> cannot be sent to its worker"):
        shared.submit(lambda: 1).result()
    with pytest.raises(TaskNotSendable, match="id cannot be sent"):
        shared.submit(id, threading.Lock()).result()
    with pytest.raises(TaskNotSendable, match="its result, a lock, cannot be sent back"):
        shared.submit(compute_tasks.a_lock).result()
    with pytest.raises(TaskNotSendable, match=r"its Awkward cannot be sent back(?s:.*)it is 7"):
        shared.submit(compute_tasks.fail_awkwardly).result()
    assert shared.submit(int).result() == 0


def test_what_cannot_be_found_in_the_worker_is_told_in_the_future(shared: ComputePool) -> None:
    def here() -> None: ...

    here.__module__, here.__qualname__ = "only_here", "here"
    only_here = type(sys)("only_here")
    only_here.here = here  # type: ignore[attr-defined]
    sys.modules["only_here"] = only_here
    try:
        with pytest.raises(TaskNotSendable, match="No module named 'only_here'"):
            shared.submit(here).result()
    finally:
        del sys.modules["only_here"]
    assert shared.submit(int).result() == 0


def test_a_large_task_and_a_large_result_go_through(shared: ComputePool) -> None:
    data = os.urandom(3_000_000)
    assert shared.submit(bytes.upper, data).result() == data.upper()


def test_a_process_that_is_killed_fails_its_task_alone(pool: ComputePool, tmp_path: Path) -> None:
    doomed, pid, _ = held(pool, tmp_path, "doomed")
    other, other_pid, let = held(pool, tmp_path, "other")
    waiting = pool.submit(os.getpid)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(WorkerDied, match="pack-1 was killed by SIGKILL while at mark_and_wait"):
        doomed.result(30)
    assert waiting.result(30) not in (pid, other_pid)
    let()
    assert other.result(30) == other_pid


def test_a_process_that_ends_itself_fails_its_task_alone(pool: ComputePool) -> None:
    with pytest.raises(WorkerDied, match="pack-1 ended with exit code 3 while at _exit"):
        pool.submit(os._exit, 3).result()
    assert pool.submit(int).result() == 0


def test_a_process_that_dies_while_idle_is_replaced_and_nobody_notices() -> None:
    with ComputePool(1, kind="process") as pool:
        before = pool.submit(os.getpid).result()
        os.kill(
            before, signal.SIGKILL
        )  # perhaps it is dead when the next task comes, perhaps it is about to be
        assert pool.submit(int).result() == 0
        again = pool.submit(os.getpid).result()
        os.kill(again, signal.SIGKILL)
        until(lambda: ended(again))
        assert pool.submit(os.getpid).result() not in (before, again)


def test_a_process_that_closes_its_files_is_ended_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock_pool.compute.process.PARTING", 0.1)
    with ComputePool(1, kind="process") as pool:
        with pytest.raises(WorkerDied, match="was killed by SIGKILL while at close_every_file"):
            pool.submit(compute_tasks.close_every_file).result()
        assert pool.submit(int).result() == 0


def test_a_process_that_cannot_be_started_fails_the_task_and_the_next_one_may_go_well() -> None:
    with ComputePool(1, kind="process") as pool:
        path, sys_executable = multiprocessing.get_context("spawn"), sys.executable
        path.set_executable("/does/not/exist")
        try:
            with pytest.raises(WorkerDied, match=r"could not be started|before it could begin with int"):
                pool.submit(int).result(30)
        finally:
            path.set_executable(sys_executable)
        assert pool.submit(int).result() == 0


def test_shutdown_leaves_no_process() -> None:
    with ComputePool(2, kind="process", name="ends") as pool:
        assert pool.prestart() == 2
        until(lambda: pool.stats().idle == 2)
        processes = [p.pid for p in multiprocessing.active_children() if p.name.startswith("ends-")]
        assert len(processes) == 2
        assert pool.submit(os.getpid).result() in processes
    assert all(ended(pid) for pid in processes if pid)


def test_idle_processes_above_core_end_too() -> None:
    with ComputePool(0, 1, kind="process", keep_alive=0.02) as pool:
        pid = pool.submit(os.getpid).result()
        until(lambda: ended(pid))
        assert pool.stats().workers == 0


async def test_a_coroutine_may_await_a_process() -> None:
    with ComputePool(1, kind="process") as pool:
        assert await pool.run(os.getpid) != os.getpid()


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="this Python has interpreters")
def test_interpreters_are_refused_where_there_are_none() -> None:
    with pytest.raises(ValueError, match=r"needs Python 3\.14 or newer, this is 3\.1\d: use 'process'"):
        ComputePool(1, kind="interpreter")


@pytest.mark.skipif(sys.version_info < (3, 14), reason="interpreters need Python 3.14")
def test_interpreters_do_tasks_in_the_same_process() -> None:
    with ComputePool(2, kind="interpreter") as pool:
        assert pool.submit(os.getpid).result() == os.getpid()
        assert isinstance(pool.submit(int, "x").exception(), ValueError)
        assert isinstance(pool.submit(compute_tasks.fail, SystemExit(3)).exception(), SystemExit)
        with pytest.raises(TaskNotSendable):
            pool.submit(compute_tasks.a_lock).result()
