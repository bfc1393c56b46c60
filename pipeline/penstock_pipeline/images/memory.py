"""Images in memory: for tests, and for trying things out."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from ..errors import NotFound, Unavailable
from . import Image, layer


class MemoryImages:
    """The `ImageStore` without a disk. Told `unavailable = True`, it fails like a registry that is away."""

    def __init__(self) -> None:
        self.unavailable = False
        self._packed: dict[str, bytes] = {}
        self._pushed: set[str] = set()

    async def pack(self, tree: Path, *, labels: Mapping[str, str], exclude: frozenset[str]) -> Image:
        self._reach()
        archive = io.BytesIO()
        packed = await asyncio.to_thread(layer.pack, tree, archive, exclude=exclude)
        named = json.dumps([packed.digest, sorted(labels.items())]).encode()
        digest = f"sha256:{hashlib.sha256(named).hexdigest()}"
        self._packed[digest] = archive.getvalue()
        return Image(digest, packed.size, packed.files)

    async def push(self, digest: str) -> int:
        """An image is one blob here."""
        self._reach()
        if digest not in self._packed:
            raise NotFound(f"there is no image {digest}")
        new = digest not in self._pushed
        self._pushed.add(digest)
        return int(new)

    async def unpack(self, digest: str, folder: Path) -> None:
        self._reach()
        if folder.exists():
            return
        if digest not in self._pushed:
            raise NotFound(f"there is no image {digest}")
        await asyncio.to_thread(self._lay_out, self._packed[digest], folder)

    def _lay_out(self, archive: bytes, folder: Path) -> None:
        folder.mkdir(parents=True)
        try:
            layer.unpack(io.BytesIO(archive), folder)
        except BaseException:
            shutil.rmtree(folder)
            raise

    def _reach(self) -> None:
        if self.unavailable:
            raise Unavailable("the image store is away")
