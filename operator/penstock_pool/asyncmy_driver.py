"""The real driver: asyncmy, as driver only, and what has to be done around it.

What it leaves open (measured on 0.2.18): its connect time-out covers TCP alone; `close()` waits for a TLS
peer that may be dead; a cancelled read closes the socket while the statement goes on on the server;
`ssl=True` verifies nothing; without TLS it answers a request for the password in plain text; it always allows
several statements in one call; after an error while it decodes a row, packets lie unread. Its methods are
replaced on the instance, not in a subclass, which would turn off its fast paths."""

from __future__ import annotations

import asyncio
import inspect
import select
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import partial
from ipaddress import ip_address
from typing import Any, NoReturn
from weakref import ref

from asyncmy import errors as answers
from asyncmy.charset import charset_by_name
from asyncmy.connection import Connection as Raw
from asyncmy.connection import MySQLResult as Streamed
from asyncmy.constants import FIELD_TYPE
from asyncmy.converters import conversions
from asyncmy.protocol import pack_binary_params, parse_binary_rows_from_buffer

from penstock_pool.columns import Column, Columns, type_of
from penstock_pool.driver import DEADLOCK, Arguments, Result, Session, Started
from penstock_pool.errors import (
    AccessRefused,
    ConnectFailed,
    ConnectionInUse,
    ConnectionLost,
    InvalidSettings,
    Misuse,
    ServerFull,
    Unreachable,
)
from penstock_pool.heads import Heads
from penstock_pool.settings import Server
from penstock_pool.statements import normalized

SESSION_TRACK = 1 << 23
"""CLIENT_SESSION_TRACK: OK packets say when something of the session changed."""
FOUND_ROWS = 1 << 1
MULTI_STATEMENTS = 1 << 16
TLS = 1 << 11
"""CLIENT_SSL."""
COM_QUERY = 0x03
COM_STMT_EXECUTE = 0x17
COM_RESET_CONNECTION = 0x1F
QUIT = b"\x01\x00\x00\x00\x01"

ALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 25_000}
"""Seconds (the last one: milliseconds): a peer that is gone in silence is noticed after 25 s at the latest;
systems wait for more than two hours, or a quarter of an hour when something was sent."""

IN_TRANSACTION = 0x0001
IN_READ_ONLY_TRANSACTION = 0x2000
NO_BACKSLASH_ESCAPES = 0x0200
SESSION_CHANGED = 0x4000
"""SERVER_SESSION_STATE_CHANGED."""

FULL = frozenset((1040, 1203, 1226))
REFUSED = frozenset(
    (1044, 1045, 1049, 1129, 1130, 1251, 1275, 1396, 1524, 1698, 1820, 1862, 2059, 3118, 3159)
)
"""Database or account unknown, locked, expired or not for this host; host blocked; authentication plugin."""
ENDS_SESSION = frozenset(
    (1043, 1053, 1077, 1079, 1152, 1153, 1156, 1157, 1158, 1159, 1160, 1161, 1184, 1927, 3169)
)
"""After these the server closes: shutdown, killed, packets out of order or too large, timed out."""
IDLE_FOR_TOO_LONG = 4031
"""So it says in MySQL; in MariaDB it is an error like any other, about a trigger."""
READ_ONLY_SESSION = "SET SESSION TRANSACTION READ ONLY"

PIECE = 64 * 1024
"""Bytes of a prepared statement's stream that become rows at a time."""

UNKNOWN_VARIABLE = 1193

WHICH_SERVER = "SELECT @@server_id, @@hostname, @@port"
"""Servers of one cluster may have the same of each, but hardly of all three."""


