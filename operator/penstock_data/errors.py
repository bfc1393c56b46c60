"""Every answer that is not the one that was asked for, typed by what the client can do about it.

Problem
├── BadRequest            400  mend the request: the text says where
│   └── NotAllowed        400  a statement that this service does not send
├── Unauthenticated       401  no token, or not a good one
├── Forbidden             403  the token does not allow it
├── NotFound              404  no such path, query or lease
├── WrongMethod           405
├── Conflict              409  somebody else was first
├── RetryTransaction      409  deadlock or lock wait: rolled back, begin again
├── LeaseGone             410  the transaction was rolled back, unless it was committed
├── TooLarge              413  the request
├── Unsupported           415  its media type or encoding
├── DatabaseRefused       422  the database's own error
├── ResultTooLarge        422  the statement was killed
├── KeyReused             422  an Idempotency-Key with another request
├── Busy                  429  the tenant has enough under way
├── Internal              500  a fault of ours
├── OutcomeUnknown        502  it broke under way
├── Unavailable           503  nothing was done: later
└── TimedOut              504  the time of the request is over

InvalidSettings           never served: the service does not start
Missing                   nor without a part that it needs
"""

from __future__ import annotations

from typing import Any, ClassVar


class DataServiceError(Exception):
    """The root of this package's errors."""


class InvalidSettings(DataServiceError, ValueError):
    """A setting, or a file it names, that cannot be meant; the text says which, where and what is allowed."""


class Missing(DataServiceError):
    """A part that is needed is not installed, or does not work; the text says which."""


class Problem(DataServiceError):
    """An answer as problem+json (RFC 9457)."""

    status: ClassVar[int] = 500
    title: ClassVar[str] = "a fault of the service"
    slug: ClassVar[str] = "internal"

    def __init__(self, detail: str, *, headers: dict[str, str] | None = None, **more: Any) -> None:
        """`headers` of the answer besides its type; `more` are further members of the document."""
        super().__init__(detail)
        self.detail, self.headers, self.more = detail, headers or {}, more

    def document(self, trace_id: str | None = None) -> dict[str, Any]:
        """What is sent."""
        told = {
            "type": f"urn:penstock:{self.slug}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            **self.more,
        }
        return told if trace_id is None else {**told, "trace_id": trace_id}


class BadRequest(Problem):
    """Not what is understood."""

    status, slug, title = 400, "bad-request", "the request is not understood"


class NotAllowed(BadRequest):
    """A statement that this service does not send to the database."""

    slug, title = "not-allowed-statement", "the statement is refused"


class Unauthenticated(Problem):
    """No token, or one that is not valid here; never says why a wrong one is wrong."""

    status, slug, title = 401, "unauthenticated", "no valid token"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers={"WWW-Authenticate": "Bearer"})


class Forbidden(Problem):
    """The token does not allow it."""

    status, slug, title = 403, "forbidden", "not allowed"


class NotFound(Problem):
    """There is no such thing."""

    status, slug, title = 404, "not-found", "there is no such thing"


class WrongMethod(Problem):
    """Of a path that has others."""

    status, slug, title = 405, "wrong-method", "not by this method"


class Conflict(Problem):
    """Somebody else was first: a fence, a generation, or a request under way on the lease."""

    status, slug, title = 409, "conflict", "somebody else was first"


class RetryTransaction(Problem):
    """Deadlock or lock wait: rolled back."""

    status, slug, title = 409, "retry-transaction", "rolled back: begin again"


class LeaseGone(Problem):
    """Ended, expired, or lost with its process."""

    status, slug, title = 410, "lease-gone", "the transaction is over"


class TooLarge(Problem):
    """The request's body."""

    status, slug, title = 413, "too-large", "the request is too large"


class Unsupported(Problem):
    """Media type or encoding of the request."""

    status, slug, title = 415, "unsupported", "not in this form"


class DatabaseRefused(Problem):
    """The database's own error, with its number."""

    status, slug, title = 422, "database-refused", "the database refuses the statement"


class ResultTooLarge(Problem):
    """More rows or bytes than are allowed; the statement was killed."""

    status, slug, title = 422, "result-too-large", "the result is too large"


class KeyReused(Problem):
    """An Idempotency-Key with another request than the first time."""

    status, slug, title = 422, "key-reused", "the key belongs to another request"


class Retriable(Problem):
    """Trying again later is safe and may help."""

    def __init__(self, detail: str, *, after: float = 1.0, **more: Any) -> None:
        """`after`: seconds."""
        super().__init__(detail, headers={"Retry-After": str(max(1, round(after)))}, **more)


class Busy(Retriable):
    """The tenant has enough under way and waiting."""

    status, slug, title = 429, "busy", "too much under way"


class Internal(Problem):
    """A fault of ours: the log has more under the trace id."""


class OutcomeUnknown(Problem):
    """The connection broke while a statement, or COMMIT, was under way."""

    status, slug, title = 502, "outcome-unknown", "whether it was done is not known"


class Unavailable(Retriable):
    """Nothing was done."""

    status, slug, title = 503, "unavailable", "not available now"


class TimedOut(Problem):
    """The time of the request is over; the statement was killed."""

    status, slug, title = 504, "timeout", "the time is over"
