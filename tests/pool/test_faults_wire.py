"""What a network, or a server that misbehaves, can do to the conversation itself."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack, suppress
from typing import Any

import pytest
from asyncmy.errors import MySQLError
from plugins.authority import Authority
from plugins.house import eventually
from plugins.mariadb import MariaDB
from plugins.pools import errors_are_expected, on_both_loops, pool_on

from penstock_pool import ConnectionPool, PoolSettings, Server
from penstock_pool.errors import (
    AccessRefused,
    CheckoutTimeout,
    ConnectionLost,
    DatabaseDown,
    PoolError,
    PoolUnavailable,
    ServerFull,
    Unreachable,
)
from penstock_pool.testing import (
    MARIADB,
    MYSQL,
    Cut,
    Delay,
    FakeMySQL,
    FaultProxy,
    Mute,
    Rows,
    ServerError,
)

ASK = "SELECT name FROM wares"
ANSWER = (("a pipe",), ("a valve",))


def fake(**options: Any) -> FakeMySQL:
    return FakeMySQL({ASK: Rows(["name"], ANSWER)}, **options)


def pool_at(server: FakeMySQL | FaultProxy, *, tls: Any = None, **settings: Any) -> ConnectionPool:
    where = Server(server.host, server.port, user="app", password="penstock", tls=tls)
    return ConnectionPool(where, PoolSettings(**{"min": 0, "max": 2, "checkout_timeout": 5, **settings}))


async def served(pool: ConnectionPool) -> bool:
    with suppress(PoolUnavailable, ConnectionLost):
        return await pool.fetch(ASK) == ANSWER
    return False


async def cut_everywhere(
    port: int, opened: Callable[[FaultProxy, str], ConnectionPool], direction: Any, how: Any, step: int = 1
) -> None:
    """A first question whose conversation is cut after so many bytes; all are answered in the end."""
    question = "SELECT 'a pipe' UNION SELECT 'a valve'"
    at_once = asyncio.Semaphore(20)

    async def visit(after: int | None) -> int:
        async with at_once, FaultProxy("127.0.0.1", port) as proxy, opened(proxy, f"cut-{after}") as pool:
            if after is not None:
                proxy.cut(after, direction=direction, how=how, times=1)
            assert await eventually(lambda: _asked(pool, question)) == ANSWER
            passed = proxy.passed[direction]
            await eventually(lambda: pool.stats().idle == 1)
            return passed

    total = await visit(None)
    await asyncio.gather(*(visit(after) for after in range(0, total, step)))


async def _asked(pool: ConnectionPool, question: str) -> object:
    with suppress(PoolUnavailable, ConnectionLost):
        return await pool.fetch(question)
    return None


@pytest.mark.parametrize(("direction", "how"), [("down", "fin"), ("down", "rst"), ("up", "rst")])
@on_both_loops
async def test_a_conversation_may_be_cut_at_every_byte(mariadb: MariaDB, direction: Any, how: Any) -> None:
    """Of greeting, authentication, OK, columns, rows and end; of what is sent."""

    def opened(proxy: FaultProxy, name: str) -> ConnectionPool:
        return pool_on(mariadb, min=0, max=1, name=name, server={"port": proxy.port})

    await cut_everywhere(mariadb.port, opened, direction, how)


@pytest.mark.parametrize("direction", ["down", "up"])
@on_both_loops
async def test_a_conversation_over_tls_may_be_cut_anywhere(
    mariadb: MariaDB, authority: Authority, direction: Any
) -> None:
    tls = authority.client_context()

    def opened(proxy: FaultProxy, name: str) -> ConnectionPool:
        return pool_on(mariadb, min=0, max=1, name=name, server={"port": proxy.port, "tls": tls})

    await cut_everywhere(mariadb.port, opened, direction, "fin", step=29)


async def test_a_conversation_with_a_server_of_old_may_be_cut_anywhere() -> None:
    """One whose columns and rows end with EOF packets."""
    question = "SELECT 'a pipe' UNION SELECT 'a valve'"
    async with FakeMySQL({question: Rows(["name"], ANSWER)}, deprecates_eof=False) as server:
        await cut_everywhere(
            server.port, lambda proxy, name: pool_at(proxy, max=1, name=name), "down", "fin", step=3
        )


@pytest.mark.parametrize("packet", ["columns", "row", "eof", "ok"])
@on_both_loops
async def test_an_answer_that_breaks_off_is_told_and_its_connection_replaced(packet: Any) -> None:
    async with fake() as server, pool_at(server, max=1) as pool:
        async with pool.connection() as connection:
            await connection.execute("SET @x = 1")
            server.inject(packet, Cut(after=3), times=1)
            with pytest.raises(ConnectionLost):
                await connection.fetch(ASK) if packet != "ok" else await connection.execute("BEGIN")
        assert await pool.fetch(ASK) == ANSWER
        assert len(server.attempts) == 2
        assert server.open == pool.stats().total == 1


@pytest.mark.parametrize("packet", ["greeting", "tls", "auth", "ok"])
@on_both_loops
async def test_a_server_that_accepts_and_stays_mute_costs_no_more_than_the_connect_time(
    authority: Authority, packet: Any
) -> None:
    """Before its greeting, in the TLS handshake, before it lets in, and when the session is made ready."""
    tls = authority.good.server_context()
    async with (
        fake(tls=tls) as server,
        pool_at(server, tls=authority.client_context(), connect_timeout=0.5) as pool,
    ):
        server.inject(packet, Mute())
        with pytest.raises(DatabaseDown, match="no answer within") as told:
            await pool.fetch(ASK)
        assert isinstance(told.value.__cause__, Unreachable)
        server.heal()
        await eventually(lambda: served(pool))
        await eventually(lambda: server.open == pool.stats().total)


@on_both_loops
async def test_a_system_that_answers_no_connect_costs_no_more_than_the_connect_time() -> None:
    """Nobody accepts, and what the system keeps for who would is full: the SYN stays unanswered."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as nobody, ExitStack() as kept:
        where = Server("127.0.0.1", nobody.getsockname()[1], user="app", tls=False)
        for _ in range(3):
            sock = kept.enter_context(socket.socket())
            sock.setblocking(False)
            with suppress(BlockingIOError):
                sock.connect((where.host, where.port))
        async with ConnectionPool(where, PoolSettings(min=0, max=2, connect_timeout=0.3)) as pool:
            async with asyncio.timeout(10):
                with pytest.raises(DatabaseDown, match="no answer within"):
                    await pool.fetch(ASK)
            assert pool.stats().connecting == pool.stats().total == 0
        kept.close()


