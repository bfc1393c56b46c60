"""Pools of a real MariaDB, for tests of what is built on them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from plugins.mariadb import Address, MariaDB
from plugins.pools import pool_on

from penstock_pool import ConnectionPool, PoolSettings, Server
from penstock_pool.asyncmy_driver import AsyncmySession


def server_of(address: Address, **more: Any) -> Server:
    """Where the pool finds a test's database."""
    return Server(
        address["host"],
        address["port"],
        user=address["user"],
        password=address["password"],
        database=address["database"],
        **more,
    )


def settings(**changes: Any) -> PoolSettings:
    return PoolSettings(**{"name": "shop", "min": 1, "max": 4, **changes})


@pytest.fixture
async def pool_of(mariadb: MariaDB) -> AsyncIterator[Callable[..., Any]]:
    """Opens pools of the shared database: `await pool_of(slow_query=0.1)`; `server` has more of the
    `Server`."""
    async with AsyncExitStack() as opened:

        async def pool_of(*, server: dict[str, Any] | None = None, **changes: Any) -> ConnectionPool:
            pool = pool_on(mariadb, server=server, **{"name": "shop", **changes})
            return await opened.enter_async_context(pool)

        yield pool_of


@pytest.fixture
def resets(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of the sessions that were reset, as that happens."""
    done: list[int] = []
    reset = AsyncmySession.reset

    async def noted(session: AsyncmySession) -> None:
        done.append(session.id)
        await reset(session)

    monkeypatch.setattr(AsyncmySession, "reset", noted)
    return done
