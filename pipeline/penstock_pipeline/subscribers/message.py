"""What is sent: one HTTP request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .. import __version__

AGENT = f"Penstock/{__version__}"


@dataclass(frozen=True, slots=True)
class Message:
    """One request. Its headers hold secrets: it is never logged."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes | None = None
    known_by: str | None = None
    """What a refusal says that means: this was known already."""
