"""What happens to a real MariaDB, or is done by it, while a pool uses it."""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from types import coroutine
from typing import Any

import pytest
from asyncmy.errors import OperationalError
from plugins.authority import Authority
from plugins.house import eventually
from plugins.mariadb import MariaDB
from plugins.pools import on_both_loops, pool_on, sockets

from penstock_pool import ConnectionPool, Limit, PoolSettings, Server
from penstock_pool.asyncmy_driver import AsyncmyDriver
from penstock_pool.errors import (
    AccessRefused,
    CheckoutTimeout,
    CommitUnknown,
    ConnectionLost,
    DatabaseDown,
    PoolUnavailable,
    ServerFull,
    Unreachable,
)
from penstock_pool.testing import FaultProxy

Own = Callable[..., MariaDB]
ASK = "SELECT 1"


def background(work: Any) -> asyncio.Task[Any]:
    return asyncio.ensure_future(work)


async def full(pool: ConnectionPool) -> None:
    await eventually(lambda: pool.stats().idle == pool.settings.min)


# -- KILL


@on_both_loops
async def test_after_a_kill_of_all_idle_connections_no_borrower_sees_an_error(mariadb: MariaDB) -> None:
    mariadb.admin("CREATE OR REPLACE TABLE shop.survivors (id INT) ENGINE=InnoDB")

    async def begin() -> None:
        async with pool.transaction() as connection:
            await connection.execute("INSERT INTO survivors VALUES (1)")

    async def isolated() -> None:
        async with pool.connection() as connection, connection.transaction(isolation="serializable"):
            await connection.execute("INSERT INTO survivors VALUES (1)")

    async with pool_on(mariadb, min=10, max=10) as pool:
        await full(pool)
        mariadb.admin("; ".join(f"KILL {session}" for session in mariadb.connections()))
        insert = "INSERT INTO survivors VALUES (1)"
        visits = [visit() for _ in range(10) for visit in (begin, isolated, lambda: pool.execute(insert))]
        await asyncio.gather(*visits, *(pool.fetch(ASK) for _ in range(70)))
        assert await pool.fetchval("SELECT COUNT(*) FROM survivors") == 30


@on_both_loops
async def test_a_kill_in_mid_statement_is_told_to_its_borrower_alone(mariadb: MariaDB) -> None:
    async with pool_on(mariadb, min=2) as pool:
        async with pool.connection() as connection:
            sleeping = background(connection.fetch("SELECT SLEEP(60)"))
            await eventually(lambda: mariadb.admin(_that_runs("SELECT SLEEP(60)") + " AND time_ms > 200"))
            mariadb.kill(connection.session_id)
            with pytest.raises(ConnectionLost):
                await sleeping
            with pytest.raises(ConnectionLost):
                await connection.fetch(ASK)
        assert await pool.fetchval(ASK) == 1


@on_both_loops
async def test_a_killed_query_leaves_its_connection_usable(mariadb: MariaDB) -> None:
    async with pool_on(mariadb) as pool, pool.connection() as connection:
        sleeping = background(connection.fetch("SELECT SLEEP(60)"))
        await eventually(lambda: mariadb.admin(_that_runs("SELECT SLEEP(60)")))
        mariadb.admin(f"KILL QUERY {connection.session_id}")
        with pytest.raises(OperationalError, match="1317"):
            await sleeping
        assert await connection.fetchval(ASK) == 1


@on_both_loops
async def test_a_kill_within_a_transaction_is_told_and_nothing_of_it_is_kept(mariadb: MariaDB) -> None:
    mariadb.admin("CREATE OR REPLACE TABLE shop.halves (id INT) ENGINE=InnoDB")
    async with pool_on(mariadb) as pool:
        with pytest.raises(ConnectionLost):
            async with pool.transaction() as connection:
                await connection.execute("INSERT INTO halves VALUES (1)")
                mariadb.kill(connection.session_id)
                await connection.fetch(ASK)
        assert await pool.fetchval("SELECT COUNT(*) FROM halves") == 0


def _that_runs(statement: str) -> str:
    return f"SELECT id FROM information_schema.processlist WHERE info = '{statement}'"


