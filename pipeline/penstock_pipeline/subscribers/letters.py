"""What a subscriber is sent, by its kind. Imported when there is the first one to tell."""

from __future__ import annotations

from datetime import datetime

from ..store.subscriptions import WEBHOOK, Subscription, Told
from . import statuses, webhooks
from .message import Message


def message(to: Subscription, secret: bytes, told: Told, *, base: str, now: datetime) -> Message | None:
    """What it is sent of an event; None: nothing. `base` is where people reach this Penstock."""
    if to.kind == WEBHOOK:
        return webhooks.message(to.url, secret.decode(), told, base=base, now=now)
    return statuses.message(to.kind, to.url, secret.decode(), told, base=base)


def ping(to: Subscription, secret: bytes, *, base: str, now: datetime) -> Message:
    """What it is sent to see whether it can be reached, and changes nothing there."""
    if to.kind == WEBHOOK:
        return webhooks.ping(to.url, secret.decode(), base=base, now=now)
    return statuses.ping(to.kind, to.url, secret.decode())
