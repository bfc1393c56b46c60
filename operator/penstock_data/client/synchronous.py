"""The client for programs that wait."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from typing import Any

import httpx

from penstock_data.client import calls
from penstock_data.client.calls import Call, Reply, Statement
from penstock_data.client.errors import DataError, LeaseGone, StreamCut
from penstock_data.client.exchange import Route, Send, Wait, address, exchange
from penstock_data.client.results import Lines, Result, Row
from penstock_data.client.values import Column

Token = str | Callable[[], str]


class SyncDataClient:
    """Asks a data service. Use as a context manager, or `close` it.

    `timeout` is in seconds and of everything: waiting, what is repeated, the statement. Repeated is only what
    is safe: what was refused before anything was done, reads, and what has a key."""

    def __init__(
        self,
        url: str,
        token: Token,
        *,
        timeout: float = 5.0,
        verify: ssl.SSLContext | bool = True,
        connections: int = 100,
    ) -> None:
        """`token`: a JWT, or what is called for one before each request. `verify`: how the certificate of an
        https URL is verified. `connections`: how many are open at most. Raises `ValueError` for a URL that is
        none."""
        self._home, self._token, self._timeout = address(url), token, timeout
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        self._http = httpx.Client(verify=verify, limits=limits)

    def __enter__(self) -> SyncDataClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes its connections. A transaction that is open ends by its time."""
        self._http.close()

    # -- what is asked

    def query(
        self, sql: str, *params: Any, read: bool = False, timeout: float | None = None, key: str | None = None
    ) -> Result:
        """One statement, with `?` for each parameter. `read`: it may only read, and may be sent to a replica.
        `key`: it is done once, however often it is asked for with this key. Raises `DataError`."""
        told = calls.statement(sql, params)
        return self._ask(calls.query(told, self._seconds(timeout), read=read, key=key)).result()

    def named(
        self,
        name: str,
        params: Sequence[Any] | Mapping[str, Any] = (),
        *,
        read: bool = False,
        timeout: float | None = None,
        key: str | None = None,
    ) -> Result:
        """A query that the service knows by name; parameters in their order, or by their names. Raises
        `DataError`."""
        told = calls.named(name, params)
        return self._ask(calls.query(told, self._seconds(timeout), read=read, key=key)).result()

    def batch(
        self,
        statements: Iterable[Statement],
        *,
        read: bool = False,
        timeout: float | None = None,
        key: str | None = None,
    ) -> list[Result]:
        """Several statements in one transaction: all are done, or none. Raises `DataError`, which tells by
        `more["statement"]` at which one."""
        call = calls.batch(statements, self._seconds(timeout), read=read, key=key)
        return self._ask(call).results()

    @contextmanager
    def stream(
        self, sql: str, *params: Any, read: bool = False, timeout: float | None = None
    ) -> Iterator[SyncRows]:
        """Rows as they come, no faster than they are taken; who leaves early has the statement killed.
        `timeout` is between any two. Raises `DataError`, `StreamCut` when rows are missing."""
        told = calls.statement(sql, params)
        call = calls.query(told, self._seconds(timeout), read=read, key=None, lines=True)
        _, response = self._do(call, Route(self._home))
        with closing(response), closing(SyncRows(response)) as rows:
            rows._begin()
            yield rows

    @contextmanager
    def transaction(
        self,
        *,
        seconds: float | None = None,
        isolation: str | None = None,
        read: bool = False,
        timeout: float | None = None,
    ) -> Iterator[SyncTransaction]:
        """A transaction: committed at a good end, else rolled back. `seconds`: how long it may take in all,
        unless it is renewed; `timeout`: of each request. Raises `DataError`."""
        transaction = self.begin(seconds=seconds, isolation=isolation, read=read, timeout=timeout)
        try:
            yield transaction
        except BaseException:
            with suppress(DataError):
                transaction.rollback()
            raise
        transaction.commit()

    def begin(
        self,
        *,
        seconds: float | None = None,
        isolation: str | None = None,
        read: bool = False,
        timeout: float | None = None,
    ) -> SyncTransaction:
        """The same without an end: who calls it commits or rolls back. Raises `DataError`."""
        limit, route = self._seconds(timeout), Route(self._home)
        begun = self._ask(calls.begin(limit, lease=seconds, isolation=isolation, read=read), route)
        return SyncTransaction(self, route, begun.document(), limit)

    def pool(self) -> dict[str, Any]:
        """How the pool is: counts, sizes, holders. Raises `DataError`."""
        return self._ask(calls.pool(self._timeout)).document()

    # -- how

    def _seconds(self, timeout: float | None) -> float:
        return self._timeout if timeout is None else timeout

    def _ask(self, call: Call, route: Route | None = None) -> Reply:
        reply, _ = self._do(call, route or Route(self._home))
        return reply

    def _do(self, call: Call, route: Route) -> tuple[Reply, httpx.Response]:
        steps = exchange(call, route, time.monotonic)
        try:
            step = next(steps)
            while True:
                if isinstance(step, Wait):
                    time.sleep(step.seconds)
                    step = steps.send(None)
                    continue
                try:
                    reply, response = self._sent(step)
                except httpx.HTTPError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(reply)
        except StopIteration as done:
            return done.value, response

    def _sent(self, step: Send) -> tuple[Reply, httpx.Response]:
        call = step.call
        request = self._http.build_request(
            call.method,
            step.url,
            headers=call.headers(self._bearer()),
            content=call.content(step.left),
            timeout=step.timeout,
        )
        response = self._http.send(request, stream=True)
        if call.lines and response.status_code == 200:
            return Reply(200, response.headers), response
        try:
            return Reply(response.status_code, response.headers, response.read()), response
        finally:
            response.close()

    def _bearer(self) -> str:
        return self._token() if callable(self._token) else self._token


