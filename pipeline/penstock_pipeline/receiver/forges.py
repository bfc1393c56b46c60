"""What each forge sends: how a delivery is proved, named and read. Pure values, one a forge.

Headers and payloads as the forges document them: GitHub's "Validating webhook deliveries", GitLab's
"Webhooks" and "Webhook events", Gitea's and Forgejo's "Webhooks". `generic` is for everybody else: the
Standard Webhooks specification around `{"ref": …, "commit": …, "before": …, "pusher": …}`, of which the last
two may be left out.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from .. import signatures
from ..errors import Forbidden, Invalid

_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_DELIVERY = re.compile(r"[A-Za-z0-9._:-]{1,200}")
_REF = re.compile(
    r"(?!.*(?:\.\.|@\{|\.$))refs(?:/(?!\.)[^\x00-\x20\x7f~^:?*\[\\/\ud800-\udfff]+(?<!\.lock))+"
)
"""git-check-ref-format(1)."""


class Headers(Protocol):
    """Headers of a request, by lower-case name."""

    def getlist(self, key: str) -> list[str]: ...


Proof = Callable[[str, bytes, Headers], None]
"""Raises `Forbidden` unless the headers prove that the body is by one who has the secret, `Untimely` where
they prove it for another time."""


@dataclass(frozen=True, slots=True)
class PushEvent:
    """A ref has moved. `commit` None: it is gone; `before` None: not told."""

    ref: str
    commit: str | None
    before: str | None
    pusher: str | None


@dataclass(frozen=True, slots=True)
class Forge:
    """One kind of sender."""

    name: str
    """As in `/hooks/<name>/<app>` and in a run's source."""
    title: str
    proof: Proof
    deliveries: tuple[str, ...]
    """Headers that name a delivery, the same when it is sent again; the first that is there counts."""
    event: tuple[str, str] | None
    """The header that names the event, and what it says for a push to a branch."""
    pushers: tuple[tuple[str, ...], ...]
    """Where in a payload to look for who pushed."""
    where: str
    """Where its users put the webhook in."""
    standard: bool = False
    """Whether it may sign by the Standard Webhooks specification."""

    def delivery(self, headers: Headers) -> str:
        """The delivery's name. Raises `Invalid` where there is none that can be kept."""
        given = next((found for name in self.deliveries if (found := headers.getlist(name))), [])
        if len(given) != 1 or not _DELIVERY.fullmatch(given[0]):
            raise Invalid(f"the delivery has no name: {self.deliveries[0]} is missing or odd")
        return given[0]

    def other_event(self, headers: Headers) -> str | None:
        """What the delivery is about, if not about a push to a branch: a ping, a tag, an issue."""
        if self.event is None:
            return None
        name, push = self.event
        told = ", ".join(headers.getlist(name))
        return None if told == push else told

    def read(self, payload: Mapping[str, Any]) -> PushEvent:
        """Raises `Invalid` where a payload lacks what a push needs."""
        ref, commit = payload.get("ref"), payload.get("after", payload.get("commit"))
        if not isinstance(ref, str) or not _REF.fullmatch(ref):
            raise Invalid("a push needs `ref`, a full one such as refs/heads/main")
        if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
            raise Invalid("a push needs `after`, a full commit id")
        before = payload.get("before")
        return PushEvent(
            ref=ref,
            commit=None if payload.get("deleted") is True or set(commit) == {"0"} else commit,
            before=before if isinstance(before, str) else None,
            pusher=next(filter(None, (_text(payload, path) for path in self.pushers)), None),
        )


def _text(payload: Any, path: tuple[str, ...]) -> str | None:
    for name in path:
        payload = payload.get(name) if isinstance(payload, dict) else None
    return payload if isinstance(payload, str) else None


def _alone(headers: Headers, name: str) -> str:
    """A header that is there once, else nothing: of two, nobody can say which one was checked elsewhere."""
    given = headers.getlist(name)
    return given[0] if len(given) == 1 else ""


def _check(name: str, expected: str, headers: Headers) -> None:
    if not hmac.compare_digest(_alone(headers, name).encode(), expected.encode()):
        raise Forbidden(f"{name} is missing or wrong; is the secret the one that was registered?")


def _hexadecimal(name: str, prefix: str = "") -> Proof:
    """The HMAC-SHA256 of the body under the secret, in hexadecimal."""

    def prove(secret: str, body: bytes, headers: Headers) -> None:
        _check(name, prefix + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest(), headers)

    return prove


def _standard(secret: str, body: bytes, headers: Headers) -> None:
    signatures.verify(
        secret,
        body,
        message=_alone(headers, "webhook-id"),
        at=_alone(headers, "webhook-timestamp"),
        signatures=_alone(headers, "webhook-signature"),
        now=time.time(),
    )


def _gitlab(secret: str, body: bytes, headers: Headers) -> None:
    """A signature where the webhook has a signing token, as newer GitLabs offer; else the secret itself.
    A wrong signature is not made good by a right token."""
    if headers.getlist("webhook-signature"):
        _standard(secret, body, headers)
    else:
        _check("X-Gitlab-Token", secret, headers)


def _gitea(name: str, title: str) -> Forge:
    """Forgejo has kept Gitea's webhooks, under its own name."""
    return Forge(
        name=name,
        title=title,
        proof=_hexadecimal(f"X-{title}-Signature"),
        deliveries=(f"X-{title}-Delivery",),
        event=(f"X-{title}-Event", "push"),
        pushers=(("pusher", "login"), ("pusher", "username")),
        where=f"Settings > Webhooks > Add webhook > {title}: POST, application/json, push events",
    )


_ALL = (
    Forge(
        name="github",
        title="GitHub",
        proof=_hexadecimal("X-Hub-Signature-256", "sha256="),
        deliveries=("X-GitHub-Delivery",),
        event=("X-GitHub-Event", "push"),
        pushers=(("pusher", "name"),),
        where="Settings > Webhooks > Add webhook: content type application/json, just the push event",
    ),
    Forge(
        name="gitlab",
        title="GitLab",
        proof=_gitlab,
        # X-Gitlab-Event-UUID is no name of a delivery: webhooks that one event leads to share it.
        deliveries=("webhook-id", "Idempotency-Key", "X-Gitlab-Webhook-UUID"),
        event=("X-Gitlab-Event", "Push Hook"),
        pushers=(("user_username",), ("user_name",)),
        where="Settings > Webhooks > Add new webhook: push events, a signing token or else a secret token",
        standard=True,
    ),
    _gitea("gitea", "Gitea"),
    _gitea("forgejo", "Forgejo"),
    Forge(
        name="generic",
        title="any program",
        proof=_standard,
        deliveries=("webhook-id",),
        event=None,
        pushers=(("pusher",), ("pusher", "name")),
        where="POST application/json, signed as the Standard Webhooks specification has it",
        standard=True,
    ),
)

FORGES: Mapping[str, Forge] = {forge.name: forge for forge in _ALL}
