"""The fake server, as real drivers see it."""

from __future__ import annotations

import asyncio
import re
import resource
import socket
import ssl
import textwrap
from collections.abc import Awaitable, Callable
from datetime import datetime
from decimal import Decimal
from itertools import count
from pathlib import Path
from typing import Any

import aiomysql
import asyncmy
import pymysql
import pytest
import uvloop
from asyncmy.errors import MySQLError, OperationalError
from plugins.authority import Authority
from plugins.house import eventually

import penstock_pool.testing
from penstock_pool.testing import MYSQL, Asked, Cut, Delay, FakeMySQL, Mute, Ok, Rows, ServerError

TRACKS = 1 << 23
WARES = Rows(["name"], [["a pipe"]])

Connect = Callable[..., Awaitable[Any]]


async def enter(server: FakeMySQL, connect: Connect = asyncmy.connect, **options: Any) -> Any:
    """A connection to it, of asyncmy if nothing else is said."""
    given = {"user": "app", "password": "secret", "db": "shop", **options}
    return await connect(host=server.host, port=server.port, **given)


async def ask(connection: Any, sql: str) -> Any:
    async with connection.cursor() as cursor:
        await cursor.execute(sql)
        return await cursor.fetchall()


async def refusal(awaited: Awaitable[object]) -> tuple[int, str]:
    with pytest.raises((MySQLError, pymysql.MySQLError)) as refused:
        await awaited
    return refused.value.args[0], refused.value.args[1]


async def test_ten_lines_tell_whether_an_app_survives_a_dead_database() -> None:
    """The example in the package's docstring."""
    told = textwrap.dedent(penstock_pool.testing.__doc__ or "")
    example = told[told.index("    from penstock_pool") : told.index("\n\n`FakeMySQL`")]
    names: dict[str, Any] = {"open_shop": Shop.open}
    exec(textwrap.dedent(example), names)
    await names["test_the_shop_survives_a_dead_database"]()


class Shop:
    """An app that connects for each question."""

    def __init__(self, **where: Any) -> None:
        self._where = where

    @classmethod
    async def open(cls, **where: Any) -> Shop:
        return cls(**where)

    async def wares(self) -> list[str] | str:
        try:
            async with asyncmy.connect(user="shop", **self._where) as connection:
                return [name for (name,) in await ask(connection, "SELECT name FROM wares")]
        except OperationalError:
            return "closed for repair"


@pytest.mark.parametrize("connect", [asyncmy.connect, aiomysql.connect])
@pytest.mark.parametrize("version", [penstock_pool.testing.MARIADB, MYSQL])
async def test_drivers_read_what_it_answers(connect: Connect, version: str) -> None:
    row = [7, "pipe", None, b"\xff\x00", 1.5, Decimal("2.50"), datetime(2024, 2, 29, 12, 30), "x" * 70_000]
    answers = {"select all": Rows(list("abcdefgh"), [[None] * 8, row]), "none": Rows(["a"])}
    async with FakeMySQL(answers, version=version) as server:
        connection = await enter(server, connect)
        assert await ask(connection, "SELECT 1") == ((1,),)
        assert await ask(connection, "SELECT 'it''s  /*her*/' AS word") == (("it's  /*her*/",),)
        assert await ask(connection, "SELECT DATABASE()") == (("shop",),)
        assert await ask(connection, "Select  /* by whom */\n all;") == ((None,) * 8, tuple(row))
        assert await ask(connection, "none") in ((), [])
        connection.close()


async def test_what_it_does_not_know_is_an_error_that_says_what_to_do() -> None:
    async with FakeMySQL() as server:
        connection = await enter(server)
        code, message = await refusal(ask(connection, "SELECT nothing"))
        assert code == 1064
        assert "add one to its `answers`" in message
        assert await ask(connection, "SELECT 1") == ((1,),)


