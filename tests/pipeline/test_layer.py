"""The same tree is the same layer, whoever packs it, and a layer never leads out of its folder."""

from __future__ import annotations

import hashlib
import io
import os
import socket
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock_pipeline.errors import InvalidTree
from penstock_pipeline.images import layer

NAMES = st.text(alphabet="aB.- é\n\\", min_size=1, max_size=5).filter(lambda name: name not in (".", ".."))
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
TREES = st.dictionaries(PATHS, st.tuples(st.binary(max_size=600), st.booleans()), max_size=6)


def pack(tree: Path, exclude: frozenset[str] = frozenset()) -> tuple[layer.Layer, bytes]:
    out = io.BytesIO()
    packed = layer.pack(tree, out, exclude=exclude)
    return packed, out.getvalue()


def lay_out(tree: Path, files: list[tuple[str, tuple[bytes, bool]]], *, mtime: int, umask: int) -> None:
    before = os.umask(umask)
    try:
        for path, (content, executable) in files:
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            (tree / path).write_bytes(content)
            (tree / path).chmod((0o777 if executable else 0o666) & ~umask)
            os.utime(tree / path, (mtime, mtime))
    finally:
        os.umask(before)


def contents(tree: Path) -> dict[str, object]:
    """Every path of a tree with what it is, written down without `layer`."""
    found: dict[str, object] = {}
    for path in tree.rglob("*"):
        name = str(path.relative_to(tree))
        if path.is_symlink():
            found[name] = ("link", str(path.readlink()))
        elif path.is_dir():
            found[name] = "folder"
        else:
            found[name] = (path.read_bytes(), bool(path.stat().st_mode & 0o100))
    return found


@settings(max_examples=25, deadline=None)
@given(TREES, st.randoms(use_true_random=False))
def test_a_tree_is_the_same_layer_in_any_order_at_any_time_and_comes_back_as_it_was(files, random) -> None:
    kept = {path: file for path, file in files.items() if not any(o.startswith(f"{path}/") for o in files)}
    with tempfile.TemporaryDirectory() as folder:
        one, other, back = (Path(folder, name) for name in ("one", "other", "back"))
        for tree in (one, other, back):
            tree.mkdir()
        shuffled = random.sample(list(kept.items()), len(kept))
        lay_out(one, list(kept.items()), mtime=1, umask=0o022)
        lay_out(other, shuffled, mtime=2_000_000_000, umask=0o077)
        packed, archive = pack(one)
        assert pack(other) == (packed, archive)
        assert packed == layer.Layer(f"sha256:{hashlib.sha256(archive).hexdigest()}", len(archive), len(kept))
        assert layer.unpack(io.BytesIO(archive), back) == packed.digest
        assert contents(back) == contents(one)


