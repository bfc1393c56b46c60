"""Signing in with a token: who may see the pages, and whether a form comes from one of them.

A session is a signed cookie, and nothing is remembered of it here. Forms are checked twice: they carry what
only pages of the same session know, and the browser says that its own page sent them.
"""

from __future__ import annotations

import hmac
import re
import time
from collections import deque
from collections.abc import Awaitable, Callable
from math import ceil
from typing import Annotated
from urllib.parse import parse_qsl, quote

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from ..errors import Forbidden, Invalid
from ..tokens import Session, Tokens
from . import pages

COOKIE = "penstock"
SECURE_COOKIE = "__Host-penstock"
"""Where the browser came by https: no other host and no unencrypted page can set this one (RFC 6265bis)."""

BODY_LIMIT = 16 * 1024
"""Bytes a form may have."""

WRONG_TOKENS = 10
WRONG_WITHIN = 60.0
"""So many wrong tokens from one address within so many seconds; then it has to wait."""

_PAGE = re.compile(r"/((runs|apps)/[a-z0-9-]{1,40})?")

Form = dict[str, str]


class SignedOut(Forbidden):
    """Nobody knows who asks: there is no session, or it has ended."""


class Throttled(Forbidden):
    """Too many wrong tokens came from there. `wait` in seconds."""

    def __init__(self, wait: int) -> None:
        super().__init__(f"too many wrong tokens; try again in {wait} seconds")
        self.wait = wait


class Throttle:
    """The wrong tokens of late, by the address they came from."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._wrong: dict[str, deque[float]] = {}

    def check(self, address: str) -> None:
        """Raises `Throttled`."""
        wrong = self._wrong.get(address, deque())
        if len(wrong) == WRONG_TOKENS and (left := wrong[0] + WRONG_WITHIN - self._clock()) > 0:
            raise Throttled(ceil(left))

    def note(self, address: str) -> None:
        now = self._clock()
        self._wrong = {one: wrong for one, wrong in self._wrong.items() if wrong[-1] + WRONG_WITHIN > now}
        self._wrong.setdefault(address, deque(maxlen=WRONG_TOKENS)).append(now)


# -- what other routes depend on


def admitting(tokens: Tokens) -> Callable[[Request], Awaitable[None]]:
    """Puts the request's session where `session` finds it. Raises `SignedOut`."""

    async def admit(request: Request) -> None:
        cookie = request.cookies.get(SECURE_COOKIE) or request.cookies.get(COOKIE)
        if cookie is None:
            raise SignedOut("sign in first")
        try:
            request.state.session = tokens.session(cookie)
        except Forbidden as error:
            raise SignedOut("your session has ended; sign in again") from error

    return admit


async def session(request: Request) -> Session:
    """Who is signed in."""
    known: Session = request.state.session
    return known


Signed = Annotated[Session, Depends(session)]


async def genuine(request: Request, known: Signed) -> None:
    """Raises `Forbidden` for a form that is not from a page of this very session."""
    _check_origin(request)
    form = await _form(request)
    if not hmac.compare_digest(form.get("form", "").encode(), known.form.encode()):
        raise Forbidden("this form is not from a page of your session; go back, reload the page, try again")


async def manager(known: Signed) -> None:
    """Raises `Forbidden` for who may only look on."""
    if not known.manages:
        raise Forbidden("your token is for pushes: you may look, not act; penstock token --manage acts")


def _check_origin(request: Request) -> None:
    """Browsers tell which page sends a form, and no page can change that: in `Sec-Fetch-Site` (W3C Fetch
    Metadata), or in `Origin` alone where they do not trust the connection (Fetch standard)."""
    headers = request.headers
    site = headers.get("sec-fetch-site")
    own = headers.get("origin", "").partition("://")[2].lower() == headers.get("host", "").lower() != ""
    if not (own if site is None else site == "same-origin"):
        raise Forbidden("this form comes from another site, or from a browser that does not say; refused")


async def _form(request: Request) -> Form:
    """The fields of a form. Raises `Invalid` for a body that is none or too long."""
    if request.headers.get("content-type", "").partition(";")[0] != "application/x-www-form-urlencoded":
        raise Invalid("only forms of the dashboard's own pages are taken here")
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_LIMIT:
            raise Invalid(f"a form has at most {BODY_LIMIT} bytes")
    try:
        return dict(parse_qsl(body.decode(), max_num_fields=10, strict_parsing=bool(body), errors="strict"))
    except ValueError as error:
        raise Invalid("this is no form that can be read") from error


# -- the routes


def add_sign_in(routes: APIRouter, tokens: Tokens) -> None:
    throttle = Throttle()

    @routes.get("/sign-in")
    async def ask(next: str = "/") -> HTMLResponse:
        return HTMLResponse(pages.sign_in(_inside(next)))

    @routes.post("/sign-in")
    async def sign_in(request: Request) -> Response:
        _check_origin(request)
        address = request.client.host if request.client else ""
        throttle.check(address)
        form = await _form(request)
        inside = _inside(form.get("next", "/"))
        try:
            cookie = tokens.open_session(tokens.admit(form.get("token", "").strip()))
        except Forbidden as error:
            throttle.note(address)
            return HTMLResponse(pages.sign_in(inside, wrong=str(error)), 403)
        return _signed_in(request, tokens.session(cookie), cookie, inside)


def add_sign_out(routes: APIRouter) -> None:
    @routes.post("/sign-out")
    async def sign_out() -> Response:
        response = RedirectResponse("/sign-in", 303)
        response.delete_cookie(COOKIE, httponly=True, samesite="strict")
        response.delete_cookie(SECURE_COOKIE, httponly=True, samesite="strict", secure=True)
        return response


def way_in(path: str) -> str:
    """Where a page that needs a session sends who has none."""
    return f"/sign-in?next={quote(path)}" if _PAGE.fullmatch(path) and path != "/" else "/sign-in"


def _signed_in(request: Request, known: Session, cookie: str, inside: str) -> Response:
    secure = request.headers.get("origin", "").startswith("https://")
    response = RedirectResponse(inside, 303)
    response.set_cookie(
        SECURE_COOKIE if secure else COOKIE,
        cookie,
        max_age=max(0, int(known.who.expires - time.time())),
        path="/",
        secure=secure,
        httponly=True,
        samesite="strict",
    )
    return response


def _inside(wanted: str) -> str:
    """Nothing but a page of the dashboard is ever gone to."""
    return wanted if _PAGE.fullmatch(wanted) else "/"
