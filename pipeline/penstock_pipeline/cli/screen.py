"""How answers look: plain text, never cut or wrapped, in which no program can fake a line.

Colour only says what the words say too, and only on a terminal that wants it (NO_COLOR).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from .. import tell

if TYPE_CHECKING:
    from rich.console import Console

_STYLES = {
    "succeeded": "green",
    "done": "green",
    "failed": "red",
    "running": "yellow",
    "started": "yellow",
    "queued": "cyan",
    "awaiting": "magenta",
}
_HEADER, _GAP = "dim", "  "


def document(data: Any) -> None:
    """One JSON document."""
    _console().out(json.dumps(data, indent=2), highlight=False)


def raw(data: bytes) -> None:
    """Bytes as they are, for a pipe."""
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def say(line: str = "", *, style: str | None = None) -> None:
    """One line; by itself a line of a run is coloured by what it is."""
    _console().out(tell.clean(line), style=style or _style_of(line), highlight=False)


def problem(text: str) -> None:
    """What is wrong and what to do, on standard error."""
    for line in tell.problem(text):
        _console(stderr=True).out(line, style="red", highlight=False)


def table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Aligned columns; what is not there is a dash. Nothing is cut or wrapped."""
    cells = [["–" if value in (None, "") else tell.clean(str(value)) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(headers, *cells, strict=True)]
    say(_line(headers, widths), style=_HEADER)
    for row in cells:
        status = next((cell for cell in row if cell in _STYLES), "")
        say(_line(row, widths), style=_STYLES.get(status))


def facts(pairs: dict[str, object]) -> None:
    """A name and its value a line; those without a value are left out."""
    width = max(map(len, pairs))
    for name, value in pairs.items():
        if value not in (None, ""):
            say(f"  {name:<{width}}  {value}")


def waiting(runs: Sequence[dict[str, Any]]) -> None:
    """Says of each run that waits for a person what is to be done, and who may."""
    for run in runs:
        if run["status"] == "awaiting":
            say()
            say(f"NOT LIVE: run {run['id']} of {run['app']} waits for approval.", style="bold magenta")
            say(f"Whoever may manage lets it through: penstock approve {run['id']}")


def ago(moment: str | None) -> str | None:
    """`just now`, `5 min ago`, `3 h ago`, `12 d ago` for an ISO 8601 moment."""
    if moment is None:
        return None
    minutes = int((datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds() // 60)
    if minutes < 1:
        return "just now"
    if minutes < 60:
        return f"{minutes} min ago"
    return f"{minutes // 60} h ago" if minutes < 48 * 60 else f"{minutes // (24 * 60)} d ago"


def took(begin: str | None, end: str | None) -> str | None:
    """How long it took, or has taken by now."""
    if begin is None:
        return None
    ended = datetime.now(UTC) if end is None else datetime.fromisoformat(end)
    return tell.duration(max(0.0, (ended - datetime.fromisoformat(begin)).total_seconds()))


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return _GAP.join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def _style_of(line: str) -> str | None:
    if line.startswith("=====>"):
        return "bold green"
    if line.startswith("----->"):
        return "bold"
    return "red" if line.startswith(" !  ") else None


def _console(*, stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=stderr)
