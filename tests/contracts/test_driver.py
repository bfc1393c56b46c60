"""What every Driver does, asked of the fake and of the real one before a real MariaDB: the life cycle that
`penstock_pool.driver` promises."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest
from asyncmy import errors as answers
from plugins.house import eventually
from plugins.mariadb import MariaDB
from plugins.pooled import server_of
from plugins.ports import free_port

from penstock_pool import ConnectionPool, Server
from penstock_pool.asyncmy_driver import AsyncmyDriver
from penstock_pool.driver import Driver, Session
from penstock_pool.errors import (
    AccessRefused,
    ConnectFailed,
    ConnectionInUse,
    ConnectionLost,
    ServerFull,
    Unreachable,
)
from penstock_pool.testing import FakeDriver, FakeServerError, Rows, ServerError
from penstock_pool.testing.fake_driver import FakeSession

SERVER_ERRORS = (FakeServerError, answers.MySQLError)


@dataclass
class Case:
    driver: Driver
    served: Callable[[], set[int]]
    """The sessions that the server counts."""
    kill: Callable[[Session], None]
    """The server ends one."""
    refusing: Callable[[type[ConnectFailed]], Awaitable[Driver]]
    """A driver that cannot connect, for that reason."""


@pytest.fixture(params=["fake", "asyncmy"])
def case(request: pytest.FixtureRequest) -> Case:
    if request.param == "fake":
        return _fake()
    return _real(request.getfixturevalue("mariadb"), request.getfixturevalue("own_mariadb"))


def _fake() -> Case:
    driver = FakeDriver({"SELECT nothing": ServerError(1054, "42S22", "Unknown column")})

    def kill(session: Session) -> None:
        assert isinstance(session, FakeSession)
        session.die()

    async def refusing(reason: type[ConnectFailed]) -> Driver:
        refused = FakeDriver(most=0)
        if reason is not ServerFull:
            refused.fails = lambda: reason("told to")
        return refused

    return Case(driver, lambda: {s.id for s in driver.sessions if s.served}, kill, refusing)


def _real(db: MariaDB, own: Callable[..., MariaDB]) -> Case:
    async def refusing(reason: type[ConnectFailed]) -> Driver:
        if reason is Unreachable:
            return AsyncmyDriver(server_of({**db.address, "port": free_port()}))
        if reason is AccessRefused:
            return AsyncmyDriver(server_of({**db.address, "password": "wrong"}))
        return _Full(AsyncmyDriver(server_of(own(max_user_connections=1).address)))

    return Case(
        AsyncmyDriver(server_of(db.address)),
        lambda: set(db.connections()),
        lambda session: db.kill(session.id),
        refusing,
    )


@dataclass
class _Full:
    """Whose server takes one connection, which is taken."""

    driver: Driver

    async def open(self) -> Session:
        first = await self.driver.open()
        try:
            return await self.driver.open()
        finally:
            await first.quit()


@pytest.fixture
async def session(case: Case) -> AsyncIterator[Session]:
    opened = await case.driver.open()
    yield opened
    opened.abort()


async def test_a_new_session_is_as_the_pool_wants_it(case: Case, session: Session) -> None:
    assert session.id in case.served()
    assert state(session) == set()
    assert not session.broken()


async def test_sessions_of_one_server_are_known_as_such(case: Case, session: Session) -> None:
    other = await case.driver.open()
    assert other.server == session.server is not None
    await other.quit()


async def test_what_is_asked_is_answered(session: Session) -> None:
    result = await session.query("SELECT 1")
    assert result.rows == ((1,),)
    assert result.affected_rows == 1
    assert result.description is not None
    assert state(session) == set()


async def test_a_statement_without_rows_has_none(session: Session) -> None:
    result = await session.query("SET @x = 'mine'")
    assert result.rows is None
    assert result.description is None


async def test_the_server_says_when_a_transaction_is_open(session: Session) -> None:
    for begin, end in (("BEGIN", "COMMIT"), ("START TRANSACTION READ ONLY", "ROLLBACK")):
        await session.query(begin)
        assert session.in_transaction
        await session.query(end)
        assert not session.in_transaction


async def test_the_server_says_when_the_session_changes(session: Session) -> None:
    await session.query("SET sql_mode = 'ANSI'")
    assert session.changed


async def test_a_reset_session_is_as_a_new_one(session: Session) -> None:
    await session.query("SET @x = 'mine'")
    await session.query("SET sql_mode = 'ANSI'")
    await session.query("BEGIN")
    assert (await session.query("SELECT @x")).rows == (("mine",),)
    await session.reset()
    assert state(session) == set()
    assert (await session.query("SELECT @x")).rows == ((None,),)


async def test_a_session_survives_an_error_that_the_server_answers(session: Session) -> None:
    with pytest.raises(SERVER_ERRORS) as told:
        await session.query("SELECT nothing")
    assert told.value.args[0] == 1054
    assert state(session) <= {"changed"}
    assert (await session.query("SELECT 'still'")).rows == (("still",),)


async def test_a_second_statement_at_the_same_time_is_refused_and_the_first_is_answered(
    session: Session,
) -> None:
    first = asyncio.create_task(session.query("SELECT SLEEP(0.1)"), name="first")
    await eventually(lambda: session.running)
    with pytest.raises(ConnectionInUse):
        await session.query("SELECT 1")
    await first
    assert (await session.query("SELECT 1")).rows == ((1,),)


async def test_a_ping_tells_whether_the_server_is_there(case: Case, session: Session) -> None:
    await session.ping()
    case.kill(session)
    with pytest.raises(ConnectionLost):
        await session.ping()
    assert session.lost


async def test_what_the_server_ended_is_known_without_asking(case: Case, session: Session) -> None:
    case.kill(session)
    await eventually(session.broken)


async def test_a_statement_that_the_server_ends_with_its_session_is_lost(
    case: Case, session: Session
) -> None:
    asked = asyncio.create_task(session.query("SELECT SLEEP(30)"), name="asked")
    await eventually(lambda: session.running)
    case.kill(session)
    with pytest.raises(ConnectionLost):
        await asked
    assert state(session) == {"lost"}


async def test_a_cut_session_tells_who_reads_from_it_and_may_be_cut_again(session: Session) -> None:
    asked = asyncio.create_task(session.query("SELECT SLEEP(30)"), name="asked")
    await eventually(lambda: session.running)
    session.abort()
    session.abort()
    with pytest.raises(ConnectionLost):
        await asked
    assert session.broken()


async def test_after_a_farewell_the_server_counts_one_less(case: Case, session: Session) -> None:
    await session.quit()
    assert session.id not in case.served()


async def test_a_cancelled_statement_ends_by_a_kill_and_only_then_the_session(
    case: Case, session: Session
) -> None:
    asked = asyncio.create_task(session.query("SELECT SLEEP(30)"), name="asked")
    await eventually(lambda: session.running)
    await cancelled(asked)
    assert state(session) == {"running", "lost"}
    farewell = asyncio.create_task(session.quit(), name="farewell")
    assert session.id in case.served()
    other = await case.driver.open()
    await other.query(f"KILL QUERY {session.id}")
    await farewell
    assert session.id not in case.served()
    await other.quit()


async def test_a_cancelled_farewell_cuts(case: Case, session: Session) -> None:
    asked = asyncio.create_task(session.query("SELECT SLEEP(0.2)"), name="asked")
    await eventually(lambda: session.running)
    await cancelled(asked)
    farewell = asyncio.create_task(session.quit(), name="farewell")
    await asyncio.sleep(0)
    await cancelled(farewell)
    assert session.broken()
    await eventually(lambda: session.id not in case.served())


async def test_a_cancelled_connect_leaves_no_session(case: Case) -> None:
    for turns in range(12):
        opening = asyncio.create_task(case.driver.open(), name="opening")
        for _ in range(turns):
            await asyncio.sleep(0)
        opening.cancel()
        with suppress(asyncio.CancelledError):
            (await opening).abort()
    await eventually(lambda: not case.served())


@pytest.mark.parametrize("reason", [Unreachable, AccessRefused, ServerFull])
async def test_a_connect_that_fails_says_why(case: Case, reason: type[ConnectFailed]) -> None:
    refused = await case.refusing(reason)
    with pytest.raises(reason):
        await refused.open()


async def cancelled(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def state(session: Session) -> set[str]:
    """What is so of it."""
    names = ("changed", "in_transaction", "running", "lost")
    return {name for name in names if getattr(session, name)}


async def test_the_example_of_the_fake_does_what_it_says() -> None:
    driver = FakeDriver({"SELECT name FROM wares": Rows(["name"], [["a pipe"]])}, connect_time=0.05)
    async with ConnectionPool(Server(user="app"), driver=driver) as pool:
        assert await pool.fetchval("SELECT name FROM wares") == "a pipe"
        driver.sessions[0].die()
        assert await pool.fetchval("SELECT name FROM wares") == "a pipe"
    driver.check()


async def test_the_fake_tells_who_does_not_keep_to_the_life_cycle() -> None:
    driver = FakeDriver()
    left, ended = await driver.open(), await driver.open()
    await ended.quit()
    with pytest.raises(ConnectionLost):
        await ended.query("SELECT 1")
    await ended.quit()
    with pytest.raises(AssertionError, match=r"nobody closed: \[1\]"):
        driver.check()
    left.abort()
    with pytest.raises(AssertionError, match=r"2 was asked after its end.*2 was ended twice"):
        driver.check()
