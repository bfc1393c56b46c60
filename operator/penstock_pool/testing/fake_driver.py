"""A database in memory behind the `Driver` port: no sockets, as fast as the event loop, and on virtual time
if that is what the loop has. Keeps to the life cycle of `penstock_pool.driver`, and notes who does not.

    driver = FakeDriver({"SELECT name FROM wares": Rows(["name"], [["a pipe"]])}, connect_time=0.05)
    async with ConnectionPool(Server(user="app"), driver=driver) as pool:
        assert await pool.fetchval("SELECT name FROM wares") == "a pipe"
        driver.sessions[0].die()
        assert await pool.fetchval("SELECT name FROM wares") == "a pipe"
    driver.check()
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from penstock_pool.driver import Arguments, Result, Session
from penstock_pool.errors import ConnectFailed, ConnectionInUse, ConnectionLost, ServerFull
from penstock_pool.testing.answers import Ok, Rows, ServerError

FakeAnswer = Ok | Rows | ServerError
Told = FakeAnswer | Callable[[Arguments], FakeAnswer]
"""An answer, or what makes it of the statement's arguments."""


class FakeServerError(Exception):
    """An error that the server answered, in place of a driver's own; its arguments are number and text."""


@dataclass(frozen=True, slots=True)
class FakeResult:
    """See `penstock_pool.driver.Result`."""

    rows: tuple[tuple[Any, ...], ...] | None = None
    affected_rows: int = 0
    insert_id: int = 0
    description: tuple[tuple[Any, ...], ...] | None = None


class FakeDriver:
    """A server and the way to it. Every attribute may be changed at any time.

    On their own its sessions understand `SELECT 1`, `SELECT 'text'`, `SELECT SLEEP(2)`, `SET @name = 'text'`
    and `SELECT @name`, every other SET (changes the session), BEGIN, START TRANSACTION, COMMIT, ROLLBACK,
    `KILL 7` and `KILL QUERY 7`. Whatever else they are asked and is not among `answers` is done, without
    rows."""

    def __init__(
        self,
        answers: Mapping[str, Told] | None = None,
        *,
        connect_time: float = 0.0,
        query_time: float = 0.0,
        farewell_time: float = 0.0,
        most: int | None = None,
    ) -> None:
        """Times are seconds of the event loop's clock; `most` is the server's max_connections."""
        self.answers = dict(answers or {})
        """By the text of the statement."""
        self.connect_time, self.query_time, self.farewell_time = connect_time, query_time, farewell_time
        self.most = most
        self.fails: Callable[[], ConnectFailed] | None = None
        """Makes the error of every connect, when there is one."""
        self.hangs = False
        """Connects that begin now never end by themselves."""
        self.leads_to: object = "the server"
        """Which server connects that begin now lead to; each has numbers of its own for its sessions."""
        self.opening = 0
        """Connects that are under way."""
        self.attempts: list[float] = []
        """When each connect began."""
        self.sessions: list[FakeSession] = []
        """All that were ever opened, in their order; `id` is the place in it among those of one server, from
        1."""
        self.most_at_once = 0
        """Sessions that the server counted, and connects under way, at most together."""
        self.faults: list[str] = []
        """What was done with a session that `penstock_pool.driver` does not allow."""

    async def open(self) -> FakeSession:
        self.attempts.append(asyncio.get_running_loop().time())
        self.opening += 1
        self.most_at_once = max(self.most_at_once, self.served + self.opening)
        try:
            await self._greet()
        finally:
            self.opening -= 1
        session = FakeSession(self, 1 + sum(one.server == self.leads_to for one in self.sessions))
        self.sessions.append(session)
        return session

    async def _greet(self) -> None:
        if self.hangs:
            await asyncio.get_running_loop().create_future()
        await asyncio.sleep(self.connect_time)
        if self.fails is not None:
            raise self.fails()
        if self.most is not None and self.served >= self.most:
            raise ServerFull("1040 Too many connections")

    @property
    def served(self) -> int:
        """Sessions that the server counts: until it has done their last statement and closed its side."""
        return sum(session.served for session in self.sessions)

    @property
    def open_sessions(self) -> list[FakeSession]:
        """Those whose socket is open on our side."""
        return [session for session in self.sessions if not session.closed]

    def check(self) -> None:
        """Raises AssertionError unless every session was treated as the port asks, and is closed."""
        still = [session.id for session in self.open_sessions]
        assert not still, f"sessions that nobody closed: {still}"
        assert not self.opening, f"{self.opening} connects are under way still"
        assert not self.faults, "; ".join(self.faults)


