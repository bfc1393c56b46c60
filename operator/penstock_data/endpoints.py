"""The routes that work: queries, batches and transactions. They are ASGI applications of their own: what a
framework spends on a route is more than a query costs."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any
from urllib.parse import quote

import orjson
from starlette.types import Receive, Scope, Send

from penstock_data.desk import Desk, problem_of
from penstock_data.errors import (
    BadRequest,
    Forbidden,
    Internal,
    LeaseGone,
    OutcomeUnknown,
    Problem,
    TimedOut,
    Unavailable,
    WrongMethod,
)
from penstock_data.http import LINES, Gone, Request, trace_id_of
from penstock_data.keys import Key, Keys, key_of
from penstock_data.leases import Lease, Leases, place_of
from penstock_data.metrics import Tally
from penstock_data.requests import Query, Reader, check_names, document, flag, seconds
from penstock_data.settings import Settings
from penstock_data.statements import commits_by_itself
from penstock_data.tenants import Turns
from penstock_data.tokens import Identity, Verifier
from penstock_data.vigil import Vigil
from penstock_pool import Connection

log = logging.getLogger("penstock_data")

_POD = re.compile(r"[A-Za-z0-9.-]{1,253}")

COMMITTED = b'{"committed":true}'
ROLLED_BACK = b'{"committed":false}'
REPLAYED = ((b"idempotency-replayed", b"true"),)

Work = Callable[[Request, Identity], Awaitable[None]]


class Endpoints:
    """The paths below `/v1` that are not FastAPI's."""

    def __init__(
        self,
        settings: Settings,
        *,
        verifier: Verifier,
        reader: Reader,
        desk: Desk,
        turns: Turns,
        leases: Leases,
        keys: Keys,
        tally: Tally,
    ) -> None:
        self._settings, self._verifier, self._reader = settings, verifier, reader
        self._desk, self._turns, self._leases, self._keys = desk, turns, leases, keys
        self._tally = tally
        self.stopping = False
        """New work is refused; what was begun is ended."""
        self._paths: dict[str, Work] = {
            "/v1/query": self._query,
            "/v1/batch": self._batch,
            "/v1/transactions": self._begin,
        }

    def of(self, path: str) -> Work | None:
        """Who does the work of a path; None for one that is not among these."""
        found = self._paths.get(path)
        if found is None and path.startswith("/v1/transactions/"):
            name, _, verb = path.removeprefix("/v1/transactions/").partition("/")
            works = {
                "query": self._query_in,
                "commit": self._commit,
                "rollback": self._rollback,
                "renew": self._renew,
            }
            return partial(works[verb], name) if verb in works else None
        return found

    async def handle(self, work: Work, scope: Scope, receive: Receive, send: Send) -> int:
        """One request, whatever becomes of it; the status it is counted by."""
        request = Request(scope, receive, send)
        began = self._tally.begin()
        try:
            if scope["method"] != "POST":
                raise WrongMethod("this is asked for by POST")
            header = request.authorization
            who = self._verifier.known(header) if header is not None else None
            await work(request, who or await self._verifier.verify(header))
            status = 200
        except Gone:
            status = 499
        except Exception as error:  # noqa: BLE001 - the boundary: every error becomes an answer
            trace_id = trace_id_of(request.trace)
            problem = told(error, trace_id)
            status = problem.status
            await request.refuse(problem, trace_id)
        self._tally.end(began, status)
        return status

    # -- queries

    async def _query(self, request: Request, who: Identity) -> None:
        query = self._reader.query(document(await self._body(request, who)), reads_only=not who.may_write)
        if request.lines:
            await self._lines(request, who, query)
            return
        with Vigil(query.timeout, request.receive) as vigil:
            async with self._turn(who, vigil):
                if request.key and not query.read:
                    answer, replayed = await self._once(
                        request, who, vigil, lambda connection: self._desk.over(connection, query), [query]
                    )
                else:
                    answer, replayed = await self._desk.answer(query, vigil.left), False
        await request.answer(200, answer, *(REPLAYED if replayed else ()))

    async def _batch(self, request: Request, who: Identity) -> None:
        batch = self._reader.batch(document(await self._body(request, who)), reads_only=not who.may_write)
        _check_no_commit(batch.queries)
        with Vigil(batch.timeout, request.receive) as vigil:
            async with self._turn(who, vigil):
                if request.key and not batch.read:
                    answer, replayed = await self._once(
                        request,
                        who,
                        vigil,
                        lambda connection: self._desk.each(connection, batch),
                        batch.queries,
                    )
                else:
                    answer, replayed = await self._desk.all_of(batch, vigil.left), False
        await request.answer(200, answer, *(REPLAYED if replayed else ()))

    async def _once(
        self,
        request: Request,
        who: Identity,
        vigil: Vigil,
        work: Callable[[Connection], Awaitable[bytes]],
        queries: Sequence[Query],
    ) -> tuple[bytes, bool]:
        _check_no_commit(queries)
        key = self._key(request, who, repr([(query.sql, query.params) for query in queries]).encode())
        await self._keys.ready()
        async with self._desk.transaction(vigil.left) as connection:
            return await self._keys.once(connection, key, lambda: work(connection))

    def _key(self, request: Request, who: Identity, asked: bytes) -> Key:
        return key_of(request.key, who.tenant, asked)

    async def _lines(self, request: Request, who: Identity, query: Query) -> None:
        """A stream. What goes wrong after its beginning is its last line."""
        if request.key:
            raise BadRequest("Idempotency-Key is of no use with a stream: ask for JSON, or without a key")
        lines = Lines(request, query.timeout)
        try:
            with Vigil(query.timeout, request.receive) as vigil:
                lines.vigil = vigil
                async with (
                    self._turn(who, vigil),
                    self._desk.borrowed(vigil.left, reads_only=query.read) as connection,
                ):
                    count = await self._desk.pass_on(connection, query, lines.write)
        except Gone:
            raise
        except Exception as error:
            if not lines.begun:
                raise
            trace_id = trace_id_of(request.trace)
            await lines.end({"error": told(error, trace_id).document(trace_id)})
            return
        await lines.end({"end": {"rows": count}})

    async def _body(self, request: Request, who: Identity) -> bytes:
        if self.stopping:
            raise Unavailable("the service is stopping")
        if not who.may_read:
            raise Forbidden("the token has neither data:read nor data:write")
        return await request.body(self._settings.max_body)

    def _turn(self, who: Identity, vigil: Vigil) -> Turn:
        return Turn(self._turns, who.tenant, vigil)

    # -- transactions

    async def _begin(self, request: Request, who: Identity) -> None:
        asked = document(await self._body(request, who) or b"{}")
        check_names(asked, ("seconds", "isolation", "read", "timeout"))
        isolation, read = asked.get("isolation"), flag(asked, "read") or not who.may_write
        if isolation is not None and not isinstance(isolation, str):
            raise BadRequest("isolation is to be text, such as read committed")
        time = seconds(asked, "seconds", self._settings.lease, self._settings.lease_limit)
        timeout = self._reader.timeout(asked)
        with Vigil(timeout, request.receive) as vigil:
            lease = await self._leases.begin(who, time, isolation=isolation, read=read, timeout=vigil.left)
        location = (b"location", b"/v1/transactions/" + quote(lease.name, safe="~").encode())
        try:
            await request.answer(201, self._told(lease), location)
        except Exception:
            await self._leases.rollback(lease)  # nobody knows its name
            raise

    async def _query_in(self, name: str, request: Request, who: Identity) -> None:
        if await self._is_elsewhere(name, request, who):
            return
        asked = document(await request.body(self._settings.max_body))
        fence = asked.pop("fence", None)
        query = self._reader.query(asked, reads_only=not who.may_write)
        _check_no_commit([query])
        async with self._leases.using(name, who, fence) as lease:
            with Vigil(min(query.timeout, max(0.001, self._leases.left(lease))), request.receive):
                answer = await self._desk.over(lease.connection, query)
        await request.answer(200, answer)

    async def _commit(self, name: str, request: Request, who: Identity) -> None:
        """Not ended when the client leaves: what it asked for is done."""
        key = self._key(request, who, name.encode()) if request.key else None
        fence = await self._fence(request)
        sent: list[Lease] = []
        try:
            async with asyncio.timeout(self._settings.timeout_limit):
                if key is not None and (done := await self._done(name, key)) is not None:
                    await request.answer(200, done, *REPLAYED)
                elif not await self._is_elsewhere(name, request, who):
                    async with self._leases.using(name, who, fence) as lease:
                        if key is not None:
                            await self._keys.mark(lease.connection, key, COMMITTED)
                        sent.append(lease)
                        await self._leases.commit(lease)
                    await request.answer(200, COMMITTED)
        except TimeoutError as error:
            late = OutcomeUnknown if sent else TimedOut
            raise late("the database did not answer in time") from error

    async def _done(self, name: str, key: Key) -> bytes | None:
        """What was answered to a commit under this key, here or elsewhere."""
        await self._keys.ready()
        return None if name in self._leases else await self._keys.find(key)

    async def _rollback(self, name: str, request: Request, who: Identity) -> None:
        if await self._is_elsewhere(name, request, who):
            return
        async with self._leases.using(name, who, await self._fence(request)) as lease:
            await self._leases.rollback(lease)
        await request.answer(200, ROLLED_BACK)

    async def _renew(self, name: str, request: Request, who: Identity) -> None:
        if await self._is_elsewhere(name, request, who):
            return
        asked = document(await request.body(self._settings.max_body) or b"{}")
        check_names(asked, ("seconds", "fence"))
        time = seconds(asked, "seconds", self._settings.lease, self._settings.lease_limit)
        async with self._leases.using(name, who, asked.get("fence")) as lease:
            with Vigil(self._settings.timeout, request.receive):
                await self._leases.renew(lease, time)
        await request.answer(200, self._told(lease))

    async def _fence(self, request: Request) -> object:
        asked = document(await request.body(self._settings.max_body) or b"{}")
        check_names(asked, ("fence",))
        return asked.get("fence")

    def _told(self, lease: Lease) -> bytes:
        left = round(self._leases.left(lease), 3)
        return orjson.dumps({"lease": lease.name, "fence": lease.fence, "seconds": left})

    async def _is_elsewhere(self, name: str, request: Request, who: Identity) -> bool:
        """Whether the lease is another process's; then the answer leads there. Raises `Forbidden`, and
        `LeaseGone` for one that can be nowhere any more."""
        if not who.may_read:
            raise Forbidden("the token has neither data:read nor data:write")
        place = place_of(name)
        if place.pod == self._settings.pod:
            return False
        if self._leases.is_over(place):
            raise LeaseGone("its time was over: rolled back, unless it was committed")
        if self._settings.peer_url is None or not _POD.fullmatch(place.pod):
            raise LeaseGone(f"it belongs to another process, {place.pod!r}, and peer_url is not set")
        where = self._settings.peer_url.format(pod=place.pod) + request.scope["path"]
        await request.answer(307, b"", (b"location", quote(where, safe=":/~").encode()))
        return True


