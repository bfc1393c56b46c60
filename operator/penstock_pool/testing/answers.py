"""What a server answers to a statement, and what a test may do to it."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from penstock_pool.testing.channel import How

if TYPE_CHECKING:
    from penstock_pool.testing.session import Session


@dataclass(frozen=True)
class Rows:
    """A result set. Each column has the type of its first value that is not None: int, float, Decimal, str,
    bytes, datetime or date."""

    columns: Sequence[str]
    rows: Sequence[Sequence[object]] = ()

    def samples(self) -> list[object]:
        """A value of each column."""
        return [
            next((row[place] for row in self.rows if row[place] is not None), "")
            for place in range(len(self.columns))
        ]


@dataclass(frozen=True)
class Ok:
    """Done, without rows."""

    affected_rows: int = 0
    insert_id: int = 0
    changes_session: bool = False
    """Whether something of the session changed by it, as by CREATE TEMPORARY TABLE."""


@dataclass(frozen=True)
class ServerError:
    """An error, by MySQL's number for it. For the well-known ones SQLSTATE and message may be left out."""

    code: int
    state: str = ""
    message: str = ""

    def filled(self) -> ServerError:
        """With the text that real servers send."""
        state, message = _TEXTS.get(self.code, ("HY000", "an error without a text"))
        return ServerError(self.code, self.state or state, self.message or message)


_TEXTS = {
    1040: ("08004", "Too many connections"),
    1043: ("08S01", "Bad handshake"),
    1045: ("28000", "Access denied"),
    1047: ("08S01", "Unknown command"),
    1053: ("08S01", "Server shutdown in progress"),
    1094: ("HY000", "Unknown thread id"),
    1129: (
        "HY000",
        "Host '127.0.0.1' is blocked because of many connection errors; "
        "unblock with 'mariadb-admin flush-hosts'",
    ),
    1203: ("42000", "User app already has more than 'max_user_connections' active connections"),
    1205: ("HY000", "Lock wait timeout exceeded; try restarting transaction"),
    1213: ("40001", "Deadlock found when trying to get lock; try restarting transaction"),
    1226: ("42000", "User 'app' has exceeded the 'max_user_connections' resource (current value: 10)"),
    1290: (
        "HY000",
        "The MariaDB server is running with the --read-only option so it cannot execute this statement",
    ),
    1295: ("HY000", "This command is not supported in the prepared statement protocol yet"),
    1317: ("70100", "Query execution was interrupted"),
    1792: ("25006", "Cannot execute statement in a READ ONLY transaction"),
    1836: ("HY000", "Running in read-only mode"),
    1927: ("70100", "Connection was killed"),
    4031: (
        "HY000",
        "The client was disconnected by the server because of inactivity. "
        "See wait_timeout and interactive_timeout for configuring this behavior.",
    ),
}


@dataclass(frozen=True)
class Asked:
    """What a callable among the answers is given."""

    sql: str
    session: Session
    match: re.Match[str] | None
    """Of a regular expression's."""


Answer = Rows | Ok | ServerError
Given = Answer | Callable[[Asked], Answer | Awaitable[Answer]]
"""An answer, or what makes it; a coroutine function may take its time, and is cancelled by KILL."""


Packet = Literal["greeting", "tls", "auth", "ok", "error", "columns", "row", "eof"]
"""What a server sends: its greeting; its half of the TLS handshake (a fault stands before it); everything
else until the client is let in; then the answers, `columns` being their number and definitions together."""


@dataclass(frozen=True)
class Delay:
    """The packet is sent so many seconds later."""

    seconds: float


@dataclass(frozen=True)
class Mute:
    """Neither this packet nor another one comes; the connection stays open until its client ends it."""


@dataclass(frozen=True)
class Cut:
    """The connection ends after so many bytes of the packet: 0 is instead of it, all is right after it. What
    is shorter is not cut."""

    after: int = 0
    how: How = "fin"


Fault = Delay | Mute | Cut | ServerError
"""What may happen to a packet. A `ServerError` is sent instead of it and of the rest of the answer; before
the client is let in, it ends the connection."""
