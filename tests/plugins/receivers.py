"""Subscribers and forges as others run them: real servers that answer as told and keep what they are sent."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from plugins.upstreams import app_that

from penstock_pipeline import signatures

Answer = tuple[int, dict[str, str], str]
OK: Answer = (200, {}, "")


@dataclass(frozen=True)
class Received:
    """One request, whole."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        return json.loads(self.body)

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def type(self) -> str:
        return str(self.document["type"]).removeprefix("dev.penstock.")

    def verify(self, secret: str) -> None:
        signatures.verify(
            secret,
            self.body,
            message=self.id,
            at=self.headers["webhook-timestamp"],
            signatures=self.headers["webhook-signature"],
            now=time.time(),
        )


@dataclass
class Receiver:
    """Answers what `answers` holds, one after the other, then what `always` says."""

    answers: list[Answer] = field(default_factory=list)
    always: Answer = OK
    respond: Callable[[Received], Answer] | None = None
    """What it answers once nothing is left of `answers`, in place of `always`."""
    before: Callable[[Received], Awaitable[None]] | None = None
    """Awaited before each answer."""
    received: list[Received] = field(default_factory=list)
    url: str = ""

    @contextlib.asynccontextmanager
    async def serving(self, port: int = 0) -> AsyncIterator[Receiver]:
        async with app_that(self._handle, port) as address:
            self.url = f"http://{address}/hook"
            yield self

    @property
    def ids(self) -> list[str]:
        return [one.id for one in self.received]

    @property
    def types(self) -> list[str]:
        return [one.type for one in self.received]

    async def _handle(self, request: web.BaseRequest) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        one = Received(request.method, request.raw_path, headers, await request.read())
        self.received.append(one)
        if self.before is not None:
            await self.before(one)
        status, given, text = self.answers.pop(0) if self.answers else self._usual(one)
        return web.Response(status=status, headers=given, text=text)

    def _usual(self, one: Received) -> Answer:
        return self.always if self.respond is None else self.respond(one)
