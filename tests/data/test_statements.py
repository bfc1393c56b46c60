"""Which statements are sent: one, that leaves the session alone, and with a token for reading one that reads;
whatever is tried with quotes, comments and numbers."""

from __future__ import annotations

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from penstock_data import statements
from penstock_data.errors import NotAllowed
from penstock_data.statements import LONGEST, check, placeholders


def refused(sql: str, *, reads_only: bool = False) -> str:
    with pytest.raises(NotAllowed) as raised:
        check(sql, reads_only=reads_only)
    assert raised.value.status == 400
    return raised.value.detail


READS = [
    "SELECT 1",
    "select id, name from wares where id = ?",
    "  \t\r\n\f\v SELECT 1",
    "SELECT 1;",
    "SELECT 1 ; -- the end",
    "SELECT 1; /* the end */ # really\n  ",
    "((SELECT 1) UNION (SELECT 2)) ORDER BY 1",
    "SELECT'a'",
    "SELECT-1",
    "SELECT@@version",
    "SELECT @mine",
    "SELECT `into`, `update`, `;`, `/*!` FROM `delete`",
    "SELECT `a``b` FROM `t``` WHERE x = 'into outfile'",
    "SELECT 'it''s; DROP TABLE wares'",
    "SELECT 'it\\'s; fine'",
    "SELECT 'a\\'",
    "SELECT 'C:\\\\temp\\\\'",
    'SELECT "say \\"hello\\"; bye"',
    "SELECT 'a -- b', 'c # d', 'e /* f', \"g ' h\"",
    "SELECT 1 -- ; DROP TABLE wares",
    "SELECT 1 # ; DROP TABLE wares",
    "SELECT 1 --",
    "SELECT 2--1",
    "SELECT /* a comment */ 1 /**/",
    "SELECT /*+ MAX_EXECUTION_TIME(1000) NO_INDEX_MERGE(wares) */ 1",
    "SELECT updated, deleted_at, insertion, into_x, xinto, t2update, größe FROM wares",
    "SELECT REPLACE(name, 'a', 'b'), INSERT (name, 1, 2, 'x') FROM wares",
    "SELECT COUNT(*), GROUP_CONCAT(DISTINCT name ORDER BY id SEPARATOR ', ') FROM wares GROUP BY kind",
    "SELECT CAST(price AS DECIMAL(10, 2)), CONVERT(name, CHAR(5)), CAST(x AS DATETIME(6)) FROM wares",
    "SELECT id FROM wares WHERE id IN (?, ?) AND (price > ? OR NOT EXISTS (SELECT 1 FROM sold))",
    "WITH few (id, `name`) AS (SELECT id, name FROM wares), more AS (SELECT 1) SELECT * FROM few",
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5) SELECT i FROM n",
    "SELECT * FROM (SELECT 1, 2) AS t(a, b) JOIN (VALUES ROW(1)) u (c) USING (a)",
    "SELECT RANK() OVER (PARTITION BY kind ORDER BY id), NTILE(4) OVER w FROM t WINDOW w AS (ORDER BY id)",
    "SELECT * FROM wares USE INDEX (PRIMARY) WHERE MATCH (name) AGAINST (? IN BOOLEAN MODE)",
    "SELECT name FROM JSON_TABLE(?, '$[*]' COLUMNS (name VARCHAR(20) PATH '$')) AS j",
    "SELECT ST_Distance(POINT(1, 2), ST_GeomFromText(?))",
    "SELECT SLEEP(?)",
    "SELECT `count`(*) FROM wares",
    "SELECT {fn NOW()}, {d '2026-11-28'}",
    "SELECT 1.5e3, .5, 0x41, x'41', b'1', N'a', _utf8mb4'a' COLLATE utf8mb4_bin",
    "SELECT '🎣', '\u00a0', 'ſ', `größe` FROM `Zoë`",
    "SHOW TABLES",
    "SHOW CREATE TABLE wares",
    "SHOW GRANTS FOR CURRENT_USER()",
    "EXPLAIN FORMAT=JSON SELECT * FROM wares",
    "DESCRIBE wares",
    "DESC wares",
    "TABLE wares",
    "VALUES ROW(1), ROW(2)",
]

