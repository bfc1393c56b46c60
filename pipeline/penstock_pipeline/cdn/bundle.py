"""The static bundle: which files a folder holds, what each is, and one digest for the whole."""

from __future__ import annotations

import hashlib
import json
import mimetypes
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

from .. import plan
from ..errors import InvalidTree
from ..model import Manifest, StaticFile

MOST = 100_000
"""Files and folders of one bundle; links can make more of a folder than it holds."""

_CONTENT_TYPES = {
    ".avif": "image/avif",
    ".css": "text/css",
    ".gif": "image/gif",
    ".htm": "text/html",
    ".html": "text/html",
    ".ico": "image/x-icon",
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".js": "text/javascript",
    ".json": "application/json",
    ".map": "application/json",
    ".md": "text/markdown",
    ".mjs": "text/javascript",
    ".mp4": "video/mp4",
    ".otf": "font/otf",
    ".pdf": "application/pdf",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".ttf": "font/ttf",
    ".txt": "text/plain",
    ".wasm": "application/wasm",
    ".webm": "video/webm",
    ".webmanifest": "application/manifest+json",
    ".webp": "image/webp",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
    ".xml": "application/xml",
}
_REST = mimetypes.MimeTypes(filenames=())
"""What Python knows by itself, without the machine's own tables: the same answer everywhere."""

_WITH_CHARSET = frozenset(
    {"application/json", "application/manifest+json", "application/xml", "image/svg+xml"}
)


def manifest(root: Path, *, within: Path | None = None) -> Manifest:
    """Lists the files below `root`: all but hidden ones (`.well-known` is none). Links inside `root` are
    followed. Raises `InvalidTree` for links that leave it, for a `root` that leads out of `within`, and for
    names no URL can carry."""
    name, root = root.name, root.resolve()
    if within is not None and not root.is_relative_to(within.resolve()):
        raise InvalidTree(f"the static folder {name} is a link out of the app's files")
    try:
        found = [_file(url, path) for url, path in _walk(root)]
    except OSError as error:
        raise InvalidTree(f"a static file cannot be read: {error}") from error
    files = tuple(sorted(found, key=lambda file: file.path))
    return Manifest(_digest(files), files)


def _walk(root: Path) -> Iterator[tuple[str, Path]]:
    """URL path and real path of each file, in no order."""
    folders: list[tuple[str, tuple[Path, ...]]] = [("/", (root,))]
    seen = 0
    while folders:
        url, way = folders.pop()
        names = os.listdir(way[-1])  # noqa: PTH208 (names are all that is wanted)
        if (seen := seen + len(names)) > MOST:
            raise InvalidTree(f"the static folder holds more than {MOST:,} files and folders")
        for name in names:
            if name.startswith(".") and name != ".well-known":
                continue
            path = _real(root, way[-1] / name, _checked(url, name))
            if path.is_file():
                yield f"{url}{name}", path
            elif not path.is_dir():
                raise InvalidTree(f"static file {url}{name} is neither file nor folder")
            elif path in way:
                raise InvalidTree(f"static folder {url}{name} links to a folder it is in")
            else:
                folders.append((f"{url}{name}/", (*way, path)))


def _checked(url: str, name: str) -> str:
    """The URL path of a name, if a URL can carry it."""
    if "\\" in name or any(ord(c) < 32 or 127 <= ord(c) < 160 or "\ud800" <= c <= "\udfff" for c in name):
        raise InvalidTree(
            f"static file {url + name!r}: a URL cannot carry its name; control characters, "
            "backslashes and bytes that are not UTF-8 are not allowed"
        )
    return url + name


def _real(root: Path, path: Path, url: str) -> Path:
    if not path.is_symlink():
        return path
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise InvalidTree(f"static file {url} is a link that leads nowhere") from error
    if not real.is_relative_to(root):
        raise InvalidTree(f"static file {url} is a link out of the static folder")
    return real


def _file(url: str, path: Path) -> StaticFile:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = file.tell()
    return StaticFile(url, digest, size, content_type(url), plan.is_fingerprinted(url))


def content_type(path: str) -> str:
    """By the name alone, the same on every machine; text is UTF-8."""
    suffix = Path(path).suffix.lower()
    kind = _CONTENT_TYPES.get(suffix) or _REST.types_map[True].get(suffix, "application/octet-stream")
    return f"{kind}; charset=utf-8" if kind.startswith("text/") or kind in _WITH_CHARSET else kind


# -- as JSON


def encode(manifest: Manifest) -> bytes:
    """The manifest as origin and router read it."""
    return _json({"digest": manifest.digest, "files": [asdict(file) for file in manifest.files]})


def decode(data: bytes) -> Manifest:
    """Raises ValueError where it is not what `encode` wrote."""
    try:
        files = tuple(StaticFile(**file) for file in json.loads(data)["files"])
    except (TypeError, KeyError) as error:
        raise ValueError(f"not a manifest: {error}") from error
    return Manifest(_digest(files), files)


def _digest(files: Iterable[StaticFile]) -> str:
    return f"sha256:{hashlib.sha256(_json([asdict(file) for file in files])).hexdigest()}"


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
