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
    **dict.fromkeys(("insert", "update", "delete", "replace", "with", "truncate"), Effect.WRITE),
    **dict.fromkeys(("create", "alter", "drop", "rename", "analyze", "optimize", "kill"), Effect.WRITE),
    **dict.fromkeys(("begin", "start", "rollback", "savepoint", "release"), Effect.TRANSACTION),
    "commit": Effect.COMMIT,
}
_DEFINES = frozenset(("create", "alter", "drop", "rename", "truncate", "optimize", "kill"))
_NOISE = re.compile(
    r"(?P<text>'[^']*')|(?P<name>\"[^\"]*\"|`[^`]*`)|/\*(?![!M]).*?(?:\*/|\Z)|--\s[^\n]*|#[^\n]*",
    re.DOTALL | re.ASCII,
)
_QUOTE = re.compile(r"[\"`]")
_VERB = re.compile(r"[\s(]*([a-z]+)", re.IGNORECASE)
_BY_THE_WAY = re.compile(
    r":=|\binto\s*(?:@|outfile|dumpfile)|get_lock|get_(?:read|write)_locks|/\*[!M]|;\s*\S", re.IGNORECASE
)
_INTO = re.compile(
    r"^\s*(?:insert|replace)\s+(?:(?:low_priority|high_priority|delayed|ignore|into)\s+)*[\w$]+(?:\s*\.\s*[\w$]+)?",
    re.IGNORECASE,
)
_DOT = re.compile(r"(?<!\s)\s*+\.\s*+")
_CALL = re.compile(r"(?<![^\s,()=<>+*/%-])([^\s,()=<>+*/%-]++)\s*+\(")
_ROLE = re.compile(r"\brole\b", re.IGNORECASE)
_PURE = frozenset(
    """
    abs acos add_months adddate addtime aes_decrypt aes_encrypt all and any any_value as ascii asin atan
    atan2 avg between bigint bin bin_to_uuid binary binlog_gtid_pos bit_and bit_count bit_length bit_or
    bit_xor by case cast ceil ceiling char char_length character character_length charset chr coalesce
    coercibility collation compress concat concat_ws connection_id conv convert convert_tz cos cot count
    crc32 cume_dist curdate current_date current_role current_time current_timestamp current_user curtime
    database date date_add date_format date_sub day dayname dayofmonth dayofweek dayofyear decimal decode
    default degrees dense_rank distinct div double else elt encode end except exists exp export_set extract
    extractvalue field find_in_set first_value float floor for force format found_rows from from_base64
    from_days from_unixtime get_format greatest group group_concat grouping having hex hour if ifnull ignore
    in index inet6_aton inet6_ntoa inet_aton inet_ntoa insert instr int integer intersect interval is
    is_free_lock is_ipv4 is_ipv4_compat is_ipv4_mapped is_ipv6 is_used_lock isnull join json_array
    json_array_append json_array_insert json_arrayagg json_compact json_contains json_contains_path
    json_depth json_detailed json_equals json_exists json_extract json_insert json_keys json_length
    json_loose json_merge json_merge_patch json_merge_preserve json_normalize json_object
    json_object_filter_keys json_objectagg json_overlaps json_pretty json_query json_quote json_remove
    json_replace json_schema_valid json_search json_set json_storage_size json_table json_type json_unquote
    json_valid json_value key lag last_day lateral lcase lead least left length like limit ln localtime
    localtimestamp locate log log10 log2 lower lpad ltrim make_set makedate maketime match max md5 median
    microsecond min minute mod month monthname name_const natural_sort_key not now nth_value ntile nullif
    numeric nvl nvl2 oct octet_length offset on or ord order over partition password percent_rank
    percentile_cont percentile_disc period_add period_diff pi position pow power quarter quote radians rand
    range rank real regexp regexp_instr regexp_like regexp_replace regexp_substr repeat replace returning
    reverse right rlike round row row_count row_number rows rpad rtrim schema sec_to_time second select
    session_user set sformat sha sha1 sha2 sign signed sleep some soundex space sqrt std stddev stddev_pop
    stddev_samp str_to_date strcmp subdate substr substring substring_index subtime sum sys_guid sysdate
    system_user tan then time time_format time_to_sec timediff timestamp timestampadd timestampdiff
    to_base64 to_char to_days to_seconds trim trunc truncate ucase uncompress uncompressed_length unhex
    union unix_timestamp unsigned update updatexml upper user using utc_timestamp uuid uuid_short
    uuid_to_bin value values var_pop var_samp varbinary varchar variance version week weekday weekofyear
    weight_string when where with xor year yearweek
    """.split()  # noqa: SIM905 - as a list it is 250 lines
)
"""What may stand before a parenthesis and leaves nothing: functions of the server's own, and words that are
none. Of a function that is not here nobody knows what it does: it may be a stored one that takes a lock."""

