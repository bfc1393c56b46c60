"""What the API passes on, and to whom."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from ..model import App, Run, StageName
from ..runtimes import ProcessState
from ..store.subscriptions import Notice, Standing, Subscription
from ..variables import Variable


class Orders(Protocol):
    """Who carries out what people ask for."""

    async def register(
        self,
        name: str,
        *,
        branch: str = "main",
        repository: str | None = None,
        webhook_secret: str | None = None,
    ) -> App: ...

    async def cancel(self, run_id: int, *, by: str) -> Run: ...

    async def roll_back(self, app_name: str, *, version: int | None, by: str) -> Run: ...

    async def unpin(self, app_name: str, *, by: str) -> Run: ...

    async def refresh(self, app_name: str, *, by: str) -> Run: ...

    async def redeploy(self, app_name: str, *, by: str) -> Run: ...

    async def retry(self, run_id: int, *, again: StageName | None, by: str) -> Run: ...

    async def approve(self, run_id: int, *, by: str) -> Run: ...

    async def variables(self, app_name: str) -> Mapping[str, Variable]: ...

    async def configure(
        self, app_name: str, changes: Mapping[str, Variable | None], *, by: str
    ) -> Run | None: ...

    async def observe(self) -> list[ProcessState]: ...


class Subscribers(Protocol):
    """What the API asks of those who keep subscriptions."""

    async def standings(self) -> list[Standing]: ...

    async def add_webhook(self, url: str, *, app: str | None, by: str) -> tuple[Subscription, str]: ...

    async def add_statuses(
        self, app: str, *, forge: str, token: str, api: str | None, repository: str | None, by: str
    ) -> Subscription: ...

    async def remove(self, subscription_id: int) -> Subscription: ...

    async def dead_letters(self) -> list[Notice]: ...

    async def retry(self, subscription_id: int, *, event: int | None = None) -> int: ...

    async def test(self, subscription_id: int) -> None: ...
