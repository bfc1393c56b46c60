"""What a pool is told: which server, how many connections, how long for what. Frozen and checked at once; a
value that cannot be meant is refused, never corrected."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from math import isfinite
from types import MappingProxyType
from urllib.parse import parse_qsl, unquote, urlsplit

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
    """Prepared statements kept per session for `execute` with arguments; 0: the text protocol. A session that
    is reset loses them."""

    multi_statements: bool = False
    """Whether one call may hold several statements. Off, because that turns an injected quote into
    anything."""

    def __post_init__(self) -> None:
        _check(bool(self.host), "host", self.host, "a name or an address")
        _check(0 < self.port < 65536, "port", self.port, "1 to 65535")
        _check(bool(self.user), "user", self.user, "an account's name")
        _check(self.statement_cache >= 0, "statement_cache", self.statement_cache, "0 or more")
        _check(not isinstance(self.init, str), "init", self.init, "a tuple of statements")

    @classmethod
    def from_url(cls, url: str) -> Server:
        """`mysql://user:password@host:port/database?unix_socket=…&tls=true|false&charset=…`. Raises
        `InvalidSettings`, in whose text the password is not."""
        parts = urlsplit(url)
        _check(
            parts.scheme in ("mysql", "mariadb"), "url", f"{parts.scheme}://…", "mysql://user@host/database"
        )
        options = dict(parse_qsl(parts.query))
        tls = options.pop("tls", None)
        _check(tls in (None, "true", "false"), "tls", tls, "true or false")
        _check(
            options.keys() <= {"unix_socket", "charset"}, "url", sorted(options), "unix_socket, tls, charset"
        )
        return cls(
            parts.hostname or "127.0.0.1",
            _port(parts.netloc.rpartition("@")[2]),
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


def _port(place: str) -> int:
    name, colon, port = place.rpartition(":")
    if not colon or name.count("[") != name.count("]"):
        return 3306
    _check(port.isascii() and port.isdigit(), "port", port, "1 to 65535")
    return int(port)


@dataclass(frozen=True, slots=True)
class Limit:
    """How much of the pool one class of query may take."""

    concurrency: int
    """Connections at a time."""

    queue: int = 100
    """Checkouts that may wait for one of those."""

    def __post_init__(self) -> None:
        _check(self.concurrency > 0, "concurrency", self.concurrency, "1 or more")
        _check(self.queue >= 0, "queue", self.queue, "0 or more")


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
    """After "Too many connections" the pool stays at what it reached for as long, then tries one more."""

    limits: Mapping[str, Limit] = field(default_factory=dict)
    """By name: classes of query that may only take part of the pool (`pool.connection(limit="reports")`)."""

    slow_query: float | None = 1.0
    """Statements that take longer are logged with their digest."""

    slow_explain: bool = False
    """Whether the log of a slow statement has its EXPLAIN, taken on the same connection right after."""

    def __post_init__(self) -> None:
        _check(self.max >= 1, "max", self.max, "1 or more")
        _check(0 <= self.min <= self.max, "min", self.min, f"0 to max ({self.max})")
        _check(self.queue >= 0, "queue", self.queue, "0 or more")
        _check_time("checkout_timeout", self.checkout_timeout, zero=True)
        _check_time("ping_after", self.ping_after, zero=True)
        for name in ("connect_timeout", "ping_timeout", "heartbeat", "idle_timeout", "lifetime"):
            _check_time(name, getattr(self, name))
        for name in ("kill_timeout", "full_retry"):
            _check_time(name, getattr(self, name))
        for name in ("hold_warn", "hold_limit", "slow_query"):
            if getattr(self, name) is not None:
                _check_time(name, getattr(self, name))
        object.__setattr__(self, "limits", MappingProxyType(dict(self.limits)))


def _check_time(name: str, value: float, *, zero: bool = False) -> None:
    _check(isfinite(value) and (value > 0 or (zero and value == 0)), name, value, "seconds above 0")


def _check(holds: bool, name: str, value: object, allowed: str) -> None:
    if not holds:
        raise InvalidSettings(f"{name} is {value!r}; allowed is: {allowed}")
