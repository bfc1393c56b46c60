"""The port to the database: what the pool needs of a driver, and what it notes on each session.

Life cycle: 1. `Driver.open` connects, greets, authenticates and prepares a session; 2. one borrower at a time
sends statements by `query`; 3. between two borrowers `ping` or `reset`; 4. `quit` ends it. All but `broken`
and `abort` may be cancelled at any moment, after which only `quit` and `abort` are allowed.
`penstock_pool.testing.FakeDriver` is its test double."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from penstock_pool.columns import Columns

if TYPE_CHECKING:
    from penstock_pool.connection import Connection

Arguments = Sequence[object] | dict[str, object] | None

DEADLOCK = 1213
"""ER_LOCK_DEADLOCK, the first of the error's `args`: the server chose this session's transaction, and has
rolled back all of it."""


class Result(Protocol):
    """The answer to a statement."""

    @property
    def rows(self) -> tuple[tuple[Any, ...], ...] | None:
        """None when the statement has no result set."""

    @property
    def affected_rows(self) -> int:
        """Rows changed, or rows of the result set."""

    @property
    def insert_id(self) -> int:
        """The last AUTO_INCREMENT value, 0 when there is none."""

    @property
    def description(self) -> tuple[tuple[Any, ...], ...] | None:
        """Of the columns, as the DB API 2 has it; None when the statement has no result set."""


class Started(Result, Protocol):
    """The answer to a statement whose rows come as they are asked for."""

    @property
    def columns(self) -> Columns | None:
        """None when the statement has no result set. Of a statement that is kept, the same object each time
        as long as its columns are the same."""


class Prepared(Protocol):
    """A statement that the server has parsed."""

    @property
    def parameters(self) -> int:
        """How many `?` it has."""

    async def execute(self, arguments: Sequence[object]) -> Result:
        """Raises like `Session.query`."""


class Session(ABC):
    """One authenticated session with the server, and its socket."""

    __slots__ = (
        "asked_at",
        "attention",
        "changed",
        "demoted",
        "ends_at",
        "held",
        "holder",
        "id",
        "in_transaction",
        "lost",
        "opened_at",
        "proven_at",
        "running",
        "server",
        "since",
        "slow",
        "system",
        "uses",
        "warned_of",
    )

    def __init__(self, id: int) -> None:
        self.id = id
        """The server's number of the session, for KILL."""
        self.server: object = None
        """Whose number that is: equal for two sessions of one server. One address may lead to several, which
        count alike. None: not known."""
        self.system = "mysql"
        """Or mariadb."""
        self.changed = False
        """It may differ from a new one: it is reset before the next borrower."""
        self.in_transaction = False
        """The server's last word."""
        self.running = False
        """A statement is under way, or was cut short."""
        self.lost = False
        """Only `quit` and `abort` make sense."""
        self.demoted = False
        """Its server refused to write, and nobody had asked for that: it was made a replica."""
        # What the pool notes on it. The hot path writes `since`, `held` and `uses` only.
        self.attention = False
        """It cannot simply be given to the next: look why."""
        self.opened_at = self.proven_at = self.since = 0.0
        """Opened; last known to be alive while idle; borrowed or returned. Seconds of the pool's clock."""
        self.asked_at = 0.0
        """When the last statement was sent, by the same clock."""
        self.ends_at = float("inf")
        """Past this it is replaced."""
        self.uses = 0
        """Checkouts that have ended."""
        self.held = 0.0
        """Seconds of those."""
        self.holder: Connection | None = None
        """Who has it, if it is borrowed."""
        self.slow = False
        """Its ping or reset takes long: it is not counted on."""
        self.warned_of = -1.0
        """The `since` of the loan whose length was complained of already."""

    @abstractmethod
    def broken(self) -> bool:
        """Whether it is known, without asking the server, that it is of no use: the end of the stream was
        seen by the event loop, or is in the socket's buffer (a FIN, or a server's parting words)."""

    @abstractmethod
    async def query(self, sql: str, arguments: Arguments = None) -> Result:
        """Sends one statement and reads all of its answer; notes `changed`, `in_transaction`, `running` and
        `lost`. Raises the driver's error for one that the server answers, `ConnectionLost` when the stream
        breaks, `ConnectionInUse` when another one is running."""

    def written(self, sql: str, arguments: Arguments) -> str:
        """The statement with its arguments in it, escaped."""
        raise NotImplementedError

    async def start(self, sql: str, arguments: Arguments = None) -> Started:
        """Like `query`, but leaves the rows on the way, for `more`; `running` until the last one came. When
        all have come already, they are in the answer instead."""
        raise NotImplementedError

    async def start_prepared(self, sql: str, arguments: Sequence[object]) -> Started:
        """Like `start`, of a statement with `?` that the server parses once and the session keeps: it does
        not count as changed by it. Raises like `query`, and `Misuse` for another number of arguments."""
        raise NotImplementedError

    async def more(self) -> Sequence[tuple[Any, ...]]:
        """The next rows; none when all have come. Raises like `query`."""
        raise NotImplementedError

    async def prepare(self, sql: str) -> Prepared:
        """Parses a statement with `?` on the server, once. The session counts as changed. Raises like
        `query`."""
        raise NotImplementedError

    @abstractmethod
    async def ping(self) -> None:
        """Raises `ConnectionLost`."""

    @abstractmethod
    async def reset(self) -> None:
        """Makes it as new: transaction, variables, locks, temporary tables, database. Raises
        `ConnectionLost`, also when a new session is needed for that."""

    @abstractmethod
    async def quit(self) -> None:
        """Says good-bye, and returns when the server has closed its side (only then does it count one
        connection less) or the socket is gone. Cancelled, it cuts. Reads on, so that a server that is still
        sending gets there."""

    @abstractmethod
    def abort(self) -> None:
        """Cuts the socket at once; whoever reads from it gets `ConnectionLost`. May be called again."""


class Driver(Protocol):
    """Opens sessions with one server."""

    async def open(self) -> Session:
        """Bounded by the caller. Raises `Unreachable`, `ServerFull`, `AccessRefused`. Whatever happens, a
        connection that does not come back from here is closed."""


async def settled(loop: asyncio.AbstractEventLoop) -> None:
    """Lets what the event loop has seen already reach who waits for it."""
    for _ in range(3):
        future = loop.create_future()
        loop.call_soon(_settle, future)
        await future


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():  # cancelled meanwhile
        future.set_result(None)