class Turn:
    """`async with`: admission, in turns with other tenants."""

    __slots__ = ("_tenant", "_turns", "_vigil")

    def __init__(self, turns: Turns, tenant: str, vigil: Vigil) -> None:
        self._turns, self._tenant, self._vigil = turns, tenant, vigil

    async def __aenter__(self) -> None:
        if not self._turns.enter(self._tenant):
            await self._turns.wait(self._tenant, time.monotonic() + self._vigil.left)

    async def __aexit__(self, *_: object) -> None:
        self._turns.leave(self._tenant)


class Lines:
    """An answer that is sent by and by."""

    def __init__(self, request: Request, seconds: float) -> None:
        self._request, self._seconds = request, seconds
        self.vigil: Vigil | None = None
        self.begun = False

    async def write(self, lines: bytes) -> None:
        """Returns when more may come. The time begins anew: between any two it may be as long."""
        if not self.begun:
            self.begun = True
            headers = [(b"content-type", LINES), (b"cache-control", b"no-store")]
            start = {"type": "http.response.start", "status": 200, "headers": headers}
            await self._request.send(start)
        await self._request.send({"type": "http.response.body", "body": lines, "more_body": True})
        if self.vigil is not None:
            self.vigil.again(self._seconds)

    async def end(self, last: dict[str, Any]) -> None:
        """The last line."""
        body = orjson.dumps(last, option=orjson.OPT_APPEND_NEWLINE)
        with suppress(asyncio.TimeoutError):
            async with asyncio.timeout(self._seconds):
                await self._request.send({"type": "http.response.body", "body": body})


def told(error: Exception, trace_id: str) -> Problem:
    """What the client is told of an error; a fault of ours is in the log."""
    problem = problem_of(error)
    if problem is None:
        log.error("a fault, trace %s", trace_id, exc_info=error)
        return Internal("a fault of the service; its log has more under this trace_id")
    if problem.status >= 500:
        log.warning("%s, trace %s: %s", problem.slug, trace_id, problem.detail)
    return problem


def _check_no_commit(queries: Sequence[Query]) -> None:
    for query in queries:
        if commits_by_itself(query.sql):
            raise BadRequest(
                "a statement that defines something (CREATE, ALTER, DROP, TRUNCATE, …) commits the "
                "transaction it is in: send it alone"
            )
