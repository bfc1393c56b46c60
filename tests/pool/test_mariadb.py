"""The MariaDB that tests and benchmarks run against does what is asked of it."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable

import asyncmy
import pytest
from asyncmy.errors import OperationalError
from plugins.authority import Authority
from plugins.house import eventually
from plugins.mariadb import MariaDB

Own = Callable[..., MariaDB]


async def ask(connection: asyncmy.Connection, statement: str) -> object:
    async with connection.cursor() as cursor:
        await cursor.execute(statement)
        return await cursor.fetchone()


async def test_app_may_do_everything_in_shop(mariadb: MariaDB) -> None:
    async with asyncmy.connect(**mariadb.address) as connection:
        await ask(connection, "CREATE OR REPLACE TABLE wares (name TEXT)")
        await ask(connection, "INSERT INTO wares VALUES ('a pipe')")
        assert await ask(connection, "SELECT name FROM wares") == ("a pipe",)
        await ask(connection, "DROP TABLE wares")


async def test_root_sees_and_ends_connections(mariadb: MariaDB) -> None:
    async with asyncmy.connect(**mariadb.address) as connection:
        (told,) = await ask(connection, "SELECT CONNECTION_ID()")
        assert told in mariadb.connections()
        mariadb.kill(told)
        with pytest.raises(OperationalError):
            await ask(connection, "SELECT 1")
        await eventually(lambda: told not in mariadb.connections())


async def test_tls_is_spoken_to_those_who_ask_for_it(mariadb: MariaDB, authority: Authority) -> None:
    context = authority.client_context()
    async with asyncmy.connect(**mariadb.address, ssl=context) as connection:
        _, cipher = await ask(connection, "SHOW STATUS LIKE 'Ssl_cipher'")
        assert cipher


@pytest.mark.parametrize(
    ("name", "reason"),
    [("expired", "expired"), ("wrong_host", "mismatch"), ("unknown", "self-signed")],
)
async def test_a_bad_certificate_is_refused(name: str, reason: str, authority: Authority) -> None:
    """By openssl itself: what is shown is what it is meant to be."""
    server = await asyncio.start_server(
        lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=getattr(authority, name).server_context()
    )
    async with server:
        with pytest.raises(ssl.SSLCertVerificationError, match=reason):
            await asyncio.open_connection(*server.sockets[0].getsockname(), ssl=authority.client_context())


async def test_a_server_comes_back_with_its_port_and_data(own_mariadb: Own) -> None:
    db = own_mariadb(wait_timeout=123)
    port = db.port
    db.admin("CREATE TABLE shop.wares (name TEXT); INSERT INTO shop.wares VALUES ('a pipe')")
    for end in (db.stop, db.crash):
        end()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        db.start()
        assert db.port == port
        assert db.admin("SELECT name, @@global.wait_timeout FROM shop.wares") == [["a pipe", "123"]]


async def test_a_frozen_server_answers_once_it_is_thawed(own_mariadb: Own) -> None:
    db = own_mariadb()
    async with asyncmy.connect(**db.address) as connection:
        db.freeze()
        question = asyncio.create_task(ask(connection, "SELECT 1"), name="question")
        done, _ = await asyncio.wait([question], timeout=0.2)
        assert not done
        db.thaw()
        assert await question == (1,)
