"""What goes wrong on the first day with a pool is told: what, where, what to do, and no more."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from plugins.mariadb import MariaDB
from plugins.pools import pool_on

from penstock_pool import ConnectionPool, PoolSettings, Server
from penstock_pool.errors import AccessRefused, DatabaseDown, InvalidSettings, Misuse, PoolClosed

URL = "mysql://app:secret@127.0.0.1/shop"


async def refusal(db: MariaDB, **server: Any) -> str:
    """What is said by a pool that finds out at its opening that it will not be let in."""
    pool = pool_on(db, server=server, name="shop")
    with pytest.raises(DatabaseDown) as caught:
        await pool.open(wait=5)
    assert isinstance(caught.value.__cause__, AccessRefused)
    said = str(caught.value)
    assert said.startswith("pool shop: cannot connect: ")
    return said


async def test_a_wrong_password_or_database_is_told_as_the_server_tells_it(mariadb: MariaDB) -> None:
    for wrong in ({"password": "wrong"}, {"database": "shoe"}):
        said = await refusal(mariadb, **wrong)
        assert f"127.0.0.1:{mariadb.port}" in said
        assert "Access denied" in said
        assert "down" not in said


@pytest.mark.parametrize(
    ("server", "says"),
    [
        ({"sql_mode": "SLOPPY"}, "SET NAMES utf8mb4, autocommit=?, sql_mode=?"),
        ({"init": ("SET time_zone = 'Mars'",)}, "SET time_zone = ?"),
    ],
)
async def test_a_setting_that_the_server_does_not_know_is_told(
    mariadb: MariaDB, server: dict[str, Any], says: str
) -> None:
    assert f"the server refuses what the settings ask for, {says}" in await refusal(mariadb, **server)


async def test_a_password_whose_callable_was_cancelled_is_told(mariadb: MariaDB) -> None:
    async def cancelled() -> str:
        raise asyncio.CancelledError

    with pytest.raises(DatabaseDown, match="cancelled from within"):
        await pool_on(mariadb, server={"password": cancelled}).open(wait=0.2)


async def test_a_password_that_is_none_is_told(mariadb: MariaDB) -> None:
    said = await refusal(mariadb, password=lambda: None)
    assert f"no password for app at 127.0.0.1:{mariadb.port}" in said
    assert "NoneType, not text" in said


@pytest.mark.parametrize("server", [None, 3306, {"host": "db"}, b"mysql://app:secret@db/shop"])
def test_no_server_at_all_is_told(server: Any) -> None:
    with pytest.raises(InvalidSettings, match=r"^url .*mysql://user:password@host:port/database"):
        ConnectionPool(server)


@pytest.mark.parametrize("settings", [{"max": 5}, Server(user="app"), "max=5"])
def test_settings_that_are_none_are_told(settings: Any) -> None:
    with pytest.raises(InvalidSettings, match=r"^settings is .*allowed is: PoolSettings"):
        ConnectionPool(URL, settings)


def test_replicas_are_pools() -> None:
    replicas: Any = [URL]
    with pytest.raises(InvalidSettings, match=r"^replicas has .*str.*a ConnectionPool for each") as caught:
        ConnectionPool(URL, replicas=replicas)
    assert "secret" not in str(caught.value)


def test_a_character_set_that_is_none_is_told_before_anything_is_opened() -> None:
    with pytest.raises(InvalidSettings, match=r"^charset is 'klingon'"):
        ConnectionPool(f"{URL}?charset=klingon")


@pytest.mark.parametrize(
    ("sql", "arguments"),
    [
        ("SELECT %s, %s", (1,)),
        ("SELECT %s", 1),
        ("SELECT ?", (1,)),
        ("SELECT '5 %' , %s", (1,)),
        ("SELECT %(id)s", {"name": 1}),
    ],
)
async def test_arguments_that_do_not_fit_are_told_with_their_statement(
    mariadb: MariaDB, sql: str, arguments: Any
) -> None:
    async with pool_on(mariadb, max=1) as pool:
        with pytest.raises((TypeError, ValueError, KeyError)) as caught:
            await pool.fetchval(sql, arguments)
        (note,) = caught.value.__notes__
        assert repr(sql) in note
        assert "each %s takes one of a tuple" in note
        assert await pool.fetchval("SELECT %s", (1,)) == 1


async def test_a_pool_that_was_closed_says_what_to_do(mariadb: MariaDB) -> None:
    async with pool_on(mariadb, name="shop") as pool:
        pass
    with pytest.raises(PoolClosed, match=r"^pool shop: it is closed: make another one$"):
        await pool.fetchval("SELECT 1")


def test_a_pool_that_outlived_its_event_loop_says_so_and_logs_nothing(mariadb: MariaDB) -> None:
    """Also with a connection that lies ready: it leads nowhere."""
    pool = pool_on(mariadb, min=1, ping_after=60.0)
    with asyncio.Runner() as first:
        first.run(_opened(pool))
        with asyncio.Runner() as second:
            for attempt in (pool.fetchval("SELECT 1"), pool.close()):
                with pytest.raises(Misuse, match="another event loop"):
                    second.run(attempt)
        assert first.run(pool.fetchval("SELECT 1")) == 1
        first.run(pool.close())


def test_a_pool_shows_where_it_leads_and_how_it_is_and_not_its_password() -> None:
    pool = ConnectionPool(URL, PoolSettings(name="shop", min=0, max=5))
    assert repr(pool) == (
        "<ConnectionPool 'shop' at 127.0.0.1:3306: "
        "total 0, idle 0, busy 0, connecting 0, waiting 0, at most 5>"
    )


async def _opened(pool: ConnectionPool) -> None:
    await pool.open(wait=5)
