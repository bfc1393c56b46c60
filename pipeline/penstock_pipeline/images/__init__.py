"""The image port: where built images are kept, addressed by digest.

1. `pack`    a tree of files becomes one reproducible layer and an image: same tree, same digest.
2. `push`    the image goes where the runtime takes it from; returns how many blobs were new; idempotent.
3. `unpack`  the files of an image are laid out in a folder; idempotent, all or nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Image:
    """A built image: its manifest's digest (`sha256:…`), the layer's size in bytes, the number of files."""

    digest: str
    size: int
    files: int


class ImageStore(Protocol):
    """Life cycle in the module's docstring. All calls may be repeated."""

    async def pack(self, tree: Path, *, labels: Mapping[str, str], exclude: frozenset[str]) -> Image:
        """Pack `tree` without the top-level names in `exclude`. Raises `InvalidTree` for what an image cannot
        hold."""
        ...

    async def push(self, digest: str) -> int: ...

    async def unpack(self, digest: str, folder: Path) -> None: ...
