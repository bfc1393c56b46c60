"""The compute pool keeps the contract of `concurrent.futures.Executor`, and serves an event loop."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import logging
import threading
import weakref
from concurrent.futures import (
    CancelledError,
    Executor,
    Future,
    InvalidStateError,
    as_completed,
    wait,
)

import pytest
from plugins.compute_tasks import fail, gates, until
from plugins.house import eventually

from penstock_pool.compute import ComputePool, ComputePoolClosed


def test_it_is_an_executor() -> None:
    assert issubclass(ComputePool, Executor)


def test_a_future_has_the_result_or_the_exception() -> None:
    with ComputePool(1) as pool:
        assert pool.submit(int, "ff", base=16).result() == 255
        with pytest.raises(ZeroDivisionError):
            pool.submit(divmod, 1, 0).result()


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), BaseException("odd")])
def test_a_worker_lives_on_whatever_its_task_raises(error: BaseException) -> None:
    with ComputePool(1) as pool:
        assert pool.submit(fail, error).exception() is error
        first, second = (pool.submit(threading.current_thread).result() for _ in range(2))
        assert first is second
        assert pool.stats().largest == 1


def test_a_worker_lives_on_whatever_a_callback_raises(caplog: pytest.LogCaptureFixture) -> None:
    with gates(1) as (task,), ComputePool(1, name="calls") as pool:
        future = pool.submit(task)
        future.add_done_callback(lambda _: fail(SystemExit("from the callback")))
        with caplog.at_level(logging.ERROR):
            task.open()
            assert pool.submit(int).result(10) == 0
        assert "calls-1: what was to be called with a result has failed" in caplog.text
        assert pool.stats().largest == 1


def test_a_callback_may_wait_for_the_same_pool() -> None:
    with ComputePool(1, 2, queue=0) as pool, gates(1) as (task,):
        told: Future[int] = Future()
        pool.submit(task).add_done_callback(lambda _: told.set_result(pool.submit(int).result(10)))
        task.open()
        assert told.result(10) == 0


def test_map_keeps_the_order_and_raises_where_it_must() -> None:
    with ComputePool(3) as pool:
        assert list(pool.map(pow, range(20), [2] * 20)) == [n * n for n in range(20)]
        results = pool.map(divmod, [4, 1], [2, 0])
        assert next(results) == (2, 0)
        with pytest.raises(ZeroDivisionError):
            next(results)


def test_map_takes_a_time_out_and_cancels_the_rest() -> None:
    with ComputePool(1) as pool, gates(3) as tasks:
        with pytest.raises(TimeoutError):
            list(pool.map(lambda task: task(), tasks, timeout=0.01))
        until(lambda: pool.stats().queued == 0)
        tasks[0].open()
    assert [task.began.is_set() for task in tasks] == [True, False, False]


def test_a_result_may_be_waited_for_with_a_time_out() -> None:
    with ComputePool(1) as pool, gates(1) as (task,):
        future = pool.submit(task)
        with pytest.raises(TimeoutError):
            future.result(0.01)
        task.open()
        assert future.result(10) is task


def test_who_waits_for_several_hears_of_each_even_of_cancelled_ones() -> None:
    with ComputePool(1) as pool, gates(3) as tasks:
        futures = [pool.submit(task) for task in tasks]
        heard = as_completed(futures, timeout=10)
        futures[1].cancel()
        assert next(heard) is futures[1]
        tasks[0].open()
        assert next(heard) is futures[0]
        tasks[2].open()
        assert next(heard) is futures[2]


def test_a_result_is_set_once() -> None:
    with ComputePool(1) as pool:
        future = pool.submit(int)
        assert future.result() == 0
        with pytest.raises(InvalidStateError):
            future.set_result(1)


# -- shutdown


def test_after_shutdown_nothing_is_taken() -> None:
    pool = ComputePool(1, name="over", rejected="caller_runs")
    pool.shutdown()
    pool.shutdown()
    assert pool.prestart() == 0
    with pytest.raises(ComputePoolClosed, match="'over' was shut down"):
        pool.submit(int)
    with pytest.raises(RuntimeError):
        pool.map(int, "1")


def test_shutdown_waits_for_what_was_submitted() -> None:
    done: list[int] = []
    with ComputePool(2) as pool:
        for number in range(100):
            pool.submit(done.append, number)
    assert sorted(done) == list(range(100))
    assert pool.stats().workers == 0
    assert pool.stats().completed == 100


def test_shutdown_need_not_wait_and_what_was_submitted_is_done_all_the_same() -> None:
    with gates(2) as tasks:
        pool = ComputePool(1)
        futures = [pool.submit(task) for task in tasks]
        pool.shutdown(wait=False)
        assert pool.stats().workers == 1
        for task in tasks:
            task.open()
        assert [future.result(10) for future in futures] == tasks
        until(lambda: pool.stats().workers == 0)


def test_shutdown_cancels_what_waits_where_that_is_wanted() -> None:
    with gates(3) as tasks:
        pool = ComputePool(1)
        futures = [pool.submit(task) for task in tasks]
        assert tasks[0].began.wait(10)
        pool.shutdown(wait=False, cancel_futures=True)
        assert wait(futures[1:], 0).done == set(futures[1:])
        assert [future.cancelled() for future in futures] == [False, True, True]
        tasks[0].open()
        pool.shutdown()
        assert futures[0].result(0) is tasks[0]


def test_a_task_cannot_wait_for_the_end_of_its_own_pool() -> None:
    pool = ComputePool(1)
    with pytest.raises(RuntimeError):
        pool.submit(pool.shutdown).result(10)
    pool.shutdown()


# -- what is held, and for how long


class Thing:
    """Something that can be looked for later."""


def test_an_idle_worker_holds_nothing_of_its_last_task() -> None:
    with ComputePool(1) as pool:
        argument, result = Thing(), Thing()
        gone = [weakref.ref(argument), weakref.ref(result)]
        pool.submit(lambda taken, given: given, argument, result).result()
        del argument, result
        until(lambda: not any(ref() for ref in gone))


def test_a_failed_task_is_freed_without_the_garbage_collector() -> None:
    with ComputePool(1) as pool:
        gc.collect()
        gc.disable()
        try:
            argument = Thing()
            gone = weakref.ref(argument)
            future = pool.submit(lambda taken: divmod(1, 0), argument)
            assert future.exception(10)
            del argument, future
            until(lambda: gone() is None)
        finally:
            gc.enable()


def threads_of(name: str) -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(f"{name}-")]


def test_a_pool_that_nobody_holds_does_what_was_submitted_and_ends() -> None:
    with gates(2) as tasks:
        pool = ComputePool(1, name="dropped")
        futures = [pool.submit(task) for task in tasks]
        del pool
        gc.collect()
        assert threads_of("dropped") == ["dropped-1"]
        for task in tasks:
            task.open()
        assert [future.result(10) for future in futures] == tasks
    until(lambda: not threads_of("dropped"))


def test_a_pool_in_a_cycle_ends_when_a_worker_of_its_own_collects_it() -> None:
    pool = ComputePool(2, name="cycle")
    pool.prestart()
    pool.itself = pool  # type: ignore[attr-defined]
    collecting = pool.submit(lambda go: go.wait(10) and gc.collect(), go := threading.Event())
    del pool
    go.set()
    assert collecting.result(10)
    until(lambda: not threads_of("cycle"))


# -- from an event loop


async def test_an_event_loop_runs_things_in_it() -> None:
    loop = asyncio.get_running_loop()
    with ComputePool(2, name="loop") as pool:
        assert await loop.run_in_executor(pool, functools.partial(int, "ff", base=16)) == 255
        assert await pool.run(int, "ff", base=16) == 255
        assert (await pool.run(threading.current_thread)).name.startswith("loop-")
        with pytest.raises(ZeroDivisionError):
            await pool.run(divmod, 1, 0)


async def test_a_thread_sees_the_context_of_who_awaits_it() -> None:
    who = contextvars.ContextVar("who", default="nobody")
    who.set("ann")
    with ComputePool(1) as pool:
        assert await pool.run(who.get) == "ann"
        assert pool.submit(who.get).result() == "nobody"


async def test_an_awaited_task_that_is_cancelled_while_it_waits_never_runs() -> None:
    with ComputePool(1) as pool, gates(2) as (first, second):
        async with asyncio.TaskGroup() as group:
            going = group.create_task(pool.run(first))
            waiting = group.create_task(pool.run(second))
            await eventually(lambda: pool.stats().queued == 1)
            waiting.cancel()
            await eventually(lambda: pool.stats().queued == 0)
            first.open()
        assert going.result() is first
        assert waiting.cancelled()
    assert not second.began.is_set()


async def test_a_discarded_task_is_a_cancelled_one_for_who_awaits_it() -> None:
    with ComputePool(1, queue=0, rejected="discard") as pool, gates(1) as (task,):
        pool.submit(task)
        with pytest.raises(CancelledError):
            pool.submit(int).result()
        with pytest.raises(asyncio.CancelledError):
            await pool.run(int)
        task.open()