class AsyncmyDriver:
    """Opens sessions as a `Server` says; one SSLContext for all of them."""

    def __init__(self, server: Server, *, decimals_as_text: bool = False) -> None:
        """`decimals_as_text`: the server's own digits, for who writes them down again."""
        _check_charset(server.charset)
        self._server = server
        left = (FIELD_TYPE.DECIMAL, FIELD_TYPE.NEWDECIMAL) if decimals_as_text else ()
        self._values = {kind: value for kind, value in conversions.items() if kind not in left}
        self._tls = _context(server)
        self._preparing = _preparing(server)
        self._heads = Heads()

    async def open(self) -> AsyncmySession:
        raw = await self._raw()
        try:
            await raw.connect()
            vars(raw).pop("_get_server_information", None)
            session = AsyncmySession(raw, self._server.database, self._preparing, self._heads)
            await session.identify()
            await session.make_ours()
        except Exception as error:
            raw.close()
            raise _connect_failed(self._server, error) from error
        except BaseException:
            raw.close()
            raise
        return session

    async def _raw(self) -> Any:
        server = self._server
        raw: Any = Raw(  # type: ignore[no-untyped-call]
            host=server.host,
            port=server.port,
            unix_socket=server.unix_socket,
            user=server.user,
            password=await _password(server),
            database=server.database,
            charset=server.charset,
            autocommit=None,
            ssl=self._tls,
            client_flag=SESSION_TRACK | FOUND_ROWS * server.found_rows,
            program_name=server.program_name,
            stmt_cache_size=server.statement_cache,
            conv=self._values,
            auth_plugin_map={}
            if self._tls or server.unix_socket
            else {b"mysql_clear_password": _KeepsPassword},
        )
        if not server.multi_statements:
            raw._client_flag &= ~MULTI_STATEMENTS
        raw._connect_timeout = None  # its `wait_for` may lose the socket of a cancelled connect (Python 3.11)
        raw.close = partial(_cut, ref(raw))  # without a circle: a dead session's buffers go with it at once
        if self._tls:
            raw._get_server_information = partial(_with_tls, raw, raw._get_server_information)
        return raw


def _check_charset(name: str) -> None:
    if charset_by_name(name) is None:
        raise InvalidSettings(f"charset is {name!r}; allowed is: utf8mb4, or another one that MySQL has")


def _context(server: Server) -> ssl.SSLContext | None:
    if isinstance(server.tls, ssl.SSLContext):
        return server.tls
    wanted = not (server.unix_socket or _is_loopback(server.host)) if server.tls is None else server.tls
    return ssl.create_default_context() if wanted else None


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _preparing(server: Server) -> tuple[str, ...]:
    """What makes a session of this server's ours, whether it is new or reset."""
    mode = "" if server.sql_mode is None else ", sql_mode='{}'".format(server.sql_mode.replace("'", "''"))
    told = "session_track_state_change=1, session_track_system_variables='*'"
    ours = f"NAMES {server.charset}, autocommit={int(server.autocommit)}{mode}"
    access = (READ_ONLY_SESSION,) if server.read_only else ()
    return (f"SET {ours}, {told}", *access, *server.init)


async def _password(server: Server) -> bytes:
    given = server.password
    try:
        said = given if isinstance(given, str) else given()
        said = await said if inspect.isawaitable(said) else said
        if not isinstance(said, str):
            raise TypeError(f"it is a {type(said).__name__}, not text")
        return said.encode()
    except Exception as error:
        raise AccessRefused(f"no password for {server.user} at {server}: {error!r}") from error


async def _with_tls(raw: Any, greet: Callable[[], Awaitable[None]]) -> None:
    """Never goes on in plain text with a server, or a man in the middle, that offers no TLS."""
    await greet()
    if not raw.server_capabilities & TLS:
        raise AccessRefused("the server offers no TLS. Turn it on there, or say tls=False if the way is safe")


class _KeepsPassword:
    def __init__(self, raw: Any) -> None:
        pass

    def authenticate(self, packet: Any) -> NoReturn:
        raise AccessRefused("the server asks for the password in plain text; that is answered over TLS only")


def _connect_failed(server: Server, error: Exception) -> ConnectFailed:
    if isinstance(error, ConnectFailed):
        return type(error)(f"{server}: {error}")
    number = error.args[0] if isinstance(error, answers.MySQLError) and error.args else None
    cause = error.__cause__ or error
    if number in FULL:
        return ServerFull(f"{server}: {error}")
    if number in REFUSED or (isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError)):
        return AccessRefused(f"{server}: {cause}")
    if "cryptography" in str(error):
        return AccessRefused(f"{server}: the server wants the password, and there is no TLS: say tls=True")
    return Unreachable(f"{server}: {cause if isinstance(cause, OSError) else error!r}")


def _cut(of: ref[Any]) -> None:
    """In place of asyncmy's `close`, which waits for what is unsent and, with TLS, for the peer's
    farewell."""
    raw = of()
    if raw is None:
        return
    transport, raw._transport, raw._connected = raw._transport, None, False
    if transport is not None:
        transport.abort()


@dataclass(frozen=True, slots=True)
class _Rows:
    rows: tuple[tuple[Any, ...], ...] | None
    affected_rows: int
    insert_id: int
    description: tuple[tuple[Any, ...], ...] | None
    columns: Columns | None = None