_effects: dict[str, Effect] = {}
_REMEMBERED = 2048
_LONGEST = 16 * 1024
"""Characters. To look at more takes longer than a reset, and all that time the event loop stands still."""


def effect_of(sql: str) -> Effect:
    """The effect of a statement, as far as its text tells; remembered for the texts of late."""
    if len(sql) > _LONGEST:
        return Effect.SESSION
    known = _effects.get(sql)
    if known is None:
        if len(_effects) >= _REMEMBERED:
            _effects.clear()
        known = _effects[sql] = _classify(sql)
    return known


def outlasts_reset(sql: str) -> bool:
    """Whether a statement that changes the session may do so beyond COM_RESET_CONNECTION: a role stays
    (tried on MariaDB 10.11)."""
    return _ROLE.search(sql) is not None


def _classify(sql: str) -> Effect:
    bare = _bare(sql)
    found = _VERB.match(bare)
    effect = _VERBS.get(found[1].lower(), Effect.SESSION) if found else Effect.SESSION
    if effect not in (Effect.READ, Effect.WRITE):
        return effect if not _BY_THE_WAY.search(bare) else Effect.SESSION
    assert found
    if _BY_THE_WAY.search(bare) or _may_call(found[1].lower(), bare):
        return Effect.SESSION
    return effect


def _may_call(verb: str, bare: str) -> bool:
    """Whether the statement may execute a function that leaves something."""
    if verb in _DEFINES:
        return "select" in bare.lower()
    return not all(call.lower() in _PURE for call in _CALL.findall(_INTO.sub("", _DOT.sub(".", bare))))


def _bare(sql: str) -> str:
    """Without comments and texts, where it is sure where they end: that is not so with a backslash, which
    sql_mode gives a meaning or not. Names lose their quotes."""
    return _QUOTE.sub("_", sql) if "\\" in sql else _NOISE.sub(_kept, sql)


def _kept(noise: re.Match[str]) -> str:
    if noise["name"]:
        return noise["name"][1:-1].replace(" ", "_")
    return "''" if noise["text"] else " "


_LITERAL = re.compile(
    r"'(?:[^'\\]++|\\(?:.|\Z)|'')*+(?:'|\Z)|\"(?:[^\"\\]++|\\(?:.|\Z)|\"\")*+(?:\"|\Z)|\b(?:0x[0-9a-f]+|[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?)\b",
    re.IGNORECASE | re.DOTALL,
)
_LIST = re.compile(
    r"\(\s*(?:\?|%s)(?:\s*,\s*(?:\?|%s))+\s*\)(?:\s*,\s*\(\s*(?:\?|%s)(?:\s*,\s*(?:\?|%s))*\s*\))*"
)
_CUT = re.compile(r"(?:\(\.\.\.\)(?:\s*,(?:\s*\([\s,?]*[\w.]{0,8})?\s*)?|\([\s,?]*[\w.]{0,8})\Z")
"""The last list of a text whose rest was not looked at."""
_DIGEST_LENGTH = 1000


def normalized(sql: str) -> str:
    """The statement without its values, as the server's digests show it: literals are `?`, lists `(...)`. Of
    a long one the beginning."""
    bare = _LIST.sub("(...)", " ".join(_LITERAL.sub("?", sql[:_LONGEST]).split()))
    return (_CUT.sub("(...)", bare) if len(sql) > _LONGEST else bare)[:_DIGEST_LENGTH]


def digest(sql: str) -> str:
    """Sixteen hexadecimal digits that are the same for statements that differ in their values alone."""
    return hashlib.blake2b(normalized(sql).lower().encode(), digest_size=8).hexdigest()
