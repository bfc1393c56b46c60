"""What forges send, in the shapes they document."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

SECRET = "a secret of sixteen"
COMMIT = "4f51232" + "a" * 33
BEFORE = "b" * 40

Headers = dict[str, str]


def hexadecimal(body: bytes, secret: str = SECRET) -> str:
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def standard(body: bytes, id: str, *, secret: str = SECRET, at: float | None = None) -> Headers:
    moment = int(time.time() if at is None else at)
    signed = hmac.new(secret.encode(), f"{id}.{moment}.".encode() + body, hashlib.sha256).digest()
    signature = "v1," + base64.b64encode(signed).decode()
    return {"webhook-id": id, "webhook-timestamp": str(moment), "webhook-signature": signature}


@dataclass(frozen=True)
class Sender:
    """A forge: the headers it sends with a body, and how its payload differs from the others'."""

    name: str
    headers: Callable[[bytes, str], Headers]
    payload: Callable[[], dict[str, Any]]
    proof: str
    """The header that proves who sends."""
    event: str | None = None


def user(**names: str) -> dict[str, Any]:
    return {"id": 1, "email": "ann@example.com", **names}


SENDERS = (
    Sender(
        "github",
        lambda body, id: {
            "X-GitHub-Event": "push",
            "X-GitHub-Delivery": id,
            "X-Hub-Signature-256": f"sha256={hexadecimal(body)}",
        },
        lambda: {"created": False, "deleted": False, "forced": False, "pusher": user(name="ann")},
        "X-Hub-Signature-256",
        "X-GitHub-Event",
    ),
    Sender(
        "gitlab",
        lambda body, id: {
            "X-Gitlab-Event": "Push Hook",
            "X-Gitlab-Webhook-UUID": hashlib.sha256(body + id.encode()).hexdigest(),
            "Idempotency-Key": id,
            "X-Gitlab-Token": SECRET,
        },
        lambda: {"object_kind": "push", "checkout_sha": COMMIT, "user_username": "ann", "user_name": "Ann"},
        "X-Gitlab-Token",
        "X-Gitlab-Event",
    ),
    Sender(
        "gitlab",
        lambda body, id: {
            "X-Gitlab-Event": "Push Hook",
            "Idempotency-Key": id,
            "X-Gitlab-Token": SECRET,
            **standard(body, id),
        },
        lambda: {"object_kind": "push", "checkout_sha": COMMIT, "user_username": "ann"},
        "webhook-signature",
        "X-Gitlab-Event",
    ),
    Sender(
        "gitea",
        lambda body, id: {
            "X-Gitea-Event": "push",
            "X-Gitea-Delivery": id,
            "X-Gitea-Signature": hexadecimal(body),
            "X-Hub-Signature-256": f"sha256={hexadecimal(body)}",
            "X-GitHub-Event": "push",
        },
        lambda: {"compare_url": "http://forge/compare", "pusher": user(login="ann", username="ann")},
        "X-Gitea-Signature",
        "X-Gitea-Event",
    ),
    Sender(
        "forgejo",
        lambda body, id: {
            "X-Forgejo-Event": "push",
            "X-Forgejo-Delivery": id,
            "X-Forgejo-Signature": hexadecimal(body),
            "X-Gitea-Signature": hexadecimal(body),
        },
        lambda: {"compare_url": "http://forge/compare", "pusher": user(username="ann")},
        "X-Forgejo-Signature",
        "X-Forgejo-Event",
    ),
    Sender("generic", lambda body, id: standard(body, id), lambda: {"pusher": "ann"}, "webhook-signature"),
)


def push(sender: Sender, **changes: Any) -> bytes:
    moved = {"ref": "refs/heads/main", "before": BEFORE, "after": COMMIT}
    return json.dumps({**moved, **sender.payload(), "commits": [{"id": COMMIT}], **changes}).encode()
