"""The door for webhooks: one flow for every forge.

Nothing is parsed before the size, counted while reading, and the proof of the sender are right; the answer is
2xx only when the push is on the disk. What is fetched is the repository that was registered, whatever a body
says.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
import time
from collections.abc import Mapping
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from .. import tell
from ..errors import Conflict, Forbidden, Invalid, NotFound, PenstockError, Unavailable, Unsealable, Untimely
from ..model import App, webhook_of
from ..store import SqliteStore, queue, registry
from ..vault import Vault
from .forges import FORGES, Forge, PushEvent

log = logging.getLogger(__name__)

_PATH = re.compile(r"/hooks/(?P<forge>[a-z]+)/(?P<app>[a-z0-9-]{1,40})")
_STATUS = {
    Forbidden: 401,
    NotFound: 404,
    Conflict: 409,
    Invalid: 400,
    Untimely: 425,  # of what is 4xx, senders give up the rest
    Unavailable: 503,
}

LOOKUP = 1.0
"""Seconds for which an app's registration is taken to be what it was."""

BODY_TIME = 20.0
"""Seconds a body may take to arrive. Forges give up themselves after 10 (GitHub, GitLab) or 5 (Gitea)."""


class Refused(Invalid):
    """A request that HTTP has a word of its own for."""

    def __init__(self, status: int, text: str, **headers: str) -> None:
        super().__init__(text)
        self.status = status
        self.headers = headers


class WebhookDoor:
    """`POST /hooks/<forge>/<app>`."""

    def __init__(
        self, store: SqliteStore, vault: Vault, *, body_limit: int, body_time: float = BODY_TIME
    ) -> None:
        self._store = store
        self._vault = vault
        self._body_limit = body_limit
        self._body_time = body_time
        self._apps: dict[str, tuple[float, App, str | None]] = {}
        """When they were looked up, and the secrets of their webhooks."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            response = await self._answer(Request(scope, receive))
        except ClientDisconnect:
            return
        except Refused as error:
            response = JSONResponse({"error": str(error)}, error.status, error.headers)
        except PenstockError as error:
            response = JSONResponse({"error": str(error)}, _status(error))
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        if request.method != "POST":
            raise Refused(405, "webhooks are POSTed", allow="POST")
        body = await self._body(request)
        _check_content(request.headers)
        forge, app, secret = await self._meant(request.scope["path"])
        forge.proof(secret, body, request.headers)
        if (event := forge.other_event(request.headers)) is not None:
            return _ignored(f"the event {tell.clean(event)!r} sets nothing off")
        digest = hashlib.sha256(body).hexdigest()
        delivery = queue.Delivery(forge.name, forge.delivery(request.headers), digest)
        return await self._push(app, delivery, forge.read(_parse(body)))

    async def _body(self, request: Request) -> bytes:
        """The connection of who sends too much or too slowly is closed: the rest is never read."""
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and int(declared[:20]) > self._body_limit:
            raise self._too_large()
        try:
            async with asyncio.timeout(self._body_time):
                return await self._read(request)
        except TimeoutError as error:
            text = f"the body did not arrive within {self._body_time:g} s"
            raise Refused(408, text, connection="close") from error

    async def _read(self, request: Request) -> bytes:
        pieces, size = [], 0
        async for piece in request.stream():
            size += len(piece)
            if size > self._body_limit:
                raise self._too_large()
            pieces.append(piece)
        return b"".join(pieces)

    def _too_large(self) -> Refused:
        return Refused(413, f"the body is longer than {self._body_limit:,} bytes", connection="close")

    async def _meant(self, path: str) -> tuple[Forge, App, str]:
        """Says the same of an app that is not there and of one that takes no webhooks."""
        match = _PATH.fullmatch(path)
        if match is None or (forge := FORGES.get(match["forge"])) is None:
            raise NotFound(f"webhooks go to /hooks/FORGE/APP; forges are {', '.join(FORGES)}")
        app, secret = await self._known(match["app"])
        if app is None or secret is None or app.repository is None:
            raise NotFound(f"{match['app']} takes no webhooks: no such app, or it has no --repository")
        return forge, app, secret

    async def _known(self, name: str) -> tuple[App | None, str | None]:
        """Looked up once in `LOOKUP` seconds: a flood of deliveries is for one and the same app."""
        now = time.monotonic()
        looked_up, app, secret = self._apps.get(name, (0.0, None, None))
        if app is not None and now - looked_up <= LOOKUP:
            return app, secret
        app = await self._store.read(registry.find, name)
        if app is None:
            return None, None
        secret = await asyncio.to_thread(self._opened, app)
        self._apps[name] = now, app, secret
        return app, secret

    def _opened(self, app: App) -> str | None:
        """What keeps the secret shut is told in the log alone: whoever asks may be anybody."""
        if app.webhook_sealed is None:
            return None
        try:
            return self._vault.open(app.webhook_sealed, about=webhook_of(app.name)).decode()
        except (Unsealable, Unavailable) as error:
            log.error("webhooks of %s cannot be checked: %s", app.name, error)
            raise Unavailable("the secret of this webhook cannot be opened here just now") from error

    async def _push(self, app: App, delivery: queue.Delivery, event: PushEvent) -> Response:
        if (reason := _nothing_to_do(app, event)) is not None:
            noted = await self._store.write(queue.note_delivery, app, delivery)
            return _ignored(reason, duplicate=not noted.fresh)
        accepted = await self._store.write(
            queue.accept,
            app,
            ref=event.ref,
            commit=event.commit or "",
            pusher=tell.clean(event.pusher or "")[:100] or delivery.source,
            source=delivery.source,
            delivery=delivery,
        )
        run = None if accepted.run is None else accepted.run.id
        return JSONResponse({"run": run, "duplicate": not accepted.fresh}, 202 if accepted.fresh else 200)


def _nothing_to_do(app: App, event: PushEvent) -> str | None:
    if event.ref != app.live_ref:
        return f"only {app.live_ref} goes live"
    if event.commit is None:
        return f"{event.ref} was deleted; what is live stays"
    if event.commit == event.before:
        return f"{event.ref} did not move"  # Gitea's test delivery
    return None


def _ignored(reason: str, **more: object) -> Response:
    return JSONResponse({"ignored": reason, **more})


def _check_content(headers: Mapping[str, str]) -> None:
    if (encoding := headers.get("content-encoding", "identity")) != "identity":
        raise Refused(415, f"the body is encoded as {tell.clean(encoding)}; send it as it is")
    if headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        raise Refused(415, "the body is a form; set the webhook's content type to application/json")


def _parse(body: bytes) -> dict[str, Any]:
    """The body as one JSON object in which nothing is said twice."""
    try:
        payload = json.loads(body, object_pairs_hook=_once, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise Invalid(f"the body is not JSON: {error}") from error
    if not isinstance(payload, dict):
        raise Invalid("the body is not a JSON object")
    return payload


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    together = dict(pairs)
    if len(together) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return together


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _status(error: PenstockError) -> int:
    return next((status for kind, status in _STATUS.items() if isinstance(error, kind)), 500)
