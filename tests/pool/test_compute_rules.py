"""The compute pool's rules, one by one, as the JDK documents those of its ThreadPoolExecutor."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError, Future, wait
from typing import Any

import pytest
from plugins.compute_tasks import Gate, gates, until

from penstock_pool.compute import ComputePool, Task, TaskRejected


def submit_all(pool: ComputePool, tasks: list[Gate]) -> list[Future[Gate]]:
    return [pool.submit(task) for task in tasks]


def figures(pool: ComputePool) -> tuple[int, int, int]:
    stats = pool.stats()
    return stats.active, stats.idle, stats.queued


# -- core, queue, max, rejection


def test_up_to_core_each_task_gets_a_new_worker_even_while_others_are_idle() -> None:
    with ComputePool(core=3) as pool:
        for workers in (1, 2, 3, 3):
            pool.submit(int).result()
            until(lambda workers=workers: figures(pool) == (0, workers, 0))


def test_then_tasks_are_queued_then_workers_are_added_up_to_max_then_it_is_rejected() -> None:
    with ComputePool(core=1, max=2, queue=2) as pool, gates(5) as tasks:
        seen = []
        for task in tasks[:4]:
            pool.submit(task)
            seen.append(figures(pool))
        assert seen == [(1, 0, 0), (1, 0, 1), (1, 0, 2), (2, 0, 2)]
        with pytest.raises(TaskRejected):
            pool.submit(tasks[4])
        assert figures(pool) == (2, 0, 2)


def test_a_worker_above_core_begins_with_the_task_for_which_the_queue_was_full() -> None:
    with ComputePool(core=1, max=2, queue=1) as pool, gates(3) as (first, queued, newest):
        submit_all(pool, [first, queued, newest])
        assert newest.began.wait(10)
        assert not queued.began.is_set()


def test_what_is_queued_begins_in_the_order_of_submission() -> None:
    order: list[int] = []
    with ComputePool(core=1) as pool, gates(1) as (first,):
        pool.submit(first)
        for number in range(50):
            pool.submit(order.append, number)
        first.open()
    assert order == list(range(50))


def test_with_no_room_to_queue_a_task_is_handed_over_or_rejected() -> None:
    with ComputePool(core=0, max=1, queue=0, name="hands") as pool, gates(2) as (first, second):
        assert pool.submit(int).result() == 0
        until(lambda: pool.stats().idle == 1)
        pool.submit(first)
        with pytest.raises(TaskRejected, match="'hands' takes no more tasks: 1 active and 0 idle of 1"):
            pool.submit(second)


def test_without_core_there_is_still_a_worker_for_what_is_queued() -> None:
    with ComputePool(core=0, max=1, queue=5, keep_alive=0) as pool:
        assert [pool.submit(pow, 2, n).result() for n in range(3)] == [1, 2, 4]
        until(lambda: pool.stats().workers == 0)


def test_growing_first_there_are_max_workers_before_anything_is_queued() -> None:
    with ComputePool(core=1, max=3, queue=1, grow="first") as pool, gates(5) as tasks:
        submit_all(pool, tasks[:3])
        assert figures(pool) == (3, 0, 0)
        pool.submit(tasks[3])
        assert figures(pool) == (3, 0, 1)
        with pytest.raises(TaskRejected):
            pool.submit(tasks[4])


def test_growing_first_an_idle_worker_is_taken_before_a_new_one_is_started() -> None:
    with ComputePool(core=1, max=3, grow="first") as pool:
        for _ in range(3):
            pool.submit(int).result()
            until(lambda: figures(pool) == (0, 1, 0))


# -- keep-alive


def test_workers_above_core_leave_when_they_are_idle_for_long_and_core_stays() -> None:
    with ComputePool(core=1, max=4, queue=0, keep_alive=0.02) as pool, gates(4) as tasks:
        submit_all(pool, tasks)
        for task in tasks:
            task.open()
        until(lambda: figures(pool) == (0, 1, 0))
        assert pool.stats().largest == 4
        assert pool.stats().completed == 4


def test_workers_of_core_leave_too_where_that_is_wanted_and_come_back() -> None:
    with ComputePool(core=2, keep_alive=0.02, core_times_out=True) as pool:
        for _ in range(2):
            pool.submit(int).result()
            until(lambda: pool.stats().workers == 0)


# -- rejection


def full(tasks: list[Gate], **settings: Any) -> ComputePool:
    """A pool with one worker at the first task and the second one queued."""
    pool = ComputePool(core=1, queue=1, **settings)
    submit_all(pool, tasks[:2])
    assert tasks[0].began.wait(10)
    return pool


def test_abort_raises_with_a_diagnosis() -> None:
    with gates(2) as tasks, full(tasks, name="thumbnails") as pool:
        with pytest.raises(TaskRejected) as caught:
            pool.submit(int)
        said = str(caught.value)
        assert (
            "'thumbnails' takes no more tasks: 1 active and 0 idle of 1 workers (core 1), 1 of 1 queued"
            in said
        )
        assert "Wait for results" in said
        assert caught.value.stats == pool.stats()
        for task in tasks:
            task.open()


def test_caller_runs_does_it_in_the_thread_that_submits() -> None:
    with gates(2) as tasks, full(tasks, rejected="caller_runs") as pool:
        assert pool.submit(threading.current_thread).result(0) is threading.current_thread()
        assert isinstance(pool.submit(int, "x").exception(0), ValueError)
        assert isinstance(pool.submit(exit).exception(0), SystemExit)
        assert pool.stats().rejected == 3
        for task in tasks:
            task.open()


def interrupt() -> None:
    raise KeyboardInterrupt


def test_caller_runs_does_not_swallow_ctrl_c() -> None:
    with gates(2) as tasks, full(tasks, rejected="caller_runs") as pool:
        with pytest.raises(KeyboardInterrupt):
            pool.submit(interrupt)
        for task in tasks:
            task.open()


def test_discard_cancels_the_future() -> None:
    with gates(2) as tasks, full(tasks, rejected="discard") as pool:
        future = pool.submit(int)
        with pytest.raises(CancelledError):
            future.result(0)
        assert wait([future], 0).done == {future}
        for task in tasks:
            task.open()


def test_discard_oldest_cancels_what_waits_longest_and_queues_the_new_one() -> None:
    with gates(3) as (first, oldest, newest), ComputePool(1, queue=1, rejected="discard_oldest") as pool:
        pool.submit(first)
        discarded, kept = pool.submit(oldest), pool.submit(newest)
        assert wait([discarded], 0).done == {discarded}
        assert discarded.cancelled()
        assert pool.stats().queued == 1
        for task in (first, newest):
            task.open()
        assert kept.result(10) is newest
        assert not oldest.began.is_set()


def test_discard_oldest_raises_where_nothing_waits() -> None:
    with gates(1) as (first,), ComputePool(1, queue=0, rejected="discard_oldest") as pool:
        pool.submit(first)
        with pytest.raises(TaskRejected):
            pool.submit(int)
        first.open()


def test_a_policy_of_ones_own_gets_task_and_reason() -> None:
    reasons: list[TaskRejected] = []

    def later(task: Task[Any], why: TaskRejected) -> None:
        reasons.append(why)
        threading.Thread(target=task.run).start()

    with gates(2) as tasks, full(tasks, rejected=later) as pool:
        assert pool.submit(pow, 3, 2).result(10) == 9
        assert [why.stats.queued for why in reasons] == [1]
        for task in tasks:
            task.open()


def test_a_cancelled_task_leaves_the_queue_at_once_and_never_runs() -> None:
    with gates(2) as (first, second), ComputePool(core=1, queue=1) as pool:
        pool.submit(first)
        queued = pool.submit(second)
        assert queued.cancel()
        assert queued.cancel()
        assert pool.stats().queued == 0
        assert wait([queued], 0).done == {queued}
        taken = pool.submit(pow, 2, 2)
        first.open()
        assert taken.result(10) == 4
        assert not second.began.is_set()


# -- sizes at run time


def test_a_larger_core_starts_workers_for_what_waits() -> None:
    with ComputePool(core=1) as pool, gates(3) as tasks:
        submit_all(pool, tasks)
        assert figures(pool) == (1, 0, 2)
        pool.resize(core=5, max=5)
        assert all(task.began.wait(10) for task in tasks)
        assert figures(pool) == (3, 0, 0)


def test_a_larger_max_starts_workers_for_what_waits_where_growth_comes_first() -> None:
    with ComputePool(core=1, max=1, grow="first") as pool, gates(3) as tasks:
        submit_all(pool, tasks)
        pool.resize(max=2)
        assert tasks[1].began.wait(10)
        assert figures(pool) == (2, 0, 1)


def test_workers_above_a_smaller_max_leave_at_once_if_idle_and_after_their_task_if_not() -> None:
    with ComputePool(core=4) as pool, gates(4) as tasks:
        submit_all(pool, tasks)
        tasks[0].open()
        tasks[1].open()
        until(lambda: figures(pool) == (2, 2, 0))
        pool.resize(core=1, max=1)
        until(lambda: figures(pool) == (2, 0, 0))
        queued = pool.submit(int)
        tasks[2].open()
        until(lambda: figures(pool) == (1, 0, 1))
        tasks[3].open()
        assert queued.result(10) == 0
        assert figures(pool)[2] == 0


def test_workers_above_a_smaller_core_leave_in_their_time() -> None:
    with ComputePool(core=3, keep_alive=0.02) as pool:
        pool.prestart()
        until(lambda: figures(pool) == (0, 3, 0))
        pool.resize(core=1)
        until(lambda: figures(pool) == (0, 1, 0))


def test_core_workers_can_be_started_before_there_is_anything_to_do() -> None:
    with ComputePool(core=3, name="early") as pool:
        assert pool.prestart() == 3
        assert pool.prestart() == 0
        until(lambda: figures(pool) == (0, 3, 0))
        names = {thread.name for thread in threading.enumerate() if thread.name.startswith("early-")}
        assert names == {"early-1", "early-2", "early-3"}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"core": -1}, "core=-1"),
        ({"core": 0, "max": 0}, "max=0"),
        ({"core": "2"}, "core='2': must be a whole number"),
        ({"core": 2.5}, "core=2.5: must be a whole number"),
        ({"max": True}, "max=True: must be a whole number"),
        ({"queue": "5"}, "queue='5': must be a whole number"),
        ({"core": 1, "keep_alive": "1"}, "keep_alive='1'"),
        ({"core": 3, "max": 2}, "core=3, max=2"),
        ({"core": 1, "queue": -1}, "queue=-1"),
        ({"core": 1, "max": 2}, "no effect"),
        ({"core": 1, "grow": "sideways"}, "grow='sideways'"),
        ({"core": 1, "rejected": "ignore"}, "rejected='ignore'"),
        ({"core": 1, "keep_alive": -1}, "keep_alive=-1"),
        ({"core": 1, "keep_alive": float("nan")}, "keep_alive=nan"),
        ({"core": 1, "keep_alive": 0, "core_times_out": True}, "core_times_out"),
        ({"core": 1, "kind": "fibre"}, "kind='fibre'"),
        ({"core": 1, "kind": "process", "start": "fork"}, "never fork"),
    ],
)
def test_what_cannot_be_meant_is_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        ComputePool(**settings)


def test_sizes_that_cannot_be_meant_are_refused_at_run_time_and_change_nothing() -> None:
    with ComputePool(core=2, max=4, queue=1) as pool:
        with pytest.raises(ValueError, match="core=5, max=4"):
            pool.resize(core=5)
        with pytest.raises(ValueError, match="max='8': must be a whole number"):
            pool.resize(max="8")  # type: ignore[arg-type]
        assert (pool.stats().core, pool.stats().max) == (2, 4)


def test_it_tells_how_it_stands() -> None:
    with ComputePool(core=2, max=4, queue=7, name="packing") as pool:
        assert repr(pool) == (
            "<ComputePool 'packing': 0 active and 0 idle of 4 workers (core 2), 0 of 7 queued>"
        )
