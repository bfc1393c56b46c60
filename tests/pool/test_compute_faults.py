"""No threads to be had, a fork, the end of the interpreter: no task is lost and nothing hangs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from plugins.compute_tasks import ended, fail, gates, until

from penstock_pool.compute import ComputePool, TaskRejected, crew


@contextmanager
def no_threads() -> Iterator[None]:
    """The system gives no thread a stack of this size: the real error, from the real call."""
    before = threading.stack_size(1 << 47)
    try:
        with pytest.raises(RuntimeError, match="can't start new thread"):
            threading.Thread(target=int).start()
        yield
    finally:
        threading.stack_size(before)


def test_a_task_for_which_no_worker_can_be_started_waits_for_one_that_is_there() -> None:
    with ComputePool(core=2, max=3, queue=1) as pool, gates(2) as (first, second):
        pool.submit(first)
        with no_threads():
            waiting = pool.submit(second)
            assert (pool.stats().active, pool.stats().queued) == (1, 1)
            with pytest.raises(TaskRejected, match="could not be started: can't start new thread") as caught:
                pool.submit(int)
            assert isinstance(caught.value.__cause__, RuntimeError)
        first.open()
        second.open()
        assert waiting.result(10) is second


def test_a_task_for_which_there_is_no_worker_at_all_is_rejected_and_the_next_one_is_not() -> None:
    with ComputePool(core=1) as pool:
        with no_threads():
            assert pool.prestart() == 0
            with pytest.raises(TaskRejected):
                pool.submit(int)
        assert pool.stats().workers == 0
        assert pool.submit(int).result() == 0


def test_a_task_for_which_no_worker_can_be_started_goes_to_an_idle_one() -> None:
    with ComputePool(core=2) as pool:
        pool.submit(int).result()
        until(lambda: pool.stats().idle == 1)
        with no_threads():
            assert pool.submit(int, "1").result(10) == 1


def test_the_caller_runs_what_no_worker_can_be_started_for() -> None:
    with ComputePool(core=1, rejected="caller_runs") as pool, no_threads():
        assert pool.submit(threading.get_ident).result(0) == threading.get_ident()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_worker_that_is_torn_away_is_replaced_while_tasks_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    with ComputePool(core=1, name="torn") as pool, gates(2) as (first, second):
        torn, waiting = pool.submit(first), pool.submit(second)
        torn.add_done_callback(lambda _: fail(SystemExit()))
        monkeypatch.setattr(crew.log, "exception", lambda *_: exit())
        first.open()
        assert second.began.wait(10)
        assert (pool.stats().workers, pool.stats().completed) == (1, 1)
        second.open()
        assert waiting.result(10) is second
        until(lambda: [thread.name for thread in threading.enumerate()].count("torn-1") == 0)


# -- programs of their own

PROGRAM = """
import os, sys, threading, time, signal
from pathlib import Path
from penstock_pool.compute import ComputePool

def main():
{body}

if __name__ == "__main__":
    main()
"""


def written(folder: Path, body: str) -> Path:
    program = folder / "program.py"
    program.write_text(PROGRAM.format(body="\n".join(f"    {line}" for line in body.strip().splitlines())))
    return program


def output(folder: Path, body: str) -> list[str]:
    """What a program that goes well has printed. Forking with threads about is what it is to try."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", written(folder, body)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_python_ends_although_a_pool_is_idle(tmp_path: Path, kind: str) -> None:
    body = f"pool = ComputePool(2, kind={kind!r})\nprint(pool.submit(int).result())\nglobals()['kept'] = pool"
    assert output(tmp_path, body) == ["0"]


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_python_does_what_was_submitted_before_it_ends(tmp_path: Path, kind: str) -> None:
    body = f"pool = ComputePool(1, kind={kind!r})\nfor n in range(5): pool.submit(os.write, 1, b'%d\\n' % n)"
    assert output(tmp_path, body) == ["0", "1", "2", "3", "4"]


def test_a_thread_of_the_program_may_submit_until_it_ends(tmp_path: Path) -> None:
    body = """
pool = ComputePool(1)
def late():
    threading.main_thread().join()
    print(pool.submit(int, "7").result())
threading.Thread(target=late).start()
"""
    assert output(tmp_path, body) == ["7"]


def test_a_forked_child_uses_the_pool_anew_and_the_parent_goes_on(tmp_path: Path) -> None:
    body = """
pool = ComputePool(1)
go = threading.Event()
running, queued = pool.submit(go.wait), pool.submit(int, "5")
if (child := os.fork()) == 0:
    assert pool.stats().workers == pool.stats().queued == 0
    assert pool.submit(int, "6").result() == 6
    sys.exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
go.set()
print(running.result(), queued.result())
"""
    assert output(tmp_path, body) == ["7", "True 5"]


def test_a_task_may_fork(tmp_path: Path) -> None:
    body = """
pool = ComputePool(1)
child = pool.submit(os.fork).result()
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(pool.submit(int).result())
"""
    assert output(tmp_path, body) == ["0", "0"]


def test_a_fork_keeps_no_worker_process_from_ending(tmp_path: Path) -> None:
    told = tmp_path / "told"
    body = f"""
pool = ComputePool(1, kind="process")
worker = pool.submit(os.getpid).result()
if (child := os.fork()) == 0:
    time.sleep(60)
Path({str(told)!r}).write_text(f"{{worker}} {{child}}")
os.kill(os.getpid(), signal.SIGKILL)
"""
    with subprocess.Popen([sys.executable, written(tmp_path, body)]) as program:
        assert program.wait(30) == -signal.SIGKILL
    worker, child = map(int, told.read_text().split())
    try:
        until(lambda: ended(worker))
        assert not ended(child)
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_program_without_a_main_guard_does_not_multiply(tmp_path: Path) -> None:
    program = tmp_path / "unguarded.py"
    program.write_text(
        "from penstock_pool.compute import ComputePool\n"
        "print(type(ComputePool(1, kind='process').submit(int).exception()).__name__, flush=True)\n"
    )
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0
    assert done.stdout.splitlines() == ["WorkerDied", "NoneType"]  # in the worker, and in the program


def test_ctrl_c_ends_a_program_with_idle_processes_quietly(tmp_path: Path) -> None:
    body = """
pool = ComputePool(1, kind="process")
pool.submit(int).result()
try:
    print("ready", flush=True)
    time.sleep(30)
except KeyboardInterrupt:
    print("interrupted")
"""
    with subprocess.Popen(
        [sys.executable, written(tmp_path, body)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as running:
        assert running.stdout
        assert running.stdout.readline() == "ready\n"
        os.killpg(running.pid, signal.SIGINT)
        out, err = running.communicate(timeout=30)
    assert (running.returncode, out, err) == (0, "interrupted\n", "")


def test_the_pool_needs_the_standard_library_only_and_no_multiprocessing_for_threads() -> None:
    code = (
        "import sys; from penstock_pool.compute import ComputePool; ComputePool(1).submit(int).result(); "
        "print([m for m in ('multiprocessing', 'pickle', 'asyncmy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
