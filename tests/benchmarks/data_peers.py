"""What others put in front of a database, each a program of its own: `python data_peers.py NAME SETTINGS`.

All are served by uvicorn on uvloop with httptools, one process each, and have as many connections."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import asyncmy
import jwt
import orjson
import uvicorn
from asyncmy.cursors import SSCursor
from fastapi import Depends, FastAPI, HTTPException
from fastapi.responses import StreamingResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

AT_A_TIME = 1000
"""Rows that are fetched for a piece of a stream."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Of a peer."""

    port: int
    database: dict[str, Any]
    connections: int
    key: str
    algorithm: str
    audience: str
    issuer: str

    @property
    def text(self) -> str:
        return json.dumps(asdict(self))


class Query(BaseModel):
    sql: str
    params: list[Any] = []


class NamedQuery(BaseModel):
    sql: str
    params: dict[str, Any] = {}


def who(settings: Settings) -> Any:
    """A dependency: the claims of the bearer token."""

    async def claims(sent: Annotated[HTTPAuthorizationCredentials, Depends(HTTPBearer())]) -> dict[str, Any]:
        try:
            told: dict[str, Any] = jwt.decode(
                sent.credentials,
                settings.key,
                algorithms=[settings.algorithm],
                audience=settings.audience,
                issuer=settings.issuer,
                options={"require": ["exp", "iat", "aud", "iss", "sub"]},
            )
        except jwt.PyJWTError as error:
            raise HTTPException(401) from error
        if not {"data:read", "data:write"} & set(told["scope"].split()):
            raise HTTPException(403)
        return told

    return Depends(claims)


def fastapi_asyncmy(settings: Settings) -> FastAPI:
    """A route, asyncmy's pool, PyJWT in a dependency: what one writes in an afternoon."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.pool = await asyncmy.create_pool(
            **settings.database, minsize=settings.connections, maxsize=settings.connections, autocommit=True
        )
        yield
        app.state.pool.close()
        await app.state.pool.wait_closed()

    app = FastAPI(lifespan=lifespan)

    @app.post("/v1/query", dependencies=[who(settings)])
    async def query(query: Query) -> dict[str, Any]:
        async with app.state.pool.acquire() as connection, connection.cursor() as cursor:
            await cursor.execute(query.sql, query.params)
            columns = [{"name": column[0]} for column in cursor.description]
            return {"columns": columns, "rows": await cursor.fetchall()}

    @app.post("/v1/stream", dependencies=[who(settings)])
    async def stream(query: Query) -> StreamingResponse:
        return StreamingResponse(lines(query), media_type="application/x-ndjson")

    async def lines(query: Query) -> AsyncIterator[bytes]:
        async with app.state.pool.acquire() as connection, connection.cursor(SSCursor) as cursor:
            await cursor.execute(query.sql, query.params)
            while rows := await cursor.fetchmany(AT_A_TIME):
                yield b"".join(orjson.dumps(row, str, orjson.OPT_APPEND_NEWLINE) for row in rows)

    return app


def fastapi_sqlalchemy(settings: Settings) -> FastAPI:
    """The same with SQLAlchemy. No transaction, and no ROLLBACK at each return, which would cost it more."""
    url = "mysql+asyncmy://{user}:{password}@{host}:{port}/{database}".format(**settings.database)
    engine = create_async_engine(
        url,
        pool_size=settings.connections,
        max_overflow=0,
        isolation_level="AUTOCOMMIT",
        pool_reset_on_return=None,
    )
    app = FastAPI()

    @app.post("/v1/query", dependencies=[who(settings)])
    async def query(query: NamedQuery) -> dict[str, Any]:
        async with engine.connect() as connection:
            result = await connection.execute(text(query.sql), query.params)
            return {"columns": [{"name": name} for name in result.keys()], "rows": [[*row] for row in result]}  # noqa: SIM118

    return app


CONSTANT = {"columns": [{"name": "id"}, {"name": "name"}, {"name": "price"}], "rows": [[7, "a pipe 7", 12.3]]}


def fastapi_constant(settings: Settings) -> FastAPI:
    """Neither a database nor tokens: what the framework costs."""
    app = FastAPI()

    @app.post("/v1/query")
    async def constant() -> dict[str, Any]:
        return CONSTANT

    return app


def bare(settings: Settings) -> Callable[..., Any]:
    """An ASGI application and nothing else: the floor."""
    body, lines = orjson.dumps(CONSTANT), orjson.dumps([7, "a pipe with the number 7", 1.75]) + b"\n"
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
        elif scope["path"] == "/v1/stream":
            await streamed(orjson.loads((await receive())["body"])["rows"], send)
        else:
            await receive()
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": body})

    async def streamed(rows: int, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(rows // AT_A_TIME):
            await send({"type": "http.response.body", "body": lines * AT_A_TIME, "more_body": True})
            await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b""})

    return app


APPS: dict[str, Callable[[Settings], Any]] = {
    "fastapi_asyncmy": fastapi_asyncmy,
    "fastapi_sqlalchemy": fastapi_sqlalchemy,
    "fastapi_constant": fastapi_constant,
    "floor": bare,
}
PEERS = tuple(name for name in APPS if name != "floor")

if __name__ == "__main__":
    given = Settings(**json.loads(sys.argv[2]))
    uvicorn.run(
        APPS[sys.argv[1]](given),
        port=given.port,
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="critical",  # asyncmy cannot end a stream that was left
    )
