"""Which statements are sent to the database, as far as their text tells.

This is a first gate with default deny, not the last one: what only reads is also sent to a read-only session
or transaction, and what a user may do at all (GRANT, CREATE USER, DROP, files) is for the database to say.

A text is read as the server would: quotes, names and comments are told apart, whatever its `sql_mode` is.
With a backslash in it there are up to three ways to read it (NO_BACKSLASH_ESCAPES, ANSI_QUOTES); it passes
only when each of them passes, or is one that no server could run. The body of a stored program has several
statements, and is therefore refused, unless it is a single one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache, partial

from penstock_data.errors import NotAllowed
from penstock_pool.statements import Effect, effect_of

LONGEST = 128 * 1024
"""Characters of a statement: while it is read, the event loop stands still."""

_WORTH_REMEMBERING, _REMEMBERED = 2048, 2048
"""Characters of a text, and texts, whose verdict is kept."""


def check(sql: str, *, reads_only: bool) -> None:
    """Raises `NotAllowed`, saying what is refused and at which character, counted from 1."""
    judged = _remembered if len(sql) <= _WORTH_REMEMBERING else _verdict
    verdict = judged(sql, reads_only)
    if verdict is not None:
        raise NotAllowed(verdict)


def placeholders(sql: str) -> int:
    """The number of parameters (`?`). Raises `NotAllowed` when that depends on the server's `sql_mode`."""
    counts = {reading.bare.count("?") for reading in _readings(sql)}
    if len(counts) > 1:
        raise NotAllowed("how many parameters there are depends on what a backslash means to the server")
    return counts.pop()


@lru_cache(_REMEMBERED)
def _first_words(sql: str) -> tuple[str, ...]:
    return tuple(_VERB.match(reading.bare)[1] for reading in _readings(sql))  # type: ignore[index]


def commits_by_itself(sql: str) -> bool:
    """Whether it ends the transaction that it is in, or may: it defines, grants, or calls a procedure."""
    words = _first_words(sql) if len(sql) <= _WORTH_REMEMBERING else _first_words.__wrapped__(sql)
    return not _DEFINES.isdisjoint(words)


def _verdict(sql: str, reads_only: bool) -> str | None:
    """What is wrong with it; None: nothing."""
    try:
        for reading in _readings(sql):
            _judge(reading, reads_only)
    except NotAllowed as error:
        return error.detail
    return None


_remembered = lru_cache(_REMEMBERED)(_verdict)


_TOLD = 64
"""Characters of a name that are repeated in an error."""
_MASK = "\x80"


def _no(what: str, at: int, why: str = "is not allowed") -> NotAllowed:
    return NotAllowed(f"{what[:_TOLD]} at character {at + 1} {why}".replace(_MASK, "?"))


# -- reading

_W = r"0-9A-Za-z_$\x80-\U0010ffff"
"""What a name is made of without quotes: all that is not ASCII as well, such as a no-break space."""
_ESCAPES, _NO_ESCAPES = r"(?:[^{0}\\]++|\\.|\\\Z)*+", "[^{0}]*+"
_OTHERS = r"`[^`]*+(?:(?P<quoted>`)|\Z)|(?P<comment>/\*.*?(?:\*/|\Z)|--(?=\s|\Z)[^\n]*+|\#[^\n]*+)"


def _pieces(single: str, double: str) -> re.Pattern[str]:
    """Texts, names in quotes and comments. Without a group: a quote that never ends."""
    text = f"'{single.format(chr(39))}(?:(?P<text>')|\\Z)"
    either = f'"{double.format(chr(34))}(?:(?P<either>")|\\Z)'
    return re.compile(f"{text}|{either}|{_OTHERS}", re.DOTALL | re.ASCII)


_WAYS = (_pieces(_ESCAPES, _ESCAPES), _pieces(_NO_ESCAPES, _NO_ESCAPES), _pieces(_ESCAPES, _NO_ESCAPES))
_SPECIAL = re.compile(r"['\"`#]|--|/\*")
_NOT_OF_A_NAME = re.compile(f"[^{_W}]")
_NOT_ASCII = re.compile(r"[^\x00-\x7f]++")
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")
_DOLLARS = re.compile(r"(?<![0-9a-z_$\x80])\$[0-9a-z_\x80]*+\$")
"""$$…$$, as MySQL quotes the body of a function in another language."""


@dataclass(frozen=True, slots=True)
class _Reading:
    """A text as one kind of server reads it, character by character.

    `bare` is in small letters, and as long as the text: comments are spaces, texts are spaces in `'`, a name
    in quotes is "`name'", what is not ASCII is U+0080. What begins with "/*" is a comment that is refused.
    """

    bare: str
    cut: int | None
    """Where the server could not read on: a syntax error, whatever comes."""
    ends: int
    """Where the first statement ends."""

    @property
    def runs(self) -> bool:
        """Whether a server would do anything of it."""
        return self.cut is None or self.ends < self.cut


