"""What can be known of a statement from its text alone.

The server says itself when a statement changed its session (`driver.Session.changed`), but is silent about
what a result set does by the way: user variables (`@x:=`, `INTO @x`) and GET_LOCK; and about LOCK TABLES,
HANDLER, FLUSH and `SET TRANSACTION` for the next one (tried on MariaDB 10.11). So only verbs that are known
to leave the session as it was count as such; whatever is not known is a change. A change that was none costs
a reset."""

from __future__ import annotations

import enum
import hashlib
import re


class Effect(enum.Enum):
    """What a statement may leave behind."""

    READ = "reads only: leaves nothing, and may be sent again when the connection broke"
    WRITE = "changes data: leaves nothing in the session, but must not be sent twice"
    TRANSACTION = "begins, marks or rolls back a transaction: the server's status says whether one is open"
    COMMIT = "ends a transaction; without an answer its outcome is unknown"
    SESSION = "may change the session: it is reset before the next borrower"


_VERBS = {
    **dict.fromkeys(("select", "show", "explain", "describe", "desc", "values", "table"), Effect.READ),
    **dict.fromkeys(("insert", "update", "delete", "replace", "with", "load", "truncate"), Effect.WRITE),
    **dict.fromkeys(("create", "alter", "drop", "rename", "analyze", "optimize", "kill"), Effect.WRITE),
    **dict.fromkeys(("begin", "start", "rollback", "savepoint", "release"), Effect.TRANSACTION),
    "commit": Effect.COMMIT,
}
_VERB = re.compile(r"(?:\s|\(|/\*(?![!M]).*?\*/|--\s[^\n]*\n|#[^\n]*\n)*([a-z]+)", re.IGNORECASE | re.DOTALL)
_BY_THE_WAY = re.compile(r":=|\binto\s+@|get_lock|get_(?:read|write)_locks|/\*[!M]|;\s*\S", re.IGNORECASE)
_CALL = re.compile(r"([a-z_][a-z0-9_$]*)`?\s*\(", re.IGNORECASE)
_PURE = frozenset(
    [
        "abs",
        "and",
        "as",
        "ascii",
        "avg",
        "between",
        "bit_count",
        "by",
        "cast",
        "ceil",
        "ceiling",
        "char",
        "char_length",
        "coalesce",
        "concat",
        "concat_ws",
        "connection_id",
        "convert",
        "count",
        "curdate",
        "current_timestamp",
        "current_user",
        "curtime",
        "database",
        "date",
        "date_add",
        "date_format",
        "date_sub",
        "day",
        "dayofweek",
        "dayofyear",
        "exists",
        "extract",
        "field",
        "find_in_set",
        "floor",
        "format",
        "from",
        "from_unixtime",
        "greatest",
        "group_concat",
        "hex",
        "hour",
        "if",
        "ifnull",
        "in",
        "instr",
        "interval",
        "isnull",
        "join",
        "json_contains",
        "json_extract",
        "json_unquote",
        "json_value",
        "last_day",
        "least",
        "left",
        "length",
        "like",
        "locate",
        "lower",
        "lpad",
        "ltrim",
        "max",
        "md5",
        "microsecond",
        "min",
        "minute",
        "mod",
        "month",
        "not",
        "now",
        "nullif",
        "on",
        "or",
        "over",
        "partition",
        "pow",
        "power",
        "quarter",
        "rand",
        "regexp",
        "repeat",
        "replace",
        "reverse",
        "right",
        "round",
        "row_number",
        "rpad",
        "rtrim",
        "second",
        "select",
        "sha1",
        "sha2",
        "sign",
        "sleep",
        "sqrt",
        "strcmp",
        "substr",
        "substring",
        "substring_index",
        "sum",
        "then",
        "time",
        "timediff",
        "timestamp",
        "timestampdiff",
        "trim",
        "truncate",
        "unhex",
        "union",
        "unix_timestamp",
        "upper",
        "user",
        "using",
        "utc_timestamp",
        "uuid",
        "values",
        "version",
        "week",
        "weekday",
        "when",
        "where",
        "year",
    ]
)

_effects: dict[str, Effect] = {}
_REMEMBERED = 2048


def effect_of(sql: str) -> Effect:
    """The effect of a statement, as far as its text tells; remembered for the texts of late."""
    known = _effects.get(sql)
    if known is None:
        if len(_effects) >= _REMEMBERED:
            _effects.clear()
        known = _effects[sql] = _classify(sql)
    return known


def _classify(sql: str) -> Effect:
    found = _VERB.match(sql)
    effect = _VERBS.get(found[1].lower(), Effect.SESSION) if found else Effect.SESSION
    if effect in (Effect.READ, Effect.WRITE) and _BY_THE_WAY.search(sql):
        return Effect.SESSION
    if effect is Effect.READ and not all(call.lower() in _PURE for call in _CALL.findall(sql)):
        return Effect.WRITE  # of a function that is not known nobody knows whether it writes
    return effect


_LITERAL = re.compile(
    r"'(?:[^'\\]|\\.|'')*(?:'|\Z)|\"(?:[^\"\\]|\\.|\"\")*(?:\"|\Z)|\b(?:0x[0-9a-f]+|[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?)\b",
    re.IGNORECASE | re.DOTALL,
)
_LIST = re.compile(
    r"\(\s*(?:\?|%s)(?:\s*,\s*(?:\?|%s))+\s*\)(?:\s*,\s*\(\s*(?:\?|%s)(?:\s*,\s*(?:\?|%s))*\s*\))*"
)
_DIGEST_LENGTH = 1000


def normalized(sql: str) -> str:
    """The statement without its values, as the server's digests show it: literals are `?`, lists `(...)`."""
    bare = " ".join(_LITERAL.sub("?", sql).split())
    return _LIST.sub("(...)", bare)[:_DIGEST_LENGTH]


def digest(sql: str) -> str:
    """Sixteen hexadecimal digits that are the same for statements that differ in their values alone."""
    return hashlib.blake2b(normalized(sql).lower().encode(), digest_size=8).hexdigest()
