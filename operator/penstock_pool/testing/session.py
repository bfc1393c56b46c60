"""One client of the fake server, from its greeting to its end."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections import Counter
from typing import TYPE_CHECKING

from penstock_pool.testing import packets
from penstock_pool.testing.answers import Answer, Ok, Rows, ServerError
from penstock_pool.testing.channel import How
from penstock_pool.testing.entrance import Entrance
from penstock_pool.testing.listener import ended
from penstock_pool.testing.packets import Capability, Command, Hello
from penstock_pool.testing.state import State
from penstock_pool.testing.wire import Instead, Over, Wire

if TYPE_CHECKING:
    from penstock_pool.testing.server import FakeMySQL

_CAN = (
    Capability.LONG_FLAG
    | Capability.CONNECT_WITH_DB
    | Capability.PROTOCOL_41
    | Capability.TRANSACTIONS
    | Capability.SECURE_CONNECTION
    | Capability.MULTI_STATEMENTS
    | Capability.MULTI_RESULTS
    | Capability.PLUGIN_AUTH
    | Capability.CONNECT_ATTRS
    | Capability.LENENC_AUTH_DATA
    | Capability.SESSION_TRACK
    | Capability.DEPRECATE_EOF
)


class Session:
    """A connection as the server sees it, kept after its end for what it recorded."""

    def __init__(self, server: FakeMySQL, sock: socket.socket, id: int) -> None:
        self.server = server
        self.id = id
        """Its number, in the order of acceptance from 1 on; also what CONNECTION_ID() says."""
        self.user = ""
        self.state = State()
        self.statements: list[str] = []
        """Everything that was asked in SQL."""
        self.commands: Counter[str] = Counter()
        """How often which command came: query, ping, reset_connection, init_db, quit …"""
        self.password_seen: bytes | None = None
        """What the client said in clear, if it did: over TLS, or because mysql_clear_password asked it to."""
        self.key_asked = False
        """The client asked for the server's RSA key, to encrypt its password without TLS."""
        self._wire = Wire(sock, lambda packet: server.faults(packet, id))
        self._how: How = "fin"
        self._task: asyncio.Task[None] | None = None
        self._running: asyncio.Task[Answer] | None = None
        self._can = _CAN
        if server.tls is not None:
            self._can |= Capability.TLS
        if not server.is_mariadb:
            self._can |= Capability.MYSQL
        if not server.deprecates_eof:
            self._can &= ~Capability.DEPRECATE_EOF

    @property
    def open(self) -> bool:
        """Let in, and not ended."""
        return self in self.server.live

    @property
    def encrypted(self) -> bool:
        return self._wire.encrypted

    @property
    def is_busy(self) -> bool:
        """It is being answered."""
        return self._running is not None

    async def close(self, how: How = "fin", saying: ServerError | None = None) -> None:
        """Ends it from the server's side, as idle sessions are ended: `saying` an error that nobody asked
        for (1927, 4031), or without a word."""
        if self._task is None or self._task.done():
            return
        self._how = how
        if saying is not None:
            self._wire.say_unasked(self._error_packet(saying))
        await ended(self._task)

    def interrupt(self) -> None:
        """As KILL QUERY does: a statement that runs answers 1317."""
        if self._running is not None:
            self._running.cancel()

    async def serve(self) -> None:
        """The whole life of the connection."""
        self._task = asyncio.current_task()
        try:
            await self._let_in()
            with self.server.counting(self):
                while True:
                    await self._serve_command()
        except Over as over:
            self._how = over.how
        except (EOFError, OSError):
            pass
        finally:
            self._wire.close(self._how)

    # Until the client is let in.

    async def _let_in(self) -> None:
        salt = secrets.token_hex(packets.SALT_LENGTH // 2).encode()
        try:
            await self._greet(salt)
            hello = await self._hello()
            self.user, self.state = hello.user, State(hello.database)
            await Entrance(self, self._wire, hello, salt).check()
            await self._wire.send("auth", packets.ok(self.state.status))
            await self._wire.flush()
        except Instead as instead:
            self._wire.send_safely(self._error_packet(instead.error))
            await self._wire.flush()
            raise Over from None

    async def _greet(self, salt: bytes) -> None:
        version, plugin = self.server.version, self.server.announces
        said = packets.greeting(version, self.id, salt, self._can, self.state.status, plugin)
        await self._wire.send("greeting", said)
        await self._wire.flush()

    async def _hello(self) -> Hello:
        hello = await self._read_hello()
        if hello.wants_tls:
            if self.server.tls is None:
                raise Instead(ServerError(1043))
            await self._wire.encrypt(self.server.tls)
            hello = await self._read_hello()
        self._can &= hello.capabilities
        return hello

    async def _read_hello(self) -> Hello:
        try:
            return Hello.parsed(await self._wire.receive())
        except ValueError:
            raise Instead(ServerError(1043)) from None

    # Afterwards.

    async def _serve_command(self) -> None:
        command, argument = await self._read_command()
        try:
            await self._obey(command, argument)
        except Instead as instead:
            self._wire.send_safely(self._error_packet(instead.error))
        await self._wire.flush()

    async def _read_command(self) -> tuple[int, bytes]:
        asked = await self._wire.receive()
        command = asked[0] if asked else 0
        known = {one.value: one.name.lower() for one in Command}
        self.commands[known.get(command, f"{command:#x}")] += 1
        return command, asked[1:]

    async def _obey(self, command: int, argument: bytes) -> None:
        match command:
            case Command.QUIT:
                raise Over
            case Command.QUERY:
                await self._query(argument.decode(errors="surrogateescape"))
            case Command.PING:
                await self._answer(Ok())
            case Command.RESET_CONNECTION:
                self.state.reset()
                await self._answer(Ok())
            case Command.INIT_DB:
                self.state.use(argument.decode())
                await self._answer(Ok())
            case Command.PROCESS_KILL:
                await self._answer(await self.server.kill(int.from_bytes(argument, "little"), query=False))
            case Command.STMT_PREPARE:
                await self._answer(ServerError(1295))
            case _:
                await self._answer(ServerError(1047))

    async def _query(self, sql: str) -> None:
        """The answer is made in a task of its own, which KILL QUERY cancels."""
        self.statements.append(sql)
        self._running = self.server.answering(sql, self)
        try:
            await asyncio.wait([self._running])
            await self._answer(ServerError(1317) if self._running.cancelled() else self._running.result())
        finally:
            self._running.cancel()
            self._running = None

    async def _answer(self, answer: Answer) -> None:
        match answer:
            case Rows():
                await self._send_rows(answer)
            case Ok():
                await self._send_ok(answer)
            case ServerError():
                await self._wire.send("error", self._error_packet(answer))

    async def _send_ok(self, answer: Ok) -> None:
        status, changes = self.state.status, self.state.changes()
        if not self._can & Capability.SESSION_TRACK:
            changes = b""
        if changes:
            status |= packets.Status.SESSION_CHANGED
        done = packets.ok(
            status, affected_rows=answer.affected_rows, insert_id=answer.insert_id, changes=changes
        )
        await self._wire.send("ok", done)

    async def _send_rows(self, answer: Rows) -> None:
        as_ok = bool(self._can & Capability.DEPRECATE_EOF)
        end = packets.eof(self.state.status, as_ok=as_ok)
        columns = [
            packets.column(name, sample)
            for name, sample in zip(answer.columns, answer.samples(), strict=True)
        ]
        await self._wire.send("columns", packets.lenenc(len(columns)), *columns, *([] if as_ok else [end]))
        for row in answer.rows:
            await self._wire.send("row", packets.row(row))
        await self._wire.send("eof", end)

    def _error_packet(self, error: ServerError) -> bytes:
        """Who has not said hello yet is told no SQLSTATE."""
        filled = error.filled()
        return packets.error(filled.code, filled.state if self.user else "", filled.message)
