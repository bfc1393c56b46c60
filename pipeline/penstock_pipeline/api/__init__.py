"""The JSON API under `/api`: what the command line and other programs ask and tell Penstock.

Every route needs `Authorization: Bearer TOKEN` with the scope `manage`, and nothing of a body is read before
that is checked. Errors are problem documents (RFC 9457) whose `detail` is meant for people.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import wraps
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from .. import __version__, tell
from ..errors import Invalid, NotFound
from ..model import App, Event, StageName
from ..settings import Settings
from ..store import SqliteStore, history, registry
from ..store.follow import follow
from ..store.logs import Logs
from ..store.subscriptions import WEBHOOK, Subscription
from ..tokens import INVITATION, Identity, Scope, Tokens
from ..variables import Variable
from .answers import (
    AppNow,
    Json,
    apps_now,
    dead_letter_of,
    event_of,
    printed_in,
    processes_of,
    release_of,
    run_of,
    run_whole,
    runs_now,
    standing_of,
    subscription_of,
)
from .bodies import Again, Before, Changes, NewApp, NewSubscription, NewToken, Number, Retry, Rollback, Seen
from .gate import admitting, who
from .ports import Orders, Subscribers
from .problems import problems

__all__ = ["Api", "problems", "router"]


@dataclass(frozen=True)
class Api:
    """The routes' functions over what they need. `urls` says where an app is reached: its `remote` and
    `webhook` URLs, and whatever visitors use."""

    orders: Orders
    subscribers: Subscribers
    store: SqliteStore
    logs: Logs
    tokens: Tokens
    settings: Settings
    urls: Callable[[App], Mapping[str, object]]

    # -- apps

    async def list_apps(self) -> list[Json]:
        return [self._app(now) for now in await self.store.read(apps_now)]

    async def show_app(self, name: str) -> Json:
        app = await self.store.read(registry.get, name)
        return next(shown for shown in await self.list_apps() if shown["name"] == app.name)

    async def add_app(self, request: Request, new: NewApp) -> Json:
        """Answers what is told only once: a token for who asks to push with, and the webhook's secret."""
        secret = new.webhook_secret
        if new.repository is not None and secret is None:
            secret = secrets.token_hex(16)  # 32 bytes, the length GitLab's signing tokens have
        app = await self.orders.register(
            new.name, branch=new.branch, repository=new.repository, webhook_secret=secret
        )
        urls = self.urls(app)
        return {
            "app": await self.show_app(app.name),
            "remote": urlsplit(str(urls["remote"])).path,
            "token": self.tokens.issue(who(request), Scope.PUSH, app=app.name),
            "webhook": urls["webhook"] if app.repository else None,
            "webhook_secret": secret,
        }

    async def list_releases(self, name: str) -> list[Json]:
        app = await self.store.read(registry.get, name)
        releases = await self.store.read(history.releases_of, app.id)
        return [release_of(release) | {"live": release.id == app.live_release} for release in releases]

    async def roll_back(self, request: Request, name: str, body: Rollback | None = None) -> Json:
        version = None if body is None else body.version
        return run_of(await self.orders.roll_back(name, version=version, by=who(request)))

    async def unpin(self, request: Request, name: str) -> Json:
        return run_of(await self.orders.unpin(name, by=who(request)))

    async def refresh(self, request: Request, name: str) -> Json:
        return run_of(await self.orders.refresh(name, by=who(request)))

    async def redeploy(self, request: Request, name: str) -> Json:
        return run_of(await self.orders.redeploy(name, by=who(request)))

    async def list_variables(self, name: str) -> Json:
        """By name; the value of a secret one is null."""
        known = await self.orders.variables(name)
        return {
            name: {"value": None if variable.secret else variable.value, "secret": variable.secret}
            for name, variable in known.items()
        }

    async def change_variables(self, request: Request, name: str, body: Changes) -> Json:
        """`run` is null where nothing changed, or nothing is live that could be released with it."""
        changes = {
            name: None if new is None else Variable(new.value, secret=new.secret)
            for name, new in body.variables.items()
        }
        run = await self.orders.configure(name, changes, by=who(request))
        return {"run": None if run is None else run_of(run), "variables": await self.list_variables(name)}

    def _app(self, now: AppNow) -> Json:
        app = now.app
        return {
            "name": app.name,
            "branch": app.branch,
            "repository": app.repository,
            "pinned": app.pinned,
            "live": None if now.live is None else release_of(now.live),
            "moving": now.moving,
            "urls": dict(self.urls(app)),
        }

    # -- runs

    async def list_runs(
        self,
        app: str | None = None,
        before: Before = None,
        limit: Annotated[int, Query(ge=1, le=500)] = 20,
    ) -> list[Json]:
        """Newest first."""
        return await self.store.read(runs_now, app, before, limit)

    async def show_run(self, run_id: Number) -> Json:
        return await self.store.read(run_whole, run_id)

    async def cancel_run(self, request: Request, run_id: Number) -> Json:
        return run_of(await self.orders.cancel(run_id, by=who(request)))

    async def approve_run(self, request: Request, run_id: Number) -> Json:
        return run_of(await self.orders.approve(run_id, by=who(request)))

    async def retry_run(self, request: Request, run_id: Number, body: Retry | None = None) -> Json:
        again = None if body is None else body.stage
        return run_of(await self.orders.retry(run_id, again=again, by=who(request)))

    async def list_events(self, run_id: Number, after: Seen = 0) -> list[Json]:
        await self.store.read(history.run, run_id)
        return [
            event_of(event) for event in await self.store.read(history.events_after, after, run_id=run_id)
        ]

    async def follow_run(
        self,
        run_id: Number,
        format: Literal["lines", "json"] = "lines",
        wait: bool = True,
        after: Seen = 0,
    ) -> StreamingResponse:
        """What the run says from event `after` on, until it has ended or waits for approval (`wait` false:
        what it has said by now), as the lines of the push or as one JSON event a line."""
        await self.store.read(history.run, run_id)
        told, media = (
            (self._lines, "text/plain") if format == "lines" else (self._events, "application/x-ndjson")
        )
        headers = {"X-Accel-Buffering": "no", "Cache-Control": "no-cache"}
        return StreamingResponse(told(run_id, wait, after), media_type=media, headers=headers)

    async def show_log(self, run_id: Number, stage: StageName) -> StreamingResponse:
        """All that a stage has printed; of one that a retry took over, what it printed back then."""
        at = await self.store.read(printed_in, run_id, stage)
        there = [name.value for name in StageName if self.logs.path(at, name).exists()]
        if stage.value not in there:
            raise NotFound(
                f"run {run_id} has no log of {stage.value}; it has: {', '.join(there) or 'none yet'}"
            )
        return StreamingResponse(self._log(at, stage), media_type="text/plain")

    def _log(self, run_id: int, stage: StageName) -> Iterator[bytes]:
        offset = 0
        while data := self.logs.read(run_id, stage, offset):
            offset += len(data)
            yield data

    async def _lines(self, run_id: int, wait: bool, after: int) -> AsyncIterator[str]:
        narrator = tell.Narrator(run_id)
        async for heard in follow(self.store, self.logs, run_id, wait=wait, after=after):
            yield "".join(f"{line}\n" for line in narrator.lines(heard))

    async def _events(self, run_id: int, wait: bool, after: int) -> AsyncIterator[str]:
        async for heard in follow(self.store, self.logs, run_id, wait=wait, after=after):
            if isinstance(heard, Event):
                yield json.dumps(event_of(heard), default=str) + "\n"
            elif isinstance(heard, tell.Silence):
                yield "\n"

    # -- subscriptions

    async def list_subscriptions(self) -> list[Json]:
        return [standing_of(standing) for standing in await self.subscribers.standings()]

    async def add_subscription(self, request: Request, new: NewSubscription) -> Json:
        """Answers the secret that signs a webhook; it is told only once."""
        if new.kind != WEBHOOK:
            added = await self._add_statuses(new, by=who(request))
            return {"subscription": subscription_of(added), "secret": None}
        if new.url is None or new.token is not None or new.repository is not None:
            raise Invalid("a webhook needs its url, and has neither a token nor a repository")
        added, secret = await self.subscribers.add_webhook(new.url, app=new.app, by=who(request))
        return {"subscription": subscription_of(added), "secret": secret}

    async def _add_statuses(self, new: NewSubscription, *, by: str) -> Subscription:
        if new.app is None or new.token is None:
            raise Invalid("commit statuses need the app and the forge's token")
        return await self.subscribers.add_statuses(
            new.app, forge=new.kind, token=new.token, api=new.url, repository=new.repository, by=by
        )

    async def remove_subscription(self, subscription_id: Number) -> Json:
        return subscription_of(await self.subscribers.remove(subscription_id))

    async def list_dead_letters(self) -> list[Json]:
        return [dead_letter_of(notice) for notice in await self.subscribers.dead_letters()]

    async def retry_subscription(self, subscription_id: Number, body: Again | None = None) -> Json:
        event = None if body is None else body.event
        return {"retried": await self.subscribers.retry(subscription_id, event=event)}

    async def test_subscription(self, subscription_id: Number) -> Json:
        await self.subscribers.test(subscription_id)
        return {"delivered": True}

    # -- the whole

    async def status(self) -> Json:
        """The version, every app with its processes, and the runs that move."""
        processes = await self.orders.observe()
        apps = await self.store.read(apps_now)
        return {
            "version": __version__,
            "state": str(self.settings.state),
            "apps": [self._app(now) | {"processes": processes_of(now.app, processes)} for now in apps],
            "moving": [run for now in apps for run in now.moving],
        }

    async def issue_token(self, new: NewToken) -> Json:
        if new.app is not None:
            await self.store.read(registry.get, new.app)
            if new.scope is Scope.MANAGE:
                raise Invalid("a token with the scope manage is for every app; leave the app out")
        token = self.tokens.issue(new.name, new.scope, app=new.app, seconds=new.seconds)
        return {"token": token, **new.model_dump(mode="json")}

    async def invite(self, request: Request) -> Json:
        """Where who asks is signed in at the dashboard, once and soon. The path's fragment stays in the
        browser: no log ever holds it."""
        identity: Identity = request.state.identity
        return {"path": f"/sign-in#{self.tokens.invite(identity)}", "seconds": INVITATION}


