"""Who is told of events outside, how far each has come, and what could not be delivered.

A subscription has a cursor: every event up to it was delivered or has a notice. A notice is an event that
could not be delivered: it is tried again at a time, or given up, a dead letter. While a notice is young
everything waits behind it, so that events keep their order; then it steps aside. So what a subscriber that is
away for long leaves behind is a cursor and few notices, whatever happens meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Select, delete, func, insert, or_, select, update

from ..errors import NotFound
from ..model import App, Event, Release, Run, RunKind
from . import history, rows
from .changes import EVENTS
from .rows import RUNS
from .schema import apps, events, notices, runs, subscriptions

SUBSCRIPTIONS = "subscriptions"
"""The topic of those who serve subscriptions: one has come, gone or begun anew."""

STEPS_ASIDE = 5
"""Attempts after which a notice no longer holds up what comes after it."""

FARTHEST = timedelta(hours=12)
"""No attempt is put off for longer: a notice that is, was noted before the clock was set back."""

DEAD_LETTERS = 1000
"""Dead letters kept of one subscription; the oldest make room, and are counted."""

BATCH = 200
"""Events read at once."""

_COUNTED = 10_000
"""As far as what is behind a cursor is counted."""

UNTOLD = ("stage.started",)
"""Kinds of events that nobody is told of: the end of the stage says all."""

WEBHOOK = "webhook"
"""The kind of subscription that is told everything; the others are forges, told how runs stand."""

_OF_COMMITS = (RunKind.PUSH, RunKind.REDEPLOY, RunKind.REFRESH)
_SUBSCRIPTIONS = select(*subscriptions.c, apps.c.name.label("app")).select_from(subscriptions.outerjoin(apps))


@dataclass(frozen=True, slots=True)
class Subscription:
    """One who is told. `app` None: of every app."""

    id: int
    app_id: int | None
    app: str | None
    kind: str
    url: str
    sealed: str
    """The secret that signs, or the forge's token."""
    cursor: int
    disabled: str | None
    """Why it is told nothing any more."""
    dropped: int
    """Dead letters that were forgotten for want of room."""
    actor: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Notice:
    """An event that could not be delivered. `next_at` None: a dead letter."""

    subscription_id: int
    event: Event
    attempts: int
    next_at: datetime | None
    error: str


@dataclass(frozen=True, slots=True)
class Standing:
    """How a subscription fares: events `behind` the cursor, those `waiting` to be tried again, the `dead`
    ones, and what was wrong last."""

    subscription: Subscription
    behind: int
    waiting: int
    dead: int
    next_at: datetime | None
    error: str | None


@dataclass(frozen=True, slots=True)
class Due:
    """What is to be delivered now, in order, each with the attempts made before. With nothing to deliver:
    `again_at` tells when to look again at the latest, and `held_up` that news change nothing before."""

    letters: tuple[tuple[Event, int], ...] = ()
    seen: int = 0
    """Up to here every event is among the letters or of no interest."""
    again_at: datetime | None = None
    held_up: bool = False


@dataclass(frozen=True, slots=True)
class Told:
    """What there is to tell of an event: its run, and the newest run that speaks for the same commit."""

    event: Event
    run: Run
    newest: Run | None
    release: Release | None
    """Of the newest."""


def add(tx: Connection, *, app: App | None, kind: str, url: str, sealed: str, actor: str) -> Subscription:
    """It is told of what happens from now on."""
    values: dict[str, Any] = {"app_id": None if app is None else app.id, "kind": kind, "url": url}
    values |= {"sealed": sealed, "cursor": tx.execute(select(func.max(events.c.id))).scalar() or 0}
    values |= {"dropped": 0, "actor": actor, "created_at": rows.now()}
    (number,) = tx.execute(insert(subscriptions), values).inserted_primary_key or (0,)
    _changed(tx, number)
    return get(tx, number)


def get(tx: Connection, subscription_id: int) -> Subscription:
    """Raises `NotFound`."""
    query = _SUBSCRIPTIONS.where(subscriptions.c.id == subscription_id)
    if (row := tx.execute(query).first()) is None:
        raise NotFound(f"no subscription {subscription_id}; see: penstock events")
    return Subscription(**row._mapping)


