"""What a statement may leave behind in its session, told from its text; and its digest."""

from __future__ import annotations

import pytest

from penstock_pool import statements
from penstock_pool.statements import Effect, digest, effect_of, normalized

READS = [
    "SELECT 1",
    "select 1",
    "  \n\tSELECT 1",
    "(SELECT 1) UNION (SELECT 2)",
    "((SELECT 1))",
    "/* who asks */ SELECT 1",
    "/* one */ /* two */ SELECT 1",
    "-- who asks\nSELECT 1",
    "# who asks\nSELECT 1",
    "SELECT COUNT(*), MAX(price) FROM wares WHERE name LIKE CONCAT('%', %s)",
    "SELECT name FROM wäre WHERE größe = 'ü'",
    "SHOW STATUS LIKE 'Threads%'",
    "EXPLAIN SELECT 1",
    "SELECT mail FROM people WHERE mail = 'a@b.example'",
]
WRITES = [
    "INSERT INTO people VALUES (1, 'a@b.example')",
    "UPDATE wares SET price = 1",
    "DELETE FROM wares",
    "REPLACE INTO wares VALUES (1)",
]
TRANSACTIONS = ["BEGIN", "START TRANSACTION READ ONLY", "ROLLBACK", "SAVEPOINT a", "RELEASE SAVEPOINT a"]
COMMITS = ["COMMIT", "commit", " /* now */ COMMIT"]
CHANGES = [
    "SET @x = 1",
    "SET SESSION sql_mode = ''",
    "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
    "USE other",
    "LOCK TABLES wares WRITE",
    "HANDLER wares OPEN",
    "FLUSH TABLES WITH READ LOCK",
    "PREPARE s FROM 'SELECT 1'",
    "CALL does_anything()",
    "DO GET_LOCK('x', 1)",
    "XA START 'a'",
    "SELECT GET_LOCK('x', 1)",
    "SELECT get_lock ('x', 1)",
    "SELECT GET_LOCK/**/('x', 1)",
    "SELECT @x := 1",
    "SELECT @x:=1",
    "SELECT 1 INTO @x",
    "SELECT 1 INTO  \n @x",
    "SELECT 1 INTO@x",
    "SELECT 1 INTO/**/@x",
    "SELECT 1 INTO -- there\n @x",
    "SELECT 1; SET @x = 1",
    "/*!50000 SET @x = 1 */",
    "/*M! SET @x = 1 */",
    "SELECT /*!50000 GET_LOCK('x', 1), */ 1",
    "SELECT 'a\\'#', GET_LOCK('x', 1)",
    "SELECT 'a\\'-- ', does_anything()",
    "SELECT 'a\\'/*', @x := 1",
    "SELECT 'a\\'\"' INTO @x -- \"",
    "SELECT 1 INTO OUTFILE '/tmp/a'",
    "SELECT 1 INTO DUMPFILE '/tmp/a'",
    "SELECT does_anything()",
    "SELECT `does_anything`()",
    "SELECT shop.does_anything(1)",
    "INSERT INTO wares SELECT GET_LOCK('x', 1)",
    "--\nCALL\nselect_anything()",
    "-- \nCALL selects()",
    "selects",
    "",
    ";",
    "\ufeffSELECT 1",
    "SЕT @x = 1",  # a Cyrillic letter
]


@pytest.mark.parametrize(
    ("sql", "effect"),
    [
        *((sql, Effect.READ) for sql in READS),
        *((sql, Effect.WRITE) for sql in WRITES),
        *((sql, Effect.TRANSACTION) for sql in TRANSACTIONS),
        *((sql, Effect.COMMIT) for sql in COMMITS),
        *((sql, Effect.SESSION) for sql in CHANGES),
    ],
)
def test_what_is_not_known_to_leave_the_session_as_it_was_is_a_change(sql: str, effect: Effect) -> None:
    assert effect_of(sql) is effect
    assert effect_of(sql) is effect, "remembered"


@pytest.mark.parametrize(
    "sql",
    [
        "/**/" * 50_000 + "1",
        "/* " * 50_000,
        "(" * 100_000 + "1",
        "-- a\n" * 20_000 + "1",
        "SELECT " + "'" * 50_001,
        "SELECT " + "(1," * 50_000,
        "SELECT " + "f(" * 20_000,
        "INSERT INTO a VALUES " + ", ".join(["(1, 'x')"] * 20_000),
        "INSERT INTO b VALUES (0x" + "A" * 16_000 + ")",
        "INSERT INTO c VALUES ('\\'" + "A" * 1_000_000 + "')",
        "SELECT '" + "\\'" * 100_000 + "'",
        "SELECT 1" + " " * 500_000 + "x",
    ],
    ids=lambda sql: sql[:12],
)
def test_no_text_takes_long(sql: str) -> None:
    """With an exponent in a pattern this would not end at all."""
    effect_of(sql)
    digest(sql)


def test_long_texts_are_not_kept() -> None:
    """The statements that `executemany` makes are long, and never the same."""
    for number in range(3):
        effect_of(f"INSERT INTO wares VALUES ({number}, '{'a' * 100_000}')")
    assert max(map(len, statements._effects)) < 100_000


@pytest.mark.parametrize(
    ("sql", "shown"),
    [
        ("SELECT * FROM a WHERE b = 'secret' AND c = 7", "SELECT * FROM a WHERE b = ? AND c = ?"),
        ("SELECT 'it''s', \"a\\\"b\", 'a\\'b'", "SELECT ?, ?, ?"),
        ("SELECT  1.5e-7,\n\t0xFF", "SELECT ?, ?"),
        ("SELECT a1 FROM t2", "SELECT a1 FROM t2"),
        ("SELECT 1 FROM a WHERE b IN (1, 2, 3)", "SELECT ? FROM a WHERE b IN (...)"),
        ("INSERT INTO a VALUES (1, 'x'), (2, 'y')", "INSERT INTO a VALUES (...)"),
        ("SELECT 'never ended", "SELECT ?"),
        ("SELECT 'never ended, \\", "SELECT ?"),
    ],
)
def test_a_digest_shows_no_values(sql: str, shown: str) -> None:
    assert normalized(sql) == shown


def test_statements_that_differ_in_values_alone_have_one_digest() -> None:
    assert digest("SELECT 1 FROM a WHERE b IN (1, 2)") == digest("select 'x'  FROM a WHERE b IN (3, 4, 5)")
    assert digest("SELECT 1 FROM a") != digest("SELECT 1 FROM b")
    assert len(digest("SELECT 1")) == 16
    assert len(normalized("SELECT " + "a, " * 10_000)) == 1000


@pytest.mark.parametrize("row", ["(1, 'a pipe')", "('it''s', 2, 3.5)", f"('{'a' * 20_000}', 1)"], ids=len)
def test_a_long_statement_is_looked_at_up_to_a_length_and_shown_as_a_short_one(row: str) -> None:
    for shift in range(40):
        begins = f"INSERT INTO {'w' * shift}ares (id, name) VALUES "
        text = begins + ", ".join([row] * (1 + 32_000 // len(row))) + " ON DUPLICATE KEY UPDATE id = 1"
        assert normalized(text) == begins + "(...)"
        assert digest(text) == digest(begins + "(1, 2)")


def test_nothing_of_a_value_is_shown_wherever_the_look_ends() -> None:
    for before in range(statements._LONGEST - 12, statements._LONGEST + 2):
        sql = "SELECT".ljust(before) + "'\\'\\\\secret', 'secret'"
        assert "secret" not in normalized(sql)