@on_both_loops
async def test_a_greeting_that_comes_late_is_waited_for() -> None:
    async with fake() as server, pool_at(server, connect_timeout=30) as pool:
        for packet in ("greeting", "auth", "ok"):
            server.inject(packet, Delay(0.1), times=1)  # type: ignore[arg-type]
        assert await pool.fetch(ASK) == ANSWER
        assert (pool.stats().opened, pool.stats().failed, len(server.attempts)) == (1, 0, 1)


@on_both_loops
async def test_a_slow_greeting_keeps_nobody_waiting_who_can_have_another_connection() -> None:
    async with fake() as server, pool_at(server, min=1, connect_timeout=30) as pool:
        assert await pool.fetch(ASK) == ANSWER
        server.inject("greeting", Delay(20))
        async with pool.connection():
            waiting = asyncio.ensure_future(pool.fetch(ASK))
            await eventually(lambda: pool.stats().connecting == 1)
        assert await waiting == ANSWER


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (1040, ServerFull),
        (1203, ServerFull),
        (1226, ServerFull),
        (1129, AccessRefused),
        (1045, AccessRefused),
    ],
)
@on_both_loops
async def test_who_is_refused_is_told_why_and_comes_back_later(code: int, kind: type[Exception]) -> None:
    async with fake() as server, pool_at(server) as pool:
        server.refuse(code)
        with pytest.raises(DatabaseDown, match=str(code)) as told:
            await pool.fetch(ASK)
        assert type(told.value.__cause__) is kind
        attempts = len(server.attempts)
        ends = await asyncio.gather(*(pool.fetch(ASK) for _ in range(20)), return_exceptions=True)
        assert {type(end) for end in ends} == {DatabaseDown}
        assert len(server.attempts) <= attempts + 1
        server.heal()
        await eventually(lambda: served(pool))


