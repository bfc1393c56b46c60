"""What can go wrong, typed by what you can do about it.

DataError
├── Mistake                 mend what you send; the same again is refused again
│   ├── BadParameter        a value that cannot be sent; nothing was
│   ├── BadRequest          not what the service understands
│   │   └── StatementRefused  a statement that the service does not send
│   ├── NotFound            no such path or named query
│   ├── DatabaseRefused     the database's own error, by its `errno`
│   ├── ResultTooLarge      ask for less, or for a stream
│   └── KeyReused           the key belongs to another request
├── NotAllowed              get another token
│   ├── Unauthenticated
│   └── Forbidden
├── Later                   nothing was done: again after `retry_after`
│   ├── Busy                you have enough under way
│   └── Unavailable         database down, pool full, or stopping
│       └── Unreachable     there was no connection to the service
├── BeginAgain              the transaction was rolled back
│   ├── RetryTransaction    by a deadlock, or a wait for a lock
│   └── LeaseGone           its time was over, or its process has ended
├── Conflict                somebody else was first
├── TimedOut                the time is over; the statement was killed
├── OutcomeUnknown          it may have been done: ask the data, or use a key
├── StreamCut               rows that came are good, others are missing
└── Fault                   of the service, or an answer that is none of its
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class DataError(Exception):
    """The root of all errors of a client."""

    def __init__(self, detail: str, **more: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.status: int | None = more.get("status")
        """Of HTTP; None when there was no answer."""
        self.errno: int | None = more.get("errno")
        """The database's number of its error."""
        self.sqlstate: str | None = more.get("sqlstate")
        self.retry_after: float | None = more.get("retry_after")
        """Seconds after which it may work."""
        self.trace_id: str | None = more.get("trace_id")
        """By which the service's log has more."""
        self.more: Mapping[str, Any] = more
        """All that was told, such as `position` and `expected_wait`."""


class Mistake(DataError):
    """What was sent is wrong."""


class BadParameter(Mistake, TypeError, ValueError):
    """A value that has no place in a request; nothing was sent."""


class BadRequest(Mistake):
    """Not what the service understands; the text says where."""


class StatementRefused(BadRequest):
    """A statement that the service does not send to the database."""


class NotFound(Mistake):
    """There is no such path or named query."""


class DatabaseRefused(Mistake):
    """The database's own error."""


class ResultTooLarge(Mistake):
    """More rows or bytes than the service answers at once."""


class KeyReused(Mistake):
    """The key was used for another request."""


class NotAllowed(DataError):
    """The token does not do."""


class Unauthenticated(NotAllowed):
    """There is none, or it is not a good one."""


class Forbidden(NotAllowed):
    """Its scopes do not allow it, or it is another tenant's."""


class Later(DataError):
    """Nothing was done."""


class Busy(Later):
    """Your tenant has enough under way."""


class Unavailable(Later):
    """Database down, pool full, or stopping."""


class Unreachable(Unavailable):
    """There was no connection to the service."""


class BeginAgain(DataError):
    """The transaction was rolled back."""


class RetryTransaction(BeginAgain):
    """A deadlock, or a lock that was not had in time."""


class LeaseGone(BeginAgain):
    """It ended, its time was over, or its process has ended."""


class Conflict(DataError):
    """A fence or a generation is an older one, or another request is under way in the transaction."""


class TimedOut(DataError):
    """The time is over, and the statement was killed."""


class OutcomeUnknown(DataError):
    """The connection broke while it was under way: it may have been done."""


class StreamCut(DataError):
    """A stream ended without its last line: rows are missing."""


class Fault(DataError):
    """Of the service; or what answered is not one."""


_BY_TYPE: dict[str, type[DataError]] = {
    "bad-request": BadRequest,
    "not-allowed-statement": StatementRefused,
    "unauthenticated": Unauthenticated,
    "forbidden": Forbidden,
    "not-found": NotFound,
    "wrong-method": BadRequest,
    "conflict": Conflict,
    "retry-transaction": RetryTransaction,
    "lease-gone": LeaseGone,
    "too-large": BadRequest,
    "unsupported": BadRequest,
    "database-refused": DatabaseRefused,
    "result-too-large": ResultTooLarge,
    "key-reused": KeyReused,
    "busy": Busy,
    "internal": Fault,
    "outcome-unknown": OutcomeUnknown,
    "unavailable": Unavailable,
    "timeout": TimedOut,
}


def error_of(problem: Mapping[str, Any], *, retry_after: float | None = None) -> DataError:
    """Of a problem document. A type that is not known, of a newer service, is a `Fault`."""
    kind = str(problem.get("type", "")).removeprefix("urn:penstock:")
    told = {name: value for name, value in problem.items() if name != "detail"}
    detail = str(problem.get("detail") or problem.get("title") or "the service told nothing")
    return _BY_TYPE.get(kind, Fault)(detail, **told, retry_after=retry_after)
