"""The composition root: one pool, what is built on it, and the FastAPI application around that."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from penstock_data import admin, openapi
from penstock_data.desk import Desk
from penstock_data.endpoints import Endpoints
from penstock_data.errors import BadRequest, InvalidSettings, NotFound, Problem, WrongMethod
from penstock_data.follow import Follower
from penstock_data.http import PROBLEM, trace_id_of
from penstock_data.jwks import JwksVerifier
from penstock_data.keys import Keys
from penstock_data.leases import Leases
from penstock_data.metrics import DataCollector, Tally, registry_of
from penstock_data.named import Queries
from penstock_data.requests import Reader
from penstock_data.settings import Settings, Source
from penstock_data.tenants import Turns
from penstock_data.tokens import KeyVerifier, Verifier
from penstock_pool import ConnectionPool, PoolSettings, Server
from penstock_pool.asyncmy_driver import AsyncmyDriver
from penstock_pool.errors import InvalidSettings as InvalidPool

if TYPE_CHECKING:
    from penstock_data.traces import Traces


class DataApp(FastAPI):
    """FastAPI, but the routes that work do not pass through it."""

    def __init__(self, settings: Settings, source: Source | None = None) -> None:
        """`source`: where the settings came from, to be followed. Raises `InvalidSettings`."""
        super().__init__(
            title="Penstock data service",
            version="v1",
            lifespan=self._lifespan,
            docs_url=None,
            redoc_url=None,
            exception_handlers={
                Problem: _problem,
                HTTPException: _no_such,
                RequestValidationError: _invalid,
            },
        )
        self.settings = settings
        self.pool = pool_of(settings)
        self.queries = Queries.load(settings.queries) if settings.queries else None
        self.verifier = _verifier(settings)
        self.leases = Leases(self.pool, settings, lambda: self.turns.more())
        self.turns = Turns(
            lambda: max(1, self.pool.settings.max - len(self.leases)),
            per_tenant=settings.tenant_concurrency,
            queue=settings.tenant_queue,
        )
        self.keys, self.tally = Keys(self.pool), Tally()
        self.endpoints = Endpoints(
            settings,
            verifier=self.verifier,
            reader=Reader(settings, self.queries),
            desk=Desk(self.pool, settings),
            turns=self.turns,
            leases=self.leases,
            keys=self.keys,
            tally=self.tally,
        )
        self.registry = registry_of([self.pool], DataCollector(self.tally, self.turns, self.leases))
        self.traces = _traces(settings, self.pool)
        self.stopping = False
        """Nothing new is sent here: not ready."""
        adjust = admin.add_to(self).follow
        self.follower = None if source is None else Follower(source, settings, adjust)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (work := self.endpoints.of(scope["path"])) is not None:
            if self.traces is None:
                await self.endpoints.handle(work, scope, receive, send)
            else:
                handle = partial(self.endpoints.handle, work)
                await self.traces.around(scope, _route(scope["path"]), lambda it: handle(it, receive, send))
        else:
            await super().__call__(scope, receive, send)

    def openapi(self) -> dict[str, Any]:
        """Of FastAPI's routes and the others."""
        if not self.openapi_schema:
            self.openapi_schema = openapi.complete(super().openapi(), self.settings)
        return self.openapi_schema

    @asynccontextmanager
    async def _lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as running:
            for part in (self.pool, self.verifier, self.queries, self.follower):
                if isinstance(part, AbstractAsyncContextManager):
                    await running.enter_async_context(part)
            try:
                yield
            finally:
                await self.leases.drained(0)
                await self.keys.close()
                if self.traces is not None:
                    await asyncio.to_thread(self.traces.close)

    async def drain(self) -> None:
        """Lets what is under way end: first nobody is to be sent here any more, then nothing new is taken."""
        self.stopping = True
        await asyncio.sleep(self.settings.drain_delay)
        self.endpoints.stopping = True
        await self.leases.drained(self.settings.drain)


def pool_of(settings: Settings) -> ConnectionPool:
    """Raises `InvalidSettings`."""
    if settings.url is None:
        raise InvalidSettings("url is missing: the database, as mysql://user:password@host:port/database")
    sizes = PoolSettings(
        name=settings.name,
        min=settings.min,
        max=settings.max,
        checkout_timeout=settings.checkout_timeout,
        heartbeat=settings.heartbeat,
        slow_query=settings.slow_query,
        hold_warn=max(30.0, 2 * settings.lease_limit),
    )
    replicas = [
        _pool(_server(settings, url, read_only=True), replace(sizes, name=f"{settings.name}-replica{at}"))
        for at, url in enumerate(settings.replicas)
    ]
    return _pool(_server(settings, settings.url), sizes, replicas)


def _pool(server: Server, sizes: PoolSettings, replicas: Sequence[ConnectionPool] = ()) -> ConnectionPool:
    try:
        driver = AsyncmyDriver(server, decimals_as_text=True)
    except InvalidPool as error:
        raise InvalidSettings(str(error)) from error
    return ConnectionPool(server, sizes, replicas=replicas, driver=driver)


def _server(settings: Settings, url: str, *, read_only: bool = False) -> Server:
    more: dict[str, Any] = {"statement_cache": settings.statement_cache, "program_name": "penstock-data"}
    if settings.password is not None:
        more["password"] = settings.password
    if settings.password_file is not None:
        more["password"] = _Password(settings.password_file)
    if settings.ca_file is not None:
        more["tls"] = _authorities(settings.ca_file)
    try:
        return replace(Server.from_url(_with_user(url, settings.username)), read_only=read_only, **more)
    except InvalidPool as error:
        raise InvalidSettings(str(error)) from error


def _with_user(url: str, name: str | None) -> str:
    scheme, found, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    if name is None or not found:
        return url
    return f"{scheme}://{quote(name, safe='')}@{host.rpartition('@')[2]}{slash}{path}"


class _Password:
    """Read before each connect, so that it can be rotated."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self()

    def __call__(self) -> str:
        try:
            return self._file.read_text().strip("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidSettings(f"password_file {self._file}: {error}") from error


def _authorities(file: Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=file)
    except (OSError, ssl.SSLError) as error:
        raise InvalidSettings(f"ca_file {file}: {error}") from error


def _verifier(settings: Settings) -> Verifier:
    if settings.jwks_url is not None:
        return JwksVerifier(settings.jwks_url, issuer=settings.issuer, audience=settings.serves)
    return KeyVerifier(settings.signs_with, issuer=settings.issuer, audience=settings.serves)


def _traces(settings: Settings, pool: ConnectionPool) -> Traces | None:
    if settings.otlp_endpoint is None:
        return None
    from penstock_data.traces import Traces  # the SDK is heavy, and an extra of its own

    return Traces(settings.otlp_endpoint, pool)


def _route(path: str) -> str:
    """The path without the name of a lease."""
    parts = path.split("/")
    return "/".join((*parts[:3], "{lease}", *parts[4:])) if len(parts) > 4 else path


# -- errors of FastAPI's routes


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    trace_id = trace_id_of(request.headers.get("traceparent", "").encode())
    return JSONResponse(error.document(trace_id), error.status, error.headers, media_type=PROBLEM.decode())


async def _no_such(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        return await _problem(request, WrongMethod("this is asked for by another method"))
    return await _problem(request, NotFound(f"there is no {request.url.path}"))


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    complaints = "; ".join(f"{'.'.join(map(str, it['loc'][1:]))}: {it['msg']}" for it in error.errors())
    return await _problem(request, BadRequest(complaints))