@pytest.mark.parametrize("code", [1040, 1203, 1226])
@on_both_loops
async def test_a_server_that_is_full_clamps_the_pool_to_what_it_has(code: int) -> None:
    async with fake() as server, pool_at(server, min=2, max=2, full_retry=0.2) as pool:
        await eventually(lambda: pool.stats().idle == 2)
        server.refuse(code)
        pool.resize(4, 4)
        await eventually(lambda: pool.stats().ceiling == 2 and not pool.stats().connecting)
        assert await asyncio.gather(*(pool.fetch(ASK) for _ in range(9))) == [ANSWER] * 9
        assert pool.stats().down is None
        server.heal()
        await eventually(lambda: pool.stats().ceiling == 4 and pool.stats().idle == 4)


@pytest.mark.parametrize("code", [1927, 4031])
@on_both_loops
async def test_parting_words_to_an_idle_connection_are_understood(code: int) -> None:
    async with fake() as server, pool_at(server, min=2, max=2, ping_after=60, heartbeat=60) as pool:
        await eventually(lambda: pool.stats().idle == 2)
        await server.end_sessions(saying=ServerError(code))
        for _ in range(3):
            async with pool.transaction() as connection:
                assert await connection.fetch(ASK) == ANSWER
        assert pool.stats().lost


@pytest.mark.parametrize("version", [MARIADB, MYSQL])
@on_both_loops
async def test_what_ends_a_session_of_mysql_is_an_answer_like_any_other_of_mariadb(version: str) -> None:
    async with fake(version=version) as server, pool_at(server) as pool, pool.connection() as connection:
        server.answers["INSERT"] = ServerError(4031)
        with pytest.raises(ConnectionLost if version == MYSQL else MySQLError, match="4031"):
            await connection.execute("INSERT")
        assert connection.usable == (version == MARIADB)


@pytest.mark.parametrize("code", [1290, 1792, 1836])
@on_both_loops
async def test_a_server_that_only_reads_now_has_all_older_connections_replaced_once(code: int) -> None:
    passed = 0.0
    async with fake() as server, AsyncExitStack() as held:
        where = Server(server.host, server.port, user="app")
        chosen = PoolSettings(min=3, max=4, ping_after=60, heartbeat=60)
        pool = ConnectionPool(where, chosen, clock=lambda: time.monotonic() + passed)
        await held.enter_async_context(pool)
        await eventually(lambda: pool.stats().idle == 3)
        server.answers["INSERT"] = ServerError(code)
        passed = 60.0
        await fails_on_the_newest(pool)
        await eventually(lambda: pool.stats().idle == 3)
        assert pool.stats().opened == 6
        await fails_on_the_newest(pool)  # which is new: there is no better one yet
        await eventually(lambda: pool.stats().idle == 3)
        assert pool.stats().opened == 7


async def fails_on_the_newest(pool: ConnectionPool) -> None:
    """On the others, which are borrowed too, nothing happens."""
    async with AsyncExitStack() as held:
        three = [await held.enter_async_context(pool.connection()) for _ in range(3)]
        newest = max(three, key=lambda one: one._held().opened_at)
        with pytest.raises(MySQLError):
            await newest.execute("INSERT")


async def test_a_write_where_nobody_was_to_write_costs_no_connection(mariadb: MariaDB) -> None:
    mariadb.admin("CREATE OR REPLACE TABLE shop.never (id INT) ENGINE=InnoDB")
    await _refused(mariadb, {"read_only": True})
    await _refused(mariadb, {})


async def _refused(mariadb: MariaDB, server: dict[str, Any]) -> None:
    async with pool_on(mariadb, server=server, min=1, max=1) as pool:
        session = await pool.fetchval("SELECT CONNECTION_ID()")
        async with pool.connection() as connection, connection.transaction(read_only=True):
            with pytest.raises(MySQLError, match="1792"):
                await connection.execute("INSERT INTO never VALUES (1)")
        assert await pool.fetchval("SELECT CONNECTION_ID()") == session


@pytest.mark.parametrize("how", ["fin", "rst"])
@on_both_loops
async def test_idle_connections_that_end_are_replaced_unseen(how: Any) -> None:
    async with fake() as server, pool_at(server, min=2, max=2, ping_after=60, heartbeat=60) as pool:
        await eventually(lambda: pool.stats().idle == 2)
        await server.end_sessions(how)
        assert await asyncio.gather(*(pool.fetch(ASK) for _ in range(10))) == [ANSWER] * 10