@on_both_loops
async def test_connections_that_were_idle_for_too_long_are_not_given_out(own_mariadb: Own) -> None:
    db = own_mariadb(wait_timeout=1)
    async with pool_on(db, min=3, heartbeat=60, ping_after=60) as pool:
        await pool.execute("CREATE TABLE later (id INT)")
        await full(pool)
        await eventually(lambda: not db.connections())
        await asyncio.gather(*(pool.execute("INSERT INTO later VALUES (1)") for _ in range(9)))
        assert await pool.fetchval("SELECT COUNT(*) FROM later") == 9


async def test_heartbeats_keep_idle_connections_from_being_closed(own_mariadb: Own) -> None:
    db = own_mariadb(wait_timeout=1)
    async with pool_on(db, min=2, heartbeat=0.2) as pool:
        await full(pool)
        before = db.connections()
        began = pool._clock()
        await eventually(lambda: pool._clock() - began > 1.5)
        assert db.connections() == before


# -- the server goes, and comes back


@pytest.mark.parametrize("end", [MariaDB.stop, MariaDB.crash], ids=["stopped", "killed"])
@on_both_loops
async def test_a_server_that_is_gone_and_comes_back_under_load(
    own_mariadb: Own, end: Callable[[MariaDB], None]
) -> None:
    db, done, answers, ends = own_mariadb(), asyncio.Event(), [], []

    async def visitor() -> None:
        while not done.is_set():
            try:
                answers.append(await pool.fetchval(ASK))
            except (PoolUnavailable, ConnectionLost) as told:
                ends.append(told)
                await asyncio.sleep(0.01)

    async with pool_on(db, min=4, checkout_timeout=1) as pool:
        visitors = [background(visitor()) for _ in range(10)]
        await eventually(lambda: len(answers) > 100)
        await asyncio.to_thread(end, db)
        with pytest.raises(DatabaseDown):
            await eventually(lambda: pool.fetch("SELECT 'none'"))
        before = len(answers)
        await asyncio.to_thread(db.start)
        await eventually(lambda: len(answers) > before + 100)
        done.set()
        await asyncio.gather(*visitors)
        assert set(answers) == {1}


@on_both_loops
async def test_while_the_database_is_down_one_tries_and_the_others_are_told_at_once(own_mariadb: Own) -> None:
    db = own_mariadb()
    async with pool_on(db, min=0, checkout_timeout=30) as pool:
        await pool.fetch(ASK)
        db.crash()
        with pytest.raises(DatabaseDown):
            await eventually(lambda: pool.fetch("SELECT 'none'"))
        failed = pool.stats().failed
        ends = await asyncio.gather(*(pool.fetch(ASK) for _ in range(50)), return_exceptions=True)
        assert {type(end) for end in ends} == {DatabaseDown}
        assert {type(end.__cause__) for end in ends} == {Unreachable}
        assert pool.stats().failed <= failed + 1
        assert pool.stats().down


@on_both_loops
async def test_a_frozen_server_costs_nobody_more_than_its_time(own_mariadb: Own) -> None:
    db = own_mariadb()
    db.admin("CREATE TABLE shop.ice (id INT) ENGINE=InnoDB")
    short = {"ping_timeout": 0.3, "checkout_timeout": 0.3, "connect_timeout": 0.3, "kill_timeout": 0.3}
    async with pool_on(db, min=3, max=3, ping_after=0, **short) as pool:
        await full(pool)
        inside = asyncio.Event()
        transaction = background(_in_a_transaction(pool, inside))
        await inside.wait()
        asking = background(pool.fetch("SELECT SLEEP(60)"))
        await eventually(lambda: db.admin(_that_runs("SELECT SLEEP(60)")))
        db.freeze()
        async with asyncio.timeout(8):  # each of them waits for less than half a second
            transaction.cancel()
            asking.cancel()
            await asyncio.wait({transaction, asking})
            assert transaction.cancelled()
            assert asking.cancelled()
            with pytest.raises((CheckoutTimeout, DatabaseDown)):
                await pool.fetch(ASK)
            await eventually(lambda: not pool.stats().busy and not pool.stats().waiting)
        db.thaw()
        await eventually(lambda: _served(pool))
        assert await pool.fetchval("SELECT COUNT(*) FROM ice") == 0


