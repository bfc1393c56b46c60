"""One client of the fake server, from its greeting to its end."""

from __future__ import annotations

import asyncio
import secrets
import socket
import ssl
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from penstock_pool.testing import packets, passwords
from penstock_pool.testing.answers import Answer, Cut, Delay, Fault, Mute, Ok, Packet, Rows, ServerError
from penstock_pool.testing.channel import Channel, How
from penstock_pool.testing.listener import ended
from penstock_pool.testing.packets import Capability, Command, Hello
from penstock_pool.testing.state import State

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


class _Over(Exception):
    """The connection is to end."""

    def __init__(self, how: How = "fin") -> None:
        self.how: How = how


class _Instead(Exception):
    """An error goes out in place of the rest of an answer."""

    def __init__(self, error: ServerError) -> None:
        self.error = error


class Session:
    """A connection as the server sees it, kept after its end for what it recorded."""

    def __init__(self, server: FakeMySQL, sock: socket.socket, id: int) -> None:
        self.server = server
        self.id = id
        """Its number, in the order of acceptance from 1 on; also what CONNECTION_ID() says."""
        self.user = ""
        self.encrypted = False
        self.state = State()
        self.statements: list[str] = []
        """Everything that was asked in SQL."""
        self.commands: Counter[str] = Counter()
        """How often which command came: query, ping, reset_connection, init_db, quit …"""
        self.password_seen: bytes | None = None
        """What the client said in clear, if it did: over TLS, or because mysql_clear_password asked it to."""
        self.key_asked = False
        """The client asked for the server's RSA key, to encrypt its password without TLS."""
        self._channel = Channel(sock)
        self._how: How = "fin"
        self._task: asyncio.Task[None] | None = None
        self._running: asyncio.Task[Answer] | None = None
        self._sequence = 0
        self._unsent = b""
        self._can = _CAN
        if server.tls is not None:
            self._can |= Capability.TLS
        if not server.is_mariadb:
            self._can |= Capability.MYSQL

    @property
    def open(self) -> bool:
        """Let in, and not ended."""
        return self in self.server.live

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
            self._channel.say(b"".join(packets.framed(self._error_packet(saying), 0)))
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
        except _Over as over:
            self._how = over.how
        except (EOFError, OSError):
            pass
        finally:
            self._channel.close(self._how)

    # Until the client is let in.

    async def _let_in(self) -> None:
        salt = secrets.token_hex(packets.SALT_LENGTH // 2).encode()
        try:
            await self._greet(salt)
            hello = await self._hello()
            self.user, self.state = hello.user, State(hello.database)
            if not await self._is_proven(hello, salt):
                raise _Instead(self._denied(hello))
            await self._send("auth", packets.ok(self.state.status))
            await self._flush()
        except _Instead as instead:
            await self._end_with(instead.error)

    async def _greet(self, salt: bytes) -> None:
        version, plugin = self.server.version, self.server.announces
        said = packets.greeting(version, self.id, salt, self._can, self.state.status, plugin)
        await self._send("greeting", said)
        await self._flush()

    async def _hello(self) -> Hello:
        hello = await self._read_hello()
        if hello.wants_tls:
            if self.server.tls is None:
                raise _Instead(ServerError(1043))
            await self._encrypt(self.server.tls)
            hello = await self._read_hello()
        self._can &= hello.capabilities
        return hello

    async def _read_hello(self) -> Hello:
        try:
            return Hello.parsed(await self._receive())
        except ValueError:
            raise _Instead(ServerError(1043)) from None

    async def _encrypt(self, context: ssl.SSLContext) -> None:
        await self._send("tls")
        await self._channel.encrypt(context)
        self.encrypted = True

    async def _is_proven(self, hello: Hello, salt: bytes) -> bool:
        """Whether the client knows the password."""
        plugin, proof = self.server.auth, hello.proof
        if hello.plugin != plugin:
            proof = await self._ask(packets.auth_switch(plugin, salt))
        password = self._password()
        if plugin == passwords.CLEAR:
            return self._is_said(proof)
        if plugin == passwords.CACHING_SHA2:
            return await self._is_proven_by_sha2(proof, salt)
        return password is None or proof == passwords.native(password, salt)

    async def _is_proven_by_sha2(self, proof: bytes, salt: bytes) -> bool:
        """A server that remembers the password can tell from the proof; else it asks for the password."""
        password = self._password()
        if not proof:
            return not password
        if self.server.remembers and (password is None or proof == passwords.caching_sha2(password, salt)):
            await self._send("auth", packets.auth_more(b"\x03"))
            return True
        said = await self._ask(packets.auth_more(b"\x04"))
        if self.encrypted:
            return self._is_said(said)
        self.key_asked = said == b"\x02"
        await self._ask(packets.auth_more(passwords.PUBLIC_KEY))
        return password is None

    def _is_said(self, said: bytes) -> bool:
        self.password_seen = said.rstrip(b"\0")
        password = self._password()
        return password is None or self.password_seen == password.encode()

    def _password(self) -> str | None:
        """None if any will do."""
        return None if self.server.users is None else self.server.users.get(self.user, secrets.token_hex())

    def _denied(self, hello: Hello) -> ServerError:
        using = "YES" if hello.proof or self.password_seen else "NO"
        return ServerError(
            1045, "28000", f"Access denied for user '{hello.user}'@'127.0.0.1' (using password: {using})"
        )

    async def _ask(self, payload: bytes) -> bytes:
        await self._send("auth", payload)
        await self._flush()
        return await self._receive()

    async def _end_with(self, error: ServerError) -> None:
        self._note(self._framed([self._error_packet(error)]))
        await self._flush()
        raise _Over

    # Afterwards.

    async def _serve_command(self) -> None:
        self._sequence = 0
        command, argument = await self._read_command()
        try:
            await self._obey(command, argument)
        except _Instead as instead:
            self._note(self._framed([self._error_packet(instead.error)]))
        await self._flush()

    async def _read_command(self) -> tuple[int, bytes]:
        asked = await self._receive()
        command = asked[0] if asked else 0
        known = {one.value: one.name.lower() for one in Command}
        self.commands[known.get(command, f"{command:#x}")] += 1
        return command, asked[1:]

    async def _obey(self, command: int, argument: bytes) -> None:
        match command:
            case Command.QUIT:
                raise _Over
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
                await self._send("error", self._error_packet(answer))

    async def _send_ok(self, answer: Ok) -> None:
        status, changes = self.state.status, self.state.changes()
        if not self._can & Capability.SESSION_TRACK:
            changes = b""
        if changes:
            status |= packets.Status.SESSION_CHANGED
        done = packets.ok(
            status, affected_rows=answer.affected_rows, insert_id=answer.insert_id, changes=changes
        )
        await self._send("ok", done)

    async def _send_rows(self, answer: Rows) -> None:
        as_ok = bool(self._can & Capability.DEPRECATE_EOF)
        end = packets.eof(self.state.status, as_ok=as_ok)
        columns = [
            packets.column(name, sample)
            for name, sample in zip(answer.columns, answer.samples(), strict=True)
        ]
        await self._send("columns", packets.lenenc(len(columns)), *columns, *([] if as_ok else [end]))
        for row in answer.rows:
            await self._send("row", packets.row(row))
        await self._send("eof", end)

    def _error_packet(self, error: ServerError) -> bytes:
        """Who has not said hello yet is told no SQLSTATE."""
        filled = error.filled()
        return packets.error(filled.code, filled.state if self.user else "", filled.message)

    # The wire.

    async def _receive(self) -> bytes:
        """The payload of the client's next packet."""
        payload = b""
        while True:
            header = await self._channel.read(4)
            size = int.from_bytes(header[:3], "little")
            payload += await self._channel.read(size)
            self._sequence = header[3] + 1
            if size < packets.LONGEST:
                return payload

    async def _send(self, name: Packet, *payloads: bytes) -> None:
        """Has packets go out together at the next flush; before that, happen to them what is to happen."""
        framed = self._framed(payloads)
        for fault in self.server.faults(name, self.id):
            await self._flush()
            await self._suffer(fault, b"".join(framed))
        self._note(framed)

    async def _suffer(self, fault: Fault, data: bytes) -> None:
        match fault:
            case Delay():
                await asyncio.sleep(fault.seconds)
            case Mute():
                await self._channel.swallow()
                raise _Over
            case Cut() if fault.after <= len(data):
                await self._channel.write(data[: fault.after])
                raise _Over(fault.how)
            case ServerError():
                raise _Instead(fault)

    def _framed(self, payloads: Iterable[bytes]) -> list[bytes]:
        """The packets that come next."""
        framed: list[bytes] = []
        for payload in payloads:
            framed += packets.framed(payload, self._sequence + len(framed))
        return framed

    def _note(self, framed: list[bytes]) -> None:
        self._sequence += len(framed)
        self._unsent += b"".join(framed)

    async def _flush(self) -> None:
        data, self._unsent = self._unsent, b""
        if data:
            await self._channel.write(data)