_WITHOUT_TEXT = frozenset((type(None), bool, int, float, Decimal, date, datetime, time, timedelta))
"""What has neither a quote nor a backslash in its literal."""

_PLACES = "each %s takes one of a tuple, each %(name)s one of a dict, and with either a percent sign is %%"


class AsyncmySession(Session):
    """A session over an asyncmy connection."""

    __slots__ = (
        "_database",
        "_encoding",
        "_heads",
        "_poll",
        "_preparing",
        "_protocol",
        "_read",
        "_specs",
        "_statements",
        "_streamed",
        "_told",
        "_transport",
        "raw",
    )

    def __init__(self, raw: Any, database: str | None, preparing: tuple[str, ...], heads: Heads) -> None:
        super().__init__(raw.server_thread_id[0])
        self.raw = raw
        """asyncmy's connection, for what only it has."""
        self.system = "mariadb" if "MariaDB" in raw.server_version else "mysql"
        self._database = database
        self._preparing = preparing
        self._encoding = raw._encoding
        self._transport = raw._transport
        self._protocol = raw._proto
        self._streamed: Any = None
        self._read: Callable[[AsyncmySession], Awaitable[Sequence[tuple[Any, ...]]]] = AsyncmySession._texts
        """How the rows come that are on the way."""
        self._statements: dict[str, _Kept] = {}
        """The one that was used last is the last one."""
        self._told = bool(raw.server_capabilities & SESSION_TRACK and raw._deprecate_eof)
        self._heads = heads if raw._deprecate_eof else None
        sock = self._transport.get_extra_info("socket")
        _keep_alive(sock)
        self._poll = select.poll()
        self._poll.register(sock.fileno(), select.POLLIN | select.POLLRDHUP)
        raw._close_on_cancel = _stays  # `quit` reads on, so that the server's thread is not forgotten

    def broken(self) -> bool:
        protocol = self._protocol
        if self.lost or protocol.eof or protocol.exc is not None or self._transport.is_closing():
            return True
        if protocol.length > protocol.pos:  # a server's parting words, read already
            return True
        return bool(self._poll.poll(0))

    async def query(self, sql: str, arguments: Arguments = None) -> Result:
        raw = self.raw
        if self.running:
            self._check_free()
        if arguments is not None and raw._stmt_cache_size:
            return await self._prepared(sql, arguments)
        text = sql if arguments is None else self.written(sql, arguments)
        encoded = text.encode(self._encoding, "surrogateescape")
        self.running = True
        try:
            await raw._execute_command(COM_QUERY, encoded)  # as its `query` does, with two coroutines less
            protocol, heads = self._protocol, self._heads
            if protocol.length == protocol.pos:
                await raw._fill_buffer(1)
            result: Any = heads.answer(sql, protocol) if heads else None
            if result is None:
                result = await self._answer(sql)
            last: Any = result
            while last.has_next:
                self._note(last.server_status)
                last = Streamed(raw)
                await last.read()
        except BaseException as error:
            self._failed(error)
            raise
        status = self._status(last)
        self.running = False
        if status & SESSION_CHANGED or not self._told:
            self.changed = True
        self.in_transaction = bool(status & IN_TRANSACTION)
        return result  # type: ignore[no-any-return]

    async def _answer(self, sql: str) -> Any:
        """By the driver, which reads the head as well."""
        remember = self._heads.begun(sql, self._protocol) if self._heads else None
        result: Any = Streamed(self.raw)
        await result.read()
        if remember is not None:
            remember(result)
        return result

    def written(self, sql: str, arguments: Arguments) -> str:
        if arguments is None:
            return sql
        raw = self.raw
        literal = raw.literal if not raw.server_status & NO_BACKSLASH_ESCAPES else self._doubled
        try:
            if isinstance(arguments, dict):
                return sql % {name: literal(value) for name, value in arguments.items()}
            return sql % tuple(map(literal, arguments))
        except Exception as error:
            error.add_note(f"In {sql!r}: {_PLACES}")
            raise

    def _doubled(self, value: object) -> str:
        """A literal where a backslash escapes nothing, which asyncmy knows of texts that stand alone."""
        if type(value) in _WITHOUT_TEXT:
            return self.raw.literal(value)  # type: ignore[no-any-return]
        if isinstance(value, bytes | bytearray):
            return f"x'{value.hex()}'"
        if isinstance(value, tuple):
            return f"({','.join(map(self._doubled, value))})"
        if isinstance(value, list | set | frozenset):
            raise TypeError(f"a {type(value).__name__} cannot be written into a statement; a tuple can")
        return "'{}'".format(str(value).replace("'", "''"))

    def _packed(self, sql: str, arguments: Sequence[object]) -> bytes:
        """As the binary protocol has them. Raises before anything is sent."""
        try:
            return pack_binary_params(tuple(arguments), self._encoding) if arguments else b""
        except Exception as error:
            error.add_note(f"In {sql!r}: nothing was sent")
            raise

    async def _prepared(self, sql: str, arguments: Sequence[object] | dict[str, object]) -> Result:
        raw = self.raw
        if isinstance(arguments, dict):
            return await self.query(self.written(sql, arguments))
        arguments = tuple(arguments)
        kept = raw._stmt_cache.get(sql)
        if kept is None or kept.parameter_count != len(arguments):
            sql.encode(self._encoding)  # asyncmy would raise the same, when nobody knows what was sent
            text = self.written(sql, arguments)
            if await self._guarded(raw._acquire_cached_statement(sql, len(arguments))) is None:
                return await self.query(text)
        self._packed(sql, arguments)
        cursor = raw.cursor()
        raw.server_status &= NO_BACKSLASH_ESCAPES  # asyncmy keeps it when the next one is 0
        await self._guarded(cursor.execute(sql, arguments))
        self._note(self.raw.server_status)
        return _Rows(cursor._rows, cursor.rowcount, cursor.lastrowid, cursor.description)

    def _status(self, result: Any) -> int:
        """What the server said last, which asyncmy's `literal` goes by. From servers before DEPRECATE_EOF
        asyncmy reads none after rows."""
        status: int = result.server_status
        if status or self.raw._deprecate_eof:
            self.raw.server_status = status
            return status
        return self.raw.server_status  # type: ignore[no-any-return]

    def _note(self, status: int) -> None:
        if status & SESSION_CHANGED or not self._told:
            self.changed = True
        self.in_transaction = bool(status & IN_TRANSACTION)

    def _failed(self, error: BaseException) -> None:
        """A whole answer of the server leaves the session usable, but does not say what was changed before it
        failed; after anything else nobody knows what comes over the socket next."""
        number = _answered(error)
        if (
            number is None
            or number in ENDS_SESSION
            or (number == IDLE_FOR_TOO_LONG and self.system == "mysql")
        ):
            self.lost = True
        else:
            self.running, self.changed = False, True
            self._read = AsyncmySession._texts  # of which there are none
            if self._streamed is not None:
                self._streamed.unbuffered_active = 0  # after an error no rows come
        if number == DEADLOCK:
            self.in_transaction = False
        if self._refused_to_write(number, error):
            self.demoted, self.ends_at = True, 0.0
        if self.lost and isinstance(error, Exception):
            self.running = False
            raise ConnectionLost(f"session {self.id}: {error}") from error

    def _refused_to_write(self, number: int | None, error: BaseException) -> bool:
        """As nobody asked of it: 1290 is about other options too, 1792 about a transaction of the program."""
        if number == 1290:
            return "read" in str(error)
        if number == 1792:
            asked = IN_READ_ONLY_TRANSACTION & self.raw.server_status or READ_ONLY_SESSION in self._preparing
            return not asked
        return number == 1836

    async def start(self, sql: str, arguments: Arguments = None) -> Started:
        self._check_free()
        text = self.written(sql, arguments).encode(self._encoding, "surrogateescape")
        self._streamed = Streamed(self.raw)  # kept: asyncmy cuts the connection of one that is forgotten
        self._read = AsyncmySession._texts
        await self._guarded(self._start(text))
        streamed = self._streamed
        if streamed.unbuffered_active:
            self._hold_back()
            return _Rows(None, 0, 0, streamed.description, _columns(streamed.fields))
        await self._finish()
        return _Rows(None, streamed.affected_rows, streamed.insert_id, None)

    async def _start(self, text: bytes) -> None:
        await self.raw._execute_command(COM_QUERY, text)
        await self._streamed.init_unbuffered_query()

    def _hold_back(self) -> None:
        """Between two calls of `more` the rows stay with the server: asyncmy would keep all that come."""
        self.running = True
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def _let_come(self) -> None:
        if not self._transport.is_closing():
            self._transport.resume_reading()

    async def start_prepared(self, sql: str, arguments: Sequence[object]) -> Started:
        if self.running:
            self._check_free()
        kept = self._statements.get(sql)
        if kept is None:
            kept = await self._keep(sql)
        elif len(self._statements) > 1:
            self._statements[sql] = self._statements.pop(sql)
        if len(arguments) != kept.statement._parameter_count:
            raise Misuse(f"the statement has {kept.statement._parameter_count} ?, not {len(arguments)}")
        sent: bytes = kept.statement._execute_header + self._packed(sql, arguments)
        self.running = True
        try:
            return await self._start_prepared(kept, sent)
        except BaseException as error:
            self._failed(error)
            raise

    async def _keep(self, sql: str) -> _Kept:
        statement = await self._guarded(self.raw.prepare(sql.encode(self._encoding)))
        while len(self._statements) >= max(1, self.raw._stmt_cache_size):
            oldest = next(iter(self._statements))
            await self._guarded(self._statements.pop(oldest).statement.close())
        kept = self._statements[sql] = _Kept(statement)
        return kept

    async def _start_prepared(self, kept: _Kept, sent: bytes) -> Started:
        await self.raw._execute_command(COM_STMT_EXECUTE, sent)
        streamed: Any = _Unread(self.raw)
        self._streamed = streamed
        await streamed.read_binary(kept.statement)
        columns = kept.columns_of(streamed.fields) if streamed.description else None
        if streamed.unread:
            self._read, self._specs = AsyncmySession._binaries, kept.statement._meta[4]
            self._hold_back()
            return _Rows(None, 0, 0, streamed.description, columns)
        self.running = False
        await self._finish()
        rows, changed = streamed.rows, streamed.affected_rows
        return _Rows(rows, changed, streamed.insert_id, streamed.description, columns)

    async def more(self) -> Sequence[tuple[Any, ...]]:
        await asyncio.sleep(0)  # what lies in the buffer comes without a wait: others are to have their turn
        self._let_come()
        rows: Sequence[tuple[Any, ...]] = await self._guarded(self._read(self))
        if rows:
            self._hold_back()
        else:
            await self._finish()
        return rows

    async def _texts(self) -> Sequence[tuple[Any, ...]]:
        row = await self._streamed._read_rowdata_packet_unbuffered()
        return () if row is None else (row, *self._streamed._take_pending_rows())

    async def _binaries(self) -> Sequence[tuple[Any, ...]]:
        """A piece of those that lie in the buffer; else the next one, which may be larger than that. All of
        them would be too many: uvloop puts megabytes there at once."""
        raw, streamed, proto = self.raw, self._streamed, self._protocol
        rows: list[tuple[Any, ...]] = []
        end = min(proto.length, proto.pos + PIECE)
        proto.pos, raw._next_seq_id = parse_binary_rows_from_buffer(
            proto.buffer, proto.pos, end, self._specs, raw._next_seq_id, rows, raw._deprecate_eof
        )
        if not rows:
            packet = await raw.read_packet()
            if not streamed._check_packet_is_eof(packet):
                rows.append(packet.read_binary_row(self._specs))
        return rows

    async def _finish(self) -> None:
        """Of what a procedure answers, the first result counts."""
        status, more = self._status(self._streamed), self._streamed.has_next
        binary = isinstance(self._streamed, _Unread)
        while more:
            result = await self._guarded(self._next(binary))
            status, more = self._status(result), result.has_next
        self._note(status)

    async def _next(self, binary: bool) -> Any:
        if not binary:
            await self.raw.next_result()
            return self.raw._result
        result: Any = Streamed(self.raw)
        await result.read_binary()
        return result

    async def prepare(self, sql: str) -> AsyncmyPrepared:
        self._check_free()
        statement = await self._guarded(self.raw.prepare(sql.encode(self._encoding)))
        self.changed = True
        return AsyncmyPrepared(self, sql, statement)

    async def ping(self) -> None:
        await self._guarded(self.raw.ping(reconnect=False))

    def _check_free(self) -> None:
        if self.running and self.lost:
            raise ConnectionLost(f"session {self.id}: a statement was cut short on it")
        if self.running:
            raise ConnectionInUse(
                "another statement is under way on this connection, or a stream that was not read to its "
                "end: one task, one connection, one statement at a time"
            )

    async def _guarded(self, work: Awaitable[Any]) -> Any:
        """Of one exchange with the server, whatever ends it."""
        self.running = True
        try:
            answer = await work
        except BaseException as error:
            self._failed(error)
            raise
        self.running = False
        return answer

    async def reset(self) -> None:
        await self._command(COM_RESET_CONNECTION, b"")
        self.raw._stmt_cache.clear()
        self._statements.clear()
        if self._database is not None:
            await self._command(0x02, self._database)  # COM_INIT_DB
        elif (await self.query("SELECT DATABASE()")).rows != ((None,),):
            self.lost = True
            raise ConnectionLost("only a new session has no default database again")
        await self.make_ours()

    async def identify(self) -> None:
        """Asks a new session which server it leads to; one that does not say is told from all others."""
        try:
            self.server = (await self.query(WHICH_SERVER)).rows
        except answers.MySQLError as error:
            if error.args[0] in FULL:
                raise

    async def make_ours(self) -> None:
        """Sets what the pool and the `Server` ask of a session; afterwards it counts as unchanged."""
        for statement in self._preparing:
            try:
                await self.query(statement)
            except answers.MySQLError as error:
                if error.args[0] in FULL:
                    raise
                if error.args[0] != UNKNOWN_VARIABLE or "session_track" not in statement:
                    asked = f"what the settings ask for, {normalized(statement)}"
                    raise AccessRefused(f"the server refuses {asked}: {error}") from error
                self._told = False  # an older server, or a proxy: every used session is reset
                await self.query(statement.partition(", session_track")[0])
        self.changed = False

    async def _command(self, command: int, argument: str | bytes) -> None:
        await self._guarded(self._commanded(command, argument))

    async def _commanded(self, command: int, argument: str | bytes) -> None:
        await self.raw._execute_command(command, argument)
        self._note((await self.raw._read_ok_packet()).server_status)

    async def quit(self) -> None:
        if self._transport.is_closing():
            await self._protocol.wait_closed()
            return
        leaving = _Leaving()
        self._transport.set_protocol(leaving)
        self._let_come()
        self._transport.write(QUIT)
        try:
            await leaving.gone
        finally:
            self.abort()

    def abort(self) -> None:
        self.lost = True
        self._transport.abort()
        self.raw._connected = False


