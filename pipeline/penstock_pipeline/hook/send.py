"""Telling a Penstock of what waits in a spool, for as long as it takes."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlsplit

from .. import signatures
from ..errors import Invalid, Unavailable
from .spool import Message, Spool

PATIENCE = 10.0
"""Seconds Penstock may take to connect, and to answer."""

LIFE = 3600.0
"""Seconds a sender goes on trying; after that the next push starts another one."""

LONGEST_PAUSE = 60.0
"""Seconds between two tries at the most; they begin at one and double."""

LATER = frozenset({408, 425, 429})
"""Answers below 500 that mean: not now (RFC 9110, RFC 8470, RFC 6585)."""

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Answer:
    """What was said to a message; `told` is empty where that is no JSON object."""

    status: int
    told: Mapping[str, Any]

    @property
    def taken(self) -> bool:
        """Only Penstock's own words count: something else may listen there, and say yes to everything."""
        return 200 <= self.status < 300 and ("run" in self.told or "ignored" in self.told)

    @property
    def refused(self) -> bool:
        return 400 <= self.status < 500 and self.status not in LATER

    @property
    def words(self) -> str:
        words = self.told.get("error") or self.told.get("ignored")
        if words is None and self.taken:
            words = f"run {self.told['run']}"
        plain = f"it answers {self.status} {http.client.responses.get(self.status, '')}"
        return "".join(letter for letter in str(words or plain) if letter.isprintable())


class Door:
    """Where a Penstock takes webhooks of any program: `http://…/hooks/generic/APP`. Raises `Invalid`."""

    def __init__(self, url: str, secret: str) -> None:
        self._parts = _address(url)
        self._secret = secret
        if not secret:
            raise Invalid("the webhook's secret is missing: --secret-file FILE, or PENSTOCK_WEBHOOK_SECRET")

    def send(self, message: Message) -> Answer:
        """Raises `Unavailable` where the answer is none, or says to come again."""
        now = int(time.time())
        headers = {
            "Content-Type": "application/json",
            "webhook-id": message.id,
            "webhook-timestamp": str(now),
            "webhook-signature": signatures.sign(self._secret, message.id, now, message.body),
        }
        try:
            answer = self._post(message.body, headers)
        except (OSError, http.client.HTTPException, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise Unavailable(why) from error
        if not answer.taken and not answer.refused:
            raise Unavailable(answer.words)
        return answer

    def _post(self, body: bytes, headers: dict[str, str]) -> Answer:
        parts = self._parts
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        with closing(kind(parts.netloc.rpartition("@")[2], timeout=PATIENCE)) as connection:
            connection.request("POST", parts.path, body, headers)
            answer = connection.getresponse()
            return Answer(answer.status, _object(answer.read(65536)))


def _object(body: bytes) -> dict[str, Any]:
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def _address(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return parts
    except ValueError:
        pass
    raise Invalid(f"{url!r} is no address for webhooks; --url looks like http://host:7070/hooks/generic/APP")


def send_all(spool: Spool, door: Door, tell: Tell) -> None:
    """Sends what waits, oldest first, until nothing does. Raises `Unavailable`; what was not taken stays."""
    for name in spool.refuse_cut_off():
        tell(f" !     Refused    {name}: cut off when it was kept; it is in {spool.refused}")
    while waiting := spool.waiting():
        for name in waiting:
            _send_one(spool, door, name, tell)
    spool.trouble = None


def _send_one(spool: Spool, door: Door, name: str, tell: Tell) -> None:
    message = spool.message(name)
    answer = door.send(message)
    if answer.taken:
        spool.told(name)
        tell(verdict(message, answer))
    else:
        spool.refuse(name, answer.words)
        tell(f"{verdict(message, answer)}; it is in {spool.refused}")


def keep_sending(spool: Spool, door: Door, tell: Tell, *, let_go: Callable[[], None]) -> None:
    """Sends what waits, unless another process does; where Penstock is away, calls `let_go` and goes on
    trying for `LIFE` seconds."""
    deadline = time.monotonic() + LIFE
    while spool.waiting() and time.monotonic() < deadline:  # again: some came as the lock was given back
        with spool.alone() as alone:
            if not alone:
                return tell(_in_turn(spool))
            _persist(spool, door, tell, let_go, deadline)
    return None


def _persist(spool: Spool, door: Door, tell: Tell, let_go: Callable[[], None], deadline: float) -> None:
    pause = 1.0
    while time.monotonic() < deadline:
        try:
            return send_all(spool, door, tell)
        except Unavailable as error:
            spool.trouble = str(error)
        tell(_in_turn(spool))
        let_go()
        _pause(spool, min(deadline, time.monotonic() + pause))
        pause = min(pause * 2, LONGEST_PAUSE)
    return None


def _in_turn(spool: Spool) -> str:
    waiting = len(spool.waiting())
    kept = "1 push is kept" if waiting == 1 else f"{waiting} pushes are kept"
    if (why := spool.trouble) is None:
        return f"-----> Kept       {kept}; another process is telling Penstock of them"
    return f" !     Penstock is away ({why}); {kept}, and sent when it is back"


def _pause(spool: Spool, until: float) -> None:
    """Ends early when another push comes: somebody thinks that Penstock is there."""
    before = spool.changed
    while time.monotonic() < until and spool.changed == before:
        time.sleep(0.2)


def verdict(message: Message, answer: Answer) -> str:
    what, words = described(message), answer.words
    if not answer.taken:
        return f" !     Refused    {what}: {words}"
    return (
        f"-----> Accepted   {what} as {words}"
        if words.startswith("run ")
        else f"-----> Told       {what}: {words}"
    )


def described(message: Message) -> str:
    """`4f51232 on main`, where that can be read."""
    try:
        told = json.loads(message.body)
        return f"{told['after'][:7]} on {told['ref'].removeprefix('refs/heads/')}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return message.id
