"""Webhooks as GitHub sends them, by ones and by floods, at whoever takes them."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import urllib.request
from dataclasses import dataclass

import aiohttp
from harness import Beside, Timed, closed_loop, open_loop

SECRET = "a secret of the benchmark"
CONNECTIONS = 16


@dataclass(frozen=True, slots=True)
class Hook:
    """Where an app takes deliveries of pushes to its repository `ann/{app}`."""

    url: str
    app: str
    accepts: int = 202
    """The status that says that a new push was taken."""

    def delivery(self, commit: str) -> tuple[bytes, dict[str, str]]:
        """Body and headers of a push of this commit; the delivery's id is a new one each time."""
        body = _payload(self.app, commit)
        return body, {
            "Content-Type": "application/json",
            "X-GitHub-Event": "push",
            "X-GitHub-Delivery": secrets.token_hex(16),
            "X-Hub-Signature": f"sha1={hmac.new(SECRET.encode(), body, hashlib.sha1).hexdigest()}",
            "X-Hub-Signature-256": f"sha256={hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()}",
        }

    def tell(self, commit: str) -> bytes:
        """Delivers a push of this commit; what was answered."""
        body, headers = self.delivery(commit)
        with urllib.request.urlopen(urllib.request.Request(self.url, body, headers), timeout=30) as answer:
            assert answer.status == self.accepts, answer.status
            said: bytes = answer.read()
            return said


def _payload(app: str, commit: str) -> bytes:
    """As long as GitHub's for a push of one commit (about 7 KiB), most of it links that nobody follows."""
    home = f"https://github.com/ann/{app}"
    links = {f"{name}_url": f"https://api.github.com/repos/ann/{app}/{name}{{/sha}}" for name in range(80)}
    ann = {"name": "Ann", "email": "ann@example.com"}
    one = {
        "id": commit,
        "message": "a change",
        "timestamp": "2026-01-01T12:00:00+01:00",
        "url": f"{home}/commit/{commit}",
        "author": ann,
        "committer": ann,
        "modified": ["index.html"],
    }
    push = {"ref": "refs/heads/main", "after": commit, "pusher": ann, "commits": [one], "head_commit": one}
    repository = {"name": app, "full_name": f"ann/{app}", "html_url": home, **links}
    return json.dumps({**push, "repository": repository}).encode()


def delivered(hook: Hook, calls: int, rate: float | None) -> list[Timed[bool]]:
    """So many pushes, each of a commit that nobody has, and whether they were taken: `rate` a second, or
    (None) as fast as they are answered. Sent by a process of its own."""
    with Beside(_deliver, hook, calls, rate) as sender:
        return sender.result()


async def _deliver(_ended: object, hook: Hook, calls: int, rate: float | None) -> list[Timed[bool]]:
    made = [hook.delivery(secrets.token_hex(20)) for _ in range(calls)]
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def one(number: int) -> bool:
            body, headers = made[number]
            async with session.post(hook.url, data=body, headers=headers) as answer:
                await answer.read()
                return answer.status == hook.accepts

        if rate is None:
            return await closed_loop(CONNECTIONS, calls, one)
        return await open_loop(rate, one, lambda number: number == calls)


def refused(deliveries: list[Timed[bool]]) -> int:
    return sum(not timed.value for timed in deliveries)


def per_second(deliveries: list[Timed[bool]]) -> float:
    """Of deliveries sent as fast as they were answered."""
    return 1000 * len(deliveries) * CONNECTIONS / sum(timed.ms for timed in deliveries)
