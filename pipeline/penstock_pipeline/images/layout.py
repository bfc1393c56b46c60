"""Images in a folder on this machine, as an OCI image layout: any tool that knows OCI can read it.

    oci-layout, index.json      the images that were pushed, by digest
    blobs/sha256/<hex>          their layers, configs and manifests
    building/blobs/sha256/…     what was packed and not yet pushed

Blobs are named by their digest and appear whole: written aside, made durable, then renamed. So every step may
be repeated after a crash.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from penstock_pool.compute import ComputePool

from ..durable import aside, sync
from ..errors import InvalidTree, NotFound, Unavailable
from . import Image, layer
from .layer import Layer

EPOCH = "1970-01-01T00:00:00Z"
"""When every image was created: a time would make each build another image."""

LAYER = "application/vnd.oci.image.layer.v1.tar"
CONFIG = "application/vnd.oci.image.config.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
REF_NAME = "org.opencontainers.image.ref.name"

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}


class OciLayout:
    """The `ImageStore` in a folder. Calls may come at once, also from several processes; only `unpack` to one
    and the same folder may not. Raises `Unavailable` where the disk does not play along."""

    def __init__(self, folder: Path, packing: ComputePool) -> None:
        """`packing`: where trees are packed, and nothing else: what goes live does not wait for builds."""
        self._folder = folder
        self._packing = packing
        self._blobs = folder / "blobs" / "sha256"
        self._building = folder / "building" / "blobs" / "sha256"

    async def pack(self, tree: Path, *, labels: Mapping[str, str], exclude: frozenset[str]) -> Image:
        with self._unavailable():
            return await self._packing.run(self._pack, tree, labels, exclude)

    async def push(self, digest: str) -> int:
        with self._unavailable():
            return await asyncio.to_thread(self._push, digest)

    async def unpack(self, digest: str, folder: Path) -> None:
        with self._unavailable():
            await asyncio.to_thread(self._unpack, digest, folder)

    @contextlib.contextmanager
    def _unavailable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise Unavailable(f"the image store in {self._folder}: {error}") from error

    # -- pack

    def _pack(self, tree: Path, labels: Mapping[str, str], exclude: frozenset[str]) -> Image:
        packed = self._add_layer(tree, exclude)
        config = self._add_json(CONFIG, _config(packed, labels))
        manifest = self._add_json(MANIFEST, _manifest(packed, config, labels))
        sync(self._building)
        return Image(manifest["digest"], packed.size, packed.files)

    def _add_layer(self, tree: Path, exclude: frozenset[str]) -> Layer:
        with aside(self._building) as blob:
            packed = layer.pack(tree, blob.file, exclude=exclude)
            blob.become(self._building / _hex(packed.digest))
        return packed

    def _add_json(self, media_type: str, value: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the blob's descriptor."""
        data = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        with aside(self._building) as blob:
            blob.file.write(data)
            blob.become(self._building / _hex(digest))
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    # -- push

    def _push(self, digest: str) -> int:
        manifest = self._read_manifest(digest, self._blobs, self._building)
        self._blobs.mkdir(parents=True, exist_ok=True)
        blobs = [part["digest"] for part in (*manifest["layers"], manifest["config"])]
        with self._locked():
            new = sum(self._take(blob, of=digest) for blob in (*blobs, digest))
            sync(self._blobs)
            self._list(digest)
        return new

    def _take(self, digest: str, *, of: str) -> bool:
        """Whether the blob was new."""
        name = _hex(digest)
        if (self._blobs / name).exists():
            (self._building / name).unlink(missing_ok=True)
            return False
        try:
            (self._building / name).rename(self._blobs / name)
        except FileNotFoundError as error:
            raise NotFound(f"image {of} is incomplete: {digest} is gone; build it again") from error
        return True

    def _list(self, digest: str) -> None:
        """Enters the image in `index.json`."""
        size = (self._blobs / _hex(digest)).stat().st_size
        annotations = {REF_NAME: digest.replace(":", "-")}
        entry = {"mediaType": MANIFEST, "digest": digest, "size": size, "annotations": annotations}
        index = self._read_index()
        if digest not in [listed["digest"] for listed in index["manifests"]]:
            index["manifests"].append(entry)
            self._write("oci-layout", {"imageLayoutVersion": "1.0.0"})
            self._write("index.json", index)
            sync(self._folder)

    def _read_index(self) -> dict[str, Any]:
        try:
            index: dict[str, Any] = json.loads((self._folder / "index.json").read_bytes())
        except FileNotFoundError:
            return {"schemaVersion": 2, "mediaType": INDEX, "manifests": []}
        return index

    def _write(self, name: str, value: Mapping[str, Any]) -> None:
        with aside(self._folder) as written:
            written.file.write(json.dumps(value, indent=1).encode())
            written.become(self._folder / name)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with (self._folder / ".lock").open("wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    # -- unpack

    def _unpack(self, digest: str, folder: Path) -> None:
        if folder.exists():
            return
        manifest = self._read_manifest(digest, self._blobs)
        folder.parent.mkdir(parents=True, exist_ok=True)
        new = folder.with_name(f".{folder.name}.unpacking")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o755)
        try:
            for part in manifest["layers"]:
                self._lay_out(part["digest"], new)
            _sync_filesystem(new)
            new.rename(folder)
        finally:
            shutil.rmtree(new, ignore_errors=True)
        sync(folder.parent)

    def _lay_out(self, digest: str, folder: Path) -> None:
        """A damaged layer is removed, so that the next build of the same files brings it back."""
        blob = self._blobs / _hex(digest)
        try:
            with blob.open("rb") as file:
                if layer.unpack(file, folder) != digest:
                    raise InvalidTree("the layer is damaged: it does not have its digest")
        except FileNotFoundError as error:
            raise NotFound(f"layer {digest} is gone; push the commit again") from error
        except InvalidTree as error:
            blob.unlink(missing_ok=True)
            raise InvalidTree(f"{error}; it is removed, push the commit again ({digest})") from error

    def _read_manifest(self, digest: str, *places: Path) -> dict[str, Any]:
        for place in places:
            with contextlib.suppress(FileNotFoundError):
                manifest: dict[str, Any] = json.loads((place / _hex(digest)).read_bytes())
                return manifest
        raise NotFound(f"there is no image {digest}")


# -- what is written


def _config(packed: Layer, labels: Mapping[str, str]) -> dict[str, Any]:
    return {
        "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": platform.system().lower(),
        "created": EPOCH,
        "config": {"WorkingDir": f"/{layer.ROOT}", "Labels": dict(labels)},
        "rootfs": {"type": "layers", "diff_ids": [packed.digest]},
        "history": [{"created": EPOCH, "created_by": "penstock"}],
    }


def _manifest(packed: Layer, config: Mapping[str, Any], labels: Mapping[str, str]) -> dict[str, Any]:
    return {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": config,
        "layers": [{"mediaType": LAYER, "digest": packed.digest, "size": packed.size}],
        "annotations": {"org.opencontainers.image.created": EPOCH, **labels},
    }


def _hex(digest: str) -> str:
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        raise NotFound(f"{digest!r} is not the digest of an image")
    return digest.removeprefix("sha256:")


def _sync_filesystem(folder: Path) -> None:
    """One call for all files of a tree, where the system has it."""
    if not hasattr(libc := ctypes.CDLL(None, use_errno=True), "syncfs"):
        os.sync()
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if libc.syncfs(descriptor):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(folder))
    finally:
        os.close(descriptor)