def _readings(sql: str) -> list[_Reading]:
    """Those that a server could run; one at least. Raises `NotAllowed`."""
    if len(sql) > LONGEST:
        raise NotAllowed(f"the statement has {len(sql)} characters; allowed are {LONGEST}")
    _must_be_sendable(sql)
    ways = 1 if "\\" not in sql else 3 if '"' in sql else 2
    read = [_read(sql, way) for way in _WAYS[:ways]]
    cut = read[0].cut
    if cut is not None and all(reading.cut is not None for reading in read):
        raise _no("a backslash" if sql[cut] == "\\" else "a quote that never ends", cut)
    return [reading for reading in read if reading.runs]


def _must_be_sendable(sql: str) -> None:
    if "\x00" in sql:
        raise _no("NUL", sql.index("\x00"))
    try:
        sql.isascii() or sql.encode()
    except UnicodeEncodeError as error:
        raise _no("half a character", error.start) from error


def _read(sql: str, way: re.Pattern[str]) -> _Reading:
    """Raises `NotAllowed` for what may have another meaning elsewhere."""
    open_quotes: list[int] = []
    bare = way.sub(partial(_bare, open_quotes), sql) if _SPECIAL.search(sql) else sql
    bare = _NOT_ASCII.sub(_masked, bare).lower().replace("\\n", "''")  # \N is NULL, \n is nothing
    _must_be_clear(bare)
    backslash = bare.find("\\")
    cuts = [*open_quotes, *([] if backslash == -1 else [backslash])]
    ends = bare.find(";")
    return _Reading(bare, min(cuts, default=None), len(bare) if ends == -1 else ends)


def _must_be_clear(bare: str) -> None:
    control = _CONTROL.search(bare)
    if control:
        raise _no("a control character", control.start())
    dollars = _DOLLARS.search(bare) if "$" in bare and "create" in bare else None
    if dollars:
        raise _no("a quote of dollars", dollars.start())


def _masked(letters: re.Match[str]) -> str:
    return _MASK * len(letters[0])


def _bare(open_quotes: list[int], piece: re.Match[str]) -> str:
    """What stands for a piece: of the same length."""
    text, kind = piece[0], piece.lastgroup
    if kind == "text":
        return f"'{' ' * (len(text) - 2)}'"
    if kind == "comment":
        return _bare_comment(text) if text.startswith("/*") else " " * len(text)
    if kind is not None:
        return f"`{_NOT_OF_A_NAME.sub('_', text[1:-1])}'"
    open_quotes.append(piece.start())
    return " " * len(text)


def _bare_comment(text: str) -> str:
    """Its beginning stays when it is refused."""
    if text[2:3] == "!" or text[2:4].lower() == "m!":
        return f"/*{text[2]}".ljust(len(text))
    if "/*" in text[2:]:
        return "/*/".ljust(len(text))
    if text[2:3] == "+" and _HINT.search(text):
        return "/*+".ljust(len(text))
    return " " * len(text)


_HINT = re.compile(r"['\"`]|set_var", re.IGNORECASE)
"""What a hint may not have: quotes, in which MySQL overlooks the end of the comment; SET of a variable."""

_REFUSED_COMMENTS = {
    "!": "an executable comment",
    "m": "an executable comment",
    "+": "a hint with quotes or SET_VAR",
    "/": "a comment within a comment",
}


# -- judging

_READS = frozenset(("select", "show", "explain", "describe", "desc", "table", "values", "with"))
_WRITES = frozenset(
    """
    alter analyze call check checksum create delete do drop grant insert optimize rename repair replace revoke
    truncate update
    """.split()  # noqa: SIM905 - words
)
_DEFINES = frozenset(
    """
    alter analyze call check create drop grant optimize rename repair revoke truncate
    """.split()  # noqa: SIM905 - words
)
"""What commits in MySQL and MariaDB (their pages on implicit commit); of a procedure nobody knows."""
_OF_A_TRANSACTION = frozenset(("begin", "start", "commit", "rollback", "savepoint", "release", "xa"))
_OF_A_SESSION = frozenset(
    ("set", "use", "lock", "unlock", "prepare", "execute", "deallocate", "handler", "reset", "flush")
)

_NOT_SPACE = re.compile(r"\S", re.ASCII)
_VERB = re.compile(r"[\s(]*+([0-9a-z_$\x80]*+)", re.ASCII)
_NO_MORE = r"(?![0-9a-z_$\x80])"
_AWAY = re.compile(rf"into{_NO_MORE}\s*+(?P<where>@|outfile{_NO_MORE}|dumpfile{_NO_MORE})", re.ASCII)
_ACTS = re.compile(
    rf"""
    into{_NO_MORE} | update{_NO_MORE} | delete{_NO_MORE} | nextval{_NO_MORE} | setval{_NO_MORE}
    | insert{_NO_MORE}(?!\s*+\() | replace{_NO_MORE}(?!\s*+\()
    | lock\s*+in{_NO_MORE} | for\s++share{_NO_MORE} | next\s++value{_NO_MORE} | :=
    """,
    re.ASCII | re.VERBOSE,
)
_CALL = re.compile(
    r"\(\s*+(?:'(?P<quoted>[0-9a-z_$\x80]*+)`|(?P<plain>[0-9a-z_$\x80]++))(?:\s*+(?P<before>[).]|sa(?![0-9a-z_$\x80])))?+",
    re.ASCII,
)
"""Read from behind: a parenthesis, the name before it, and what is before that."""
_COLUMNS = re.compile(r"[0-9a-z_$\x80`',\s]*+\)\s*+as\s*+\(", re.ASCII)
_PART_OF_A_WORD = frozenset("abcdefghijklmnopqrstuvwxyz_$\x80`")
_PART_OF_A_NUMBER = frozenset("0123456789e")


