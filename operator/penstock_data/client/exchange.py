"""How a request comes to its answer: what is sent where, and when again. A generator, so that it is the same
for clients that wait and those that do not: it yields what is to be done and is sent what came of it."""

from __future__ import annotations

import random
from collections.abc import Callable, Generator
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx

from penstock_data.client.calls import Call, Reply
from penstock_data.client.errors import (
    BeginAgain,
    Conflict,
    DataError,
    Fault,
    Later,
    Mistake,
    OutcomeUnknown,
    TimedOut,
    Unavailable,
    Unreachable,
)

GRACE = 1.0
"""Seconds beyond the time, in which the service tells itself that it is over."""

FIRST_PAUSE = 0.05
"""Seconds; twice as long each time."""


@dataclass(slots=True)
class Route:
    """Where a process is asked."""

    home: str
    """The service's address."""
    at: str = ""
    """The one of a process behind it, if that told it."""

    def __post_init__(self) -> None:
        self.at = self.at or self.home


@dataclass(frozen=True, slots=True)
class Send:
    """Send it, and answer by a `Reply`, or throw the `httpx.HTTPError`."""

    url: str
    call: Call
    left: float
    """Seconds."""

    @property
    def timeout(self) -> httpx.Timeout:
        return httpx.Timeout(self.left, read=self.left + GRACE)


@dataclass(frozen=True, slots=True)
class Wait:
    """Let some time pass."""

    seconds: float


Steps = Generator[Send | Wait, Reply | None, Reply]

HOPS = 2
"""Addresses that lead to another one, in a row."""


def exchange(call: Call, route: Route, clock: Callable[[], float]) -> Steps:
    """The answer, which is a good one. Raises `DataError`."""
    ends = clock() + call.seconds
    lost: DataError | None = None
    for number in range(call.tries):
        cause = None
        try:
            reply = yield from _reached(call, route, ends, clock)
        except httpx.HTTPError as error:
            failed, cause = _lost(error, call), error
            route.at = route.home
        else:
            if reply.status < 300:
                return reply
            failed = reply.error()
        pause = _pause(failed, call, number, again=lost is not None)
        if pause is None or number + 1 == call.tries or clock() + pause >= ends:
            raise _told(failed, lost) from cause
        lost = failed if isinstance(failed, OutcomeUnknown) and not call.reads else lost
        yield Wait(pause)
    raise AssertionError("unreachable: the last attempt returns or raises")


def _reached(call: Call, route: Route, ends: float, clock: Callable[[], float]) -> Steps:
    """The answer of the process that it is for."""
    for _ in range(HOPS + 1):
        reply = yield Send(route.at + call.path, call, max(0.001, ends - clock()))
        assert reply is not None
        if reply.status != 307:
            return reply
        route.at = _followed(reply, call, route.home)
    raise Fault("the service's processes name each other in turns", status=307)


def _lost(error: httpx.HTTPError, call: Call) -> DataError:
    """What an answer that did not come means."""
    told = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout | httpx.ProxyError):
        return Unreachable(f"no connection to the service: {told}")
    if isinstance(error, httpx.UnsupportedProtocol | httpx.DecodingError | httpx.TooManyRedirects):
        return Fault(told)
    if isinstance(error, httpx.ReadTimeout) and call.reads:
        return TimedOut(f"no answer within {call.seconds:g} s")
    if call.reads:
        return Unavailable(f"the connection to the service broke: {told}")
    return OutcomeUnknown(f"the connection to the service broke: {told}")


def _pause(failed: DataError, call: Call, number: int, *, again: bool) -> float | None:
    """Seconds until it is sent again; None: it is not. `again`: an earlier one may still be at work."""
    if isinstance(failed, Later):
        pause = failed.retry_after or FIRST_PAUSE * 2.0**number
    elif (call.again and isinstance(failed, OutcomeUnknown)) or (again and isinstance(failed, Conflict)):
        pause = FIRST_PAUSE * 2.0**number
    else:
        return None
    return pause * random.uniform(1, 1.25)  # noqa: S311 - so that not all come at once


def _told(failed: DataError, lost: DataError | None) -> DataError:
    """What the last attempt says of all of them. Where one was lost, only what was looked at under its key
    says what became of it."""
    if lost is None or isinstance(failed, OutcomeUnknown | BeginAgain | Mistake):
        return failed
    return lost


def _followed(reply: Reply, call: Call, home: str) -> str:
    """The address of a lease's own process. The token goes there too: so only to what the service names for
    this lease, over what is as safe. Raises `Fault`."""
    location = reply.headers.get("location", "")
    there, here = urlsplit(location), urlsplit(home)
    pod = (call.lease or "").partition("~")[0]
    same = there.scheme == here.scheme and there.path == call.path and not there.query
    if not pod or pod not in there.netloc or "@" in there.netloc or not same:
        raise Fault(f"the service leads to {location!r}, where no token is sent", status=reply.status)
    return f"{there.scheme}://{there.netloc}"


def address(url: str) -> str:
    """Of the service, as it is put before paths. Raises `ValueError`."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment:
        raise ValueError(f"{url!r} is no address of a data service, such as http://shop-db:8080")
    return url.rstrip("/")
