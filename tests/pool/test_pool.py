"""The pool over a real MariaDB: who gets which connection, when, and what is told to whom."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable

import pytest
from asyncmy.errors import MySQLError
from plugins.house import eventually
from plugins.mariadb import MariaDB
from plugins.pools import errors_are_expected, on_both_loops, pool_on

from penstock_pool import ConnectionPool, Limit
from penstock_pool.connection import Connection
from penstock_pool.errors import (
    CheckoutTimeout,
    CommitUnknown,
    ConnectionInUse,
    ConnectionLost,
    HoldLimitExceeded,
    InvalidSettings,
    Misuse,
    NestedCheckout,
    NotBorrowed,
    PoolClosed,
    PoolUnavailable,
    QueueFull,
    RolledBack,
)


def background(work: object) -> asyncio.Task[object]:
    return asyncio.ensure_future(work)  # type: ignore[arg-type]


async def hold(pool: ConnectionPool, until: asyncio.Event, statement: str = "SELECT 1") -> int:
    """Borrows, asks once, and keeps the connection until the event."""
    async with pool.connection() as connection:
        await connection.execute(statement)
        await until.wait()
        return connection.session_id


async def all_hold(pool: ConnectionPool, count: int, until: asyncio.Event) -> list[asyncio.Task[object]]:
    holders = [background(hold(pool, until)) for _ in range(count)]
    await eventually(lambda: pool.stats().busy == count)
    return holders


# -- checkout


@on_both_loops
async def test_an_idle_connection_is_used_again(mariadb: MariaDB) -> None:
    async with pool_on(mariadb, min=0) as pool:
        sessions = {await pool.fetchval("SELECT CONNECTION_ID()") for _ in range(5)}
        assert len(sessions) == 1
        assert pool.stats().opened == 1


@on_both_loops
async def test_up_to_max_are_opened_and_then_it_is_first_come_first_served(mariadb: MariaDB) -> None:
    order: list[int] = []

    async def one(number: int) -> None:
        async with pool.connection():
            order.append(number)

    async with pool_on(mariadb, max=2) as pool:
        until = asyncio.Event()
        holders = await all_hold(pool, 2, until)
        waiting = []
        for number in range(8):
            waiting.append(background(one(number)))
            await eventually(lambda number=number: pool.stats().waiting == number + 1)
        until.set()
        await asyncio.gather(*holders, *waiting)
        assert order == list(range(8))
        assert pool.stats().opened == 2


async def test_a_checkout_that_is_too_late_tells_how_the_pool_was(mariadb: MariaDB) -> None:
    async with pool_on(mariadb, max=1, name="shop") as pool, pool.connection():
        with pytest.raises(CheckoutTimeout) as told:
            await background(_late(pool))
        for fact in ("shop", "came free in 0.", "busy 1", "idle 0", "waiting", "at most 1"):
            assert fact in str(told.value)
        assert pool.stats().timeouts == 1


async def _late(pool: ConnectionPool) -> None:
    async with pool.connection(timeout=0.05):
        pass


@on_both_loops
async def test_without_time_an_idle_connection_is_taken_or_none(mariadb: MariaDB) -> None:
    async with pool_on(mariadb, max=1, ping_after=0.001) as pool:
        await eventually(lambda: pool.stats().idle == 1)
        await eventually(lambda: pool._clock() - pool._idle[0].since > 0.01)
        async with pool.connection(timeout=0) as connection:
            assert await connection.fetchval("SELECT 1") == 1
            with pytest.raises(CheckoutTimeout):
                await background(_with_no_time(pool))


async def _with_no_time(pool: ConnectionPool) -> None:
    async with pool.connection(timeout=0):
        pass


async def test_more_than_may_wait_are_refused_at_once(mariadb: MariaDB) -> None:
    async with pool_on(mariadb, max=1, queue=1) as pool, pool.connection():
        waiting = background(_late(pool))
        await eventually(lambda: pool.stats().waiting == 1)
        with pytest.raises(QueueFull):
            await background(_late(pool))
        with pytest.raises(CheckoutTimeout):
            await waiting


@on_both_loops
async def test_a_task_that_waits_for_what_it_holds_is_told_at_once(mariadb: MariaDB) -> None:
    async with pool_on(mariadb, max=1, checkout_timeout=60) as pool, pool.connection():
        with pytest.raises(NestedCheckout):
            await pool.fetch("SELECT 1")


@on_both_loops
async def test_the_last_task_of_a_ring_that_waits_for_itself_is_told_at_once(mariadb: MariaDB) -> None:
    met = asyncio.Barrier(3)

    async def greedy() -> None:
        async with pool.connection():
            await met.wait()
            async with pool.connection():
                pass

    async with pool_on(mariadb, max=3, checkout_timeout=60) as pool:
        ends = await asyncio.gather(*(greedy() for _ in range(3)), return_exceptions=True)
        assert sorted(type(end) for end in ends if end is not None) == [NestedCheckout]


# -- its life


async def test_opening_may_wait_for_the_first_connection(mariadb: MariaDB) -> None:
    pool = pool_on(mariadb)
    await pool.open(wait=5)
    assert pool.stats().opened
    with pytest.raises(Misuse):
        await pool.open()
    await pool.close()
    await pool.close()


async def test_a_pool_that_is_not_open_says_so(mariadb: MariaDB) -> None:
    pool = pool_on(mariadb)
    with pytest.raises(PoolClosed, match="not open yet"):
        await pool.fetch("SELECT 1")
    async with pool:
        await pool.fetch("SELECT 1")
    with pytest.raises(PoolClosed, match="is closed"):
        await pool.fetch("SELECT 1")


@on_both_loops
async def test_closing_sends_away_who_waits_and_lets_borrowers_finish(mariadb: MariaDB) -> None:
    pool = pool_on(mariadb, max=1)
    await pool.open()
    await pool.execute("SET @x = 1")  # something that was looked at before
    until = asyncio.Event()
    (holder,) = await all_hold(pool, 1, until)
    waiting = background(pool.fetch("SELECT 1"))
    await eventually(lambda: pool.stats().waiting == 1)
    closing = background(pool.close(grace=30))
    with pytest.raises(PoolClosed):
        await waiting
    assert not closing.done()
    until.set()
    await closing
    assert await holder


@on_both_loops
async def test_what_is_not_returned_within_the_grace_is_taken_and_its_statement_killed(
    mariadb: MariaDB,
) -> None:
    pool = pool_on(mariadb, max=1)
    await pool.open()
    sleeping = background(pool.fetch("SELECT SLEEP(60)"))
    await eventually(lambda: pool.stats().busy == 1)
    await pool.close(grace=0.05)
    with pytest.raises(ConnectionLost, match="took the connection back"):
        await sleeping


@on_both_loops
async def test_closing_during_the_fill_leaves_nothing(mariadb: MariaDB) -> None:
    for steps in range(30):
        pool = pool_on(mariadb, min=4, max=4)
        await pool.open()
        for _ in range(steps):
            await asyncio.sleep(0)
        await pool.close()


@on_both_loops
async def test_a_pool_can_be_made_smaller_than_what_is_borrowed(mariadb: MariaDB) -> None:
    async with pool_on(mariadb, min=4, max=4) as pool:
        until = asyncio.Event()
        holders = await all_hold(pool, 4, until)
        pool.resize(0, 1)
        waiting = background(pool.fetchval("SELECT CONNECTION_ID()"))
        await eventually(lambda: pool.stats().waiting == 1)
        until.set()
        assert await waiting in await asyncio.gather(*holders)
        await eventually(lambda: pool.stats().total == 1)
        await eventually(lambda: len(mariadb.connections()) == 1)
        with pytest.raises(InvalidSettings):
            pool.resize(3, 2)
        pool.resize(3, 3)
        await eventually(lambda: pool.stats().idle == 3)


@on_both_loops
async def test_a_paused_pool_gives_nothing_out_until_it_is_resumed(mariadb: MariaDB) -> None:
    async with pool_on(mariadb, min=2, max=2) as pool:
        await eventually(lambda: pool.stats().idle == 2)
        pool.pause()
        waiting = [background(pool.fetchval(f"SELECT {number}")) for number in range(3)]
        with pytest.raises(CheckoutTimeout):
            await background(_late(pool))
        assert pool.stats().waiting == 3
        assert pool.stats().parked == 2
        pool.resume()
        assert await asyncio.gather(*waiting) == [0, 1, 2]


@on_both_loops
async def test_what_died_during_a_pause_is_not_given_to_anybody(mariadb: MariaDB) -> None:
    async with pool_on(mariadb, min=2, max=2) as pool:
        await pool.execute("CREATE OR REPLACE TABLE paused (id INT)")
        await eventually(lambda: pool.stats().idle == 2)
        pool.pause()
        for session in mariadb.connections():
            mariadb.kill(session)
        waiting = [background(pool.execute("INSERT INTO paused VALUES (1)")) for _ in range(3)]
        await eventually(lambda: pool.stats().waiting == 3)
        pool.resume()
        await asyncio.gather(*waiting)
        assert await pool.fetchval("SELECT COUNT(*) FROM paused") == 3


# -- what borrowers do


async def test_a_connection_is_used_inside_its_block_only(mariadb: MariaDB) -> None:
    async with pool_on(mariadb) as pool:
        connection = pool.connection()
        with pytest.raises(NotBorrowed):
            await connection.execute("SELECT 1")
        async with connection:
            await connection.execute("SELECT 1")
        with pytest.raises(NotBorrowed):
            await connection.execute("SELECT 1")
        await connection.__aexit__(None, None, None)
        assert pool.stats().total == pool.stats().idle


@on_both_loops
async def test_a_connection_that_is_borrowed_cannot_be_borrowed_again(mariadb: MariaDB) -> None:
    async with pool_on(mariadb) as pool:
        async with pool.connection() as connection:
            with pytest.raises(Misuse):
                await connection.__aenter__()
            assert await connection.fetchval("SELECT 1") == 1
        await eventually(lambda: not pool.stats().busy)


@on_both_loops
async def test_a_connection_that_two_tasks_enter_at_once_is_borrowed_once(mariadb: MariaDB) -> None:
    async with pool_on(mariadb, max=2) as pool:
        shared, until = pool.connection(), asyncio.Event()

        async def enter() -> object:
            async with shared:
                return await shared.fetchval("SELECT 1")

        holders = await all_hold(pool, 2, until)
        both = [background(enter()) for _ in range(2)]
        await eventually(lambda: pool.stats().waiting == 2)
        until.set()
        served, refused = await asyncio.gather(*both, return_exceptions=True)
        assert served == 1
        assert isinstance(refused, Misuse)
        await asyncio.wait(holders)
        assert pool.stats().busy == 0, "none is lost"


@on_both_loops
async def test_after_a_statement_that_was_cut_short_the_connection_is_lost(mariadb: MariaDB) -> None:
    async with pool_on(mariadb) as pool, pool.connection() as connection:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await connection.execute("SELECT SLEEP(60)")
        for statement in ("SELECT 1", "BEGIN", "COMMIT"):
            with pytest.raises(ConnectionLost, match="cut short") as told:
                await connection.execute(statement)
            assert not isinstance(told.value, CommitUnknown), "it was not sent"


async def sent(connection: Connection, sql: str) -> None:
    await connection.execute(sql)


async def streamed(connection: Connection, sql: str) -> None:
    await connection.stream(sql).some()


async def prepared(connection: Connection, sql: str) -> None:
    await (await connection.prepare(sql)).execute()


@pytest.mark.parametrize("how", [sent, streamed, prepared])
async def test_what_failed_may_have_done_something_and_its_connection_is_not_exchanged(
    mariadb: MariaDB, how: Callable[[Connection, str], Awaitable[None]]
) -> None:
    async with pool_on(mariadb) as pool, pool.connection() as connection:
        with pytest.raises(MySQLError, match="stop"):
            await how(
                connection,
                "BEGIN NOT ATOMIC START TRANSACTION; SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT='stop'; END",
            )
        mariadb.kill(connection.session_id)
        with pytest.raises(ConnectionLost):
            await connection.fetchval("SELECT 1")


@on_both_loops
async def test_a_savepoint_that_the_server_has_undone_hides_neither_error_nor_cancellation(
    mariadb: MariaDB,
) -> None:
    async def undone(then: BaseException) -> None:
        async with pool.transaction() as connection, connection.transaction():
            await connection.execute("ROLLBACK")  # as a deadlock does
            raise then

    async with pool_on(mariadb) as pool:
        for error in (KeyError("mine"), asyncio.CancelledError()):
            with pytest.raises(type(error)):
                await undone(error)


@pytest.mark.parametrize("caught", ["outside of the savepoint", "inside of it", "without one"])
@on_both_loops
async def test_of_a_transaction_that_a_deadlock_has_undone_no_half_is_stored(
    mariadb: MariaDB, caught: str
) -> None:
    async with pool_on(mariadb) as pool:
        await _two_rows(pool)
        async with pool.connection() as connection:
            with pytest.raises(RolledBack, match="repeat it from its beginning"):
                async with connection.transaction():
                    await connection.execute("INSERT INTO locked VALUES (3, 0)")
                    await _caught(caught, pool, connection)
                    for _ in range(2):
                        with pytest.raises(RolledBack):
                            await connection.execute("INSERT INTO locked VALUES (5, 0)")
                    with pytest.raises(RolledBack):
                        await connection.stream("SELECT 1").some()
                    with pytest.raises(RolledBack):
                        await connection.prepare("SELECT 1")
                    with pytest.raises(RolledBack):
                        async with connection.transaction():
                            pass
            assert await connection.fetch("SELECT id FROM locked WHERE id > 2") == ()
            async with connection.transaction():
                await connection.execute("INSERT INTO locked VALUES (6, 0)")
            assert await connection.fetch("SELECT id FROM locked WHERE id > 2") == ((6,),)


async def test_a_deadlock_that_nobody_catches_is_told_in_the_servers_words(mariadb: MariaDB) -> None:
    async with pool_on(mariadb, max=2) as pool:
        await _two_rows(pool)
        async with pool.connection() as connection:
            with pytest.raises(MySQLError, match="Deadlock"):
                async with connection.transaction():
                    await connection.execute("INSERT INTO locked VALUES (3, 0)")
                    await _deadlock(pool, connection)
            assert not connection.in_transaction
            assert await connection.fetch("SELECT id FROM locked") == ((1,), (2,))


async def _two_rows(pool: ConnectionPool) -> None:
    await pool.execute("CREATE OR REPLACE TABLE locked (id INT PRIMARY KEY, n INT) ENGINE=InnoDB")
    await pool.execute("INSERT INTO locked VALUES (1, 0), (2, 0)")


async def _caught(where: str, pool: ConnectionPool, connection: Connection) -> None:
    if where == "outside of the savepoint":
        with pytest.raises(MySQLError, match="Deadlock"):
            async with connection.transaction():
                await _deadlock(pool, connection)
    elif where == "inside of it":
        with pytest.raises(RolledBack, match="Deadlock"):
            async with connection.transaction():
                with pytest.raises(MySQLError, match="Deadlock"):
                    await _deadlock(pool, connection)
    else:
        with pytest.raises(MySQLError, match="Deadlock"):
            await _deadlock(pool, connection)


async def _deadlock(pool: ConnectionPool, connection: Connection) -> None:
    """Of two transactions that wait for each other the server undoes the one that has done less."""
    async with pool.transaction() as other:
        await other.execute("INSERT INTO locked SELECT seq, 0 FROM seq_100_to_200")
        await other.execute("UPDATE locked SET n = 1 WHERE id = 1")
        await connection.execute("UPDATE locked SET n = 2 WHERE id = 2")
        waits = background(other.execute("UPDATE locked SET n = 3 WHERE id = 2"))
        try:
            await connection.execute("UPDATE locked SET n = 4 WHERE id = 1")
        finally:
            await waits
            await other.execute("DELETE FROM locked WHERE id > 99")


@on_both_loops
async def test_the_second_task_on_one_connection_is_told(mariadb: MariaDB) -> None:
    async with pool_on(mariadb) as pool, pool.connection() as connection:
        first = background(connection.fetchval("SELECT SLEEP(0.1)"))
        await asyncio.sleep(0)
        with pytest.raises(ConnectionInUse):
            await connection.fetch("SELECT 1")
        assert await first == 0
        assert await connection.fetchval("SELECT 1") == 1


@on_both_loops
async def test_a_connection_that_is_returned_while_another_task_uses_it_is_not_given_on(
    mariadb: MariaDB,
) -> None:
    async with pool_on(mariadb, max=1) as pool:
        async with pool.connection() as connection:
            left = background(connection.fetchval("SELECT SLEEP(60)"))
            await asyncio.sleep(0)
        assert await pool.fetchval("SELECT 'mine'") == "mine"
        with pytest.raises(NotBorrowed):
            await left


@on_both_loops
async def test_who_holds_a_connection_for_long_is_named(
    mariadb: MariaDB, caplog: pytest.LogCaptureFixture
) -> None:
    async with pool_on(mariadb, hold_warn=0.05) as pool:
        async with pool.connection():
            asyncio.current_task().set_name("the slow one")  # type: ignore[union-attr]
            await eventually(lambda: "held for" in caplog.text)
        assert "the slow one" in caplog.text
        assert caplog.text.count("held for") == 1


@pytest.mark.parametrize("statement", ["SELECT SLEEP(60)", None])
@on_both_loops
async def test_who_holds_a_connection_for_too_long_is_rolled_back_and_told(
    mariadb: MariaDB, statement: str | None
) -> None:
    mariadb.admin("CREATE OR REPLACE TABLE shop.held (id INT) ENGINE=InnoDB")
    async with pool_on(mariadb, max=2, hold_limit=0.3) as pool:
        with errors_are_expected(), pytest.raises(HoldLimitExceeded):
            async with pool.transaction() as connection:
                await connection.execute("INSERT INTO held VALUES (1)")
                await (
                    connection.fetch(statement) if statement else eventually(lambda: not connection.usable)
                )
        await eventually(lambda: pool.stats().ending == 0)
        assert await pool.fetchval("SELECT COUNT(*) FROM held") == 0


@on_both_loops
async def test_a_cancelled_statement_is_killed_on_the_server(mariadb: MariaDB) -> None:
    asleep = "SELECT id FROM information_schema.processlist WHERE info = 'SELECT SLEEP(61)'"
    async with pool_on(mariadb, min=2, max=2) as pool:
        before = await pool.fetchval("SELECT CONNECTION_ID()")
        for _ in range(3):
            sleeping = background(pool.fetch("SELECT SLEEP(61)"))
            await eventually(lambda: mariadb.admin(asleep))
            sleeping.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sleeping
            await eventually(lambda: not mariadb.admin(asleep))
        await eventually(lambda: pool.stats().killed == 3)  # it is counted once the server has answered
        await eventually(lambda: len(mariadb.connections()) == pool.stats().total == 2)
        assert before


@on_both_loops
async def test_a_fork_neither_uses_nor_harms_the_pool_of_its_parent(mariadb: MariaDB) -> None:
    async with pool_on(mariadb, min=2) as pool:
        await eventually(lambda: pool.stats().idle >= 2)
        before = await pool.fetchval("SELECT CONNECTION_ID()")
        child = os.fork()
        if not child:
            os._exit(_in_a_fork(pool))
        assert await _exit_code(child) == 7
        assert await pool.fetchval("SELECT CONNECTION_ID()") == before
        assert pool.stats().lost == 0


@on_both_loops
async def test_a_fork_does_not_use_what_its_parent_has_borrowed(mariadb: MariaDB) -> None:
    async with pool_on(mariadb, limits={"reports": Limit(1)}) as pool:
        async with pool.transaction(limit="reports") as connection:
            number = connection.session_id
            child = os.fork()
            if not child:
                os._exit(_in_a_fork(pool, connection))
            assert await _exit_code(child) == 7
            assert await connection.fetchval("SELECT CONNECTION_ID()") == number
        assert pool.stats().lost == 0


def _in_a_fork(pool: ConnectionPool, held: Connection | None = None) -> int:
    asyncio._set_running_loop(None)
    loop = asyncio.new_event_loop()
    try:
        use = _use(pool) if held is None else held.execute("COMMIT")
        loop.run_until_complete(asyncio.wait_for(use, 5))  # type: ignore[arg-type]
    except PoolClosed as told:
        loop.run_until_complete(asyncio.wait_for(pool.close(), 5))
        return 7 if "fork" in str(told) else 8
    except BaseException:
        return 9
    return 10


async def _use(pool: ConnectionPool) -> None:
    await pool.fetch("SELECT 1")


async def _exit_code(child: int) -> int:
    status: list[int] = []

    def ended() -> bool:
        pid, code = os.waitpid(child, os.WNOHANG)
        if pid:
            status.append(os.waitstatus_to_exitcode(code))
        return bool(pid)

    await eventually(ended)
    return status[0]


def test_another_event_loop_is_told_to_open_its_own(mariadb: MariaDB) -> None:
    async def open_pool() -> ConnectionPool:
        pool = pool_on(mariadb, min=0)
        await pool.open()
        return pool

    with asyncio.Runner() as first, asyncio.Runner() as second:
        pool = first.run(open_pool())
        with pytest.raises(Misuse, match="another event loop"):
            second.run(_use(pool))
        first.run(pool.close())


async def test_no_timer_of_a_closed_pool_is_left(mariadb: MariaDB) -> None:
    async with pool_on(mariadb, max=1, checkout_timeout=1000) as pool:
        until = asyncio.Event()
        holders = await all_hold(pool, 1, until)
        waits = background(pool.fetchval("SELECT 1"))
        await eventually(lambda: pool.stats().waiting == 1)
        until.set()
        await asyncio.gather(*holders, waits)
    assert pool._line._timer is None


UNCLOSED = """
import asyncio, json, sys
from penstock_pool import ConnectionPool, PoolSettings, Server

