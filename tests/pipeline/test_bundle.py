"""A folder's bundle lists what visitors may have, the same on every machine."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from penstock_pipeline.cdn import bundle
from penstock_pipeline.errors import InvalidTree
from penstock_pipeline.model import StaticFile


def lay_out(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(path)
    return root


def paths(root: Path) -> list[str]:
    return [file.path for file in bundle.manifest(root).files]


def test_each_file_is_listed_with_all_a_visitor_needs(tmp_path: Path) -> None:
    lay_out(tmp_path, "index.html", "assets/app.3f9a1c2b.js")
    assert bundle.manifest(tmp_path).files == (
        StaticFile(
            "/assets/app.3f9a1c2b.js",
            hashlib.sha256(b"assets/app.3f9a1c2b.js").hexdigest(),
            22,
            "text/javascript; charset=utf-8",
            True,
        ),
        StaticFile(
            "/index.html", hashlib.sha256(b"index.html").hexdigest(), 10, "text/html; charset=utf-8", False
        ),
    )


def test_files_are_sorted_by_path_not_by_folder(tmp_path: Path) -> None:
    lay_out(tmp_path, "a/z", "a-b", "a.b", "B", "é")
    assert paths(tmp_path) == sorted(["/a/z", "/a-b", "/a.b", "/B", "/é"])


def test_the_digest_depends_on_nothing_but_what_is_served(tmp_path: Path) -> None:
    one = bundle.manifest(lay_out(tmp_path / "one", "a", "b/c")).digest
    other = lay_out(tmp_path / "other", "b/c", "a", ".hidden")
    os.utime(other / "a", (1, 1))
    assert bundle.manifest(other).digest == one
    (other / "a").write_text("b")
    assert bundle.manifest(other).digest != one


def test_hidden_files_stay_hidden_but_for_well_known(tmp_path: Path) -> None:
    lay_out(tmp_path, ".git/config", ".env", "a/.htaccess", ".well-known/security.txt", ".well-known/.x", "b")
    assert paths(tmp_path) == ["/.well-known/security.txt", "/b"]


def test_an_empty_folder_is_an_empty_bundle(tmp_path: Path) -> None:
    assert bundle.manifest(tmp_path).files == ()


def test_names_are_not_encoded(tmp_path: Path) -> None:
    lay_out(tmp_path, "a b%20?#&+é.txt")
    assert paths(tmp_path) == ["/a b%20?#&+é.txt"]


def test_links_inside_are_followed(tmp_path: Path) -> None:
    lay_out(tmp_path / "root", "a/b")
    (tmp_path / "root/c").symlink_to("a")
    (tmp_path / "root/d").symlink_to("a/b")
    (tmp_path / "entry").symlink_to("root")
    assert paths(tmp_path / "entry") == ["/a/b", "/c/b", "/d"]


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("/etc/hostname", "/link is a link out of the static folder"),
        ("../outside", "/link is a link out of the static folder"),
        ("..", "/link is a link out of the static folder"),
        ("nowhere", "/link is a link that leads nowhere"),
        ("link", "/link is a link that leads nowhere"),
        (".", "/link links to a folder it is in"),
    ],
)
def test_links_that_cannot_be_served_are_refused_by_name(tmp_path: Path, target: str, told: str) -> None:
    lay_out(tmp_path, "outside", "root/a")
    (tmp_path / "root/link").symlink_to(target)
    with pytest.raises(InvalidTree, match=told):
        bundle.manifest(tmp_path / "root")


def test_folders_that_link_to_each_other_are_refused(tmp_path: Path) -> None:
    lay_out(tmp_path, "a/x", "b/x")
    (tmp_path / "a/b").symlink_to("../b")
    (tmp_path / "b/a").symlink_to("../a")
    with pytest.raises(InvalidTree, match="links to a folder it is in"):
        bundle.manifest(tmp_path)


def test_links_that_multiply_folders_without_end_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "MOST", 200)
    (tmp_path / "z").mkdir()
    for level, below in zip("abcdefgh", "bcdefghz", strict=True):
        (tmp_path / level).mkdir()
        for name in "xy":
            (tmp_path / level / name).symlink_to(f"../{below}")
    with pytest.raises(InvalidTree, match="more than 200 files and folders"):
        bundle.manifest(tmp_path)


@pytest.mark.parametrize("name", [b"a\nb", b"a\\b", b"a\x7fb", b"a\xc2\x85b", b"caf\xe9", b"\x01"])
def test_names_no_url_can_carry_are_refused(tmp_path: Path, name: bytes) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_text("x")
    with pytest.raises(InvalidTree, match="a URL cannot carry its name") as caught:
        bundle.manifest(tmp_path)
    assert str(caught.value).isprintable()


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidTree, match="/pipe is neither file nor folder"):
        bundle.manifest(tmp_path)


def test_a_folder_that_is_gone_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidTree, match=r"cannot be read: .*gone"):
        bundle.manifest(tmp_path / "gone")


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/a.html", "text/html; charset=utf-8"),
        ("/a.CSS", "text/css; charset=utf-8"),
        ("/a.mjs", "text/javascript; charset=utf-8"),
        ("/a.js.map", "application/json; charset=utf-8"),
        ("/a.svg", "image/svg+xml; charset=utf-8"),
        ("/a.csv", "text/csv; charset=utf-8"),
        ("/a.png", "image/png"),
        ("/a.woff2", "font/woff2"),
        ("/a.webmanifest", "application/manifest+json; charset=utf-8"),
        ("/a.wasm", "application/wasm"),
        ("/a.tar.gz", "application/octet-stream"),
        ("/a.unheard-of", "application/octet-stream"),
        ("/LICENSE", "application/octet-stream"),
        ("/a.b/c", "application/octet-stream"),
    ],
)
def test_content_types_follow_from_the_name(path: str, kind: str) -> None:
    assert bundle.content_type(path) == kind


def test_a_manifest_reads_back_as_it_was_written(tmp_path: Path) -> None:
    manifest = bundle.manifest(lay_out(tmp_path, "index.html", "é.txt"))
    written = bundle.encode(manifest)
    assert bundle.decode(written) == manifest
    assert set(json.loads(written)) == {"digest", "files"}
    assert set(json.loads(written)["files"][0]) == {
        "path",
        "sha256",
        "size",
        "content_type",
        "fingerprinted",
    }


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b'{"files": [{}]}', b'{"files": 1}', b'{"files": [1]}', b"\xff"]
)
def test_what_is_no_manifest_is_not_read_as_one(data: bytes) -> None:
    with pytest.raises(ValueError):
        bundle.decode(data)