def every(tx: Connection) -> list[Subscription]:
    """In the order in which they were added."""
    return [Subscription(**row._mapping) for row in tx.execute(_SUBSCRIPTIONS.order_by(subscriptions.c.id))]


def remove(tx: Connection, subscription_id: int) -> Subscription:
    """Forgets it and everything that waits for it. Raises `NotFound`."""
    gone = get(tx, subscription_id)
    tx.execute(delete(notices).where(notices.c.subscription_id == subscription_id))
    tx.execute(delete(subscriptions).where(subscriptions.c.id == subscription_id))
    _changed(tx, subscription_id)
    return gone


def standings(tx: Connection) -> list[Standing]:
    return [_standing(tx, subscription) for subscription in every(tx)]


def dead_letters(tx: Connection) -> list[Notice]:
    """Of every subscription, oldest first."""
    query = _notices().where(notices.c.next_at.is_(None)).order_by(notices.c.subscription_id, events.c.id)
    return [_notice(row) for row in tx.execute(query)]


# -- delivering


def due(tx: Connection, subscription_id: int, *, after: int, now: datetime) -> Due:
    """What is to be delivered now. `after` is where the caller knows to have read up to."""
    subscription = get(tx, subscription_id)
    seen = max(after, subscription.cursor)
    if subscription.disabled is not None:
        return Due((), seen, held_up=True)
    waiting = (notices.c.subscription_id == subscription_id, notices.c.next_at.is_not(None))
    is_time = or_(notices.c.next_at <= now, notices.c.next_at > now + FARTHEST)
    ready = _notices().where(*waiting, is_time).order_by(events.c.id).limit(BATCH)
    if letters := [_notice(row) for row in tx.execute(ready)]:
        return Due(tuple((letter.event, letter.attempts) for letter in letters), seen)
    soonest = select(func.min(notices.c.next_at), func.min(notices.c.attempts)).where(*waiting)
    again_at, attempts = tx.execute(soonest).one()
    if again_at is not None and attempts < STEPS_ASIDE:
        return Due((), seen, again_at, held_up=True)
    news = history.events_after(tx, seen, limit=BATCH)
    concerned = tuple((event, 0) for event in news if _concerns(subscription, event))
    return Due(concerned, news[-1].id if news else seen, again_at)


def told(tx: Connection, event: Event) -> Told:
    run = history.run(tx, event.run_id)
    query = RUNS.where(runs.c.app_id == run.app_id, runs.c.commit == run.commit, runs.c.kind.in_(_OF_COMMITS))
    row = tx.execute(query.order_by(runs.c.id.desc()).limit(1)).first()
    newest = None if row is None or run.kind not in _OF_COMMITS else rows.run(row)
    release = None if newest is None or newest.release is None else history.release(tx, newest.release)
    return Told(event, run, newest, release)


def delivered(tx: Connection, subscription_id: int, event_id: int) -> None:
    """Records a delivery. One that went well after others had failed is a sign that the subscriber is back:
    everything that waits is tried at once."""
    mine = notices.c.subscription_id == subscription_id
    if tx.execute(delete(notices).where(mine, notices.c.event_id == event_id)).rowcount:
        now = rows.now()
        tx.execute(update(notices).where(mine, notices.c.next_at > now).values(next_at=now))
    _advance(tx, subscription_id, event_id)


def failed(
    tx: Connection, subscription_id: int, event_id: int, *, error: str, next_at: datetime | None
) -> int:
    """Records an attempt that failed, and when the next one is (None: never). Returns how many dead letters
    had to be forgotten."""
    get(tx, subscription_id)
    key = {"subscription_id": subscription_id, "event_id": event_id}
    known = update(notices).where(*(notices.c[name] == value for name, value in key.items()))
    tried = known.values(attempts=notices.c.attempts + 1, next_at=next_at, error=error)
    if not tx.execute(tried).rowcount:
        tx.execute(insert(notices).values(**key, attempts=1, next_at=next_at, error=error))
    _advance(tx, subscription_id, event_id)
    return 0 if next_at is not None else _make_room(tx, subscription_id)


def disable(tx: Connection, subscription_id: int, reason: str) -> None:
    """It is told nothing more until somebody asks for it; what happens meanwhile waits."""
    tx.execute(update(subscriptions).where(subscriptions.c.id == subscription_id).values(disabled=reason))
    _changed(tx, subscription_id)