class _Unread(Streamed):
    """The answer to a prepared statement, whose rows stay where they are unless all of them have come."""

    unread = False

    async def _read_binary_rowdata_packet(self) -> None:
        self.unread = True


class _Kept:
    """A statement that its session keeps, and what its columns were the last time."""

    __slots__ = ("_columns", "_fields", "statement")

    def __init__(self, statement: Any) -> None:
        self.statement = statement
        self._fields: Any = None
        self._columns: Columns = ()

    def columns_of(self, fields: Any) -> Columns:
        if fields is not self._fields:
            self._fields, columns = fields, _columns(fields)
            self._columns = self._columns if columns == self._columns else columns
        return self._columns


def _columns(fields: Sequence[Any]) -> Columns:
    return tuple(Column(it.name, type_of(it.type_code, it.flags, it.charsetnr)) for it in fields)


class AsyncmyPrepared:
    """A statement prepared on a session."""

    def __init__(self, session: AsyncmySession, sql: str, statement: Any) -> None:
        self._session, self._sql, self._statement = session, sql, statement

    @property
    def parameters(self) -> int:
        return self._statement.parameter_count  # type: ignore[no-any-return]

    async def execute(self, arguments: Sequence[object]) -> Result:
        session = self._session
        session._check_free()
        session._packed(self._sql, arguments)
        result = await session._guarded(self._statement.execute(tuple(arguments)))
        session._note(session._status(result))
        return result  # type: ignore[no-any-return]


def _stays() -> None:
    """In place of asyncmy's `_close_on_cancel`."""


def _answered(error: BaseException) -> int | None:
    """The number of an error that the server sent; None for all others."""
    if not isinstance(error, answers.MySQLError) or not error.args or type(error.args[0]) is not int:
        return None
    number: int = error.args[0]
    made_here = number < 1000 or 2000 <= number < 3000
    return None if made_here else number


def _keep_alive(sock: Any) -> None:
    """A statement may take as long as it likes, but not wait for a peer that has gone without a word: what
    was sent is acknowledged in time, and who is silent is asked."""
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        for option, value in ALIVE.items():
            if hasattr(socket, option):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


class _Leaving(asyncio.Protocol):
    """Takes the place of a session's protocol: whatever still comes is not wanted."""

    def __init__(self) -> None:
        self.gone = asyncio.get_running_loop().create_future()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.gone.done():
            self.gone.set_result(None)
