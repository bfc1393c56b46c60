"""The app that `switch` deploys: every answer begins with the version in the file beside it."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path

from aiohttp import web

VERSION = Path(__file__).with_name("version").read_text().strip()


async def get(request: web.Request) -> web.Response:
    return web.Response(text=f"{VERSION} {request.match_info['number']}")


async def echo(request: web.Request) -> web.Response:
    body = await request.read()
    return web.Response(text=f"{VERSION} {len(body)} {hashlib.sha256(body).hexdigest()}")


async def late(request: web.Request) -> web.Response:
    await asyncio.sleep(2)
    return await get(request)


async def slow(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    for part in range(20):
        await response.write(f"{VERSION} {request.match_info['number']}.{part}\n".encode())
        await asyncio.sleep(0.1)
    return response


def main() -> None:
    app = web.Application()
    app.router.add_get("/get/{number}", get)
    app.router.add_post("/echo", echo)
    app.router.add_get("/late/{number}", late)
    app.router.add_get("/slow/{number}", slow)
    web.run_app(app, host="127.0.0.1", port=int(os.environ["PORT"]), access_log=None, print=None)


if __name__ == "__main__":
    main()