class SyncRows:
    """A stream of rows: `for row in rows`."""

    def __init__(self, response: httpx.Response) -> None:
        self._pieces: Any = response.iter_bytes()
        self._lines = Lines()
        self._ready: list[Row] = []
        self._iterator = self._each()

    @property
    def columns(self) -> tuple[Column, ...]:
        return self._lines.columns

    def __iter__(self) -> Iterator[Row]:
        return self._iterator

    def close(self) -> None:
        """Nothing more is read."""
        self._iterator.close()
        self._pieces.close()

    def _begin(self) -> None:
        while not self._lines.begun and self._more():
            pass

    def _each(self) -> Generator[Row, None, None]:
        more = True
        while more:
            ready, self._ready = self._ready, []
            yield from ready
            more = self._more()

    def _more(self) -> bool:
        """Whether it goes on. Raises what the stream tells, and `StreamCut`."""
        try:
            piece = next(self._pieces, None)
        except httpx.HTTPError as error:
            raise StreamCut(f"the connection broke: {error!r}") from error
        if piece is None:
            self._lines.close()
            return False
        self._ready += self._lines.feed(piece)
        return True


class SyncTransaction:
    """What is sent within one transaction, one request at a time."""

    def __init__(self, client: SyncDataClient, route: Route, told: Mapping[str, Any], timeout: float) -> None:
        self._client, self._route, self._timeout = client, route, timeout
        self._over = False
        self.lease: str = told["lease"]
        self.fence: str = told["fence"]
        """Grows with every transaction of the same server, and with each `renew`."""
        self.seconds: float = told["seconds"]
        """That there were when it began, or was renewed."""

    def query(self, sql: str, *params: Any, timeout: float | None = None) -> Result:
        """One statement. Raises `DataError`."""
        return self._query(calls.statement(sql, params), timeout)

    def named(
        self, name: str, params: Sequence[Any] | Mapping[str, Any] = (), *, timeout: float | None = None
    ) -> Result:
        """A query that the service knows by name. Raises `DataError`."""
        return self._query(calls.named(name, params), timeout)

    def _query(self, told: dict[str, Any], timeout: float | None) -> Result:
        seconds = self._timeout if timeout is None else timeout
        return self._ask(calls.inside(self.lease, told, seconds)).result()

    def renew(self, seconds: float | None = None) -> None:
        """From now on there are as many seconds; None: as the service gives. Raises `DataError`."""
        told = self._ask(calls.renew(self.lease, self._timeout, to=seconds)).document()
        self.fence, self.seconds = told["fence"], told["seconds"]

    def commit(self) -> None:
        """Ends it; the end of `with` does it too. One whose answer was lost is repeated, and done once.
        Raises `DataError`."""
        if not self._over:
            self._over = True
            self._ask(calls.commit(self.lease, self._timeout))

    def rollback(self) -> None:
        """Ends it, and nothing is done; so it is, if it is gone. Raises `DataError`."""
        if not self._over:
            self._over = True
            with suppress(LeaseGone):
                self._ask(calls.rollback(self.lease, self._timeout))

    def _ask(self, call: Call) -> Reply:
        return self._client._ask(call, self._route)