def router(api: Api) -> APIRouter:
    """The routes, to be included under `/api`."""
    routes = APIRouter(route_class=admitting(api.tokens))
    for method, path, function, status in (
        ("GET", "/status", api.status, 200),
        ("GET", "/apps", api.list_apps, 200),
        ("POST", "/apps", api.add_app, 201),
        ("GET", "/apps/{name}", api.show_app, 200),
        ("GET", "/apps/{name}/releases", api.list_releases, 200),
        ("POST", "/apps/{name}/rollback", api.roll_back, 202),
        ("POST", "/apps/{name}/unpin", api.unpin, 202),
        ("POST", "/apps/{name}/refresh", api.refresh, 202),
        ("POST", "/apps/{name}/redeploy", api.redeploy, 202),
        ("GET", "/apps/{name}/variables", api.list_variables, 200),
        ("POST", "/apps/{name}/variables", api.change_variables, 202),
        ("GET", "/runs", api.list_runs, 200),
        ("GET", "/runs/{run_id}", api.show_run, 200),
        ("POST", "/runs/{run_id}/cancel", api.cancel_run, 200),
        ("POST", "/runs/{run_id}/approve", api.approve_run, 200),
        ("POST", "/runs/{run_id}/retry", api.retry_run, 202),
        ("GET", "/runs/{run_id}/events", api.list_events, 200),
        ("GET", "/runs/{run_id}/follow", api.follow_run, 200),
        ("GET", "/runs/{run_id}/logs/{stage}", api.show_log, 200),
        ("GET", "/subscriptions", api.list_subscriptions, 200),
        ("POST", "/subscriptions", api.add_subscription, 201),
        ("GET", "/subscriptions/dead", api.list_dead_letters, 200),
        ("POST", "/subscriptions/{subscription_id}/remove", api.remove_subscription, 200),
        ("POST", "/subscriptions/{subscription_id}/retry", api.retry_subscription, 202),
        ("POST", "/subscriptions/{subscription_id}/test", api.test_subscription, 200),
        ("POST", "/tokens", api.issue_token, 201),
        ("POST", "/invitations", api.invite, 201),
    ):
        routes.add_api_route(path, _answering(function, status), methods=[method], response_model=None)
    return routes


def _answering(
    function: Callable[..., Awaitable[Json | list[Json] | Response]], status: int
) -> Callable[..., Awaitable[Response]]:
    """The function with its answer as JSON. Told no better, FastAPI walks every value first, which costs more
    than all else."""

    @wraps(function)
    async def answer(*args: Any, **kwargs: Any) -> Response:
        answered = await function(*args, **kwargs)
        return answered if isinstance(answered, Response) else _Document(answered, status)

    return answer


class _Document(JSONResponse):
    def render(self, content: Any) -> bytes:
        return json.dumps(content, default=_written, ensure_ascii=False, separators=(",", ":")).encode()


def _written(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{value!r} has no place in JSON")
