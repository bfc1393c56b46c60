"""Webhooks: an event as a CloudEvent, signed.

CloudEvents 1.0 in the HTTP binding's structured mode, with the extension "distributed tracing"; signed as the
Standard Webhooks specification says (`signatures`). The id is the event's own, the same in every attempt.
"""

from __future__ import annotations

import json
import secrets
from datetime import datetime
from typing import Any

from .. import signatures
from ..model import Event, Run, StageName
from ..store.subscriptions import Told
from .message import AGENT, Message

TYPE = "dev.penstock."


def message(url: str, secret: str, told: Told, *, base: str, now: datetime) -> Message:
    """What a subscriber is sent of an event. `base` is where people reach this Penstock."""
    return _signed(url, secret, cloud_event(told.event, told.run, base=base), now)


def ping(url: str, secret: str, *, base: str, now: datetime) -> Message:
    """What somebody is sent who wants to know whether it arrives."""
    about = {"id": secrets.token_hex(16), "type": f"{TYPE}ping", "time": now.isoformat()}
    return _signed(url, secret, _envelope(base) | about | {"data": {}}, now)


def cloud_event(event: Event, run: Run, *, base: str) -> dict[str, Any]:
    """The event for others; its texts were masked when it was recorded."""
    facts = {
        "run": run.id,
        "app": run.app,
        "kind": run.kind.value,
        "commit": run.commit,
        "actor": run.actor,
        "page": f"{base}/runs/{run.id}",
        "stage": event.stage,
        **event.data,
    }
    return _envelope(base) | {
        "id": f"{run.trace_id}-{event.id}",
        "type": TYPE + _type(event),
        "subject": run.app,
        "time": event.at.isoformat(),
        "traceparent": f"00-{run.trace_id}-{event.id:016x}-01",
        "data": {name: value for name, value in facts.items() if value is not None},
    }


def _envelope(base: str) -> dict[str, Any]:
    return {"specversion": "1.0", "source": base, "datacontenttype": "application/json"}


def _type(event: Event) -> str:
    if event.kind == "stage.done" and event.stage is StageName.APPROVE:
        return "run.approved"
    return event.kind if "." in event.kind else f"run.{event.kind}"


def _signed(url: str, secret: str, document: dict[str, Any], now: datetime) -> Message:
    body = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode(errors="backslashreplace")
    at = int(now.timestamp())
    headers = {
        "Content-Type": "application/cloudevents+json; charset=utf-8",
        "User-Agent": AGENT,
        "webhook-id": document["id"],
        "webhook-timestamp": str(at),
        "webhook-signature": signatures.sign(secret, document["id"], at, body),
    }
    return Message("POST", url, headers, body)