class FakeSession(Session):
    """A session of a `FakeDriver`: the client's end and the server's."""

    __slots__ = (
        "_answer",
        "_driver",
        "_ended",
        "_gone",
        "_parted",
        "_statement",
        "_stop",
        "closed",
        "served",
        "silent",
        "variables",
    )

    def __init__(self, driver: FakeDriver, id: int) -> None:
        super().__init__(id)
        self.server = driver.leads_to
        self.closed = False
        """The socket is closed on our side."""
        self.served = True
        """The server counts it."""
        self.silent = False
        """Nothing comes through any more, and nobody was told."""
        self.variables: dict[str, str] = {}
        """What SET has left in it."""
        self._driver = driver
        self._answer: asyncio.Future[FakeResult] | None = None
        self._statement: asyncio.TimerHandle | None = None
        self._stop: Callable[[], None] | None = None
        self._ended = self._parted = False
        self._gone = asyncio.get_running_loop().create_future()

    # -- what a test does to it

    def die(self, *, silently: bool = False) -> None:
        """The server ends it, as by KILL; or, silently, the network loses all that is sent either way."""
        if silently:
            self.silent = True
            self._stop_statement()
        else:
            self._break(f"session {self.id}: killed")
            self._forget()

    # -- the client's end

    def broken(self) -> bool:
        return self.lost or not (self.served or self.silent)

    async def query(self, sql: str, arguments: Arguments = None) -> Result:
        if self.running:
            raise ConnectionInUse(f"session {self.id}: another statement is under way")
        asleep = _SLEEP.fullmatch(sql)
        seconds = float(asleep[1]) if asleep else self._driver.query_time
        return await self._ask(partial(self._execute, sql, arguments), seconds)

    async def ping(self) -> None:
        await self._ask(FakeResult, self._driver.query_time)

    async def reset(self) -> None:
        await self._ask(self._renew, self._driver.query_time)
        self.changed = False

    async def _ask(self, work: Callable[[], FakeResult], seconds: float) -> FakeResult:
        if self.closed or self._ended or self.running:
            self._driver.faults.append(f"session {self.id} was asked after its end, or two things at once")
        if self.closed or not self.served:
            self.lost = True
            raise ConnectionLost(f"session {self.id}: closed")
        self.running = True
        self._begin(work, seconds)
        try:
            answer = await self._heard()
        except ConnectionLost:
            self.lost, self.running = True, False
            raise
        except asyncio.CancelledError:
            self.lost = True
            raise
        except Exception:
            self.running = False
            raise
        self.running = False
        return answer

    async def _heard(self) -> FakeResult:
        self._answer = asyncio.get_running_loop().create_future()
        return await self._answer

    async def quit(self) -> None:
        if self._parted:
            self._driver.faults.append(f"session {self.id} was ended twice")
        self._ended = self._parted = True
        if not (self._statement or self.silent):
            asyncio.get_running_loop().call_later(self._driver.farewell_time, self._forget)
        try:
            if self.served and not self.closed:
                await self._gone
        finally:
            self.abort()

    def abort(self) -> None:
        self.lost = self.closed = self._ended = True
        self._break(f"session {self.id}: cut")
        if self._statement is None:
            self._forget()

    def _break(self, why: str) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionLost(why))

    # -- the server's end

    def _begin(self, work: Callable[[], FakeResult], seconds: float) -> None:
        self._stop = partial(self._finish, partial(_refuse, ServerError(1317)))
        if not self.silent:
            self._statement = asyncio.get_running_loop().call_later(seconds, self._finish, work)

    def _finish(self, work: Callable[[], FakeResult]) -> None:
        self._stop_statement()
        try:
            answer = work()
        except FakeServerError as error:
            if self._answer is not None and not self._answer.done():
                self._answer.set_exception(error)
        else:
            if self._answer is not None and not self._answer.done():
                self._answer.set_result(answer)
        if self._ended:
            self._forget()

    def _stop_statement(self) -> None:
        if self._statement is not None:
            self._statement.cancel()
        self._statement = None

    def _forget(self) -> None:
        self._stop_statement()
        self.served = False
        if not self._gone.done():
            self._gone.set_result(None)

    def _renew(self) -> FakeResult:
        self.variables.clear()
        self.in_transaction = False
        return FakeResult()

    def _execute(self, sql: str, arguments: Arguments) -> FakeResult:
        told = self._driver.answers.get(sql)
        if told is not None:
            return self._as_told(told(arguments) if callable(told) else told)
        for pattern, does in _UNDERSTOOD:
            if found := pattern.fullmatch(sql):
                return does(self, *found.groups())
        return FakeResult()

    def _as_told(self, answer: FakeAnswer) -> FakeResult:
        if isinstance(answer, ServerError):
            return _refuse(answer)
        if isinstance(answer, Ok):
            self.changed = self.changed or answer.changes_session
            return FakeResult(None, answer.affected_rows, answer.insert_id)
        return _rows(answer.columns, *answer.rows)

    def _transaction(self, word: str) -> FakeResult:
        self.in_transaction = word.upper() in ("BEGIN", "START TRANSACTION")
        return FakeResult()

    def _set(self, name: str, value: str) -> FakeResult:
        self.variables[name.lower()] = value
        self.changed = True
        return FakeResult()

    def _variable(self, name: str) -> FakeResult:
        return _rows([f"@{name}"], [self.variables.get(name.lower())])

    def _literal(self, number: str | None, text: str | None) -> FakeResult:
        return _rows(["value"], [text if number is None else int(number)])

    def _kill(self, query: str | None, id: str) -> FakeResult:
        near = [session for session in self._driver.sessions if session.server == self.server]
        victims = [session for session in near if session.id == int(id) and session.served]
        if not victims:
            return _refuse(ServerError(1094))
        if not query:
            victims[0].die()
        elif victims[0]._statement and victims[0]._stop:
            victims[0]._stop()
        return FakeResult()


_SLEEP = re.compile(r"SELECT SLEEP\(([0-9.]+)\)", re.IGNORECASE)
_LANGUAGE: dict[str, Callable[..., FakeResult]] = {
    r"(BEGIN|START TRANSACTION|COMMIT|ROLLBACK)(?: READ ONLY)?": FakeSession._transaction,
    r"SET @(\w+)\s*=\s*'(.*)'": FakeSession._set,
    r"SET (\S+)\s*=\s*(.*)": FakeSession._set,
    r"SELECT @(\w+)": FakeSession._variable,
    r"SELECT (?:(\d+)|'(.*)')": FakeSession._literal,
    r"KILL (QUERY )?(\d+)": FakeSession._kill,
}
_UNDERSTOOD = [(re.compile(text, re.IGNORECASE | re.DOTALL), does) for text, does in _LANGUAGE.items()]


def _rows(columns: Any, *rows: Any) -> FakeResult:
    description = tuple((name, None, None, None, None, None, True) for name in columns)
    return FakeResult(tuple(map(tuple, rows)), len(rows), 0, description)


def _refuse(error: ServerError) -> FakeResult:
    filled = error.filled()
    raise FakeServerError(filled.code, filled.message)
