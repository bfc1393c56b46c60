"""Who may ask, and how much: looked at before anything else of a request is read."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive

from .. import __version__
from ..errors import Forbidden
from ..tokens import Identity, Scope, Tokens

BODY_LIMIT = 256 * 1024
"""Bytes a request's body may have."""

SIGN = "Penstock-Version"
"""Header of every answer: who asks by mistake something else than a Penstock can tell."""


class Unauthenticated(Forbidden):
    """Nobody knows who asks: no token, a wrong one or an expired one."""


def admitting(tokens: Tokens) -> type[APIRoute]:
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


def who(request: Request) -> str:
    identity: Identity = request.state.identity
    return identity.name