WRITES = [
    "INSERT INTO wares (id, name) VALUES (?, ?), (?, ?) ON DUPLICATE KEY UPDATE name = VALUES(name)",
    "INSERT INTO wares SELECT * FROM old RETURNING id",
    "REPLACE wares VALUES (?)",
    "UPDATE wares SET name = 'into outfile' WHERE id = ?",
    "DELETE FROM wares WHERE id = ?",
    "WITH old AS (SELECT id FROM wares) DELETE FROM wares WHERE id IN (SELECT id FROM old)",
    "SELECT * FROM wares WHERE id = ? FOR UPDATE SKIP LOCKED",
    "SELECT my_function(1), shop.other(2)",
    "SELECT @row := @row + 1",
    "CALL restock(?)",
    "CREATE TABLE t (id INT PRIMARY KEY)",
    "CREATE PROCEDURE p() UPDATE wares SET price = price + 1",
    "ALTER TABLE wares ADD COLUMN x INT",
    "TRUNCATE TABLE wares",
    "DROP TABLE wares",
    "RENAME TABLE a TO b",
    "ANALYZE TABLE wares",
    "GRANT SELECT ON shop.* TO ann",
    "CREATE USER ann",
    "DO SLEEP(0)",
    "EXPLAIN DELETE FROM wares",
]


@pytest.mark.parametrize("sql", READS)
def test_what_reads_is_sent_for_everybody(sql: str) -> None:
    check(sql, reads_only=True)
    check(sql, reads_only=False)


@pytest.mark.parametrize("sql", WRITES)
def test_what_writes_is_sent_for_who_may_write(sql: str) -> None:
    check(sql, reads_only=False)
    refused(sql, reads_only=True)


