"""Serving an app's static bundle from the folder its origin writes.

    <origin>/live      -> manifests/<digest>.json   the bundle that is served
    <origin>/previous  -> manifests/<digest>.json   the one before; its fingerprinted files are served too,
                                                    for visitors who hold yesterday's HTML
    <origin>/blobs/<first two hex digits>/<sha256>  the bytes

Both links are read at each request, so publishing is one rename; manifests never change and are cached.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from ..model import StaticFile

FOREVER = "public, max-age=31536000, immutable"
UNTIL_PURGED = "public, max-age=0, s-maxage=31536000, must-revalidate"
"""Edges keep it until a refresh purges it; browsers ask each time."""

_CHUNK = 256 * 1024


@dataclass(frozen=True, slots=True)
class Found:
    """A file of a bundle and where its bytes are."""

    file: StaticFile
    blob: Path
    status: int


def find(origin: Path, path: str) -> Found | None:
    """The file served at `path`; directories are served by their `index.html`.
    Raises OSError or ValueError when the folder is damaged."""
    if path.endswith("/"):
        path += "index.html"
    file = _files(origin, "live").get(path)
    if file is None:
        file = _files(origin, "previous").get(path)
        if file is None or not file.fingerprinted:
            return None
    return _found(origin, file, 200)


def find_404(origin: Path) -> Found | None:
    """The bundle's own page for what is not found."""
    file = _files(origin, "live").get("/404.html")
    return _found(origin, file, 404) if file else None


def _found(origin: Path, file: StaticFile, status: int) -> Found:
    blob = origin / "blobs" / file.sha256[:2] / file.sha256
    if blob.stat().st_size != file.size:
        raise ValueError(f"{blob} does not have the {file.size} bytes its manifest says")
    return Found(file, blob, status)


def _files(origin: Path, link: str) -> Mapping[str, StaticFile]:
    try:
        return _parsed(origin / (origin / link).readlink())
    except FileNotFoundError:
        if link == "live" and (origin / link).is_symlink():
            raise
        return {}


@functools.lru_cache(maxsize=32)
def _parsed(manifest: Path) -> Mapping[str, StaticFile]:
    files = json.loads(manifest.read_bytes())["files"]
    return {file["path"]: StaticFile(**file) for file in files}


async def serve(request: web.BaseRequest, found: Found, headers: Mapping[str, str]) -> web.StreamResponse:
    """Answer GET or HEAD with a file."""
    file = found.file
    tag = f"sha256-{file.sha256[:32]}"
    own = {"ETag": f'"{tag}"', "Cache-Control": _cache_control(found), **headers}
    if found.status == 200 and any(known.value in (tag, "*") for known in request.if_none_match or ()):
        return web.Response(status=304, headers=own)
    response = web.StreamResponse(status=found.status, headers={"Content-Type": file.content_type, **own})
    response.content_length = file.size
    await _write(request, response, found.blob)
    return response


def _cache_control(found: Found) -> str:
    if found.status != 200:
        return "no-cache"
    return FOREVER if found.file.fingerprinted else UNTIL_PURGED


async def _write(request: web.BaseRequest, response: web.StreamResponse, blob: Path) -> None:
    with blob.open("rb") as bytes_:
        await response.prepare(request)
        while request.method != "HEAD" and (chunk := bytes_.read(_CHUNK)):
            await response.write(chunk)
    await response.write_eof()
