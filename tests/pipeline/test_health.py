"""A look at a candidate asks its own port and nobody else, and does not wait for ever."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web
from plugins.upstreams import app_that, saying

from penstock_pipeline.config import Health
from penstock_pipeline.runtimes import health


async def look(at: str, path: str = "/healthz") -> str | None:
    return await health.probe(Health(path=path), "shop.localhost", int(at.rpartition(":")[2]))()


async def test_a_redirect_is_healthy_and_never_followed() -> None:
    asked: list[str] = []

    async def elsewhere(request: web.BaseRequest) -> web.Response:
        asked.append(request.path)
        return web.Response(text="secret")

    async with app_that(elsewhere) as inner:

        async def redirecting(request: web.BaseRequest) -> web.Response:
            return web.Response(status=302, headers={"Location": f"http://{inner}/latest/meta-data"})

        async with app_that(redirecting) as candidate:
            assert await look(candidate) is None
    assert asked == []


async def test_a_proxy_of_this_machine_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    async with app_that(saying("from the proxy")) as proxy, app_that(red) as candidate:
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://{proxy}")
        assert await look(candidate) == "GET /healthz answered 500"


async def red(request: web.BaseRequest) -> web.Response:
    return web.Response(status=500)


async def test_an_answer_without_end_is_healthy_by_its_status() -> None:
    async def endless(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x" * 65536)

    async with app_that(endless) as candidate:
        assert await look(candidate) is None


async def test_an_answer_that_never_comes_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_TRY", 0.2)

    async def trickling(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await asyncio.Event().wait()
        return response

    async with app_that(trickling) as candidate:
        assert await look(candidate) == "GET /healthz was not answered within 0.2 s"
