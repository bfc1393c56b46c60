"""Subscriptions over a real store, with deliveries that are started and ended at will."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from penstock_pipeline.model import Run
from penstock_pipeline.store import SqliteStore, history
from penstock_pipeline.store.subscriptions import Standing, Subscription
from penstock_pipeline.subscribers.courier import Courier
from penstock_pipeline.subscribers.deliveries import Deliveries
from penstock_pipeline.subscribers.registry import Subscribers
from penstock_pipeline.vault import Vault

BASE = "http://penstock.test"
AT_ONCE = (0.0,) * 11
"""Pauses before the next attempt."""


class Desk:
    """Where people subscribe. `secret` is what signs for the last who did."""

    def __init__(self, store: SqliteStore, folder: Path) -> None:
        self.store = store
        self.vault = Vault(folder / "secrets.key")
        self.courier = Courier(timeout=5)
        self.subscribers = Subscribers(store, self.vault, self.courier, base=BASE)

    @classmethod
    @contextlib.asynccontextmanager
    async def over(cls, store: SqliteStore, folder: Path) -> AsyncIterator[Desk]:
        await store.open()
        made = cls(store, folder)
        yield made
        await made.courier.close()
        await store.close()

    async def run(self, of: Run) -> Run:
        return await self.store.read(history.run, of.id)

    async def subscribed(self, url: str, app: str | None = None) -> Subscription:
        added, self.secret = await self.subscribers.add_webhook(url, app=app, by="ann")
        return added

    @contextlib.asynccontextmanager
    async def delivering(self, pauses: tuple[float, ...] = AT_ONCE) -> AsyncIterator[None]:
        life = Deliveries(self.store, self.vault, self.courier, base=BASE, pauses=pauses)
        task = asyncio.create_task(life.run(), name="deliveries")
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def standing(self, of: Subscription) -> Standing:
        return next(one for one in await self.subscribers.standings() if one.subscription.id == of.id)

    async def settled(self, of: Subscription) -> bool:
        """Whether everything was delivered."""
        now = await self.standing(of)
        return (now.behind, now.waiting, now.dead) == (0, 0, 0)

    async def dead(self, of: Subscription, number: int) -> bool:
        return (await self.standing(of)).dead == number

    async def waiting(self, of: Subscription, number: int = 1) -> bool:
        return (await self.standing(of)).waiting == number