NEVER = {
    # several statements
    "SELECT 1; DROP TABLE wares": "a second statement at character 11",
    "SELECT 1;DROP TABLE wares": "a second statement at character 10",
    "SELECT 1;;": "a second statement at character 10",
    "SELECT 1; /* x */ SELECT 2": "a second statement at character 19",
    "SELECT 1; -- x\nSELECT 2": "a second statement at character 16",
    "SELECT 1;#\nSELECT 2": "a second statement at character 12",
    "SELECT ';'; SELECT 2": "a second statement at character 13",
    "SELECT 1;\u00a0": "a second statement at character 10",
    "SELECT 1 --x\n; SELECT 2": "a second statement at character 16",
    "; SELECT 1": "a second statement at character 3",
    "SELECT 'a\\'; DROP TABLE wares; -- '": "a second statement at character 14",
    "SELECT 'a\\\\'; DROP TABLE wares; -- '": "a second statement at character 15",
    'SELECT "a\\"; DROP TABLE wares; -- "': "a second statement at character 14",
    "SELECT 'a''; DROP TABLE wares; -- '''; DROP TABLE wares": "a second statement at character 40",
    "SELECT `a``; `; DROP TABLE wares": "a second statement at character 17",
    "SELECT \"\\\", ' \", '; DROP TABLE wares; -- '": "a second statement",
    # comments that are code
    "SELECT 1 /*! INTO OUTFILE 'x' */": "an executable comment at character 10",
    "SELECT 1 /*!50000 + 1 */": "an executable comment at character 10",
    "SELECT 1 /*!*/": "an executable comment at character 10",
    "SELECT 1 /*!": "an executable comment at character 10",
    "SELECT 1 /*M! + 1 */": "an executable comment at character 10",
    "SELECT 1 /*m!100100 + 1 */": "an executable comment at character 10",
    "/*! SET sql_mode = '' */": "an executable comment at character 1",
    "/*!SELECT*/ 1": "an executable comment at character 1",
    "SELECT 'a\\' /*! , ' */": "an executable comment",
    "SELECT 1 /* a /*! b */ c */": "a comment within a comment at character 10",
    "SELECT 1 /* /* */ + 1 */": "a comment within a comment at character 10",
    "SELECT /*+ SET_VAR(foreign_key_checks = OFF) */ 1": "a hint with quotes or SET_VAR at character 8",
    "SELECT /*+ QB_NAME(`*/ a, `) */ 1 INTO OUTFILE 'x' -- `": "a hint with quotes or SET_VAR at character 8",
    # files and variables
    "SELECT 1 INTO OUTFILE '/tmp/x'": "INTO OUTFILE at character 10",
    "SELECT 1 INTO DUMPFILE '/tmp/x'": "INTO DUMPFILE at character 10",
    "SELECT 1 into/**/outfile'/tmp/x'": "INTO OUTFILE at character 10",
    "SELECT 1 InTo -- x\n OutFile '/tmp/x'": "INTO OUTFILE at character 10",
    "SELECT 1 INTO @x": "INTO @ at character 10",
    "SELECT 1 INTO\n@`x`": "INTO @ at character 10",
    "SELECT 1.INTO OUTFILE 'x'": "INTO OUTFILE at character 10",
    "SELECT 1.5INTO OUTFILE 'x'": "INTO OUTFILE at character 11",
    "SELECT .5INTO OUTFILE 'x'": "INTO OUTFILE at character 10",
    "SELECT 1e1INTO OUTFILE 'x'": "INTO OUTFILE at character 11",
    "SELECT 1e+1INTO OUTFILE 'x'": "INTO OUTFILE at character 12",
    "SELECT 'x'INTO OUTFILE 'x'": "INTO OUTFILE at character 11",
    "SELECT x'41'INTO OUTFILE 'x'": "INTO OUTFILE at character 13",
    "SELECT `x`INTO OUTFILE 'x'": "INTO OUTFILE at character 11",
    "SELECT \"x\"INTO OUTFILE 'x'": "INTO OUTFILE at character 11",
    "SELECT \\NINTO OUTFILE 'x'": "INTO OUTFILE at character 10",
    "SELECT (1)INTO OUTFILE 'x'": "INTO OUTFILE at character 11",
    "SELECT ?INTO OUTFILE 'x'": "INTO OUTFILE at character 9",
    "SELECT 'a\\' INTO OUTFILE 'x' -- '": "INTO OUTFILE",
    "SELECT 'a\\' INTO OUTFILE 'x'; '": "INTO OUTFILE",
    "TABLE wares INTO OUTFILE 'x'": "INTO OUTFILE at character 13",
    "INSERT INTO t SELECT 1 INTO OUTFILE 'x'": "INTO OUTFILE at character 24",
    "SELECT '🎣' INTO OUTFILE 'x'": "INTO OUTFILE at character 12",
    "LOAD DATA INFILE 'x' INTO TABLE t": "LOAD at character 1",
    "LOAD DATA LOCAL INFILE 'x' INTO TABLE t": "LOAD at character 1",
    "LOAD XML INFILE 'x' INTO TABLE t": "LOAD at character 1",
    # the session and its transactions
    "SET @x = 1": "SET at character 1 is not allowed: a session",
    "SET STATEMENT max_statement_time=0 FOR SELECT 1": "SET at character 1",
    "USE mysql": "USE at character 1",
    "BEGIN": "BEGIN at character 1 is not allowed: ask for a transaction",
    "BEGIN NOT ATOMIC SELECT 1; END": "a second statement",
    "START TRANSACTION": "START at character 1",
    "(COMMIT)": "COMMIT at character 2",
    "/* x */ ROLLBACK": "ROLLBACK at character 9",
    "SAVEPOINT a": "SAVEPOINT at character 1",
    "RELEASE SAVEPOINT a": "RELEASE at character 1",
    "XA START 'a'": "XA at character 1",
    "LOCK TABLES wares WRITE": "LOCK at character 1",
    "UNLOCK TABLES": "UNLOCK at character 1",
    "PREPARE s FROM 'DROP TABLE wares'": "PREPARE at character 1",
    "EXECUTE s": "EXECUTE at character 1",
    "EXECUTE IMMEDIATE 'DROP TABLE wares'": "EXECUTE at character 1",
    "DEALLOCATE PREPARE s": "DEALLOCATE at character 1",
    "HANDLER wares OPEN": "HANDLER at character 1",
    "FLUSH TABLES WITH READ LOCK": "FLUSH at character 1",
    "RESET QUERY CACHE": "RESET at character 1",
    # the server, and what is not known
    **{
        f"{verb} x": f"{verb} at character 1 is not a statement that is sent"
        for verb in (
            *("KILL", "SHUTDOWN", "RESTART", "CHANGE", "PURGE", "STOP", "INSTALL", "UNINSTALL", "BACKUP"),
            *("BINLOG", "CLONE", "HELP", "IF", "CASE", "LOOP", "WHILE", "DECLARE", "SIGNAL", "FETCH", "COPY"),
        )
    },
    "": "what is at character 1 is not a statement that is sent",
    "  -- nothing": "what is at character 13",
    "'SELECT' 1": "what is at character 1",
    "`SELECT` 1": "what is at character 1",
    "?": "what is at character 1",
    "1 SELECT": "1 at character 1",
    "ſELECT 1": "?ELECT at character 1",
    "SELECT\u00a01": "SELECT?1 at character 1",
    "SELECTX 1": "SELECTX at character 1",
    # what servers do not agree on
    "SELECT 1 \x00": "NUL at character 10",
    "SELECT '\x00'": "NUL at character 9",
    "SELECT 1 --\x01 INTO OUTFILE 'x'": "a control character at character 12",
    "SELECT 1 \x1a": "a control character at character 10",
    "SELECT 1 \x7f": "a control character at character 10",
    "SELECT '\ud800'": "half a character at character 9",
    "SELECT 'a": "a quote that never ends at character 8",
    "SELECT `a": "a quote that never ends at character 8",
    'SELECT "a': "a quote that never ends at character 8",
    "SELECT 1; DROP TABLE wares; SELECT '": "a quote that never ends at character 36",
    "SELECT \\": "a backslash at character 8",
    "SELECT 1 \\g": "a backslash at character 10",
    "CREATE FUNCTION f() RETURNS INT LANGUAGE JS AS $$'$$; DROP TABLE wares; -- '": "a quote of dollars",
    "CREATE FUNCTION f() RETURNS INT LANGUAGE JS AS $x$ ' $x$ '": "a quote of dollars at character 48",
}