def test_a_layer_is_known_by_its_digest_on_every_machine(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/b").write_text("c")
    (tmp_path / ("é" * 120)).write_text("a long name that is not ASCII")
    (tmp_path / "link").symlink_to("a/b")
    digest = "sha256:cca7059171f3919114c20bbe61bfeb5c472038f0219f678132faf747010b644e"
    assert pack(tmp_path)[0].digest == digest


def test_what_is_in_it_tells_nothing_of_the_machine(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("#!/bin/sh")
    (tmp_path / "run").chmod(0o4711)
    (tmp_path / "data").write_text("x")
    (tmp_path / "data").chmod(0o666)
    (tmp_path / "empty").mkdir(mode=0o700)
    with tarfile.open(fileobj=io.BytesIO(pack(tmp_path)[1])) as archive:
        entries = {entry.name: entry for entry in archive}
    assert {name: entry.mode for name, entry in entries.items()} == {
        "app": 0o755,
        "app/data": 0o644,
        "app/empty": 0o755,
        "app/run": 0o755,
    }
    for entry in entries.values():
        assert (entry.uid, entry.gid, entry.uname, entry.gname, entry.mtime) == (0, 0, "", "", 0)


def test_only_top_level_names_are_left_out(tmp_path: Path) -> None:
    for path in (".git/config", "sub/.git/config"):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text("x")
    with tarfile.open(fileobj=io.BytesIO(pack(tmp_path, frozenset({".git"}))[1])) as archive:
        assert archive.getnames() == ["app", "app/sub", "app/sub/.git", "app/sub/.git/config"]


def test_hard_links_are_files_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    (tmp_path / "b").hardlink_to(tmp_path / "a")
    with tarfile.open(fileobj=io.BytesIO(pack(tmp_path)[1])) as archive:
        assert [entry.isreg() for entry in archive if entry.name != "app"] == [True, True]


def test_names_that_are_not_utf8_come_back_as_they_were(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "back").mkdir()
    (tmp_path / "tree" / os.fsdecode(b"caf\xe9")).write_text("x")
    layer.unpack(io.BytesIO(pack(tmp_path / "tree")[1]), tmp_path / "back")
    assert [os.fsencode(path.name) for path in (tmp_path / "back").iterdir()] == [b"caf\xe9"]


@pytest.mark.parametrize("target", ["b", "../b", "./x", "../a/b", "nowhere", "../", "."])
def test_links_that_stay_inside_are_kept_as_they_are(tmp_path: Path, target: str) -> None:
    for name in ("tree/a", "back"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "tree/a/link").symlink_to(target)
    layer.unpack(io.BytesIO(pack(tmp_path / "tree")[1]), tmp_path / "back")
    assert contents(tmp_path / "back") == contents(tmp_path / "tree")


@pytest.mark.parametrize(
    "target", ["/etc/passwd", "../../b", "../../tree/a", "b/../../..", "..//../b", "./../../b", "up/../x"]
)
def test_links_that_could_leave_are_refused_by_name(tmp_path: Path, target: str) -> None:
    (tmp_path / "tree/a").mkdir(parents=True)
    (tmp_path / "tree/a/up").symlink_to("..")
    (tmp_path / "tree/a/link").symlink_to(target)
    with pytest.raises(InvalidTree, match=r"'a/link' links to .*, out of the tree; use a copy"):
        pack(tmp_path / "tree")


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


@pytest.mark.parametrize("make", [os.mkfifo, _socket], ids=["fifo", "socket"])
def test_what_is_no_file_is_refused_by_name(short_tmp: Path, make: Callable[[Path], None]) -> None:
    make(short_tmp / "odd")
    with pytest.raises(InvalidTree, match="'odd' is neither file, folder nor link"):
        pack(short_tmp)


def forged(*entries: tarfile.TarInfo) -> io.BytesIO:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for entry in entries:
            archive.addfile(entry, io.BytesIO(b"x" * entry.size))
    out.seek(0)
    return out


def entry(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, target
    return made


@pytest.mark.parametrize(
    "entries",
    [
        [entry("outside")],
        [entry("/app/absolute")],
        [entry("app/../../outside")],
        [entry("app")],
        [entry("app/link", tarfile.SYMTYPE, "../outside")],
        [entry("app/link", tarfile.SYMTYPE, "/etc")],
        [entry("app/link", tarfile.LNKTYPE, "app/a")],
        [entry("app/fifo", tarfile.FIFOTYPE)],
        [entry("app/device", tarfile.CHRTYPE)],
        [entry("app/a"), entry("app/a")],
        [entry("app/a", tarfile.SYMTYPE, "b"), entry("app/a")],
        [entry("app/nowhere/a")],
        [entry("app/a"), entry("app/a/b")],
    ],
    ids=lambda entries: " ".join(f"{entry.name}:{entry.type.decode()}" for entry in entries),
)
def test_an_archive_that_was_not_packed_here_is_refused(
    tmp_path: Path, entries: list[tarfile.TarInfo]
) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(InvalidTree, match="the layer is damaged"):
        layer.unpack(forged(*entries), tmp_path / "in")
    assert list(tmp_path.iterdir()) == [tmp_path / "in"]


def test_a_layer_cut_short_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/a").write_bytes(b"x" * 5000)
    (tmp_path / "back").mkdir()
    with pytest.raises(InvalidTree, match="the layer is damaged"):
        layer.unpack(io.BytesIO(pack(tmp_path / "tree")[1][:4000]), tmp_path / "back")