async def test_a_kill_that_a_frozen_server_does_not_answer_is_the_only_one(
    own_mariadb: Own, caplog: pytest.LogCaptureFixture
) -> None:
    db = own_mariadb()
    slow = {"ping_after": 60, "heartbeat": 60, "ping_timeout": 0.2, "kill_timeout": 0.2}
    async with pool_on(db, min=5, max=5, **slow) as pool:
        await full(pool)
        sleeping = background(pool.fetchval("SELECT SLEEP(60)"))
        await eventually(lambda: pool.stats().busy == 1)
        db.freeze()
        sleeping.cancel()
        await eventually(lambda: pool.stats().lost == 4)
        await eventually(lambda: pool.stats().ending == 0)
        db.thaw()
    assert sum("not killed" in record.getMessage() for record in caplog.records) == 1


async def _in_a_transaction(pool: ConnectionPool, inside: asyncio.Event) -> None:
    async with pool.transaction() as connection:
        await connection.execute("INSERT INTO ice VALUES (1)")
        inside.set()
        await asyncio.Event().wait()


async def _served(pool: ConnectionPool) -> bool:
    with suppress(PoolUnavailable, ConnectionLost):
        return bool(await pool.fetchval(ASK) == 1)
    return False


# -- it refuses


@on_both_loops
async def test_too_many_connections_clamp_the_pool_which_tries_again_later(own_mariadb: Own) -> None:
    db = own_mariadb(max_connections=10)  # root has one more
    async with pool_on(db, min=12, max=12, full_retry=0.2) as pool:
        await eventually(lambda: pool.stats().ceiling == 10)
        answers = await asyncio.gather(*(pool.fetchval(ASK) for _ in range(40)))
        assert answers == [1] * 40
        assert pool.stats().down is None
        db.admin("SET GLOBAL max_connections = 20")
        await eventually(lambda: pool.stats().ceiling == 12 and pool.stats().idle == 12)


@on_both_loops
async def test_a_limit_of_the_account_clamps_the_pool_too(own_mariadb: Own) -> None:
    db = own_mariadb()
    db.admin("GRANT USAGE ON *.* TO app WITH MAX_USER_CONNECTIONS 2")
    async with pool_on(db, min=4) as pool:
        await eventually(lambda: pool.stats().ceiling == 2)
        assert await asyncio.gather(*(pool.fetchval(ASK) for _ in range(9))) == [1] * 9


@on_both_loops
async def test_a_full_server_is_named_when_nothing_is_open(own_mariadb: Own) -> None:
    db = own_mariadb()
    db.admin("GRANT USAGE ON *.* TO app WITH MAX_USER_CONNECTIONS 1")
    async with pool_on(db, max=1) as first:
        await full(first)
        async with pool_on(db, max=1, name="second") as second:
            with pytest.raises(DatabaseDown) as told:
                await second.fetch(ASK)
            assert isinstance(told.value.__cause__, ServerFull)


@on_both_loops
async def test_a_wrong_password_is_told_and_a_new_one_taken_up(own_mariadb: Own) -> None:
    db, passwords = own_mariadb(), ["wrong"]
    server = {"password": lambda: passwords[-1]}
    async with pool_on(db, max=1, server=server) as pool:
        with pytest.raises(DatabaseDown, match="Access denied") as told:
            await pool.fetch(ASK)
        assert isinstance(told.value.__cause__, AccessRefused)
        passwords.append("penstock")
        await eventually(lambda: _served(pool))
        db.admin("ALTER USER app IDENTIFIED BY 'rotated'")
        passwords.append("rotated")
        db.kill(db.connections()[0])
        assert await pool.fetchval(ASK) == 1


async def test_failing_fast_says_why(own_mariadb: Own) -> None:
    db = own_mariadb()
    pool = pool_on(db, server={"password": "wrong"})
    with pytest.raises(DatabaseDown, match="Access denied"):
        await pool.open(wait=5)
    with pytest.raises(DatabaseDown, match="to database 'none'"):
        await pool_on(db, server={"database": "none"}).open(wait=5)