@pytest.mark.parametrize("sql", NEVER, ids=ascii)
def test_it_is_refused_for_everybody_with_what_and_where(sql: str) -> None:
    assert NEVER[sql] in refused(sql)
    refused(sql, reads_only=True)


ONLY_READS = {
    "INSERT INTO wares VALUES (1)": "INSERT at character 1 is not allowed in what only reads",
    "WITH a AS (SELECT 1) DELETE FROM wares": "DELETE at character 22",
    "WITH a AS (SELECT 1) UPDATE wares SET id = 1": "UPDATE at character 22",
    "WITH a AS (SELECT 1) INSERT wares SELECT * FROM a": "INSERT at character 22",
    "WITH a AS (SELECT 1) REPLACE wares SELECT * FROM a": "REPLACE at character 22",
    "EXPLAIN ANALYZE UPDATE wares SET id = 1": "UPDATE at character 17",
    "EXPLAIN ANALYZE DELETE FROM wares": "DELETE at character 17",
    "DESC DELETE FROM wares": "DELETE at character 6",
    "SELECT * FROM wares FOR UPDATE": "UPDATE at character 25",
    "SELECT * FROM wares WHERE id = 1FOR/**/UPDATE": "UPDATE at character 40",
    "SELECT * FROM wares FOR /**/ SHARE": "FOR SHARE at character 21",
    "SELECT * FROM wares LOCK/**/IN SHARE MODE": "LOCK IN at character 21",
    "SELECT 1 INTO x": "INTO at character 10",
    "SELECT @x := 1": ":= at character 11",
    "SELECT @x:=1": ":= at character 10",
    "SELECT NEXT VALUE FOR numbers": "NEXT VALUE at character 8",
    "SELECT numbers.nextval": "NEXTVAL at character 16",
    "SELECT NEXTVAL(numbers)": "NEXTVAL at character 8",
    "SELECT SETVAL(numbers, 1)": "SETVAL at character 8",
    "SELECT GET_LOCK('a', 1)": "get_lock() at character 8",
    "SELECT `GET_LOCK`('a', 1)": "get_lock() at character 9",
    "SELECT `get_lock` ('a', 1)": "get_lock() at character 9",
    'SELECT "get_lock"(1, 2)': "get_lock() at character 9",
    "SELECT get_lock /* x */ ('a', 1)": "get_lock() at character 8",
    "SELECT get_lock -- x\n ('a', 1)": "get_lock() at character 8",
    "SELECT {fn release_lock('a')}": "release_lock() at character 12",
    "SELECT RELEASE_ALL_LOCKS()": "release_all_locks() at character 8",
    "SELECT BENCHMARK(1000000000, SHA2('a', 512))": "benchmark() at character 8",
    "SELECT LOAD_FILE('/etc/passwd')": "load_file() at character 8",
    "SELECT 1 FROM t WHERE id = (SELECT LOAD_FILE('/etc/passwd'))": "load_file() at character 36",
    "SELECT MASTER_POS_WAIT('a', 1)": "master_pos_wait() at character 8",
    "SELECT MASTER_GTID_WAIT('a', 1)": "master_gtid_wait() at character 8",
    "SELECT WAIT_FOR_EXECUTED_GTID_SET('a')": "wait_for_executed_gtid_set() at character 8",
    "SELECT LAST_INSERT_ID(7)": "last_insert_id() at character 8",
    "SELECT sys_exec('id')": "sys_exec() at character 8",
    "SELECT my_own(1)": "my_own() at character 8",
    "SELECT count(1), shop.count(1)": "count() at character 23",
    "SELECT shop . `count` (1)": "count() at character 16",
    "SELECT ran\u212a(1)": "ran?() at character 8",
    "SELECT 1 WHERE 'a\\' = get_lock(1, 2) -- '": "get_lock()",
    "SHOW TABLES WHERE get_lock('a', 1)": "get_lock() at character 19",
    "CALL restock(1)": "CALL at character 1",
    "DO SLEEP(1)": "DO at character 1",
    "ANALYZE SELECT 1": "ANALYZE at character 1",
}


