"""Which page is where. Reads only: a link followed by mistake changes nothing."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request, Response
from fastapi.responses import HTMLResponse, StreamingResponse
from fastapi.routing import APIRoute

from ..errors import Forbidden, NotFound, PenstockError, Unavailable
from ..model import StageName
from ..settings import Settings
from ..store import history
from ..store.logs import Logs
from . import facts, live, output, pages
from .live import Cursor, EventStream
from .view import View

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""On every answer that does not say otherwise: nothing from elsewhere is loaded, nothing inline runs, nobody
frames the pages, nothing is kept."""


def router(view: View) -> APIRouter:
    """The dashboard's pages, to be included at `/`."""
    routes = APIRouter(
        route_class=_Page, dependencies=[Depends(_host_check(view.settings))], include_in_schema=False
    )
    _add_board(routes, view)
    _add_run(routes, view)
    _add_assets(routes)
    return routes


def _position(after: str = "", last_event_id: Annotated[str | None, Header()] = None) -> Cursor:
    """Where a page stands: what its browser has heard last counts for more than what it was made with."""
    return Cursor.parse(after if last_event_id is None else last_event_id)


def _run_id(number: str) -> int:
    """Raises `NotFound` for what cannot be a run's number."""
    if not (number.isascii() and number.isdecimal() and len(number) <= 18):
        raise NotFound(f"no run {number}")
    return int(number)


Position = Annotated[Cursor, Depends(_position)]
RunId = Annotated[int, Depends(_run_id)]


def _add_board(routes: APIRouter, view: View) -> None:
    @routes.get("/")
    async def board() -> HTMLResponse:
        known = await view.store.read(facts.board)
        return HTMLResponse(pages.board(view, known, Cursor(facts.version(known))))

    @routes.get("/events")
    async def board_events(cursor: Position) -> EventStream:
        return EventStream(live.board_events(view, cursor))


def _add_run(routes: APIRouter, view: View) -> None:
    @routes.get("/runs/{number}")
    async def run(run_id: RunId) -> HTMLResponse:
        known = await view.store.read(facts.run_facts, run_id)
        cursor = Cursor(facts.version(known))
        logs = output.joined(output.pieces(view.logs, known, cursor.marks))
        return HTMLResponse(pages.run(view, known, logs, cursor))

    @routes.get("/runs/{number}/events")
    async def run_events(run_id: RunId, cursor: Position) -> EventStream:
        await view.store.read(history.run, run_id)
        return EventStream(live.run_events(view, run_id, cursor))

    @routes.get("/runs/{number}/logs/{stage}")
    async def log(run_id: RunId, stage: str) -> StreamingResponse:
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
                response = HTMLResponse(pages.problem(error), _status(error))
            for name, value in HEADERS.items():
                response.headers.setdefault(name, value)
            return response

        return page


def _status(error: PenstockError) -> int:
    for kind, status in ((Forbidden, 403), (NotFound, 404), (Unavailable, 503)):
        if isinstance(error, kind):
            return status
    return 500


def _host_check(settings: Settings) -> Callable[[Request], None]:
    """On loopback a page of the internet could make its own name point here and read along (DNS rebinding):
    only this machine's names are answered."""
    names = {"localhost", "127.0.0.1", "[::1]", settings.address}
    local = _is_loopback(settings.address)

    def check(request: Request) -> None:
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