def retry(tx: Connection, subscription_id: int, *, event_id: int | None = None) -> int:
    """Dead letters (or one of them) are to be delivered after all, from their first attempt on, and what was
    disabled is told again. Returns how many there were. Raises `NotFound`."""
    get(tx, subscription_id)
    letters = update(notices).where(notices.c.subscription_id == subscription_id, notices.c.next_at.is_(None))
    if event_id is not None:
        letters = letters.where(notices.c.event_id == event_id)
    found = tx.execute(letters.values(attempts=0, next_at=rows.now())).rowcount
    if event_id is not None and not found:
        raise NotFound(f"subscription {subscription_id} has no dead letter of event {event_id}")
    tx.execute(update(subscriptions).where(subscriptions.c.id == subscription_id).values(disabled=None))
    _changed(tx, subscription_id)
    return found


def _changed(tx: Connection, subscription_id: int) -> None:
    """Whoever serves it looks again, whatever it waits for."""
    tx.info["touched"].update((SUBSCRIPTIONS, EVENTS, topic(subscription_id)))


def topic(subscription_id: int) -> tuple[str, int]:
    """The topic of one who serves a subscription."""
    return SUBSCRIPTIONS, subscription_id


def _concerns(subscription: Subscription, event: Event) -> bool:
    if subscription.app_id not in (None, event.app_id) or event.kind in UNTOLD:
        return False
    return subscription.kind == WEBHOOK or not event.kind.startswith("stage.")


def _advance(tx: Connection, subscription_id: int, event_id: int) -> None:
    mine = update(subscriptions).where(subscriptions.c.id == subscription_id)
    tx.execute(mine.where(subscriptions.c.cursor < event_id).values(cursor=event_id))


def _notices() -> Select[Any]:
    kept = (notices.c.subscription_id, notices.c.attempts, notices.c.next_at, notices.c.error)
    return select(*events.c, *kept).select_from(notices.join(events))


def _notice(row: Any) -> Notice:
    kept = {name: row._mapping[name] for name in ("subscription_id", "attempts", "next_at", "error")}
    return Notice(event=rows.event(row), **kept)


def _make_room(tx: Connection, subscription_id: int) -> int:
    """Forgets the oldest dead letters beyond those that are kept."""
    mine = (notices.c.subscription_id == subscription_id, notices.c.next_at.is_(None))
    newest = select(notices.c.event_id).where(*mine).order_by(notices.c.event_id.desc())
    last = tx.execute(newest.offset(DEAD_LETTERS).limit(1)).scalar()
    if last is None:
        return 0
    forgotten = tx.execute(delete(notices).where(*mine, notices.c.event_id <= last)).rowcount
    counted = update(subscriptions).where(subscriptions.c.id == subscription_id)
    tx.execute(counted.values(dropped=subscriptions.c.dropped + forgotten))
    return forgotten


def _standing(tx: Connection, subscription: Subscription) -> Standing:
    mine = notices.c.subscription_id == subscription.id
    waiting = select(func.count(), func.min(notices.c.next_at)).where(mine, notices.c.next_at.is_not(None))
    dead = select(func.count()).where(mine, notices.c.next_at.is_(None))
    last = (
        select(notices.c.error).where(mine).order_by(notices.c.next_at.is_(None), notices.c.event_id.desc())
    )
    number, next_at = tx.execute(waiting).one()
    return Standing(
        subscription,
        behind=_behind(tx, subscription),
        waiting=number,
        dead=tx.execute(dead).scalar_one(),
        next_at=next_at,
        error=tx.execute(last.limit(1)).scalar(),
    )


def _behind(tx: Connection, subscription: Subscription) -> int:
    query = select(events.c.id).where(events.c.id > subscription.cursor, events.c.kind.not_in(UNTOLD))
    if subscription.app_id is not None:
        query = query.where(events.c.app_id == subscription.app_id)
    if subscription.kind != WEBHOOK:
        query = query.where(events.c.kind.not_like("stage.%"))
    return tx.execute(select(func.count()).select_from(query.limit(_COUNTED).subquery())).scalar_one()
