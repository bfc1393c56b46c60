"""Upload: image and static bundle go where runtime and visitors will take them from."""

from __future__ import annotations

from ..cdn import bundle
from ..errors import StageFailed
from .work import Outcome, Work


async def upload(work: Work) -> Outcome:
    """Nothing visitors see changes yet. Raises `StageFailed` where the files are not those that
    were built."""
    says = []
    if work.artefact.image is not None:
        blobs = await work.parts.images.push(work.artefact.image)
        says.append(f"image {blobs} new {'blob' if blobs == 1 else 'blobs'}")
    if (root := work.static_root) is not None:
        manifest = await work.parts.packing.run(bundle.manifest, root, within=work.tree)
        if manifest.digest != work.artefact.manifest:
            raise StageFailed("the static files have changed since they were built")
        files = await work.parts.origin.upload(work.app.name, manifest, root)
        says.append(f"origin {files} changed {'file' if files == 1 else 'files'}")
    return Outcome(", ".join(says))
