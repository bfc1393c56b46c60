"""What a pool is told: which server, how many connections, how long for what. Frozen and checked at once; a
value that cannot be meant is refused, never corrected."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from math import isfinite
from types import MappingProxyType, UnionType
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from penstock_pool.errors import InvalidSettings

Password = str | Callable[[], str | Awaitable[str]]
"""A password, or what is called (and awaited) for one before every connect, so that it can be rotated."""


@dataclass(frozen=True, slots=True)
class Server:
    """Where the database is and who asks. Raises `InvalidSettings`."""

    host: str = "127.0.0.1"
    port: int = 3306
    """TCP port, 1 to 65535."""

    _: KW_ONLY
    unix_socket: str | None = None
    """Path of the server's socket; host and port are not used then."""

    user: str
    """Name of the account."""

    password: Password = field(default="", repr=False)
    """Or a callable that is asked before every connect."""

    database: str | None = None
    """The default database of every session; restored when a borrower chose another."""

    tls: ssl.SSLContext | bool | None = None
    """True: TLS, the server's certificate and name are verified against the system's authorities. A context:
    TLS as it says. False: none. None (the default): True, but none over a Unix socket or to a loopback
    address, where nothing leaves the machine."""

    charset: str = "utf8mb4"
    """Of the session, as the server calls it."""

    sql_mode: str | None = None
    """The session's sql_mode; None is the server's."""

    autocommit: bool = True
    """Whether each statement is its own transaction outside of `transaction()`."""

    read_only: bool = False
    """Whether sessions refuse to write (error 1792): for replicas that would take it."""

    found_rows: bool = False
    """Whether `affected_rows` of an UPDATE counts the rows that match instead of those that change
    (CLIENT_FOUND_ROWS); SQLAlchemy's ORM relies on it."""

    init: tuple[str, ...] = ()
    """Statements that are executed on every new or reset session, before anybody gets it."""

    program_name: str = "penstock-pool"
    """How the connections name themselves to the server (performance_schema.session_connect_attrs)."""

    statement_cache: int = 0
    """Prepared statements kept per session for `execute` with arguments, and for prepared streams; 0: the
    text protocol, and one for streams. A session that is reset loses them."""

    multi_statements: bool = False
    """Whether one call may hold several statements. Off, because that turns an injected quote into
    anything."""

    def __post_init__(self) -> None:
        for name in ("host", "user", "charset", "program_name"):
            _check_text(name, getattr(self, name))
        _check_whole("port", self.port, 1, 65535)
        for name in ("unix_socket", "database", "sql_mode"):
            _check_kind(name, getattr(self, name), str | None, "text or None")
        given = isinstance(self.password, str) or callable(self.password)
        _check(given, "password", type(self.password), "text or a callable")
        _check_kind("tls", self.tls, ssl.SSLContext | bool | None, "an SSLContext, True, False or None")
        for name in ("autocommit", "multi_statements", "read_only", "found_rows"):
            _check_kind(name, getattr(self, name), bool, "True or False")
        _check_whole("statement_cache", self.statement_cache, 0)
        init = isinstance(self.init, tuple) and all(isinstance(statement, str) for statement in self.init)
        _check(init, "init", self.init, "a tuple of statements")

    @classmethod
    def from_url(cls, url: str) -> Server:
        """`mysql://user:password@host:port/database?unix_socket=…&tls=true|false&charset=…`. Raises
        `InvalidSettings`, in whose text the password is not."""
        parts, host, port = _taken_apart(url)
        options = dict(parse_qsl(parts.query))
        tls = options.pop("tls", None)
        _check(tls in (None, "true", "false"), "tls", tls, "true or false")
        _check(
            options.keys() <= {"unix_socket", "charset"}, "url", sorted(options), "unix_socket, tls, charset"
        )
        return cls(
            host,
            port,
            user=unquote(parts.username or ""),
            password=unquote(parts.password or ""),
            database=unquote(parts.path[1:]) or None,
            tls=None if tls is None else tls == "true",
            unix_socket=options.get("unix_socket"),
            charset=options.get("charset", "utf8mb4"),
        )

    def __str__(self) -> str:
        """For people: where, without who."""
        return self.unix_socket or f"{self.host}:{self.port}"


