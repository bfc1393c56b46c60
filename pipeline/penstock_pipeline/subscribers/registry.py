"""Subscriptions made, listed, tried and removed by people."""

from __future__ import annotations

import asyncio
import secrets

from .. import signatures
from ..errors import Invalid
from ..model import App
from ..store import SqliteStore, registry, rows, subscriptions
from ..store.subscriptions import WEBHOOK, Notice, Standing, Subscription
from ..vault import Vault
from . import addresses
from .courier import Courier


class Subscribers:
    """What people ask of subscriptions. `base` is where they reach this Penstock."""

    def __init__(self, store: SqliteStore, vault: Vault, courier: Courier, *, base: str) -> None:
        self._store = store
        self._vault = vault
        self._courier = courier
        self._base = base

    async def standings(self) -> list[Standing]:
        return await self._store.read(subscriptions.standings)

    async def add_webhook(self, url: str, *, app: str | None, by: str) -> tuple[Subscription, str]:
        """Tells `url` of what happens from now on, to an app or to all. Returns also the secret that signs,
        which is told only now. Raises `Invalid` for a URL that nothing is sent to, `NotFound`."""
        known = None if app is None else await self._store.read(registry.get, app)
        secret = signatures.serialized(secrets.token_hex(16))
        return await self._add(known, WEBHOOK, url, secret, by), secret

    async def add_statuses(
        self, app: str, *, forge: str, token: str, api: str | None, repository: str | None, by: str
    ) -> Subscription:
        """Tells a forge how the app's commits stand. `api` and `repository` are taken from the repository
        that the app is registered with. Raises `Invalid` where these do not tell, `NotFound`."""
        from .statuses import FORGES, repository_url

        known = await self._store.read(registry.get, app)
        if forge not in FORGES:
            raise Invalid(f"{forge!r} is none of {', '.join(FORGES)}")
        if not token or not token.isascii() or not token.isprintable() or " " in token:
            raise Invalid("what is given as the forge's token is none")
        url = repository_url(FORGES[forge], api=api, repository=repository, cloned=known.repository)
        return await self._add(known, forge, url, token, by)

    async def remove(self, subscription_id: int) -> Subscription:
        """Raises `NotFound`."""
        return await self._store.write(subscriptions.remove, subscription_id)

    async def dead_letters(self) -> list[Notice]:
        return await self._store.read(subscriptions.dead_letters)

    async def retry(self, subscription_id: int, *, event: int | None = None) -> int:
        """Delivers dead letters after all; how many. Raises `NotFound`."""
        return await self._store.write(subscriptions.retry, subscription_id, event_id=event)

    async def test(self, subscription_id: int) -> None:
        """Sends a ping; of a forge, asks for the repository. Raises `NotFound`, or `SubscriberUnavailable`
        with what is wrong."""
        from . import letters

        found = await self._store.read(subscriptions.get, subscription_id)
        secret = await asyncio.to_thread(self._vault.open, found.sealed, about=found.url)
        await self._courier.send(letters.ping(found, secret, base=self._base, now=rows.now()))

    async def _add(self, app: App | None, kind: str, url: str, secret: str, by: str) -> Subscription:
        await addresses.check(url)
        sealed = await asyncio.to_thread(self._vault.seal, secret.encode(), about=url)
        return await self._store.write(
            subscriptions.add, app=app, kind=kind, url=url, sealed=sealed, actor=by
        )