@pytest.mark.parametrize("sql", ONLY_READS, ids=ascii)
def test_it_is_refused_for_who_may_only_read(sql: str) -> None:
    assert ONLY_READS[sql] in refused(sql, reads_only=True)
    check(sql, reads_only=False) if "INTO x" not in sql else None


def test_there_are_many_attempts() -> None:
    assert len(NEVER) + len(ONLY_READS) > 60


def test_a_statement_has_an_end() -> None:
    check("SELECT 1".ljust(LONGEST), reads_only=True)
    assert (
        refused("SELECT 1".ljust(LONGEST + 1))
        == f"the statement has {LONGEST + 1} characters; allowed are {LONGEST}"
    )


def test_a_verdict_is_remembered_for_its_kind_and_only_of_short_texts() -> None:
    statements._remembered.cache_clear()
    long = "DELETE FROM wares WHERE id IN (" + ",".join("?" * 2000) + ")"
    for _ in range(3):
        for sql in ("DELETE FROM wares", long):
            check(sql, reads_only=False)
            refused(sql, reads_only=True)
    told = statements._remembered.cache_info()
    assert (told.hits, told.misses, told.currsize) == (4, 2, 2)


# -- parameters


@pytest.mark.parametrize(
    ("sql", "count"),
    [
        ("SELECT 1", 0),
        ("SELECT ?, ?", 2),
        ("SELECT '?', \"?\", `?`, ? -- ?\n/* ? */ # ?", 1),
        ("SELECT 'it\\'s ?', ?", 1),
        ("SELECT 'a\\\\?', ?", 1),
    ],
)
def test_parameters_are_counted_outside_of_texts_and_comments(sql: str, count: int) -> None:
    assert placeholders(sql) == count