@on_both_loops
async def test_a_connection_to_a_server_that_only_reads_now_is_replaced(own_mariadb: Own) -> None:
    db = own_mariadb()
    db.admin("CREATE TABLE shop.wares (id INT)")
    async with pool_on(db, max=1) as pool:
        await pool.execute("INSERT INTO wares VALUES (1)")
        session = await pool.fetchval("SELECT CONNECTION_ID()")
        db.admin("SET GLOBAL read_only = 1")
        with pytest.raises(OperationalError, match="1290"):
            await pool.execute("INSERT INTO wares VALUES (1)")
        assert await pool.fetchval("SELECT CONNECTION_ID()") != session
        db.admin("SET GLOBAL read_only = 0")
        await pool.execute("INSERT INTO wares VALUES (1)")


# -- ways in


@pytest.mark.parametrize(
    ("name", "reason"),
    [("good", None), ("expired", "expired"), ("wrong_host", "mismatch"), ("unknown", "self-signed")],
)
@on_both_loops
async def test_a_certificate_is_verified(
    own_mariadb: Own, authority: Authority, name: str, reason: str | None
) -> None:
    db = own_mariadb(certificate=getattr(authority, name))
    pool = pool_on(db, server={"tls": authority.client_context()})
    if reason is None:
        async with pool:
            assert await pool.fetchrow("SHOW STATUS LIKE 'Ssl_cipher'") > ("Ssl_cipher", "")
            await pool.execute("SET @x = 1")
            assert await pool.fetchval("SELECT @x") is None
    else:
        with pytest.raises(DatabaseDown, match=reason) as told:
            await pool.open(wait=5)
        assert isinstance(told.value.__cause__, AccessRefused)


@on_both_loops
async def test_a_server_without_tls_is_refused(own_mariadb: Own, authority: Authority) -> None:
    pool = pool_on(own_mariadb(), server={"tls": authority.client_context()})
    with pytest.raises(DatabaseDown, match="offers no TLS"):
        await pool.open(wait=5)


@on_both_loops
async def test_cancelled_statements_over_tls_are_killed_too(own_mariadb: Own, authority: Authority) -> None:
    db = own_mariadb(certificate=authority.good)
    async with pool_on(db, min=2, max=2, server={"tls": authority.client_context()}) as pool:
        await full(pool)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await pool.fetch("SELECT SLEEP(60)")
        await eventually(lambda: not db.admin(_that_runs("SELECT SLEEP(60)")))
        await eventually(lambda: pool.stats().idle == 2)


@on_both_loops
async def test_a_unix_socket_is_a_way_in(mariadb: MariaDB) -> None:
    server = {"unix_socket": str(mariadb._socket)}
    async with pool_on(mariadb, server=server) as pool:
        assert await pool.fetchval(ASK) == 1
        mariadb.kill(await pool.fetchval("SELECT CONNECTION_ID()"))
        assert await pool.fetchval(ASK) == 1


# -- our own process


