"""An origin in a folder on this machine; the router serves visitors from it.

    <folder>/<app>/blobs/<first two hex digits>/<sha256>   the files, by content
    <folder>/<app>/manifests/<hex digest>.json             which file is where, written when all are there
    <folder>/<app>/live      -> manifests/<hex>.json       the bundle that is served
    <folder>/<app>/previous  -> manifests/<hex>.json       the one before

Everything is written aside, made durable and renamed, so each of these is whole or not there.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, ParamSpec, TypeVar

from .. import plan
from ..durable import aside, sync
from ..errors import NotFound, OriginUnavailable, StageFailed
from ..model import Manifest, StaticFile
from . import bundle

P = ParamSpec("P")
T = TypeVar("T")

_CHUNK = 1024 * 1024


class FolderOrigin:
    """The `Origin` in a folder. Calls for different apps may come at once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def upload(self, app: str, manifest: Manifest, tree: Path) -> int:
        return await self._in_thread(_upload, self._folder / app, manifest, tree)

    async def publish(self, app: str, digest: str | None) -> None:
        await self._in_thread(_publish, self._folder / app, digest)

    async def manifest(self, app: str, digest: str) -> Manifest:
        return await self._in_thread(_manifest, self._folder / app, digest)

    async def live(self, app: str) -> str | None:
        return await self._in_thread(_live, self._folder / app)

    async def _in_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await asyncio.to_thread(function, *args, **kwargs)
        except OSError as error:
            raise OriginUnavailable(f"the origin in {self._folder}: {error}") from error


def _upload(home: Path, manifest: Manifest, tree: Path) -> int:
    added = [file for file in plan.upload_order(manifest) if _add(home, file, tree)]
    for folder in {_blob(home, file).parent for file in added}:
        sync(folder)
    if added:
        sync(home / "blobs")
    written = home / _name(manifest.digest)
    with aside(written.parent) as out:
        out.file.write(bundle.encode(manifest))
        out.become(written)
    for folder in (written.parent, home, home.parent):
        sync(folder)
    return len(added)


def _add(home: Path, file: StaticFile, tree: Path) -> bool:
    """Whether the file was new."""
    blob = _blob(home, file)
    with contextlib.suppress(FileNotFoundError):
        if blob.stat().st_size == file.size:
            return False
    with _source(tree, file) as source, aside(blob.parent) as out:
        hashed = hashlib.sha256()
        while data := source.read(_CHUNK):
            hashed.update(data)
            out.file.write(data)
        if hashed.hexdigest() != file.sha256:
            raise StageFailed(f"static file {file.path} has changed since it was built")
        out.become(blob)
    return True


def _source(tree: Path, file: StaticFile) -> BinaryIO:
    try:
        return (tree / file.path.lstrip("/")).open("rb")
    except OSError as error:
        raise StageFailed(f"static file {file.path} cannot be read any more: {error.strerror}") from error


def _blob(home: Path, file: StaticFile) -> Path:
    return home / "blobs" / file.sha256[:2] / file.sha256


def _publish(home: Path, digest: str | None) -> None:
    """`previous` changes first: interrupted in between, both name what is live, and nothing is lost."""
    old = _live(home)
    if digest is not None and not (home / _name(digest)).is_file():
        raise NotFound(f"{home.name} has no static files {digest} at the origin")
    if digest == old:
        return
    if old is not None:
        _link(home / "previous", _name(old))
    if digest is None:
        (home / "live").unlink()
    else:
        _link(home / "live", _name(digest))
    sync(home)


def _link(link: Path, target: str) -> None:
    new = link.with_name(f".{link.name}")
    new.unlink(missing_ok=True)
    new.symlink_to(target)
    new.rename(link)


def _live(home: Path) -> str | None:
    try:
        return f"sha256:{(home / 'live').readlink().stem}"
    except FileNotFoundError:
        return None


def _manifest(home: Path, digest: str) -> Manifest:
    try:
        manifest = bundle.decode((home / _name(digest)).read_bytes())
    except FileNotFoundError as error:
        raise NotFound(f"{home.name} has no static files {digest} at the origin") from error
    except ValueError as error:
        raise OriginUnavailable(f"manifest {digest} of {home.name} is damaged: {error}") from error
    if manifest.digest != digest:
        raise OriginUnavailable(f"manifest {digest} of {home.name} is damaged: it does not have its digest")
    return manifest


def _name(digest: str) -> str:
    """Where a manifest is, from the app's folder."""
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        raise NotFound(f"{digest!r} is not the digest of static files")
    return f"manifests/{digest.removeprefix('sha256:')}.json"
