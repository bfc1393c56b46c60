"""Errors as problem documents (RFC 9457)."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from .. import __version__
from ..errors import Conflict, Forbidden, Invalid, MachineUnavailable, NotFound, PenstockError, Unavailable
from .gate import SIGN, Unauthenticated

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
