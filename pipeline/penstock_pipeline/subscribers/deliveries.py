"""Sends each event to each subscriber until it is taken or given up, whatever ends in between.

What was sent is recorded after it was taken: a crash between the two sends it again, under the same id. One
task serves one subscriber, so that none waits for another; with no subscriber there is nothing but a task
that sleeps until one comes.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence
from datetime import timedelta

from ..errors import NotFound, PenstockError, StoreUnavailable, SubscriberUnavailable
from ..model import Event
from ..store import SqliteStore, rows, subscriptions
from ..store.changes import EVENTS
from ..store.subscriptions import SUBSCRIPTIONS, Due, Subscription
from ..vault import Vault
from .courier import Courier

log = logging.getLogger(__name__)

MINUTE, HOUR = 60.0, 3600.0

PAUSES = (
    *(5.0, 30.0, 2 * MINUTE, 10 * MINUTE, 30 * MINUTE),
    *(HOUR, 2 * HOUR, 3 * HOUR, 4 * HOUR, 6 * HOUR, 6 * HOUR),
)
"""Seconds before the second attempt, the third and so on: twelve attempts in about 23 hours."""

JITTER = 0.2
"""By how much of itself a pause is longer or shorter, so that not all come back at once."""

LONGEST_WAIT = HOUR
"""Seconds that a subscriber may ask to be left alone for."""

FAULT_PAUSE = 5.0
"""Seconds before a subscriber is served again after the store was out of reach."""


class Deliveries:
    """`run` is its life. `base` is where people reach this Penstock."""

    def __init__(
        self,
        store: SqliteStore,
        vault: Vault,
        courier: Courier,
        *,
        base: str,
        pauses: Sequence[float] = PAUSES,
    ) -> None:
        self._store = store
        self._vault = vault
        self._courier = courier
        self._base = base
        self._pauses = pauses

    async def run(self) -> None:
        """Serves every subscriber that is there or comes, until cancelled."""
        serving: dict[int, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as group:
            with self._store.changes.watch(SUBSCRIPTIONS) as news:
                while True:
                    news.clear()
                    wanted = await self._enabled()
                    for gone in serving.keys() - wanted.keys():
                        serving.pop(gone).cancel()
                    for new in wanted.keys() - serving.keys():
                        serving[new] = group.create_task(self._serve(wanted[new]), name=f"subscriber-{new}")
                    await news.wait()

    async def _enabled(self) -> dict[int, Subscription]:
        while True:
            try:
                known = await self._store.read(subscriptions.every)
                return {one.id: one for one in known if one.disabled is None}
            except StoreUnavailable as error:
                log.error("subscriptions cannot be read, trying again: %s", error)
                await asyncio.sleep(FAULT_PAUSE)

    async def _serve(self, subscription: Subscription) -> None:
        """Until it is removed: a fault of ours ends neither this nor anything else."""
        while True:
            try:
                return await self._tell(subscription)
            except NotFound:
                return None
            except StoreUnavailable as error:
                log.error("the store is out of reach, waiting for it: %s", error)
            except Exception:
                log.exception("a fault of Penstock kept a subscriber waiting", extra=_about(subscription))
            await asyncio.sleep(FAULT_PAUSE)

    async def _tell(self, subscription: Subscription) -> None:
        seen = 0
        changes = self._store.changes
        with changes.watch(EVENTS) as news, changes.watch(subscriptions.topic(subscription.id)) as asked:
            while True:
                news.clear()
                asked.clear()
                due = await self._store.read(subscriptions.due, subscription.id, after=seen, now=rows.now())
                if not due.letters and due.seen <= seen:
                    await _look_again(due, asked if due.held_up else news)
                elif await self._deliver(subscription, due):
                    seen = due.seen

    async def _deliver(self, subscription: Subscription, due: Due) -> bool:
        """Delivers in order up to the first failure; whether there was none."""
        for event, attempts in due.letters:
            try:
                await self._send(subscription, event)
            except StoreUnavailable:
                raise
            except PenstockError as error:
                await self._note(subscription, event, attempts + 1, error)
                return False
            await self._store.write(subscriptions.delivered, subscription.id, event.id)
        return True

    async def _send(self, subscription: Subscription, event: Event) -> None:
        from . import letters

        told = await self._store.read(subscriptions.told, event)
        secret = await asyncio.to_thread(self._vault.open, subscription.sealed, about=subscription.url)
        message = letters.message(subscription, secret, told, base=self._base, now=rows.now())
        if message is not None:
            await self._courier.send(message)

    async def _note(
        self, subscription: Subscription, event: Event, attempts: int, error: PenstockError
    ) -> None:
        """Records a failure, and what comes of it."""
        if isinstance(error, SubscriberUnavailable) and error.gone:
            log.warning("a subscriber wants nothing more: %s", error, extra=_about(subscription))
            await self._store.write(subscriptions.disable, subscription.id, str(error))
            return
        pause = self._pause(attempts, error)
        next_at = None if pause is None else rows.now() + timedelta(seconds=pause)
        dropped = await self._store.write(
            subscriptions.failed, subscription.id, event.id, error=str(error), next_at=next_at
        )
        if next_at is None:
            told = {**_about(subscription), "event": event.id, "forgotten": dropped}
            log.warning("an event could not be delivered and is a dead letter: %s", error, extra=told)

    def _pause(self, attempts: int, error: PenstockError) -> float | None:
        """Seconds until the next attempt; None: there is none."""
        if attempts > len(self._pauses):
            return None
        pause = self._pauses[attempts - 1] * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311
        asked = error.wait if isinstance(error, SubscriberUnavailable) else 0.0
        return max(pause, min(asked, LONGEST_WAIT))


async def _look_again(due: Due, news: asyncio.Event) -> None:
    """Returns with news, or when the next attempt is due."""
    seconds = None if due.again_at is None else max(0.0, (due.again_at - rows.now()).total_seconds())
    try:
        await asyncio.wait_for(news.wait(), seconds)
    except TimeoutError:
        return


def _about(subscription: Subscription) -> dict[str, object]:
    return {"subscription": subscription.id, "url": subscription.url}
