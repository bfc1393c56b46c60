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
from ..errors import NotFound, PenstockError
from .facts import Board, Card, RunFacts
from .output import Piece, plain
from .view import View

_MEDIA_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def board(view: View, known: Board, cursor: object) -> str:
    events = f"/events?after={quote(str(cursor))}"
    return _render("board.html", view, known=known, events=events, **_board(known))


def board_body(view: View, known: Board) -> dict[str, str]:
    """What an open page puts in place of what it shows; `says` is for those who hear it."""
    return {**_board(known), "html": _render("_board.html", view, known=known)}


def run(view: View, known: RunFacts, logs: Iterable[Piece], cursor: object) -> str:
    events = f"/runs/{known.run.id}/events?after={quote(str(cursor))}"
    return _render("run.html", view, known=known, logs=logs, events=events, **_run(known))


def run_body(view: View, known: RunFacts) -> dict[str, str]:
    return {**_run(known), "html": _render("_run.html", view, known=known)}


def log_body(view: View, known: RunFacts, piece: Piece) -> dict[str, str]:
    """Text to append, or a whole section where the log begins (again)."""
    if not piece.fresh:
        return {"stage": piece.stage, "text": piece.text}
    return {"stage": piece.stage, "html": _render("_log.html", view, known=known, log=piece)}


def problem(error: PenstockError) -> str:
    title = "Not found" if isinstance(error, NotFound) else "This did not work"
    return _environment().get_template("problem.html").render(title=title, text=str(error))


def asset(name: str) -> bytes:
    """A file that the pages refer to. Raises `NotFound`."""
    if (content := _assets().get(name)) is None:
        raise NotFound(f"no file {name}")
    return content


def media_type(name: str) -> str:
    return _MEDIA_TYPES[PurePath(name).suffix]


def _board(known: Board) -> dict[str, str]:
    says = " ".join(filter(None, map(_card_says, known.cards))) or "Nothing moves."
    return {"title": "Penstock", "says": says}


def _run(known: RunFacts) -> dict[str, str]:
    run, at = known.run, f" at {known.stage}" if known.stage else ""
    return {
        "title": f"Run {run.id} {run.status} · {run.app}",
        "says": f"Run {run.id} of {run.app}: {run.status}{at}.",
    }


def _card_says(card: Card) -> str:
    name = card.app.name
    if card.moving:
        now = card.moving[0]
        return f"{name}: run {now.run.id} {now.stage or now.run.status}."
    if card.failure is not None:
        return f"{name}: run {card.failure.run.id} failed."
    return ""


# -- rendering


def _render(template: str, view: View, **context: Any) -> str:
    return _environment().get_template(template).render(**context, urls=view.urls, now=_now())


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
