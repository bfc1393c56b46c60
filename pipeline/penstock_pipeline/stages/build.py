"""Build: the checkout becomes an image and a static bundle, each named by its digest."""

from __future__ import annotations

from ..cdn import bundle
from ..images import Image
from ..model import Manifest, StageName
from .command import execute
from .work import Outcome, Work

_NOT_PACKED = frozenset({".git"})


async def build(work: Work) -> Outcome:
    """Runs `build.run`, packs the image where there are processes to run, lists the static files."""
    command = work.config.build.run
    if command is not None:
        timeout = work.parts.settings.build_timeout
        await execute(work, StageName.BUILD, command, tree=work.tree, timeout=timeout, env=work.environment)
    image = await _image(work) if work.config.processes else None
    root = work.static_root
    manifest = None if root is None else await work.parts.packing.run(bundle.manifest, root, within=work.tree)
    result = {"image": image and image.digest, "manifest": manifest and manifest.digest}
    return Outcome(_says(image, manifest), result)


async def _image(work: Work) -> Image:
    base = work.config.build.base
    labels = {"org.opencontainers.image.base.name": base} if base else {}
    return await work.parts.images.pack(work.tree, labels=labels, exclude=_NOT_PACKED)


def _says(image: Image | None, manifest: Manifest | None) -> str:
    parts = []
    if image is not None:
        parts.append(_short(image.digest))
    if manifest is not None:
        files = len(manifest.files)
        says = f"{files} static {'file' if files == 1 else 'files'}"
        parts.append(says if image else f"{says} {_short(manifest.digest)}")
    return ", ".join(parts)


def _short(digest: str) -> str:
    return f"{digest[:19]}…"
