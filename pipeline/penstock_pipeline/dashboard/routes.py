"""Which page is where, and who may see it. A link followed by mistake changes nothing: only forms do."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse, StreamingResponse
from fastapi.routing import APIRoute

from ..errors import Conflict, Forbidden, Invalid, NotFound, PenstockError, Unavailable
from ..model import StageName
from ..settings import Settings
from ..store.logs import Logs
from . import facts, live, output, pages, sign_in
from .actions import add_actions
from .live import Cursor, EventStream
from .paths import RunId
from .sign_in import Signed, SignedOut, Throttled
from .view import View

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    # Not "no-referrer": with that, browsers tell a form's Origin not even to its own server (Fetch standard).
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""On every answer that does not say otherwise: nothing from elsewhere is loaded, nothing inline runs, nobody
frames the pages, nothing is kept."""


def router(view: View) -> APIRouter:
    """The dashboard's pages, to be included at `/`."""
    local, signed_in = Depends(_host_check(view.settings)), Depends(sign_in.admitting(view.tokens))
    genuine, manager = Depends(sign_in.genuine), Depends(sign_in.manager)
    open_to_all = _routes(local)
    _add_assets(open_to_all)
    sign_in.add_sign_in(open_to_all, view.tokens)
    to_look = _routes(local, signed_in)
    _add_board(to_look, view)
    _add_app(to_look, view)
    _add_run(to_look, view)
    to_leave = _routes(local, signed_in, genuine)
    sign_in.add_sign_out(to_leave)
    to_act = _routes(local, signed_in, genuine, manager)
    add_actions(to_act, view.orders)
    whole = APIRouter()
    for routes in (open_to_all, to_look, to_leave, to_act):
        whole.include_router(routes)
    return whole


def _routes(*needed: Any) -> APIRouter:
    return APIRouter(route_class=_Page, dependencies=needed, include_in_schema=False)


async def _position(after: str = "", last_event_id: Annotated[str | None, Header()] = None) -> Cursor:
    """Where a page stands: what its browser has heard last counts for more than what it was made with."""
    return Cursor.parse(after if last_event_id is None else last_event_id)


Position = Annotated[Cursor, Depends(_position)]


def _add_board(routes: APIRouter, view: View) -> None:
    @routes.get("/")
    async def board(signed: Signed) -> HTMLResponse:
        known = await facts.board(view, signed)
        return HTMLResponse(pages.whole(view, signed, known, Cursor(facts.version(known))))

    @routes.get("/events")
    async def board_events(signed: Signed, cursor: Position) -> EventStream:
        return EventStream(live.board_events(view, signed, cursor))


def _add_app(routes: APIRouter, view: View) -> None:
    @routes.get("/apps/{name}")
    async def app(signed: Signed, name: str) -> HTMLResponse:
        known = await facts.app(view, signed, name)
        return HTMLResponse(pages.whole(view, signed, known, Cursor(facts.version(known))))

    @routes.get("/apps/{name}/events")
    async def app_events(signed: Signed, name: str, cursor: Position) -> EventStream:
        await facts.app(view, signed, name)
        return EventStream(live.app_events(view, signed, name, cursor))


def _add_run(routes: APIRouter, view: View) -> None:
    @routes.get("/runs/{run}")
    async def run(signed: Signed, run_id: RunId) -> HTMLResponse:
        known = await facts.run(view, signed, run_id)
        cursor = Cursor(facts.version(known))
        logs = output.joined(output.pieces(view.logs, known, cursor.marks))
        return HTMLResponse(pages.whole(view, signed, known, cursor, logs))

    @routes.get("/runs/{run}/events")
    async def run_events(signed: Signed, run_id: RunId, cursor: Position) -> EventStream:
        await facts.run(view, signed, run_id)
        return EventStream(live.run_events(view, signed, run_id, cursor))

    @routes.get("/runs/{run}/logs/{stage}")
    async def log(signed: Signed, run_id: RunId, stage: str) -> StreamingResponse:
        await facts.run(view, signed, run_id)
        if stage not in list(StageName) or not view.logs.path(run_id, StageName(stage)).exists():
            raise NotFound(f"run {run_id} has no log of {stage}")
        chunks = _chunks(view.logs, run_id, StageName(stage))
        return StreamingResponse(chunks, media_type="text/plain")


def _add_assets(routes: APIRouter) -> None:
    @routes.get("/assets/{name}")
    async def asset(name: str) -> Response:
        for_ever = {"Cache-Control": "public, max-age=31536000, immutable"}
        return Response(pages.asset(name), media_type=pages.media_type(name), headers=for_ever)

    @routes.get("/favicon.ico")
    async def favicon() -> Response:
        return Response(pages.asset("favicon.svg"), media_type=pages.media_type("favicon.svg"))


async def _chunks(logs: Logs, run_id: int, stage: StageName) -> AsyncIterator[bytes]:
    offset = 0
    while data := logs.read(run_id, stage, offset, output.PIECE):
        yield data
        offset += len(data)


class _Page(APIRoute):
    """A route whose errors are pages too, and whose every answer carries `HEADERS`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()

        async def page(request: Request) -> Response:
            try:
                response = await answer(request)
            except PenstockError as error:
                response = _told(request, error)
            for name, value in HEADERS.items():
                response.headers.setdefault(name, value)
            return response

        return page


def _told(request: Request, error: PenstockError) -> Response:
    """The error as a page; who is not signed in is sent there from any page, though not from a stream."""
    path, looks = request.url.path, request.method == "GET"
    if isinstance(error, SignedOut) and looks and not path.endswith("/events"):
        return _way_in(request)
    back = None if looks else _ABOUT.match(path)
    page = pages.problem(error, getattr(request.state, "session", None), back=back and back[0])
    headers = {"Retry-After": str(error.wait)} if isinstance(error, Throttled) else None
    return HTMLResponse(page, _status(error), headers)


def _way_in(request: Request) -> Response:
    """A browser that follows a link of another site keeps the cookie back (SameSite=Strict); asked again by a
    page of ours it sends it."""
    if request.headers.get("sec-fetch-site") == "cross-site":
        return HTMLResponse(pages.again())
    return RedirectResponse(sign_in.way_in(request.url.path), 303)


_ABOUT = re.compile(r"/(?:runs|apps)/[a-z0-9-]+")

_STATUS = {
    SignedOut: 401,
    Throttled: 429,
    Forbidden: 403,
    NotFound: 404,
    Conflict: 409,
    Invalid: 422,
    Unavailable: 503,
}


def _status(error: PenstockError) -> int:
    return next((status for kind, status in _STATUS.items() if isinstance(error, kind)), 500)


def _host_check(settings: Settings) -> Callable[[Request], Awaitable[None]]:
    """On loopback a page of the internet could make its own name point here and read along (DNS rebinding):
    only this machine's names are answered."""
    names = {"localhost", "127.0.0.1", "[::1]", settings.address}
    local = _is_loopback(settings.address)

    async def check(request: Request) -> None:
        host = re.sub(r":[0-9]*$", "", request.headers.get("host", "")).lower()
        if local and host not in names and not host.endswith(".localhost"):
            raise Forbidden(
                f"the dashboard answers only to names of this machine, not to {host or 'no name'!r}; "
                f"open http://localhost:{settings.port}/"
            )

    return check


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"