def _taken_apart(url: str) -> tuple[SplitResult, str, int]:
    """And its host and port. What is wrong is not repeated: with a character too many in it, the password is
    taken for anything else."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except (ValueError, TypeError, AttributeError):
        raise InvalidSettings(f"url cannot be read; allowed is: {_URL}") from None
    known = parts.scheme in ("mysql", "mariadb")
    _check(known and bool(parts.username), "url", "without mysql:// or a user", _URL)
    return parts, parts.hostname or "127.0.0.1", 3306 if port is None else port


_URL = "mysql://user:password@host:port/database, with anything else than letters and digits as %40 (an @)"


@dataclass(frozen=True, slots=True)
class Limit:
    """How much of the pool one class of query may take."""

    concurrency: int
    """Connections at a time."""

    queue: int = 100
    """Checkouts that may wait for one of those."""

    def __post_init__(self) -> None:
        _check_whole("concurrency", self.concurrency, 1)
        _check_whole("queue", self.queue, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSettings:
    """How many connections, and how long for what; times are seconds. Raises `InvalidSettings`."""

    name: str = "pool"
    """In errors, logs and metrics."""

    min: int = 10
    """Connections that are kept open."""

    max: int = 30
    """Connections that are open at most, those being opened, reset and closed included."""

    checkout_timeout: float = 3.0
    """From asking for a connection to having it; 0 takes an idle one or none."""

    queue: int = 1000
    """Checkouts that may wait; more are refused at once."""

    connect_timeout: float = 5.0
    """For all of a connect: TCP, greeting, TLS, authentication, session settings."""

    ping_timeout: float = 1.0
    """For a ping or a reset between two borrowers; after it the connection is replaced."""

    ping_after: float = 1.0
    """Not proven alive for as long, an idle connection is pinged before somebody gets it."""

    heartbeat: float = 5.0
    """Idle connections are pinged as often."""

    idle_timeout: float = 300.0
    """After as long without a borrower a connection above `min` is closed."""

    lifetime: float = 1800.0
    """A connection is replaced at this age, up to a tenth earlier (by chance, so that not all are at once).
    Keep it below the server's wait_timeout and whatever a firewall allows."""

    hold_warn: float | None = 30.0
    """A borrower that holds a connection for longer is named in the log, with its stack."""

    hold_limit: float | None = None
    """After as long its transaction is rolled back and the connection is taken away."""

    kill_timeout: float = 2.0
    """For ending a statement on the server (KILL QUERY) after its task was cancelled, and for a session to
    end in order; after it the socket is cut."""

    full_retry: float = 30.0
    """After "Too many connections" the pool stays at what it reached for as long, then tries one more,
    after as long again two, then four."""

    limits: Mapping[str, Limit] = field(default_factory=dict)
    """By name: classes of query that may only take part of the pool (`pool.connection(limit="reports")`)."""

    slow_query: float | None = 1.0
    """Statements that take longer are logged with their digest."""

    slow_explain: bool = False
    """Whether the log of a slow statement has its EXPLAIN, taken on the same connection right after."""

    def __post_init__(self) -> None:
        _check_text("name", self.name)
        _check_whole("max", self.max, 1)
        _check_whole("min", self.min, 0, self.max)
        _check_whole("queue", self.queue, 0)
        for name in ("checkout_timeout", "ping_after"):
            _check_time(name, getattr(self, name), zero=True)
        for name in ("connect_timeout", "ping_timeout", "heartbeat", "idle_timeout", "lifetime"):
            _check_time(name, getattr(self, name))
        for name in ("kill_timeout", "full_retry"):
            _check_time(name, getattr(self, name))
        for name in ("hold_warn", "hold_limit", "slow_query"):
            if getattr(self, name) is not None:
                _check_time(name, getattr(self, name))
        _check_kind("slow_explain", self.slow_explain, bool, "True or False")
        _check_kind("limits", self.limits, Mapping, "a Limit for each name")
        for limit in self.limits.values():
            _check_kind("limits", limit, Limit, "a Limit for each name")
        object.__setattr__(self, "limits", MappingProxyType(dict(self.limits)))


def _check_text(name: str, value: object) -> None:
    _check(isinstance(value, str) and bool(value), name, value, "text, and not empty")


def _check_kind(name: str, value: object, kind: type | UnionType, allowed: str) -> None:
    _check(isinstance(value, kind), name, value, allowed)


def _check_whole(name: str, value: object, least: int, most: int | None = None) -> None:
    """A whole number; True and False are none."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    holds = whole and least <= value and (most is None or value <= most)  # type: ignore[operator]
    _check(holds, name, value, f"{least} or more" if most is None else f"{least} to {most}")


def _check_time(name: str, value: object, *, zero: bool = False) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    holds = number and isfinite(value) and (value > 0 or (zero and value == 0))  # type: ignore[arg-type,operator]
    _check(holds, name, value, "seconds, 0 or more" if zero else "seconds above 0")


def _check(holds: bool, name: str, value: object, allowed: str) -> None:
    if not holds:
        raise InvalidSettings(f"{name} is {value!r}; allowed is: {allowed}")