@on_both_loops
async def test_idle_connections_that_were_dropped_in_silence_cost_a_ping() -> None:
    quick = {"ping_after": 0.001, "ping_timeout": 0.2}
    async with (
        fake() as server,
        FaultProxy(server.host, server.port) as proxy,
        pool_at(proxy, min=2, max=4, **quick) as pool,
    ):
        await eventually(lambda: pool.stats().idle == 2)
        proxy.drop()
        await eventually(lambda: pool._clock() - pool._idle[0].since > 0.01)
        assert await asyncio.gather(*(pool.fetch(ASK) for _ in range(10))) == [ANSWER] * 10


@pytest.mark.parametrize("ends", ["the hold limit", "its own time", "the close"])
@on_both_loops
async def test_a_statement_whose_connection_was_dropped_in_silence_ends(ends: str) -> None:
    """Our side's system learns nothing of it; so somebody's patience has to end."""
    limit = 0.5 if ends == "the hold limit" else None
    async with (
        fake() as server,
        FaultProxy(server.host, server.port) as proxy,
        pool_at(proxy, max=1, hold_limit=limit, kill_timeout=0.3, connect_timeout=0.5) as pool,
    ):
        async with asyncio.timeout(10), pool.connection() as connection:
            await connection.fetch(ASK)
            proxy.drop()
            asking = asyncio.ensure_future(connection.fetch(ASK))
            if ends == "its own time":
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(asking, 0.2)
            else:
                if ends == "the close":
                    await asyncio.sleep(0)
                    await pool.close(grace=0.1)
                with pytest.raises(PoolError, match=r"held for|was closed"), errors_are_expected():
                    await asking
        if ends != "the close":
            assert await eventually(lambda: served(pool))
            await eventually(lambda: server.open == pool.stats().total + 1)  # that of the proxy


@on_both_loops
async def test_a_network_that_stops_for_a_moment_loses_nothing() -> None:
    async with (
        fake() as server,
        FaultProxy(server.host, server.port) as proxy,
        pool_at(proxy, min=2) as pool,
    ):
        await eventually(lambda: pool.stats().idle == 2)
        proxy.freeze()
        waiting = [asyncio.ensure_future(pool.fetch(ASK)) for _ in range(4)]
        await eventually(lambda: pool.stats().waiting == 2)
        proxy.thaw()
        assert await asyncio.gather(*waiting) == [ANSWER] * 4
        assert pool.stats().lost == 0


@on_both_loops
async def test_a_checkout_that_is_too_late_names_the_last_failed_connect() -> None:
    async with fake() as server, pool_at(server, checkout_timeout=0.3) as pool, pool.connection():
        server.refuse(1045)
        with pytest.raises(CheckoutTimeout) as told:
            await asyncio.ensure_future(pool.fetch(ASK))
        assert isinstance(told.value.__cause__, AccessRefused)


# -- passwords


@pytest.mark.parametrize("remembers", [True, False])
@on_both_loops
async def test_caching_sha2_password_is_shown_over_tls(authority: Authority, remembers: bool) -> None:
    users, tls = {"app": "penstock"}, authority.good.server_context()
    async with (
        fake(users=users, auth="caching_sha2_password", remembers=remembers, tls=tls) as server,
        pool_at(server, tls=authority.client_context()) as pool,
    ):
        assert await pool.fetch(ASK) == ANSWER


@pytest.mark.parametrize(
    ("auth", "reason"),
    [("mysql_clear_password", "plain text"), ("caching_sha2_password", "wants the password")],
)
@on_both_loops
async def test_a_password_is_not_shown_in_plain_text(
    auth: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyncmy.auth._have_cryptography", False)  # with it, it would be encrypted
    async with fake(users={"app": "penstock"}, auth=auth, remembers=False) as server:
        with pytest.raises(DatabaseDown, match=reason) as told:
            await pool_at(server, min=1).open(wait=5)
        assert isinstance(told.value.__cause__, AccessRefused)


@on_both_loops
async def test_a_peer_that_is_gone_in_silence_is_noticed_by_the_system_within_half_a_minute(
    mariadb: MariaDB,
) -> None:
    """What the system promises is set on the socket; it is the system that keeps it."""
    async with pool_on(mariadb) as pool, pool.connection() as connection:
        sock = connection._session.raw._transport.get_extra_info("socket")  # type: ignore[union-attr]
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 25_000
        idle, interval, count = (
            sock.getsockopt(socket.IPPROTO_TCP, option)
            for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        )
        assert idle + interval * count <= 30