async def test_answers_are_statements_or_beginnings_and_may_be_made() -> None:
    async def slowly(asked: Asked) -> Rows:
        await asyncio.sleep(0)
        return Rows(["who"], [[asked.session.user]])

    async with FakeMySQL() as server:
        server.answers[re.compile(r"SELECT (\d+) \+ (\d+)")] = lambda asked: Rows(
            ["sum"], [[int(asked.match[1]) + int(asked.match[2])]]
        )
        server.answers["who am i"] = slowly
        server.answers[re.compile("INSERT")] = Ok(affected_rows=3, insert_id=9)
        server.answers["fail"] = ServerError(1213)
        server.answers["crack"] = lambda asked: 1 / 0
        connection = await enter(server)
        assert await ask(connection, "SELECT 40 + 2") == ((42,),)
        assert await ask(connection, "WHO AM I") == (("app",),)
        async with connection.cursor() as cursor:
            assert await cursor.execute("INSERT INTO wares VALUES (1)") == 3
            assert cursor.lastrowid == 9
        assert (await refusal(ask(connection, "fail")))[0] == 1213
        assert "ZeroDivisionError" in (await refusal(ask(connection, "crack")))[1]


async def test_the_status_follows_the_session() -> None:
    async with FakeMySQL() as server:
        connection = await enter(server, client_flag=TRACKS, autocommit=None)

        async def status(sql: str) -> int:
            await connection.query(sql)
            return int(connection._result.server_status)

        assert await status("SET session_track_state_change=1") == 0x4002
        assert await status("SELECT 1") == 0x2
        assert await status("BEGIN") == 0x3
        assert await status("COMMIT") == 0x2
        assert await status("SET @x=1") == 0x4002
        assert await status("SET autocommit=0") == 0x4000
        server.answers["SELECT name FROM wares"] = WARES
        assert await status("SELECT name FROM wares") == 0x1
        server.answers["CREATE TEMPORARY TABLE t (a INT)"] = Ok(changes_session=True)
        assert await status("CREATE TEMPORARY TABLE t (a INT)") == 0x4001


@pytest.mark.parametrize("connect", [asyncmy.connect, aiomysql.connect])
@pytest.mark.parametrize(
    "options",
    [
        {"auth": "mysql_native_password"},
        {"auth": "mysql_native_password", "announces": "caching_sha2_password"},
    ],
)
async def test_the_right_password_opens(connect: Connect, options: dict[str, str]) -> None:
    async with FakeMySQL(users={"app": "secret"}, **options) as server:
        (await enter(server, connect)).close()
        for password, using in (("guess", "YES"), ("", "NO")):
            code, message = await refusal(enter(server, connect, password=password))
            assert (code, message) == (
                1045,
                f"Access denied for user 'app'@'127.0.0.1' (using password: {using})",
            )
        assert (await refusal(enter(server, connect, user="eve")))[0] == 1045
        assert server.opened == 1


@pytest.mark.parametrize("connect", [asyncmy.connect, aiomysql.connect])
async def test_a_password_that_was_seen_before_opens_without_tls(connect: Connect) -> None:
    async with FakeMySQL(users={"app": "secret"}, auth="caching_sha2_password") as server:
        (await enter(server, connect)).close()
        assert not server.sessions[0].key_asked
        assert (await refusal(enter(server, connect, password="")))[0] == 1045


@pytest.mark.parametrize("announces", ["caching_sha2_password", "mysql_native_password"])
async def test_a_password_not_seen_before_is_asked_for_under_tls(
    authority: Authority, announces: str
) -> None:
    options = {"auth": "caching_sha2_password", "announces": announces, "remembers": False}
    async with FakeMySQL(users={"app": "secret"}, tls=authority.good.server_context(), **options) as server:
        connection = await enter(server, ssl=authority.client_context())
        assert await ask(connection, "SELECT 1") == ((1,),)
        assert server.sessions[0].encrypted
        assert server.sessions[0].password_seen == b"secret"
        assert (await refusal(enter(server, password="guess", ssl=authority.client_context())))[0] == 1045


async def test_without_tls_a_client_asks_for_the_key_to_encrypt_its_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("asyncmy.auth._have_cryptography", False)
    async with FakeMySQL(auth="caching_sha2_password", remembers=False) as server:
        with pytest.raises(RuntimeError, match="cryptography"):
            await enter(server)
        assert server.sessions[0].key_asked
        assert server.sessions[0].password_seen is None


async def test_it_can_ask_for_a_password_in_clear() -> None:
    async with FakeMySQL(auth="mysql_clear_password", announces="mysql_native_password") as server:
        await enter(server)
        assert server.sessions[0].password_seen == b"secret"


async def test_tls_is_not_spoken_without_a_certificate(authority: Authority) -> None:
    async with FakeMySQL() as server:
        with pytest.raises((OperationalError, OSError)):
            await enter(server, ssl=authority.client_context())
        assert server.opened == 0


