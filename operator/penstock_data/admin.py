"""The routes that are asked now and then: health, figures, the pool and the named queries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Body, Header
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, ConfigDict, Field

from penstock_data.errors import BadRequest, Conflict, Forbidden
from penstock_data.follow import AT_ONCE
from penstock_data.settings import Settings
from penstock_data.tokens import Identity
from penstock_pool import ConnectionPool
from penstock_pool.errors import InvalidSettings

if TYPE_CHECKING:
    from penstock_data.app import DataApp


class Wanted(BaseModel):
    """What a pool is to be."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    generation: int = Field(ge=0)
    """Of the object that asks for it; an older one than the last is refused."""
    min: int | None = Field(None, ge=0)
    max: int | None = Field(None, ge=1)
    checkout_timeout: float | None = Field(None, ge=0)
    heartbeat: float | None = Field(None, gt=0)
    idle_timeout: float | None = Field(None, gt=0)
    lifetime: float | None = Field(None, gt=0)
    ping_after: float | None = Field(None, ge=0)
    ping_timeout: float | None = Field(None, gt=0)


class Ready(BaseModel):
    """Whether requests may be sent here."""

    ready: bool
    reason: str | None = None


class Admin:
    """What the routes share."""

    def __init__(self, app: DataApp) -> None:
        self._app = app
        self.generation = app.settings.generation
        self._started = False

    async def who(self, header: str | None) -> Identity:
        return await self._app.verifier.verify(None if header is None else header.encode("latin-1"))

    # -- health

    def unready(self) -> str | None:
        """Why nothing is to be sent here."""
        app = self._app
        if app.stopping:
            return "stopping"
        stats = app.pool.stats()
        if stats.down is not None and not stats.idle + stats.busy:
            return f"the database is down: {stats.down}"
        return None if self.started else "no connection yet"

    @property
    def started(self) -> bool:
        """It has had a connection, or needs none."""
        if not self._started:
            self._started = self._app.settings.min == 0 or self._app.pool.stats().opened > 0
        return self._started

    # -- the pool

    def pool(self) -> dict[str, Any]:
        app = self._app
        return {
            **_told(app.pool),
            "generation": self.generation,
            "leases": len(app.leases),
            "holders": app.leases.holders(),
            "replicas": [_told(replica) for replica in app.pool.replicas],
        }

    def adjust(self, wanted: Wanted) -> None:
        """Raises `Conflict`, `BadRequest`, and then nothing has changed."""
        if wanted.generation < self.generation:
            raise Conflict(
                f"generation {wanted.generation} is older than {self.generation}, which is in force"
            )
        changes = wanted.model_dump(exclude={"generation"}, exclude_none=True)
        try:
            for pool in (self._app.pool, *self._app.pool.replicas):
                pool.adjust(**changes)
        except InvalidSettings as error:
            raise BadRequest(str(error)) from error
        self.generation = wanted.generation
        self._app.turns.more()

    def follow(self, settings: Settings) -> None:
        """What the config file says now. Raises like `adjust`."""
        self.adjust(Wanted.model_validate({name: getattr(settings, name) for name in AT_ONCE}))


def _told(pool: ConnectionPool) -> dict[str, Any]:
    stats, settings = pool.stats(), pool.settings
    counts = ("name", "min", "max", "ceiling", "idle", "busy", "connecting", "tending", "ending", "parked")
    more = ("waiting", "down", "checkouts", "timeouts", "opened", "failed", "lost", "killed")
    times = ("checkout_timeout", "heartbeat", "idle_timeout", "lifetime", "ping_after", "ping_timeout")
    return {
        **{name: getattr(stats, name) for name in (*counts, *more)},
        **{name: getattr(settings, name) for name in times},
    }


Bearer = Annotated[str | None, Header(alias="authorization")]


def add_to(app: DataApp) -> Admin:
    """Adds the routes."""
    admin = Admin(app)
    _add_health(app, admin)
    _add_pool(app, admin)
    return admin


def _add_health(app: DataApp, admin: Admin) -> None:
    @app.get("/livez", tags=["health"], response_class=PlainTextResponse)
    async def livez() -> Response:
        """The process works: its event loop answers. Never asks the database."""
        return PlainTextResponse("ok")

    @app.get("/startupz", tags=["health"], responses={503: {"model": Ready}})
    async def startupz() -> Response:
        """It has had a connection."""
        return _ready(None if admin.started else "no connection yet")

    @app.get("/readyz", tags=["health"], responses={200: {"model": Ready}, 503: {"model": Ready}})
    async def readyz() -> Response:
        """Requests may be sent here; else why not."""
        return _ready(admin.unready())

    @app.get("/metrics", tags=["health"], response_class=PlainTextResponse)
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(generate_latest(app.registry), media_type=CONTENT_TYPE_LATEST)


def _ready(reason: str | None) -> Response:
    return JSONResponse({"ready": reason is None, "reason": reason}, 200 if reason is None else 503)


def _add_pool(app: DataApp, admin: Admin) -> None:
    @app.get("/v1/pool", tags=["pool"])
    async def pool(authorization: Bearer = None) -> dict[str, Any]:
        """How the pool is."""
        await admin.who(authorization)
        return admin.pool()

    @app.put("/v1/pool", tags=["pool"])
    async def adjust(wanted: Annotated[Wanted, Body()], authorization: Bearer = None) -> dict[str, Any]:
        """Its sizes and times from now on, without a restart."""
        if not (await admin.who(authorization)).may_admin:
            raise Forbidden("the token has no pool:admin")
        admin.adjust(wanted)
        return admin.pool()

    @app.get("/v1/queries", tags=["query"])
    async def queries(authorization: Bearer = None) -> dict[str, Any]:
        """The named queries there are."""
        await admin.who(authorization)
        return {"queries": [] if app.queries is None else app.queries.told()}