def test_parameters_that_depend_on_the_server_are_refused() -> None:
    with pytest.raises(NotAllowed, match="depends on what a backslash means"):
        placeholders("SELECT 'a\\' ? '/*\\'*/")


# -- whatever comes

WORDS = "SELECT INTO OUTFILE @x UPDATE DELETE AS get_lock( count ( ) ; , . ? := 1e1 1.5"
MARKS = "' \" ` \\ \\' '' -- # /* */ /*! /*+ $ $$ \\N \x00 \x01 é 🎣 \ud800 İ"
PIECES = st.sampled_from([*WORDS.split(" "), *MARKS.split(" "), "\n", " "])


@given(st.one_of(st.text(), st.lists(PIECES).map("".join), st.lists(PIECES).map(" ".join)), st.booleans())
@example("SELECT '\\", False)
@example("/*", True)
@example("/*/", True)
@example("SELECT /*+", True)
def test_any_text_is_sent_or_refused(sql: str, reads_only: bool) -> None:
    for each in (sql, f"SELECT {sql}"):
        try:
            check(each, reads_only=reads_only)
            placeholders(each)
        except NotAllowed:
            continue


@given(st.lists(PIECES).map(" ".join), st.sampled_from(statements._WAYS))
def test_what_is_read_is_as_long_as_the_text(sql: str, way: object) -> None:
    try:
        reading = statements._read(sql, way)  # type: ignore[arg-type]
    except NotAllowed:
        return
    assert len(reading.bare) == len(sql)


@given(st.lists(PIECES).map("".join))
def test_what_may_be_read_may_be_written_and_a_second_statement_is_never_sent(sql: str) -> None:
    def sent(text: str, *, reads_only: bool) -> bool:
        try:
            check(text, reads_only=reads_only)
        except NotAllowed:
            return False
        return True

    assert sent(sql, reads_only=False) or not sent(sql, reads_only=True)
    if "/*" not in f"{sql};" and sent(f"SELECT {sql}", reads_only=False):
        assert not sent(f"SELECT {sql}\n;DROP TABLE wares", reads_only=False)


@pytest.mark.parametrize(
    "piece",
    [
        *(
            "a",
            "1",
            "1e1",
            " ",
            "a ",
            "'a' ",
            "'",
            "\\'",
            "'\\",
            '"\\" ',
            "`a`",
            "`",
            "/*a*/",
            "/*",
            "/*/",
            "*/",
        ),
        *(
            "--",
            "-- ",
            "-- \n",
            "#\n",
            "(",
            ")",
            "a(",
            "count (",
            "`a` (",
            ") a (",
            "as a(",
            "f(a,",
            "a.",
            ". ",
        ),
        *(
            "into ",
            "into",
            "insert ",
            "insert   ",
            "insert(",
            "lock  ",
            "for  ",
            "next ",
            ":",
            ":=",
            "1into ",
            "e",
        ),
        *(";", "; ", "$", "$a", "$$", "create $a ", "ä", "ä(", "İ", "?,", "\n", "\t\n"),
    ],
)
@pytest.mark.parametrize("reads_only", [False, True])
def test_the_time_is_linear(piece: str, reads_only: bool) -> None:
    def took(length: int) -> float:
        sql = "SELECT " + (piece * length)[:length]
        times = []
        for _ in range(3):
            began = time.thread_time()
            statements._verdict(sql, reads_only)
            times.append(time.thread_time() - began)
        return min(times)

    took(100)
    few, many = took(2_000), took(32_000)
    assert many < 16 * 5 * few + 0.02
