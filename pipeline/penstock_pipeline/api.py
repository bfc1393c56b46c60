"""The JSON API under `/api`: what the command line and other programs ask and tell Penstock.

Every route needs `Authorization: Bearer TOKEN` with the scope `manage`, and nothing of a body is read before
that is checked. Errors are problem documents (RFC 9457) whose `detail` is meant for people.
"""

from __future__ import annotations

import json
import secrets
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from functools import wraps
from http import HTTPStatus
from typing import Annotated, Any, Literal, Protocol
from urllib.parse import urlsplit

from fastapi import APIRouter, FastAPI, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Connection
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive

from . import __version__, tell
from .errors import Conflict, Forbidden, Invalid, MachineUnavailable, NotFound, PenstockError, Unavailable
from .model import App, Event, Release, Run, StageName, StageRecord
from .runtimes import ProcessState
from .settings import Settings
from .store import SqliteStore, history, registry
from .store.follow import follow
from .store.logs import Logs
from .store.subscriptions import WEBHOOK, Notice, Standing, Subscription
from .tokens import DAY, INVITATION, Identity, Scope, Tokens
from .variables import LONGEST, Variable

_LARGEST = 2**63 - 1
"""The highest number the store can hold."""

BODY_LIMIT = 256 * 1024
"""Bytes a request's body may have."""

SIGN = "Penstock-Version"
"""Header of every answer: who asks by mistake something else than a Penstock can tell."""

SubscriptionId = Annotated[int, Path(ge=1, le=_LARGEST)]
RunId = Annotated[int, Path(ge=1, le=_LARGEST)]
Seen = Annotated[int, Query(ge=0, le=_LARGEST)]
Json = dict[str, Any]


class Orders(Protocol):
    """What the API passes on."""

    async def register(
        self,
        name: str,
        *,
        branch: str = "main",
        repository: str | None = None,
        webhook_secret: str | None = None,
    ) -> App: ...

    async def cancel(self, run_id: int, *, by: str) -> Run: ...

    async def roll_back(self, app_name: str, *, version: int | None, by: str) -> Run: ...

    async def unpin(self, app_name: str, *, by: str) -> Run: ...

    async def refresh(self, app_name: str, *, by: str) -> Run: ...

    async def redeploy(self, app_name: str, *, by: str) -> Run: ...

    async def retry(self, run_id: int, *, again: StageName | None, by: str) -> Run: ...

    async def approve(self, run_id: int, *, by: str) -> Run: ...

    async def variables(self, app_name: str) -> Mapping[str, Variable]: ...

    async def configure(
        self, app_name: str, changes: Mapping[str, Variable | None], *, by: str
    ) -> Run | None: ...

    async def observe(self) -> list[ProcessState]: ...


class Subscribers(Protocol):
    """What the API asks of those who keep subscriptions."""

    async def standings(self) -> list[Standing]: ...

    async def add_webhook(self, url: str, *, app: str | None, by: str) -> tuple[Subscription, str]: ...

    async def add_statuses(
        self, app: str, *, forge: str, token: str, api: str | None, repository: str | None, by: str
    ) -> Subscription: ...

    async def remove(self, subscription_id: int) -> Subscription: ...

    async def dead_letters(self) -> list[Notice]: ...

    async def retry(self, subscription_id: int, *, event: int | None = None) -> int: ...

    async def test(self, subscription_id: int) -> None: ...


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", str_max_length=4096)


class NewApp(_Body):
    """Body of `POST /apps`. With a `repository` and no `webhook_secret`, one is made up."""

    name: str
    branch: str = "main"
    repository: str | None = None
    webhook_secret: str | None = None


class Rollback(_Body):
    """Body of `POST /apps/{name}/rollback`. `version` None: the release that was live before this one."""

    version: int | None = Field(default=None, ge=1, le=_LARGEST)


class Retry(_Body):
    """Body of `POST /runs/{id}/retry`. `stage` None: the one that the run has not passed."""

    stage: StageName | None = None


class NewVariable(_Body):
    """What a variable becomes. A secret one is never answered again."""

    model_config = ConfigDict(extra="forbid", str_max_length=LONGEST)

    value: str
    secret: bool = False


class Changes(_Body):
    """Body of `POST /apps/{name}/variables`: by name what each becomes; null removes it."""

    model_config = ConfigDict(extra="forbid", str_max_length=LONGEST)

    variables: dict[str, NewVariable | None] = Field(min_length=1)


