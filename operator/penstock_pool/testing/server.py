"""The fake server: what it was told, and what it recorded."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from penstock_pool.testing import dialect, passwords
from penstock_pool.testing.answers import Answer, Fault, Given, Ok, Packet, ServerError
from penstock_pool.testing.channel import How
from penstock_pool.testing.listener import Listener, ended
from penstock_pool.testing.session import Session

log = logging.getLogger(__name__)

MARIADB = "5.5.5-10.11.19-MariaDB"
"""As MariaDB 10.11 calls itself to clients."""
MYSQL = "8.0.44"


@dataclass
class _Order:
    """A fault to happen to packets of one name, `left` times, or always."""

    packet: Packet
    fault: Fault
    connection: int | None
    left: float

    def takes(self, packet: Packet, connection: int) -> bool:
        """Whether it happens to this one, which counts."""
        if self.packet != packet or self.connection not in (None, connection) or self.left <= 0:
            return False
        self.left -= 1
        return True


class FakeMySQL:
    """A MySQL or MariaDB that says what it is told to, on loopback. Use as an async context manager.

    Nothing is stored. Besides what every session needs (SET, USE, BEGIN, COMMIT, ROLLBACK, KILL) and some
    questions (`SELECT 1`, `SELECT 'x'`, `SELECT SLEEP(2)`, `SELECT CONNECTION_ID()`) it knows only `answers`.
    """

    def __init__(
        self,
        answers: Mapping[str | re.Pattern[str], Given] | None = None,
        *,
        users: Mapping[str, str] | None = None,
        version: str = MARIADB,
        auth: str = passwords.NATIVE,
        announces: str | None = None,
        remembers: bool = True,
        tls: ssl.SSLContext | None = None,
        deprecates_eof: bool = True,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        """`users` are names and passwords; without, everybody is let in."""
        self.answers: dict[str | re.Pattern[str], Given] = dict(answers or {})
        """By statement (whatever its case and spaces) or by a regular expression for its beginning, the first
        that matches. May be changed at any time, as may all that follows."""
        self.users = users
        self.version = version
        self.auth = auth
        """How passwords are shown: mysql_native_password, caching_sha2_password or mysql_clear_password."""
        self.announces = announces or auth
        """What the greeting names; if that is not `auth`, clients are asked to switch."""
        self.remembers = remembers
        """Whether caching_sha2_password has seen the password before. If not, it asks for it: as it is over
        TLS, encrypted without."""
        self.tls = tls
        """For clients that ask for it. None: not offered, and refused."""
        self.deprecates_eof = deprecates_eof
        """Whether rows end with an OK packet, when the client likes it so. MySQL before 5.7.5, MariaDB before
        10.2 and some proxies end columns and rows with EOF packets."""
        self.read_only = False
        """Writes are answered with 1290, as by a server that was demoted."""
        self.sessions: list[Session] = []
        """Everybody who ever connected, let in or not."""
        self.attempts: list[float] = []
        """When they did, by the event loop's clock."""
        self.opened = 0
        """How many were let in."""
        self.most = 0
        """How many were at once."""
        self.live: set[Session] = set()
        """Those who are let in now."""
        self._orders: list[_Order] = []
        self._running: set[asyncio.Task[Answer]] = set()
        self._listener = Listener(self._serve, host, port)

    async def __aenter__(self) -> FakeMySQL:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._listener.close()
        await ended(*self._running)

    @property
    def host(self) -> str:
        return self._listener.host

    @property
    def port(self) -> int:
        """Stays the same over `stop` and `start`."""
        return self._listener.port

    @property
    def is_mariadb(self) -> bool:
        return "MariaDB" in self.version

    @property
    def open(self) -> int:
        """How many are let in now."""
        return len(self.live)

    @property
    def statements(self) -> list[str]:
        """Everything that was asked, session by session."""
        return [sql for session in self.sessions for sql in session.statements]

    async def start(self) -> None:
        """Listens again after `stop`, or after `crash`."""
        await self._listener.start()

    async def stop(self) -> None:
        """Listens no more: who connects is refused by the system. Sessions stay."""
        await self._listener.stop()

    async def crash(self) -> None:
        """As when its process is killed: nobody listens, every session is reset."""
        await self.stop()
        await self.end_sessions("rst")

    async def end_sessions(self, how: How = "fin", saying: ServerError | None = None) -> None:
        """Ends all sessions (see `Session.close`)."""
        await asyncio.gather(*(session.close(how, saying) for session in self.sessions))

    def refuse(self, code: int) -> None:
        """Greets new connections with an error from now on: 1040, 1129, 1203 …; until `heal`."""
        self.inject("greeting", ServerError(code))

    def inject(
        self, packet: Packet, fault: Fault, *, connection: int | None = None, times: int | None = None
    ) -> None:
        """From now on, `fault` happens to packets of this name: of all connections or of the one with that
        number, so many times or always. Several may happen to one packet, in the order they were given."""
        self._orders.append(_Order(packet, fault, connection, float("inf") if times is None else times))

    def heal(self) -> None:
        """Withdraws all faults."""
        self._orders.clear()
        self.read_only = False

    async def kill(self, connection: int, *, query: bool = False) -> Answer:
        """As KILL and KILL QUERY do."""
        target = next((one for one in self.live if one.id == connection), None)
        if target is None:
            return ServerError(1094, "HY000", f"Unknown thread id: {connection}")
        if query:
            target.interrupt()
        else:
            await target.close()
        return Ok()

    # For its sessions.

    def faults(self, packet: Packet, connection: int) -> Iterator[Fault]:
        return (order.fault for order in self._orders if order.takes(packet, connection))

    @contextlib.contextmanager
    def counting(self, session: Session) -> Iterator[None]:
        self.opened += 1
        self.live.add(session)
        self.most = max(self.most, self.open)
        try:
            yield
        finally:
            self.live.discard(session)

    def answering(self, sql: str, session: Session) -> asyncio.Task[Answer]:
        """A task that makes an answer; this server sees to its end."""
        task = asyncio.create_task(self._answer(sql, session), name=f"answering connection {session.id}")
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def _answer(self, sql: str, session: Session) -> Answer:
        try:
            return await dialect.answer(sql, session, self.answers, read_only=self.read_only)
        except Exception as error:
            log.exception("the answer to %r failed", sql)
            return ServerError(1105, "HY000", f"the answer to {sql!r} failed: {error!r}")

    async def _serve(self, sock: socket.socket) -> None:
        self.attempts.append(asyncio.get_running_loop().time())
        session = Session(self, sock, len(self.sessions) + 1)
        self.sessions.append(session)
        await session.serve()
