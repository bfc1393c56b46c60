"""How tests ask a data service."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from plugins.data_service import DataService


class Asker:
    """One who asks, with one token, over connections that are kept."""

    def __init__(self, service: DataService, *scopes: str, **who: Any) -> None:
        self.service = service
        self.http = httpx.AsyncClient(
            base_url=service.url, headers=service.bearer(*scopes, **who), timeout=20, trust_env=False
        )

    async def post(self, path: str, body: Any = None, **headers: str) -> httpx.Response:
        """`idempotency_key="k"` becomes a header of that name."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        content = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.http.post(path, content=content, headers=named)

    async def query(self, sql: str, *params: Any, **more: Any) -> httpx.Response:
        return await self.post("/v1/query", {"sql": sql, "params": params, **more})

    async def rows(self, sql: str, *params: Any, **more: Any) -> list[list[Any]]:
        answer = await self.query(sql, *params, **more)
        assert answer.status_code == 200, answer.text
        rows: list[list[Any]] = answer.json()["rows"]
        return rows

    async def begin(self, **asked: Any) -> str:
        """The path of a lease."""
        answer = await self.post("/v1/transactions", asked)
        assert answer.status_code == 201, answer.text
        return answer.headers["location"]


def refused(answer: httpx.Response, status: int, kind: str) -> str:
    """What a problem tells; checked that it is this one."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    told = answer.json()
    assert (told["type"], told["status"]) == (f"urn:penstock:{kind}", status)
    assert len(told["trace_id"]) == 32
    return str(told["detail"])


@asynccontextmanager
async def asking(service: DataService, *scopes: str, **who: Any) -> AsyncIterator[Asker]:
    """For services of the test's own."""
    asker = Asker(service, *scopes, **who)
    async with asker.http:
        yield asker


@pytest.fixture
async def ann(data_service: DataService) -> AsyncIterator[Asker]:
    """Reads and writes."""
    async with asking(data_service) as asker:
        yield asker


@pytest.fixture
async def reader(data_service: DataService) -> AsyncIterator[Asker]:
    """May only read."""
    async with asking(data_service, "data:read", subject="ron") as asker:
        yield asker


@pytest.fixture
def asker_of(data_service: DataService) -> Callable[..., Any]:
    """`async with asker_of("pool:admin") as asker`."""
    return lambda *scopes, **who: asking(data_service, *scopes, **who)