class NewSubscription(_Body):
    """Body of `POST /subscriptions`. `kind` is `webhook`, for which `url` is told of every event (of an app,
    or of all), or a forge, for which `app` and `token` are needed; then `url` is that of the forge's API."""

    kind: str = WEBHOOK
    url: str | None = None
    app: str | None = None
    token: str | None = Field(default=None, repr=False)
    repository: str | None = None


class Again(_Body):
    """Body of `POST /subscriptions/{id}/retry`. `event` None: every dead letter."""

    event: int | None = Field(default=None, ge=1, le=_LARGEST)


class NewToken(_Body):
    """Body of `POST /tokens`. `name` is who runs are told to be by; `app` None: every app."""

    name: str = Field(pattern=r"^[\w.@+ -]{1,100}$")
    scope: Scope
    app: str | None = None
    seconds: int = Field(default=365 * DAY, ge=1, le=3650 * DAY)


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
        return [self._app(now) for now in await self.store.read(_apps_now)]

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
            "token": self.tokens.issue(_who(request), Scope.PUSH, app=app.name),
            "webhook": urls["webhook"] if app.repository else None,
            "webhook_secret": app.webhook_secret,
        }

    async def list_releases(self, name: str) -> list[Json]:
        app = await self.store.read(registry.get, name)
        releases = await self.store.read(history.releases_of, app.id)
        return [_release(release) | {"live": release.id == app.live_release} for release in releases]

    async def roll_back(self, request: Request, name: str, body: Rollback | None = None) -> Json:
        version = None if body is None else body.version
        return _run(await self.orders.roll_back(name, version=version, by=_who(request)))

    async def unpin(self, request: Request, name: str) -> Json:
        return _run(await self.orders.unpin(name, by=_who(request)))

    async def refresh(self, request: Request, name: str) -> Json:
        return _run(await self.orders.refresh(name, by=_who(request)))

    async def redeploy(self, request: Request, name: str) -> Json:
        return _run(await self.orders.redeploy(name, by=_who(request)))

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
        run = await self.orders.configure(name, changes, by=_who(request))
        return {"run": None if run is None else _run(run), "variables": await self.list_variables(name)}

    def _app(self, now: _AppNow) -> Json:
        app = now.app
        return {
            "name": app.name,
            "branch": app.branch,
            "repository": app.repository,
            "pinned": app.pinned,
            "live": None if now.live is None else _release(now.live),
            "moving": now.moving,
            "urls": dict(self.urls(app)),
        }

    # -- runs

    async def list_runs(
        self,
        app: str | None = None,
        before: Annotated[int | None, Query(ge=1, le=_LARGEST)] = None,
        limit: Annotated[int, Query(ge=1, le=500)] = 20,
    ) -> list[Json]:
        """Newest first."""
        return await self.store.read(_runs, app, before, limit)

    async def show_run(self, run_id: RunId) -> Json:
        return await self.store.read(_run_whole, run_id)

    async def cancel_run(self, request: Request, run_id: RunId) -> Json:
        return _run(await self.orders.cancel(run_id, by=_who(request)))

    async def approve_run(self, request: Request, run_id: RunId) -> Json:
        return _run(await self.orders.approve(run_id, by=_who(request)))

    async def retry_run(self, request: Request, run_id: RunId, body: Retry | None = None) -> Json:
        again = None if body is None else body.stage
        return _run(await self.orders.retry(run_id, again=again, by=_who(request)))

    async def list_events(self, run_id: RunId, after: Seen = 0) -> list[Json]:
        await self.store.read(history.run, run_id)
        return [_event(event) for event in await self.store.read(history.events_after, after, run_id=run_id)]

    async def follow_run(
        self,
        run_id: RunId,
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

    async def show_log(self, run_id: RunId, stage: StageName) -> StreamingResponse:
        """All that a stage has printed; of one that a retry took over, what it printed back then."""
        at = await self.store.read(_printed_in, run_id, stage)
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
                yield json.dumps(_event(heard), default=str) + "\n"
            elif isinstance(heard, tell.Silence):
                yield "\n"

    # -- subscriptions

    async def list_subscriptions(self) -> list[Json]:
        return [_standing(standing) for standing in await self.subscribers.standings()]

    async def add_subscription(self, request: Request, new: NewSubscription) -> Json:
        """Answers the secret that signs a webhook; it is told only once."""
        if new.kind != WEBHOOK:
            added = await self._add_statuses(new, by=_who(request))
            return {"subscription": _subscription(added), "secret": None}
        if new.url is None or new.token is not None or new.repository is not None:
            raise Invalid("a webhook needs its url, and has neither a token nor a repository")
        added, secret = await self.subscribers.add_webhook(new.url, app=new.app, by=_who(request))
        return {"subscription": _subscription(added), "secret": secret}

    async def _add_statuses(self, new: NewSubscription, *, by: str) -> Subscription:
        if new.app is None or new.token is None:
            raise Invalid("commit statuses need the app and the forge's token")
        return await self.subscribers.add_statuses(
            new.app, forge=new.kind, token=new.token, api=new.url, repository=new.repository, by=by
        )

    async def remove_subscription(self, subscription_id: SubscriptionId) -> Json:
        return _subscription(await self.subscribers.remove(subscription_id))

    async def list_dead_letters(self) -> list[Json]:
        return [_dead_letter(notice) for notice in await self.subscribers.dead_letters()]

    async def retry_subscription(self, subscription_id: SubscriptionId, body: Again | None = None) -> Json:
        event = None if body is None else body.event
        return {"retried": await self.subscribers.retry(subscription_id, event=event)}

    async def test_subscription(self, subscription_id: SubscriptionId) -> Json:
        await self.subscribers.test(subscription_id)
        return {"delivered": True}

    # -- the whole

    async def status(self) -> Json:
        """The version, every app with its processes, and the runs that move."""
        processes = await self.orders.observe()
        apps = await self.store.read(_apps_now)
        return {
            "version": __version__,
            "state": str(self.settings.state),
            "apps": [self._app(now) | {"processes": _processes(now.app, processes)} for now in apps],
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
    routes = APIRouter(route_class=_admitting(api.tokens))
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


# -- who may


class Unauthenticated(Forbidden):
    """Nobody knows who asks: no token, a wrong one or an expired one."""


def _admitting(tokens: Tokens) -> type[APIRoute]:
    """Routes that look at the token before they read anything else of a request."""

    class Admitting(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            answer = super().get_route_handler()

            async def admit(request: Request) -> Response:
                request.state.identity = _manager(tokens, request.headers.get("authorization", ""))
                response = await answer(Request(request.scope, _limited(request.receive)))
                response.headers.setdefault(SIGN, __version__)
                return response

            return admit

    return Admitting


def _limited(receive: Receive) -> Receive:
    """Counts a body while it is read, whatever its head says of its length."""
    left = BODY_LIMIT

    async def counted() -> Message:
        nonlocal left
        message = await receive()
        left -= len(message.get("body", b""))
        if left < 0:
            raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a body has at most {BODY_LIMIT} bytes")
        return message

    return counted


def _manager(tokens: Tokens, authorization: str) -> Identity:
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer":
        raise Unauthenticated("a token is needed: Authorization: Bearer TOKEN")
    try:
        identity = tokens.verify(token.strip())
    except Forbidden as error:
        raise Unauthenticated(str(error)) from error
    if identity.scope is not Scope.MANAGE:
        raise Forbidden("this token is for pushes alone; make one that manages: penstock token --manage")
    return identity


def _who(request: Request) -> str:
    identity: Identity = request.state.identity
    return identity.name


# -- errors

_STATUS = {
    Unauthenticated: HTTPStatus.UNAUTHORIZED,
    Forbidden: HTTPStatus.FORBIDDEN,
    Invalid: HTTPStatus.UNPROCESSABLE_ENTITY,
    NotFound: HTTPStatus.NOT_FOUND,
    Conflict: HTTPStatus.CONFLICT,
    Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
}


def problems(app: FastAPI) -> None:
    """Makes the app answer errors as problem documents."""

    async def ours(_request: Request, error: Exception) -> Response:
        status = next((known for kind, known in _STATUS.items() if isinstance(error, kind)), None)
        return _problem(status or HTTPStatus.INTERNAL_SERVER_ERROR, str(error))

    async def of_this_machine(_request: Request, error: Exception) -> Response:
        assert isinstance(error, OSError)
        return _problem(HTTPStatus.SERVICE_UNAVAILABLE, str(MachineUnavailable(error)))

    async def bad_input(_request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return _problem(HTTPStatus.UNPROCESSABLE_ENTITY, "\n".join(_complaint(one) for one in error.errors()))

    async def of_http(_request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return _problem(HTTPStatus(error.status_code), error.detail, error.headers)

    app.add_exception_handler(PenstockError, ours)
    app.add_exception_handler(OSError, of_this_machine)
    app.add_exception_handler(HTTPException, of_http)
    app.add_exception_handler(RequestValidationError, bad_input)


def _problem(status: HTTPStatus, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    document = {"type": "about:blank", "title": status.phrase, "status": status.value, "detail": detail}
    if status is HTTPStatus.UNAUTHORIZED:
        headers = {"WWW-Authenticate": "Bearer"}
    given = {**(headers or {}), SIGN: __version__}
    return JSONResponse(document, status, given, media_type="application/problem+json")


def _complaint(error: Mapping[str, Any]) -> str:
    if error["type"] == "json_invalid":
        return f"the body is not JSON: {error['ctx']['error']} at character {error['loc'][-1]}"
    where = [str(part) for part in error["loc"][1:]]
    said = f"{'.'.join(where) or error['loc'][0]}: {error['msg']}"
    return said.encode(errors="backslashreplace").decode()  # half a character cannot be sent


# -- reads: each is one snapshot


@dataclass(frozen=True, slots=True)
class _AppNow:
    """An app, its live release and its runs that have not ended."""

    app: App
    live: Release | None
    moving: list[Json]


def _apps_now(tx: Connection) -> list[_AppNow]:
    apps = registry.all_apps(tx)
    live = history.releases_by_id(tx, [app.live_release for app in apps if app.live_release is not None])
    moving = defaultdict(list)
    for run in history.moving_runs(tx):
        moving[run.app_id].append(_run(run) | {"stage": _stage_now(tx, run)})
    return [_AppNow(app, live.get(app.live_release or 0), moving[app.id]) for app in apps]


def _stage_now(tx: Connection, run: Run) -> StageName | None:
    begun = history.stage_records(tx, run.id)
    return begun[-1].stage if begun else None


def _runs(tx: Connection, app: str | None, before: int | None, limit: int) -> list[Json]:
    app_id = None if app is None else registry.get(tx, app).id
    runs = history.recent_runs(tx, app_id=app_id, before=before, limit=limit)
    releases = history.releases_by_id(tx, [run.release for run in runs if run.release is not None])
    return [_run(run, releases.get(run.release or 0)) for run in runs]


def _run_whole(tx: Connection, run_id: int) -> Json:
    run = history.run(tx, run_id)
    release = None if run.release is None else history.release(tx, run.release)
    stages = [_values(record) for record in history.stage_records(tx, run_id)]
    tails = [event.data.get("tail") for event in history.events_after(tx, 0, run_id=run_id)]
    return {
        "run": _run(run, release),
        "stages": stages,
        "release": None if release is None else _release(release),
        "tail": next((tail for tail in reversed(tails) if tail), []),
    }


def _printed_in(tx: Connection, run_id: int, stage: StageName) -> int:
    """The run in which the stage as it is recorded for this one really ran."""
    run = history.run(tx, run_id)
    while run.retry_of is not None and _taken_over(tx, run, stage):
        run = history.run(tx, run.retry_of)
    return run.id


def _taken_over(tx: Connection, run: Run, stage: StageName) -> bool:
    """Recorded as done, though it never began in this run."""
    begun = {event.stage for event in history.events_after(tx, 0, run_id=run.id)}
    return stage not in begun and any(one.stage is stage for one in history.stage_records(tx, run.id))


# -- values as JSON


def _values(of: Run | StageRecord | Event | ProcessState) -> Json:
    """By name. `asdict` would copy all that is in them, which costs more than sending it."""
    return {field.name: getattr(of, field.name) for field in fields(of)}


def _run(run: Run, release: Release | None = None) -> Json:
    shown = _values(run)
    for inner in ("app_id", "push_id", "target_release", "environment"):
        del shown[inner]
    return shown | {"release": None if release is None else release.label}


def _release(release: Release) -> Json:
    return {
        "version": release.version,
        "label": release.label,
        "commit": release.commit,
        "run": release.run_id,
        "image": release.image,
        "manifest": release.manifest,
        "config": dict(release.config),
        "created_at": release.created_at,
    }


def _processes(app: App, observed: list[ProcessState]) -> list[Json]:
    """The app's processes; one that is not `live` belongs to a release that starts or drains."""
    live = None if app.live_run is None else app.candidate(app.live_run)
    mine = [process for process in observed if process.app == app.name]
    return [_values(process) | {"live": process.candidate == live} for process in mine]


def _event(event: Event) -> Json:
    shown = _values(event)
    del shown["app_id"]
    return shown | {"at": event.at.isoformat()}


def _subscription(subscription: Subscription) -> Json:
    names = ("id", "kind", "app", "url", "disabled", "dropped", "actor", "created_at")
    return {name: getattr(subscription, name) for name in names}


def _standing(standing: Standing) -> Json:
    names = ("behind", "waiting", "dead", "next_at", "error")
    return _subscription(standing.subscription) | {name: getattr(standing, name) for name in names}


def _dead_letter(notice: Notice) -> Json:
    about = {"subscription": notice.subscription_id, "attempts": notice.attempts, "error": notice.error}
    return about | {"event": _event(notice.event)}
