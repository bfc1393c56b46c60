"""The CDN ports: the origin that holds a static bundle, and the edges in front of it.

Origin, life cycle of a bundle:

1. `upload`   puts the files of a manifest where they can be served later: fingerprinted assets first, HTML
              last, the manifest when all is there. Idempotent; nothing that visitors see changes.
2. `publish`  makes a manifest the one that is served; atomic, idempotent.
3. `manifest` reads an uploaded manifest back; `live` names the published one.

Edge, life cycle of a refresh: only after the origin serves the new bytes

1. `purge`    forget these paths of a host; a fetch that is under way must not bring the old bytes back.
2. `fetch`    ask for a path as a visitor would; the refresh compares what comes with the manifest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ..model import Manifest

PURGE_PATH = "/.well-known/penstock/purge"
"""Where an embedded edge takes a batch of paths to forget."""

RELEASE_PATH = "/.well-known/penstock/release"
"""Whatever serves an app answers this with the label of the release it is, never from a cache."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What an edge answered: status, sha256 of the body as received (no content coding), and the release
    the response names in `X-Penstock-Release`, if any."""

    status: int
    sha256: str
    release: str | None


class Origin(Protocol):
    """Raises `OriginUnavailable` where it cannot be reached."""

    async def upload(self, app: str, manifest: Manifest, tree: Path) -> int:
        """`tree` is the static root the manifest was made from. Returns how many files were new to the
        origin."""
        ...

    async def publish(self, app: str, digest: str | None) -> None:
        """None: the app serves no static files any more. Raises `NotFound` for a manifest never uploaded."""
        ...

    async def manifest(self, app: str, digest: str) -> Manifest: ...

    async def live(self, app: str) -> str | None: ...


class Edge(Protocol):
    """Raises `EdgeUnavailable` where it cannot be reached or refuses."""

    @property
    def name(self) -> str: ...

    @property
    def url(self) -> str:
        """Where visitors reach this edge, such as `http://127.0.0.1:7081`."""
        ...

    async def purge(self, host: str, paths: Sequence[str]) -> None: ...

    async def fetch(self, host: str, path: str) -> Answer: ...
