"""The one layer of an image: a tree of files as a tar archive that depends on nothing but the files.

Not compressed, so that its digest does not depend on the machine's zlib. Links stay inside the tree by a rule
that needs no look at the disk: relative, `..` only at the start, and no more of them than there are folders
above. As every link keeps to it, none leads out, whichever others it passes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, cast

from ..errors import InvalidTree

ROOT = "app"
"""The layer's only top-level folder."""

_CHUNK = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Layer:
    """`digest` (`sha256:…`) and `size` in bytes of the archive, and the number of `files` in it."""

    digest: str
    size: int
    files: int


def pack(tree: Path, out: BinaryIO, *, exclude: frozenset[str] = frozenset()) -> Layer:
    """Write `tree`, without the top-level names in `exclude`, to `out`. Raises `InvalidTree` for what an
    image cannot hold: devices, sockets, links out of the tree."""
    hashed = _Hashed(out)
    stream = cast("IO[bytes]", hashed)
    files = 0
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT, encoding="utf-8") as archive:
        archive.addfile(_folder(ROOT))
        for path in sorted(_walk(tree, exclude), key=os.fsencode):
            files += _add(archive, tree, path)
    return Layer(hashed.digest, hashed.size, files)


def _walk(tree: Path, exclude: frozenset[str]) -> Iterator[str]:
    """Every path of the tree, links not followed, in no order."""
    folders = [""]
    while folders:
        below = folders.pop()
        with os.scandir(tree / below) as entries:
            for entry in entries:
                path = f"{below}{entry.name}"
                if path in exclude:
                    continue
                yield path
                if entry.is_dir(follow_symlinks=False):
                    folders.append(f"{path}/")


def _add(archive: tarfile.TarFile, tree: Path, path: str) -> bool:
    """Whether it is a file, not a folder or a link."""
    name, mode = f"{ROOT}/{path}", (tree / path).lstat().st_mode
    if stat.S_ISDIR(mode):
        archive.addfile(_folder(name))
    elif stat.S_ISLNK(mode):
        archive.addfile(_link(name, tree / path))
    elif stat.S_ISREG(mode):
        with _open(tree, path) as file:
            archive.addfile(_file(name, os.fstat(file.fileno())), file)
        return True
    else:
        raise InvalidTree(f"{path!r} is neither file, folder nor link; an image cannot hold it")
    return False


def _open(tree: Path, path: str) -> BinaryIO:
    try:
        return (tree / path).open("rb")
    except OSError as error:
        raise InvalidTree(f"{path!r} cannot be read: {error.strerror}") from error


def _folder(name: str) -> tarfile.TarInfo:
    return _entry(name, tarfile.DIRTYPE, 0o755)


def _file(name: str, status: os.stat_result) -> tarfile.TarInfo:
    entry = _entry(name, tarfile.REGTYPE, 0o755 if status.st_mode & stat.S_IXUSR else 0o644)
    entry.size = status.st_size
    return entry


def _link(name: str, path: Path) -> tarfile.TarInfo:
    target = os.readlink(path)  # noqa: PTH115 (as written: Path would tidy it up)
    if not _stays_inside(name, target):
        raise InvalidTree(
            f"{name.removeprefix(ROOT + '/')!r} links to {target!r}, out of the tree; use a copy"
        )
    entry = _entry(name, tarfile.SYMTYPE, 0o777)
    entry.linkname = target
    return entry


def _entry(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.mtime = kind, mode, 0
    return entry


def _stays_inside(name: str, target: str) -> bool:
    steps = [step for step in target.split("/") if step not in ("", ".")]
    ups = steps.count("..")
    above = name.count("/") - 1
    return not target.startswith("/") and ups <= above and ".." not in steps[ups:]


class _Hashed:
    """A file that knows the digest and size of what went through it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        self._file.write(data)
        return self._count(data)

    def read(self, most: int = -1) -> bytes:
        data = self._file.read(most)
        self._count(data)
        return data

    def tell(self) -> int:
        return self.size

    @property
    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"

    def _count(self, data: bytes) -> int:
        self._hash.update(data)
        self.size += len(data)
        return len(data)


# -- and back


def unpack(source: BinaryIO, folder: Path) -> str:
    """Lay the files of a layer out in `folder`, which exists and is empty. Returns the digest of what was
    read, for the caller to compare. Raises `InvalidTree` for an archive that `pack` would not write."""
    hashed = _Hashed(source)
    stream = cast("IO[bytes]", hashed)
    try:
        with tarfile.open(fileobj=stream, mode="r|", bufsize=_CHUNK, encoding="utf-8") as archive:
            for entry in archive:
                _lay_out(archive, entry, folder)
    except (tarfile.TarError, FileExistsError, FileNotFoundError, NotADirectoryError) as error:
        raise InvalidTree(f"the layer is damaged: {error}") from error
    while hashed.read(_CHUNK):
        pass
    return hashed.digest


def _lay_out(archive: tarfile.TarFile, entry: tarfile.TarInfo, folder: Path) -> None:
    if entry.name == ROOT and entry.isdir():
        return
    top, _, path = entry.name.partition("/")
    if top != ROOT or not path or ".." in path.split("/"):
        raise InvalidTree(f"the layer is damaged: it holds {entry.name!r}")
    target = folder / path
    if entry.isdir():
        target.mkdir(mode=0o755)
    elif entry.issym() and _stays_inside(entry.name, entry.linkname):
        target.symlink_to(entry.linkname)
    elif entry.isreg() and (source := archive.extractfile(entry)):
        _write(source, target, executable=bool(entry.mode & stat.S_IXUSR))
    else:
        raise InvalidTree(f"the layer is damaged: {entry.name!r} is not what an image of Penstock's holds")


def _write(source: IO[bytes], target: Path, *, executable: bool) -> None:
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
    with contextlib.closing(source), open(descriptor, "wb") as out:  # noqa: PTH123
        os.fchmod(descriptor, 0o755 if executable else 0o644)
        while data := source.read(_CHUNK):
            out.write(data)
