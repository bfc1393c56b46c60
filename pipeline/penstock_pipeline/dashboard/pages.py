"""How it all reads: facts in, HTML out. Everything a template prints is cleaned, then escaped."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from pathlib import PurePath
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from .. import tell
from ..errors import Conflict, NotFound, PenstockError
from ..tokens import Session
from .facts import AppFacts, Board, Card, RunFacts
from .output import Piece, plain
from .view import View

_MEDIA_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


Known = Board | AppFacts | RunFacts


def whole(view: View, session: Session, known: Known, cursor: object, logs: Iterable[Piece] = ()) -> str:
    """A page as it is loaded. `cursor` tells its stream what it shows already."""
    ended = isinstance(known, RunFacts) and known.run.status.ended
    events = None if ended else f"{_path(known)}events?after={quote(str(cursor))}"
    shown = {"known": known, "body": _body_of(known), "events": events, "logs": logs, **_head(known)}
    return _render("page.html", view, session, **shown)


def body(view: View, session: Session, known: Known) -> dict[str, str]:
    """What an open page puts in place of what it shows; `says` is for those who hear it."""
    return {**_head(known), "html": _render(_body_of(known), view, session, known=known)}


def log_body(view: View, session: Session, known: RunFacts, piece: Piece) -> dict[str, str]:
    """Text to append, or a whole section where the log begins (again)."""
    if not piece.fresh:
        return {"stage": piece.stage, "text": piece.text}
    return {"stage": piece.stage, "html": _render("_log.html", view, session, known=known, log=piece)}


def sign_in(inside: str, *, wrong: str | None = None) -> str:
    """`inside` is where it leads to, `wrong` why it did not."""
    return _alone("sign_in.html", title="Sign in", inside=inside, wrong=wrong)


def again() -> str:
    """A page that asks for itself once more."""
    return _alone("again.html")


def problem(error: PenstockError, session: Session | None = None, *, back: str | None = None) -> str:
    """`back` is the page whose button led here."""
    title = "This did not work"
    if isinstance(error, NotFound | Conflict):
        title = "Not found" if isinstance(error, NotFound) else "Not possible now"
    return _alone("problem.html", session, title=title, text=str(error), back=back)


def asset(name: str) -> bytes:
    """A file that the pages refer to. Raises `NotFound`."""
    if (content := _assets().get(name)) is None:
        raise NotFound(f"no file {name}")
    return content


def media_type(name: str) -> str:
    return _MEDIA_TYPES[PurePath(name).suffix]


def _path(known: Known) -> str:
    match known:
        case Board():
            return "/"
        case AppFacts(card):
            return f"/apps/{quote(card.app.name)}/"
        case RunFacts(run):
            return f"/runs/{run.id}/"


def _body_of(known: Known) -> str:
    return {Board: "_board.html", AppFacts: "_app.html", RunFacts: "_run.html"}[type(known)]


def _head(known: Known) -> dict[str, str]:
    match known:
        case Board(cards):
            return {"title": "Penstock", "says": " ".join(filter(None, map(_card_says, cards))) or _QUIET}
        case AppFacts(card):
            return {"title": card.app.name, "says": _card_says(card) or _QUIET}
        case RunFacts(run):
            at = f" at {known.stage}" if known.stage else ""
            title = f"Run {run.id} {run.status} · {run.app}"
            return {"title": title, "says": f"Run {run.id} of {run.app}: {run.status}{at}."}


_QUIET = "Nothing moves."


def _card_says(card: Card) -> str:
    name = card.app.name
    if card.awaiting is not None:
        return f"{name}: run {card.awaiting.run.id} awaits approval."
    if card.moving:
        now = card.moving[0]
        return f"{name}: run {now.run.id} {now.stage or now.run.status}."
    if card.failure is not None:
        return f"{name}: run {card.failure.run.id} failed."
    return ""


# -- rendering


def _render(template: str, view: View, session: Session, **context: Any) -> str:
    return _alone(template, session, **context, urls=view.urls, now=_now())


def _alone(template: str, session: Session | None = None, **context: Any) -> str:
    return _environment().get_template(template).render(**context, session=session)


@cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader(__package__),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_cleaned,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"ago": ago, "elapsed": elapsed, "duration": tell.duration, "stamp": stamp}
    made.globals |= {"asset": _asset_url}
    return made


def _cleaned(value: Any) -> Any:
    """Names, commits and errors come from strangers; markup comes from the templates."""
    return plain(value) if isinstance(value, str) and not isinstance(value, Markup) else value


@cache
def _assets() -> Mapping[str, bytes]:
    folder = resources.files(__package__) / "static"
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def _asset_url(name: str) -> str:
    """Changes with the file, so that browsers may keep it for ever."""
    return f"/assets/{name}?{hashlib.sha256(asset(name)).hexdigest()[:12]}"


def _now() -> datetime:
    return datetime.now(UTC)


def ago(moment: datetime, now: datetime) -> str:
    """`just now`, `3 min ago`, `2 h ago`, `5 d ago`; live.js says the same."""
    seconds = (now - moment).total_seconds()
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{int(seconds // size)} {unit} ago"
    return "just now"


def elapsed(moment: datetime, now: datetime) -> str:
    """`12s`, `3m 05s`, `2h 05m`; live.js says the same."""
    seconds = max(0, int((now - moment).total_seconds()))
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m {seconds % 60:02}s"
    return f"{seconds // 3600}h {seconds // 60 % 60:02}m"


def stamp(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