async def main():
    pool = ConnectionPool(Server(**json.loads(sys.argv[1])), PoolSettings(min=2, max=2))
    await pool.open(wait=5)
    await pool.execute("SET @x = 1")  # is being reset when the loop ends

asyncio.run(main())
"""


async def test_a_pool_that_nobody_closed_ends_with_its_loop(mariadb: MariaDB) -> None:
    program = [sys.executable, "-W", "ignore::ResourceWarning", "-c", UNCLOSED, json.dumps(mariadb.address)]
    process = await asyncio.create_subprocess_exec(*program, stderr=asyncio.subprocess.PIPE)
    _, told = await process.communicate()
    assert (process.returncode, told.decode()) == (0, "")


async def test_times_and_sizes_are_adjusted_while_it_is_used(mariadb: MariaDB) -> None:
    async with pool_on(mariadb, min=1, max=2) as pool:
        pool.adjust(checkout_timeout=0.01, max=1)
        assert (pool.settings.checkout_timeout, pool.settings.max, pool.settings.min) == (0.01, 1, 1)
        async with pool.connection() as connection:
            assert connection.pool is pool
            with pytest.raises(PoolUnavailable):
                await asyncio.create_task(pool.fetchval("SELECT 1"))
        with pytest.raises(InvalidSettings, match="heartbeat"):
            pool.adjust(heartbeat=0, max=3)
        with pytest.raises(InvalidSettings, match="name cannot be adjusted"):
            pool.adjust(name="other", max=3)
        assert pool.settings.max == 1
