"""Everything the pool can raise, typed by what the caller can do about it.

    PoolError
    ├── InvalidSettings       (also a ValueError) never retry: a setting cannot be meant
    ├── Misuse                never retry: the program is wrong
    │   ├── NotBorrowed       a connection is used outside its `async with`
    │   ├── ConnectionInUse   two tasks use one connection at the same time
    │   └── NestedCheckout    waiting would never end: who waits holds what is waited for
    ├── PoolUnavailable       nothing was sent: retry later
    │   ├── CheckoutTimeout   no connection came free in time
    │   ├── QueueFull         too many wait already
    │   ├── DatabaseDown      nothing is open, and opening failed just now
    │   └── PoolClosed
    ├── ConnectFailed         why a connection could not be opened; the cause of those above
    │   ├── Unreachable       no server, no answer in time, or the conversation broke off
    │   ├── ServerFull        the server takes no more connections (1040, 1203, 1226)
    │   └── AccessRefused     credentials, TLS or the database's name: waiting does not help
    ├── RolledBack            repeat the transaction: the server has undone all of it
    └── ConnectionLost        it broke while a statement ran: whether that was done is not known
        ├── CommitUnknown     that statement was COMMIT
        └── HoldLimitExceeded it was held too long: rolled back and taken away

An error that the server answers to a statement is none of these: it is the driver's (`asyncmy.errors`), with
the server's number and text, and the connection stays usable.
"""

from __future__ import annotations


class PoolError(Exception):
    """The root of the pool's errors."""


class InvalidSettings(PoolError, ValueError):
    """A setting that cannot be meant; the text names it, what it was, and what is allowed."""


class Misuse(PoolError):
    """The program uses the pool in a way that cannot work, however often it is tried."""


class NotBorrowed(Misuse):
    """A connection is used before its `async with` began or after it ended."""


class ConnectionInUse(Misuse):
    """A statement was sent over a connection on which another one, of another task, has not ended."""


class NestedCheckout(Misuse):
    """A checkout that could never be served, told at once: every connection is held by a task that waits for
    one. Hold one connection at a time in a task, or make the pool larger than such tasks need together."""


class PoolUnavailable(PoolError):
    """No connection could be given; nothing was sent to the database, so trying again later is safe."""


class CheckoutTimeout(PoolUnavailable):
    """No connection came free within the checkout's time. `__cause__` is the last failed connect, if it is
    newer than the last success."""


class QueueFull(PoolUnavailable):
    """As many tasks wait as the pool lets wait: refused at once, so that the queue cannot grow for ever."""


class DatabaseDown(PoolUnavailable):
    """No connection is open and the last attempt to open one failed (`__cause__`). One attempt at a time is
    made in the background; the others are not kept waiting for it."""


class PoolClosed(PoolUnavailable):
    """The pool is not open: not yet, no longer, or this process is a fork of the one that opened it. A
    statement that was under way when the pool was closed gets `ConnectionLost` instead: it was sent."""


class ConnectFailed(PoolError):
    """A connection could not be opened."""


class Unreachable(ConnectFailed):
    """The server was not reached, did not answer in time, or broke off. Later tries may succeed."""


class ServerFull(ConnectFailed):
    """The server refuses more connections: 1040 (max_connections), 1203 (max_user_connections) or 1226 (a
    limit of the account)."""


class AccessRefused(ConnectFailed):
    """The server was reached, but refuses us, or we refuse it: credentials, TLS, the database's name."""


class RolledBack(PoolError):
    """The whole transaction is undone, by a deadlock, or a savepoint could not be restored (`__cause__`).
    Each statement raises it until the outermost block ends, and that raises it too: a half is never
    committed."""


class ConnectionLost(PoolError):
    """The connection broke while a statement was under way; whether the server executed it is not known. In a
    transaction, everything since its beginning is rolled back by the server."""


class CommitUnknown(ConnectionLost):
    """The connection broke after COMMIT was sent and before its answer came: the transaction may be stored or
    rolled back. Ask the data, do not repeat blindly."""


class HoldLimitExceeded(ConnectionLost):
    """The connection was held longer than `hold_limit`; its transaction is rolled back and it is taken
    away. During COMMIT it is `CommitUnknown` that is raised."""
