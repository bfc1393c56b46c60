"""GitHub's webhook door.

Signature and headers as in GitHub's "Validating webhook deliveries": `X-Hub-Signature-256` is the HMAC-SHA256
of the raw body under the secret, `X-GitHub-Delivery` names the delivery. Nothing is parsed before the size,
counted while reading, and the signature are right; the answer is 2xx only when the push is on the disk.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import time
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from .. import tell
from ..errors import Conflict, Forbidden, Invalid, NotFound, PenstockError, Unavailable
from ..model import App
from ..store import SqliteStore, queue, registry

_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_DELIVERY = re.compile(r"[A-Za-z0-9._:-]{1,200}")
_STATUS = {Forbidden: 401, NotFound: 404, Conflict: 409, Invalid: 400, Unavailable: 503}


LOOKUP = 1.0
"""Seconds for which an app's registration is taken to be what it was."""


class TooLarge(Invalid):
    """The body is longer than it may be."""


class GitHubDoor:
    """`POST /hooks/github/<app>`."""

    def __init__(self, store: SqliteStore, *, body_limit: int) -> None:
        self._store = store
        self._body_limit = body_limit
        self._apps: dict[str, tuple[float, App]] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        try:
            response = await self._answer(request)
        except ClientDisconnect:
            return
        except PenstockError as error:
            response = JSONResponse({"error": str(error)}, _status(error))
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        if request.method != "POST":
            return JSONResponse({"error": "webhooks are POSTed"}, 405, {"allow": "POST"})
        app = await self._app(request.url.path.rsplit("/", 1)[-1])
        body = await self._body(request)
        _check_signature(app, body, request.headers.getlist("x-hub-signature-256"))
        delivery = _delivery(request, body)
        event = request.headers.get("x-github-event", "")
        if event != "push":
            return JSONResponse({"ignored": f"the event {event!r} sets nothing off"}, 200)
        return await self._push(app, delivery, _parse(body))

    async def _app(self, name: str) -> App:
        app = await self._known(name)
        if app.webhook_secret is None or app.repository is None:
            raise NotFound(f"{name} takes no webhooks: it was added without --repository")
        return app

    async def _known(self, name: str) -> App:
        """Looked up once in `LOOKUP` seconds: a flood of deliveries is for one and the same app."""
        now = time.monotonic()
        looked_up, app = self._apps.get(name, (0.0, None))
        if app is None or now - looked_up > LOOKUP:
            app = await self._store.read(registry.get, name)
            self._apps[name] = now, app
        return app

    async def _body(self, request: Request) -> bytes:
        pieces, size = [], 0
        async for piece in request.stream():
            size += len(piece)
            if size > self._body_limit:
                raise TooLarge(f"the body is longer than {self._body_limit:,} bytes")
            pieces.append(piece)
        return b"".join(pieces)

    async def _push(self, app: App, delivery: queue.Delivery, payload: dict[str, Any]) -> Response:
        ref, commit = payload.get("ref"), payload.get("after")
        if not isinstance(ref, str) or not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
            raise Invalid("a push event needs `ref` and `after`, a full commit id")
        if ref != app.live_ref or set(commit) == {"0"}:
            accepted = await self._store.write(queue.note_delivery, app, delivery)
            return JSONResponse(
                {"ignored": f"only {app.live_ref} goes live", "duplicate": not accepted.fresh}, 200
            )
        accepted = await self._store.write(
            queue.accept,
            app,
            ref=ref,
            commit=commit,
            pusher=_pusher(payload),
            source="github",
            delivery=delivery,
        )
        run = None if accepted.run is None else accepted.run.id
        return JSONResponse({"run": run, "duplicate": not accepted.fresh}, 202 if accepted.fresh else 200)


def _check_signature(app: App, body: bytes, given: list[str]) -> None:
    expected = "sha256=" + hmac.new((app.webhook_secret or "").encode(), body, hashlib.sha256).hexdigest()
    if len(given) != 1 or not hmac.compare_digest(given[0].encode(), expected.encode()):
        raise Forbidden("X-Hub-Signature-256 is missing or wrong; is the secret the one that was registered?")


def _delivery(request: Request, body: bytes) -> queue.Delivery:
    name = request.headers.get("x-github-delivery", "")
    if not _DELIVERY.fullmatch(name):
        raise Invalid("X-GitHub-Delivery is missing or odd")
    return queue.Delivery("github", name, hashlib.sha256(body).hexdigest())


def _parse(body: bytes) -> dict[str, Any]:
    try:
        payload = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Invalid(
            f"the body is not JSON: {error}; set the webhook's content type to application/json"
        ) from error
    if not isinstance(payload, dict):
        raise Invalid("the body is not a JSON object")
    return payload


def _pusher(payload: dict[str, Any]) -> str:
    pusher = payload.get("pusher")
    name = pusher.get("name") if isinstance(pusher, dict) else None
    return (isinstance(name, str) and tell.clean(name)[:100]) or "github"


def _status(error: PenstockError) -> int:
    if isinstance(error, TooLarge):
        return 413
    return next((status for kind, status in _STATUS.items() if isinstance(error, kind)), 500)
