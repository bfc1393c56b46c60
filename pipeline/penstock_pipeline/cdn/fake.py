"""The CDN in memory, for tests of whatever stands above the ports; it can be told to fail."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import EdgeUnavailable, NotFound, OriginUnavailable
from ..model import Manifest
from . import RELEASE_PATH, Answer


@dataclass
class Bundles:
    """What a fake origin holds of one app."""

    manifests: dict[str, Manifest] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    live: str | None = None


class FakeOrigin:
    """An origin in memory. While `down` is set it is out of reach."""

    def __init__(self) -> None:
        self.down = False
        self._apps: dict[str, Bundles] = {}

    async def upload(self, app: str, manifest: Manifest, tree: Path) -> int:
        bundles = self._reach(app)
        new = [file for file in manifest.files if file.sha256 not in bundles.blobs]
        for file in new:
            bundles.blobs[file.sha256] = await asyncio.to_thread((tree / file.path[1:]).read_bytes)
        bundles.manifests[manifest.digest] = manifest
        return len(new)

    async def publish(self, app: str, digest: str | None) -> None:
        if digest is not None:
            await self.manifest(app, digest)
        self._reach(app).live = digest

    async def manifest(self, app: str, digest: str) -> Manifest:
        try:
            return self._reach(app).manifests[digest]
        except KeyError:
            raise NotFound(f"app {app} has no bundle {digest} at the origin") from None

    async def live(self, app: str) -> str | None:
        return self._reach(app).live

    def serve(self, app: str, path: str) -> bytes | None:
        """What a visitor of the origin gets at `path`; None: nothing there."""
        bundles = self._reach(app)
        if bundles.live is None:
            return None
        if path.endswith("/"):
            path += "index.html"
        file = bundles.manifests[bundles.live].by_path().get(path)
        return bundles.blobs[file.sha256] if file else None

    def _reach(self, app: str) -> Bundles:
        if self.down:
            raise OriginUnavailable("the origin is down")
        return self._apps.setdefault(app, Bundles())


Behind = Callable[[str, str], tuple[int, bytes, str | None]]
"""What stands behind an edge: status, body and release for a host and a path."""


class FakeEdge:
    """An edge in memory that keeps every answer until it is purged; out of reach while `down` is set."""

    def __init__(self, name: str, behind: Behind) -> None:
        self._name = name
        self._behind = behind
        self._kept: dict[tuple[str, str], Answer] = {}
        self.down = False
        self.purged: list[tuple[str, str]] = []
        """Every host and path purged, in order."""

    @property
    def name(self) -> str:
        return self._name

    @property
    def url(self) -> str:
        return f"http://{self._name}.invalid"

    async def purge(self, host: str, paths: Sequence[str]) -> None:
        self._reach()
        for path in paths:
            self.purged.append((host, path))
            self._kept.pop((host, path), None)

    async def fetch(self, host: str, path: str) -> Answer:
        self._reach()
        if path == RELEASE_PATH:
            return self._ask(host, path)
        if (host, path) not in self._kept:
            self._kept[host, path] = self._ask(host, path)
        return self._kept[host, path]

    def _ask(self, host: str, path: str) -> Answer:
        status, body, release = self._behind(host, path)
        return Answer(status, hashlib.sha256(body).hexdigest(), release)

    def _reach(self) -> None:
        if self.down:
            raise EdgeUnavailable(f"edge {self._name} is down")