async def test_faults_and_last_words_go_through_tls(authority: Authority) -> None:
    async with FakeMySQL({"wares": WARES}, tls=authority.good.server_context()) as server:
        connection = await enter(server, ssl=authority.client_context())
        server.inject("row", Cut(after=5), times=1)
        assert (await refusal(ask(connection, "wares")))[0] == 2013
        server.inject("tls", Mute(), times=1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(enter(server, ssl=authority.client_context()), timeout=0.1)
        connection = await enter(server, ssl=authority.client_context())
        await server.sessions[-1].close(saying=ServerError(1927))
        assert (await refusal(connection.read_packet()))[0] in (1927, 2013)


async def test_tls_to_the_wrong_host_is_refused_by_the_client(authority: Authority) -> None:
    async with FakeMySQL(tls=authority.wrong_host.server_context()) as server:
        with pytest.raises((OperationalError, ssl.SSLError), match="mismatch"):
            await enter(server, ssl=authority.client_context())


@pytest.mark.parametrize("code", [1040, 1129, 1203])
async def test_it_refuses_newcomers_until_it_is_healed(code: int) -> None:
    async with FakeMySQL() as server:
        first = await enter(server)
        server.refuse(code)
        assert (await refusal(enter(server)))[0] == code
        assert await ask(first, "SELECT 1") == ((1,),)
        server.heal()
        await enter(server)
        assert (server.opened, server.open, len(server.attempts)) == (2, 2, 3)


async def test_a_mute_server_holds_the_connection_until_its_client_leaves() -> None:
    async with FakeMySQL() as server:
        server.inject("greeting", Mute(), connection=1)
        with socket.create_connection((server.host, server.port)) as client:
            await enter(server)
            client.setblocking(False)
            with pytest.raises(BlockingIOError):
                client.recv(1)
        assert (server.opened, len(server.sessions)) == (1, 2)


async def test_a_delayed_packet_comes_later() -> None:
    loop = asyncio.get_running_loop()
    async with FakeMySQL({"wares": WARES}) as server:
        connection = await enter(server)
        server.inject("row", Delay(0.1), times=1)
        asked = loop.time()
        assert await ask(connection, "wares") == (("a pipe",),)
        assert loop.time() - asked >= 0.1


@pytest.mark.parametrize("packet", ["greeting", "auth", "ok", "columns", "row", "eof"])
@pytest.mark.parametrize("how", ["fin", "rst"])
async def test_every_packet_can_be_cut_anywhere(packet: Any, how: Any) -> None:
    """One byte later each time, until the packet is shorter than that and the visit succeeds."""
    async with FakeMySQL({"wares": WARES}) as server:

        async def visit() -> bool:
            try:
                async with await enter(server, autocommit=None) as connection:
                    await ask(connection, "SET @x=1")
                    await ask(connection, "wares")
                    return await ask(connection, "SELECT 1") == ((1,),)
            except (MySQLError, IndexError):  # asyncmy's parser meets a greeting that is cut
                return False

        for after in count():
            server.inject(packet, Cut(after, how), times=1)
            if await visit():
                break
            server.heal()
        assert after > 10


async def test_an_error_can_take_the_place_of_a_row() -> None:
    async with FakeMySQL({"wares": WARES}) as server:
        connection = await enter(server)
        server.inject("row", ServerError(1205), times=1)
        assert (await refusal(ask(connection, "wares")))[0] == 1205
        assert await ask(connection, "wares") == (("a pipe",),)


async def test_an_idle_session_is_ended_with_last_words() -> None:
    async with FakeMySQL() as server:
        loop = asyncio.get_running_loop()
        await enter(server)
        with socket.create_connection((server.host, server.port)) as client:
            client.setblocking(False)
            await loop.sock_recv(client, 200)
            await server.sessions[1].close(saying=ServerError(4031))
            said = await loop.sock_recv(client, 200)
            assert b"disconnected by the server because of inactivity" in said
            assert await loop.sock_recv(client, 200) == b""
        await server.end_sessions("rst")
        await eventually(lambda: server.open == 0)


async def test_kill_query_interrupts_and_kill_ends() -> None:
    async with FakeMySQL() as server:
        first, second = await enter(server), await enter(server)
        for sql, code in (("KILL QUERY 1", 1317), ("KILL 1", 2013)):
            sleeping = asyncio.create_task(ask(first, "SELECT SLEEP(60)"), name="sleeping")
            await eventually(lambda: server.sessions[0].is_busy)
            await ask(second, sql)
            assert (await refusal(sleeping))[0] == code
        assert (await refusal(ask(second, "KILL 1")))[0] == 1094
        assert (await refusal(ask(second, "KILL 2")))[0] in (2006, 2013)


async def test_a_demoted_server_refuses_to_write() -> None:
    async with FakeMySQL({re.compile("INSERT"): Ok(1)}) as server:
        connection = await enter(server)
        await ask(connection, "INSERT INTO wares VALUES (1)")
        server.read_only = True
        code, message = await refusal(ask(connection, "INSERT INTO wares VALUES (1)"))
        assert code == 1290
        assert "running with the --read-only option" in message
        assert await ask(connection, "SELECT 1") == ((1,),)


async def test_it_listens_again_on_the_same_port() -> None:
    async with FakeMySQL() as server:
        connection, port = await enter(server), server.port
        await server.stop()
        assert (await refusal(enter(server)))[0] == 2003
        assert await ask(connection, "SELECT 1") == ((1,),)
        await server.crash()
        assert (await refusal(ask(connection, "SELECT 1")))[0] in (2006, 2013)
        await server.start()
        await enter(server)
        assert (server.port, server.open, server.opened, server.most) == (port, 1, 2, 1)


async def test_it_records_what_was_asked() -> None:
    async with FakeMySQL() as server:
        connection = await enter(server, autocommit=None)
        await ask(connection, "SELECT 1")
        await connection.ping()
        await connection.ensure_closed()
        await eventually(lambda: server.open == 0)
        session = server.sessions[0]
        assert (session.user, session.statements, session.state.database) == ("app", ["SELECT 1"], "shop")
        assert session.commands == {"query": 1, "ping": 1, "quit": 1}
        assert server.statements == ["SELECT 1"]


async def test_without_a_file_descriptor_left_it_accepts_later() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[socket.socket] = []
    async with FakeMySQL() as server:
        await enter(server)  # the loop has all the descriptors that it needs itself
        client = socket.socket()
        client.setblocking(False)
        highest = max(int(file.name) for file in Path("/proc/self/fd").iterdir())
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 3, hard))
        try:
            with pytest.raises(OSError, match="Too many open files"):
                while True:
                    taken.append(socket.socket())
            loop = asyncio.get_running_loop()
            await loop.sock_connect(client, (server.host, server.port))
            greeting = asyncio.create_task(loop.sock_recv(client, 200), name="greeting")
            done, _ = await asyncio.wait([greeting], timeout=0.05)
            assert not done
            taken.pop().close()
            assert b"mysql_native_password" in await greeting
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for sock in (*taken, client):
                sock.close()