def _judge(reading: _Reading, reads_only: bool) -> None:
    """Raises `NotAllowed`."""
    _must_be_one(reading)
    statement = reading.bare[: reading.ends]
    comment = statement.find("/*")
    if comment != -1:
        raise _no(_REFUSED_COMMENTS[statement[comment + 2]], comment)
    _must_begin_well(statement, reads_only)
    for away in _AWAY.finditer(statement):
        if _begins_a_word(statement, away.start()):
            raise _no(f"INTO {away['where'].upper()}", away.start())
    if reads_only:
        _must_read(statement)


def _must_be_one(reading: _Reading) -> None:
    """A semicolon may be the last; and one that the server could not read on after ends no statement."""
    begins = reading.ends + 1
    whole = len(reading.bare) if reading.cut is None else reading.bare.rfind(";", begins, reading.cut)
    found = _NOT_SPACE.search(reading.bare, begins, max(begins, whole))
    if found:
        raise _no("a second statement", found.start())


def _must_begin_well(statement: str, reads_only: bool) -> None:
    found = _VERB.match(statement)
    assert found
    verb, at = found[1], found.start(1)
    if verb in _READS or (verb in _WRITES and not reads_only):
        return
    if verb in _WRITES:
        raise _no(verb.upper(), at, "is not allowed in what only reads")
    if verb in _OF_A_TRANSACTION:
        raise _no(verb.upper(), at, "is not allowed: ask for a transaction at /v1/transactions")
    if verb in _OF_A_SESSION:
        raise _no(verb.upper(), at, "is not allowed: a session belongs to nobody")
    raise _no(verb.upper() or "what is", at, "is not a statement that is sent")


def _must_read(statement: str) -> None:
    """No word that acts, and no function of which it is not known that it only reads."""
    for acts in _ACTS.finditer(statement):
        if acts[0] == ":=" or _begins_a_word(statement, acts.start()):
            word = " ".join(acts[0].upper().split())
            raise _no(word, acts.start(), "is not allowed in what only reads")
    for call in _CALL.finditer(statement[::-1]):
        kind = "quoted" if call["plain"] is None else "plain"
        name, opens = call[kind][::-1], len(statement) - call.start()
        if not _may_be_called(name, call["before"]) and not _COLUMNS.match(statement, opens):
            at = len(statement) - call.end(kind)
            raise _no(f"{name}()", at, "is no function that is known to only read")


def _begins_a_word(statement: str, at: int) -> bool:
    """A number ends where none of its characters follows, so that 1.5INTO and 1e1INTO are two words each."""
    before = at - 1
    while before >= 0 and statement[before] in _PART_OF_A_NUMBER:
        before -= 1
    letters = statement[before + 1 : at].startswith("e")
    return not letters and (before < 0 or statement[before] not in _PART_OF_A_WORD)


def _may_be_called(name: str, before: str | None) -> bool:
    """A name before a parenthesis is no call after AS or another parenthesis, where types and the names of
    derived tables stand; nor with `(…) AS (` behind it, as in WITH. After a dot it is a stored function."""
    return before != "." and (before is not None or _only_reads(name))


@lru_cache(4096)
def _only_reads(name: str) -> bool:
    """Whether it is a function of the server's own that leaves nothing, or a word that is none."""
    return (
        name.isascii()
        and name.isidentifier()
        and (name in _MORE or name.startswith("st_") or effect_of(f"SELECT {name}()") is Effect.READ)
    )


_MORE = frozenset(
    """
    against columns crc32c cube datetime distinctrow filter following geomcollection geometrycollection
    grouping_id index
    json_schema_validation_report kdf lateral linestring materialized mbrcontains mbrcoveredby mbrcovers
    mbrdisjoint mbrequals mbrintersects mbroverlaps mbrtouches mbrwithin multilinestring multipoint
    multipolygon ntile of path point polygon preceding qualify random_bytes recursive rollup rownum
    sql_big_result sql_buffer_result sql_cache sql_calc_found_rows sql_no_cache sql_small_result
    statement_digest statement_digest_text straight_join text uuid_v4 uuid_v7 vec_distance
    vec_distance_cosine vec_distance_euclidean vec_fromtext vec_totext window
    """.split()  # noqa: SIM905 - words
)
"""Besides those that the pool knows."""