@contextmanager
def no_more_files() -> Iterator[None]:
    """This process cannot open another file or socket."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(int(name.name) for name in Path("/proc/self/fd").iterdir())
    holes = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 1, hard))
    with suppress(OSError):
        while True:
            holes.append(Path("/dev/null").open())  # noqa: SIM115
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for hole in holes:
            hole.close()


@on_both_loops
async def test_without_file_descriptors_those_there_are_serve_and_more_come_later(mariadb: MariaDB) -> None:
    async with pool_on(mariadb, min=1, max=3, checkout_timeout=0.2) as pool:
        await full(pool)
        with no_more_files():
            async with pool.connection() as connection:
                assert await connection.fetchval(ASK) == 1
                with pytest.raises(CheckoutTimeout) as told:
                    await background(pool.fetch(ASK))
            assert "Too many open files" in str(told.value.__cause__)
            assert await asyncio.gather(*(pool.fetchval(ASK) for _ in range(5))) == [1] * 5
        async with pool.connection():
            await eventually(lambda: _served(pool))


@on_both_loops
async def test_an_event_loop_that_stood_still_loses_nothing(mariadb: MariaDB) -> None:
    short = {"heartbeat": 0.2, "ping_after": 0.1, "ping_timeout": 0.3, "checkout_timeout": 0.5}
    async with pool_on(mariadb, min=4, max=4, connect_timeout=0.5, **short) as pool:
        await full(pool)
        before = mariadb.connections()
        slow = [background(pool.fetchval("SELECT SLEEP(1)")) for _ in range(4)]
        await eventually(lambda: len(mariadb.admin(_that_runs("SELECT SLEEP(1)"))) == 4)
        waiting = [background(pool.fetchval(ASK)) for _ in range(3)]
        await asyncio.sleep(0)
        time.sleep(1.5)  # noqa: ASYNC251 - this is the fault
        assert await asyncio.gather(*slow, *waiting) == [0] * 4 + [1] * 3
        await eventually(lambda: pool.stats().tending)
        time.sleep(1)  # noqa: ASYNC251
        await full(pool)
        assert mariadb.connections() == before
        assert (pool.stats().lost, pool.stats().timeouts) == (0, 0)


# -- cancelled anywhere


async def _read(pool: ConnectionPool) -> None:
    assert await pool.fetchval("SELECT 'a pipe'") == "a pipe"


async def _write(pool: ConnectionPool) -> None:
    async with pool.transaction() as connection:
        await connection.execute("INSERT INTO cut (id) VALUES (1)")
        async with connection.transaction():
            await connection.execute("INSERT INTO cut (id) VALUES (2)")


async def _dirty(pool: ConnectionPool) -> None:
    await pool.execute("SET @x = 1")
    assert await pool.fetchval("SELECT @x") is None


async def _live(pool: ConnectionPool) -> None:
    async with ConnectionPool(pool.server, replace(pool.settings, name="other")) as other:
        await other.fetch(ASK)


@pytest.mark.parametrize("work", [_read, _write, _dirty, _live])
@on_both_loops
async def test_a_task_may_be_cancelled_at_each_of_its_steps(
    mariadb: MariaDB, work: Callable[[ConnectionPool], Awaitable[None]]
) -> None:
    mariadb.admin("CREATE OR REPLACE TABLE shop.cut (id INT) ENGINE=InnoDB; FLUSH STATUS")
    async with pool_on(mariadb, min=2, max=2) as pool:
        for steps in range(400):
            task = background(work(pool))
            for _ in range(steps):
                await asyncio.sleep(0)
            if not task.cancel():
                break
            with suppress(asyncio.CancelledError):
                await task
            stats = pool.stats()
            assert not stats.busy
            assert not stats.waiting
        else:
            pytest.fail("never done")
        await task
        await eventually(lambda: pool.stats().idle == 2)
        assert await asyncio.gather(*(pool.fetchval("SELECT @x") for _ in range(4))) == [None] * 4
        ones = "SELECT COUNT(*) FROM cut WHERE id = {}"
        assert await pool.fetchval(ones.format(1)) == await pool.fetchval(ones.format(2))


@coroutine
def cancelled_at(number: int, work: Coroutine[Any, Any, object]) -> Generator[Any, None, None]:
    """Does it, and cancels it where it awaits for the time of this number, from 0 on."""
    resume: Callable[[], Any] = partial(work.send, None)
    for awaits in count():
        try:
            awaited = resume()
        except StopIteration:
            return
        if awaits == number:
            asyncio.current_task().cancel()  # type: ignore[union-attr]
        try:
            yield awaited
            resume = partial(work.send, None)
        except BaseException as error:
            resume = partial(work.throw, error)


async def at_each_await(
    work: Callable[[], Coroutine[Any, Any, object]], after: Callable[[], Awaitable[None]]
) -> None:
    for number in range(500):
        try:
            await background(_awaiting(cancelled_at(number, work())))
        except asyncio.CancelledError:
            await after()
        else:
            assert number > 1
            break
    else:
        pytest.fail("never done")


async def _awaiting(work: Awaitable[None]) -> None:
    await work


MANY = "SELECT seq FROM seq_1_to_50000"


async def _streams(pool: ConnectionPool) -> None:
    async with pool.connection() as connection, connection.stream(MANY) as rows:
        assert len([row async for row in rows]) == 50_000


async def _streams_prepared(pool: ConnectionPool) -> None:
    sql = f"{MANY} WHERE seq > ?"
    async with pool.connection() as connection, connection.stream(sql, (1,), prepared=True) as rows:
        assert len([row async for row in rows]) == 49_999


async def _prepares(pool: ConnectionPool) -> None:
    async with pool.connection() as connection:
        statement = await connection.prepare("SELECT ?")
        assert (await statement.execute(1)).rows == ((1,),)


async def _reports(pool: ConnectionPool) -> None:
    assert await pool.fetchval(ASK, limit="reports") == 1


async def _reads_a_replica(pool: ConnectionPool) -> None:
    async with pool.reader() as connection:
        assert await connection.fetchval(ASK) == 1


@pytest.mark.parametrize("work", [_streams, _streams_prepared, _prepares, _reports, _reads_a_replica])
@on_both_loops
async def test_a_task_may_be_cancelled_wherever_it_awaits(
    mariadb: MariaDB, work: Callable[[ConnectionPool], Coroutine[Any, Any, None]]
) -> None:
    """While two others do the same, who are not to notice."""
    replica = pool_on(mariadb, min=1, max=1, name="replica")
    few = PoolSettings(min=2, max=2, limits={"reports": Limit(concurrency=1)})

    async def beside_others() -> None:
        others = [background(work(pool)) for _ in range(2)]
        try:
            await asyncio.sleep(0)  # they come first, and it has to wait
            await work(pool)
        finally:
            await asyncio.shield(asyncio.gather(*others))

    async def all_is_back() -> None:
        for each in (pool, replica):
            await eventually(lambda each=each: each.stats().idle == each.settings.max)
            assert (each.stats().busy, each.stats().waiting) == (0, 0)
        reports = pool.stats().limits["reports"]
        assert (reports.in_use, reports.waiting) == (0, 0)

    async with ConnectionPool(Server(**mariadb.address), few, replicas=[replica]) as pool:
        await all_is_back()
        await at_each_await(beside_others, all_is_back)
        assert await pool.fetchval(ASK) == 1


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@on_both_loops
async def test_a_connect_may_be_cancelled_wherever_it_awaits(
    mariadb: MariaDB, authority: Authority, tls: bool
) -> None:
    context = authority.client_context() if tls else False
    driver = AsyncmyDriver(Server(**mariadb.address, tls=context))

    async def nothing_is_left() -> None:
        await eventually(lambda: not sockets(mariadb.port))

    async def visit() -> None:
        session = await driver.open()
        await session.quit()

    await at_each_await(visit, nothing_is_left)
    await eventually(lambda: not mariadb.connections())


@on_both_loops
async def test_never_more_than_max_whatever_is_cancelled(own_mariadb: Own) -> None:
    db = own_mariadb()

    async def visitor(number: int) -> None:
        for turn in range(25):
            with suppress(TimeoutError):
                async with asyncio.timeout(0.0005 * ((number * 7 + turn * 3) % 20)):
                    await pool.fetch("SELECT SLEEP(0.004)")

    async with pool_on(db, min=4, max=4, checkout_timeout=30) as pool:
        await full(pool)
        db.admin("FLUSH STATUS")
        await asyncio.gather(*(visitor(number) for number in range(12)))
        await eventually(lambda: pool.stats().idle == 4)
        ((_, most),) = db.admin("SHOW STATUS LIKE 'Max_used_connections'")
        assert int(most) <= 4 + 1  # that of the question


# -- COMMIT


@pytest.mark.parametrize("direction", ["up", "down"])
@on_both_loops
async def test_a_commit_without_an_answer_is_told_as_such(mariadb: MariaDB, direction: Any) -> None:
    mariadb.admin("CREATE OR REPLACE TABLE shop.doubts (id INT) ENGINE=InnoDB")
    async with (
        FaultProxy("127.0.0.1", mariadb.port) as proxy,
        pool_on(mariadb, max=1, server={"port": proxy.port}) as pool,
    ):
        with pytest.raises(CommitUnknown):
            async with pool.transaction() as connection:
                await connection.execute("INSERT INTO doubts VALUES (1)")
                proxy.cut(0, direction=direction, times=1)
        stored = await pool.fetchval("SELECT COUNT(*) FROM doubts")
        assert stored == (1 if direction == "down" else 0)