async def test_a_reset_session_is_as_new_but_for_its_database() -> None:
    async with FakeMySQL() as server:
        connection = await enter(server, client_flag=TRACKS)
        await ask(connection, "BEGIN")
        await connection._execute_command(0x1F, "")
        await connection._read_ok_packet()
        state = server.sessions[0].state
        assert (state.in_transaction, state.autocommit, state.database) == (False, True, "shop")
        assert server.sessions[0].commands["reset_connection"] == 1


def test_it_runs_on_uvloop_too(authority: Authority) -> None:
    async def visit() -> None:
        async with FakeMySQL({"wares": WARES}, tls=authority.good.server_context()) as server:
            connection = await enter(server, ssl=authority.client_context())
            assert await ask(connection, "wares") == (("a pipe",),)
            await server.crash()
            assert (await refusal(ask(connection, "wares")))[0] in (2006, 2013)
            await server.start()
            await enter(server)

    uvloop.run(visit())


async def test_leaving_it_closes_and_ends_everything() -> None:
    tasks = asyncio.all_tasks()
    async with FakeMySQL() as server:
        server.inject("greeting", Mute(), connection=2)
        connection = await enter(server)
        sleeping = asyncio.create_task(ask(connection, "SELECT SLEEP(60)"), name="sleeping")
        mute = asyncio.create_task(enter(server), name="mute")
        await eventually(lambda: len(server.sessions) == 2 and server.sessions[0].is_busy)
    for ended in (sleeping, mute):
        await refusal(ended)
    assert asyncio.all_tasks() == tasks
