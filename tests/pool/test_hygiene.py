"""Nothing of a session reaches the next borrower, and sessions that were left as they were are not reset."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from asyncmy.errors import IntegrityError, MySQLError, ProgrammingError
from plugins.house import eventually
from plugins.mariadb import MariaDB
from plugins.pools import on_both_loops, pool_on

from penstock_pool import Connection, ConnectionPool

TRACES = """SELECT @x, @y, @@sql_mode, @@tx_isolation, @@autocommit, @@character_set_client, @@time_zone,
    CURRENT_ROLE(), IS_USED_LOCK('mine'), DATABASE(), @@in_transaction, @@sql_select_limit"""

FIRST = (
    "CREATE OR REPLACE TABLE wares (id INT PRIMARY KEY AUTO_INCREMENT, name TEXT)",
    "CREATE OR REPLACE PROCEDURE takes_a_lock() SELECT GET_LOCK('mine', 0)",
    "CREATE OR REPLACE PROCEDURE leaves_a_variable() SET @x = 1",
    "CREATE OR REPLACE FUNCTION locks() RETURNS INT RETURN GET_LOCK('mine', 0)",
    "CREATE OR REPLACE TRIGGER tells BEFORE INSERT ON wares FOR EACH ROW SET @x = 1",
    "CREATE OR REPLACE FUNCTION assigns() RETURNS INT RETURN (SELECT @x := 1)",
    "INSERT INTO wares VALUES (1, 'a pipe')",
)

DEEDS = {
    "a transaction that is left open": ["BEGIN", "INSERT INTO wares (name) VALUES ('lost')"],
    "a transaction that only reads": ["START TRANSACTION READ ONLY", "SELECT * FROM wares"],
    "a user variable": ["SET @x = 1"],
    "a user variable, by the way": ["SELECT @x := 1"],
    "a user variable, by a select into it": ["SELECT 1 INTO @x"],
    "sql_mode": ["SET sql_mode = 'ANSI_QUOTES'"],
    "isolation": ["SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE"],
    "isolation of the next transaction": ["SET TRANSACTION ISOLATION LEVEL SERIALIZABLE"],
    "autocommit": ["SET autocommit = 0"],
    "the character set": ["SET NAMES latin1"],
    "the time zone": ["SET time_zone = '+05:00'"],
    "a limit": ["SET sql_select_limit = 1"],
    "a role": ["SET ROLE clerk"],
    "no role": ["SET ROLE NONE"],
    "a named lock": ["SELECT GET_LOCK('mine', 0)"],
    "a named lock, called oddly": ["SELECT 1 + get_lock /* */ ('mine', 0)"],
    "a named lock, in a write": ["INSERT INTO wares (name) VALUES (GET_LOCK('mine', 0))"],
    "a named lock, by a procedure": ["CALL takes_a_lock()"],
    "a variable, by a procedure": ["CALL leaves_a_variable()"],
    "a named lock, by a stored function": ["SELECT locks()"],
    "a named lock, by a stored function called oddly": ["SELECT shop . `locks` /* a */ ()"],
    "a named lock, by a stored function in a write": ["INSERT INTO wares (name) VALUES (locks())"],
    "a named lock, by a stored function in an update": ["UPDATE wares SET name = locks() LIMIT 1"],
    "a variable, by a stored function": ["SELECT assigns()"],
    "a variable, by a trigger": ["INSERT INTO wares (name) VALUES ('a valve')"],
    "a variable, by a trigger of a statement that fails": ["INSERT INTO wares VALUES (1, 'again')"],
    "locked tables": ["LOCK TABLES wares WRITE"],
    "a temporary table": ["CREATE TEMPORARY TABLE wares (other INT)"],
    "another database": ["USE information_schema"],
    "a prepared statement": ["PREPARE mine FROM 'SELECT 1'"],
    "an open handler": ["HANDLER wares OPEN AS mine"],
    "all tables locked": ["FLUSH TABLES WITH READ LOCK"],
    "a backup lock": ["BACKUP LOCK wares"],
    "several at once": [
        "BEGIN",
        "SET @x = 1, @y = 2",
        "SELECT GET_LOCK('mine', 0)",
        "USE information_schema",
    ],
}


@pytest.fixture(scope="module")
def shop(mariadb: MariaDB) -> MariaDB:
    mariadb.admin("CREATE ROLE IF NOT EXISTS clerk; GRANT clerk TO app; GRANT RELOAD ON *.* TO app")
    mariadb.admin("USE shop; " + "; ".join(FIRST))
    return mariadb


@pytest.mark.parametrize("deed", DEEDS.values(), ids=DEEDS)
@on_both_loops
async def test_nothing_of_what_a_borrower_did_reaches_the_next(shop: MariaDB, deed: list[str]) -> None:
    async with pool_on(shop, min=1, max=1) as pool:
        before = await pool.fetchrow(TRACES)
        async with pool.connection() as connection:
            for statement in deed:
                with suppress(IntegrityError):
                    await connection.execute(statement)
        async with pool.connection() as connection:
            assert await connection.fetchrow(TRACES) == before
            await _finds_everything_as_it_was(connection)


async def _finds_everything_as_it_was(connection: Connection) -> None:
    await connection.execute("UPDATE wares SET name = 'ours' WHERE id = 1")
    assert await connection.fetchval("SELECT COUNT(*) FROM wares WHERE name = 'lost'") == 0
    for statement in ("EXECUTE mine", "HANDLER mine READ FIRST"):
        with pytest.raises(MySQLError):
            await connection.execute(statement)


CLEAN = (
    "SELECT id, COUNT(*), UPPER(name) FROM wares WHERE id IN (1, 2) GROUP BY id",
    "SELECT * FROM (SELECT 1 AS one) AS a JOIN wares AS b ON (a.one = b.id) /* get_lock */",
    "SELECT '; GET_LOCK(@x := 1)'",
    "WITH some AS (SELECT id FROM wares) SELECT COUNT(*) FROM some",
    "SHOW TABLES",
    "EXPLAIN SELECT * FROM wares",
    "INSERT INTO tools (name) VALUES ('a file'), ('a saw')",
    "INSERT INTO `shop`.`tools` (`name`) SELECT name FROM wares",
    "UPDATE tools SET name = CONCAT(name, '!') WHERE id = 1",
    "DELETE FROM tools WHERE id > 5",
    "REPLACE INTO tools VALUES (1, 'a plane')",
    "TRUNCATE TABLE tools",
)


async def test_statements_that_leave_nothing_cause_no_reset(shop: MariaDB, resets: list[int]) -> None:
    shop.admin("CREATE OR REPLACE TABLE shop.tools (id INT PRIMARY KEY AUTO_INCREMENT, name TEXT)")
    async with pool_on(shop, max=1) as pool:
        for statement in CLEAN:
            await pool.execute(statement)
            assert pool.stats().idle == 1, statement
        await pool.execute("INSERT INTO tools (name) VALUES (%s)", ("a drill",))
        await _own_transactions(pool)
        assert pool.stats().idle == 1
        assert not resets


async def _own_transactions(pool: ConnectionPool) -> None:
    async with pool.transaction() as connection:
        await connection.execute("INSERT INTO tools (name) VALUES ('kept')")
        with suppress(KeyError):
            async with connection.transaction():
                await connection.execute("INSERT INTO tools (name) VALUES ('undone')")
                raise KeyError
    with suppress(KeyError):
        async with pool.transaction():
            raise KeyError
    async with pool.connection() as connection, connection.transaction(isolation="serializable"):
        await connection.fetch("SELECT * FROM tools")
    async with pool.connection() as connection, connection.transaction(read_only=True):
        assert await connection.fetchval("SELECT COUNT(*) FROM tools WHERE name = 'undone'") == 0


async def test_an_isolation_is_of_its_transaction_alone(shop: MariaDB) -> None:
    levels = "SELECT trx_isolation_level FROM information_schema.innodb_trx WHERE trx_mysql_thread_id = {}"
    async with pool_on(shop, max=1) as pool, pool.connection() as connection:
        for isolation, level in (("serializable", "SERIALIZABLE"), (None, "REPEATABLE READ")):
            async with connection.transaction(isolation=isolation):
                await connection.fetch("SELECT * FROM wares FOR UPDATE")
                ask = levels.format(connection.session_id)

                async def told(ask: str = ask, level: str = level) -> bool:
                    await asyncio.sleep(0.11)  # InnoDB looks anew when nobody has asked for 0.1 s
                    return shop.admin(ask) == [[level]]

                await eventually(told)


@on_both_loops
async def test_without_a_database_of_its_own_a_session_that_chose_one_is_replaced(shop: MariaDB) -> None:
    async with pool_on(shop, max=1, server={"database": None}) as pool:
        await pool.execute("USE shop")
        assert await pool.fetchval("SELECT DATABASE()") is None


async def test_a_reset_session_is_what_the_server_asks_for_again(shop: MariaDB) -> None:
    told = {"sql_mode": "ANSI_QUOTES", "init": ("SET time_zone = '+01:00'",), "autocommit": False}
    ask = "SELECT @@sql_mode, @@time_zone, @@autocommit, @@collation_connection"
    async with pool_on(shop, max=1, server={**told, "charset": "utf8mb4"}) as pool:
        before = await pool.fetchrow(ask)
        await pool.execute("SET sql_mode = '', time_zone = SYSTEM, autocommit = 1, NAMES latin1")
        assert await pool.fetchrow(ask) == before
        assert pool.stats().opened == 1


async def test_prepared_statements_go_with_a_reset_and_are_made_anew(shop: MariaDB) -> None:
    async with pool_on(shop, max=1, server={"statement_cache": 10}) as pool:
        for number in range(3):
            assert await pool.fetchval("SELECT %s + 1", (number,)) == number + 1
            await pool.execute("SET @x = 1")
        assert pool.stats().opened == 1


@pytest.mark.parametrize("cache", [0, 10])
async def test_without_autocommit_what_was_not_committed_is_rolled_back(
    shop: MariaDB, cache: int, resets: list[int]
) -> None:
    name = "SELECT name FROM wares WHERE id = 1"
    async with pool_on(shop, max=1, server={"autocommit": False, "statement_cache": cache}) as pool:
        await pool.execute("UPDATE wares SET name = %s WHERE id = 1", ("lost",))
        assert await pool.fetchval(name) != "lost"
        async with pool.transaction() as connection:
            await connection.execute("UPDATE wares SET name = 'kept' WHERE id = 1")
        async with pool.connection() as connection:
            await connection.execute("UPDATE wares SET name = %s WHERE id = 1", ("kept",))
            await connection.execute("COMMIT")
        assert pool.stats().idle == 1
        assert await pool.fetchval(name) == "kept"
        assert not resets


async def test_a_quote_that_is_injected_adds_no_statement(shop: MariaDB) -> None:
    two = "SELECT 1; CREATE TABLE injected (id INT)"
    async with pool_on(shop, max=1) as pool:
        with pytest.raises(ProgrammingError):
            await pool.execute(two)
        assert await pool.fetch("SHOW TABLES LIKE 'injected'") == ()
    async with pool_on(shop, max=1, server={"multi_statements": True}) as pool:
        await pool.execute(two)
        await pool.execute("DROP TABLE injected")
