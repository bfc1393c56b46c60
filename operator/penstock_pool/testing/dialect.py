"""The statements that are understood without being told: those of a session, and the simplest questions."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from inspect import isawaitable
from typing import TYPE_CHECKING

from penstock_pool.testing.answers import Answer, Asked, Given, Ok, Rows, ServerError

if TYPE_CHECKING:
    from penstock_pool.testing.session import Session

Answers = Mapping[str | re.Pattern[str], Given]

_WRITES = re.compile(
    r"(?i)(INSERT|UPDATE|DELETE|REPLACE|TRUNCATE|CREATE(?! TEMPORARY)|ALTER|DROP|LOAD|GRANT)\b"
)
_QUOTED_OR_SPACE = re.compile(r"""(?s)('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")|(?:/\*.*?\*/|\s)+""")


async def answer(sql: str, session: Session, answers: Answers, *, read_only: bool) -> Answer:
    """What the server answers: read-only ones refuse to write, then `answers` has the word."""
    plain = _plain(sql)
    if read_only and _WRITES.match(plain):
        return ServerError(1290)
    found = _given(sql, plain, session, answers) or _known(plain, session)
    if found is None:
        return ServerError(1064, "42000", f"FakeMySQL has no answer to {sql!r}: add one to its `answers`")
    answer = await found if isawaitable(found) else found
    if isinstance(answer, Ok) and answer.changes_session:
        session.state.touch()
    return answer


def _plain(sql: str) -> str:
    """Without comments, and with single spaces."""
    return _QUOTED_OR_SPACE.sub(lambda found: found[1] or " ", sql).strip().rstrip("; ")


def _given(sql: str, plain: str, session: Session, answers: Answers) -> Answer | Awaitable[Answer] | None:
    for key, given in answers.items():
        match = None if isinstance(key, str) else key.match(plain)
        if match or (isinstance(key, str) and _plain(key).lower() == plain.lower()):
            session.state.worked()
            return given(Asked(sql, session, match)) if callable(given) else given
    return None


def _known(plain: str, session: Session) -> Answer | Awaitable[Answer] | None:
    for pattern, known in _KNOWN:
        if match := pattern.fullmatch(plain):
            return known(session, match)
    return None


def _select(session: Session, match: re.Match[str]) -> Answer:
    expression = match["expression"]
    value: object = int(expression) if match["number"] else expression[1:-1].replace("''", "'")
    return Rows([match["name"] or expression], [[value]])


def _function(session: Session, match: re.Match[str]) -> Answer:
    values: dict[str, object] = {
        "connection_id": session.id,
        "database": session.state.database or None,
        "version": session.server.version.removeprefix("5.5.5-"),
    }
    return Rows([f"{match[1]}()"], [[values[match[1].lower()]]])


def _which_server(session: Session, match: re.Match[str]) -> Answer:
    server = session.server
    return Rows(["@@server_id", "@@hostname", "@@port"], [[1, server.host, server.port]])


async def _sleep(session: Session, match: re.Match[str]) -> Answer:
    await asyncio.sleep(float(match[1]))
    return Rows([f"SLEEP({match[1]})"], [[0]])


async def _kill(session: Session, match: re.Match[str]) -> Answer:
    return await session.server.kill(int(match["id"]), query=(match["what"] or "").upper() == "QUERY")


def _begin(session: Session, match: re.Match[str]) -> Answer:
    session.state.in_transaction = True
    return Ok()


def _end(session: Session, match: re.Match[str]) -> Answer:
    session.state.in_transaction = False
    return Ok()


def _use(session: Session, match: re.Match[str]) -> Answer:
    session.state.use(match[1])
    return Ok()


def _set(session: Session, match: re.Match[str]) -> Answer:
    for name, value in _ASSIGNMENT.findall(match["rest"]):
        session.state.set(name.lower(), value.strip().strip("'\""))
    session.state.touch()
    return Ok()


def _set_names(session: Session, match: re.Match[str]) -> Answer:
    for name in ("results", "client", "connection"):
        session.state.set(f"character_set_{name}", match["charset"])
    return _set(session, match) if match["rest"] else Ok()


_ASSIGNMENT = re.compile(
    r"""(?ix) (?: SESSION\s | @@SESSION\. | @@ )? \s* (@?\w+) \s* :?= \s* ('[^']*' | "[^"]*" | [^,]+)"""
)
_KNOWN: list[tuple[re.Pattern[str], Callable[[Session, re.Match[str]], Answer | Awaitable[Answer]]]] = [
    (re.compile(r"(?i)SELECT (?P<expression>(?P<number>-?\d+)|'([^']|'')*')(?: AS (?P<name>\w+))?"), _select),
    (re.compile(r"(?i)SELECT (CONNECTION_ID|DATABASE|VERSION)\(\)"), _function),
    (re.compile(r"(?i)SELECT @@server_id, @@hostname, @@port"), _which_server),
    (re.compile(r"(?i)SELECT SLEEP\(([\d.]+)\)"), _sleep),
    (re.compile(r"(?i)KILL (?:(?P<what>QUERY|CONNECTION) )?(?P<id>\d+)"), _kill),
    (re.compile(r"(?i)BEGIN|START TRANSACTION.*"), _begin),
    (re.compile(r"(?i)COMMIT|ROLLBACK"), _end),
    (re.compile(r"(?i)(RELEASE )?SAVEPOINT .*|ROLLBACK TO .*"), lambda session, match: Ok()),
    (re.compile(r"(?i)USE `?(\w+)`?"), _use),
    (re.compile(r"(?i)SET NAMES '?(?P<charset>\w+)'?(?: COLLATE \w+)?(?:, (?P<rest>.*))?"), _set_names),
    (re.compile(r"(?i)SET GLOBAL .*"), lambda session, match: Ok()),
    (re.compile(r"(?i)SET (?P<rest>.*)"), _set),
]
