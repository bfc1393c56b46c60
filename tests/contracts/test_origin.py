"""What every origin keeps to; and what the origin in a folder adds for the router that serves it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from penstock_pipeline.cdn import Origin, bundle
from penstock_pipeline.cdn.fake import FakeOrigin
from penstock_pipeline.cdn.folder import FolderOrigin
from penstock_pipeline.errors import NotFound, OriginUnavailable, StageFailed
from penstock_pipeline.model import Manifest
from penstock_pipeline.runtimes import static

UNKNOWN = "sha256:" + "0" * 64


@pytest.fixture(params=["folder", "fake"])
def origin(request: pytest.FixtureRequest, tmp_path: Path) -> Origin:
    return FolderOrigin(tmp_path / "origin") if request.param == "folder" else FakeOrigin()


@pytest.fixture
def folder(tmp_path: Path) -> FolderOrigin:
    return FolderOrigin(tmp_path / "origin")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "tree").mkdir()
    return tmp_path / "tree"


def write(tree: Path, **files: str) -> Manifest:
    """Files by their name without a suffix; returns the manifest of the whole tree."""
    for name, content in files.items():
        (tree / f"{name}.html").write_text(content)
    return bundle.manifest(tree)


async def released(origin: Origin, tree: Path, **files: str) -> Manifest:
    manifest = write(tree, **files)
    await origin.upload("shop", manifest, tree)
    await origin.publish("shop", manifest.digest)
    return manifest


async def test_an_upload_changes_nothing_that_is_served(origin: Origin, tree: Path) -> None:
    manifest = write(tree, index="hello")
    await origin.upload("shop", manifest, tree)
    assert await origin.live("shop") is None
    assert await origin.manifest("shop", manifest.digest) == manifest


async def test_only_new_files_are_counted(origin: Origin, tree: Path) -> None:
    assert await origin.upload("shop", write(tree, index="1", about="2"), tree) == 2
    changed = write(tree, index="3")
    assert await origin.upload("shop", changed, tree) == 1
    assert await origin.upload("shop", changed, tree) == 0


async def test_what_is_published_is_live_until_something_else_is(origin: Origin, tree: Path) -> None:
    first = await released(origin, tree, index="1")
    second = await released(origin, tree, index="2")
    assert await origin.live("shop") == second.digest
    await origin.publish("shop", first.digest)
    await origin.publish("shop", first.digest)
    assert await origin.live("shop") == first.digest


async def test_an_app_may_stop_serving_files(origin: Origin, tree: Path) -> None:
    await released(origin, tree, index="1")
    for _ in range(2):
        await origin.publish("shop", None)
        assert await origin.live("shop") is None


async def test_nothing_published_is_nothing_live(origin: Origin) -> None:
    assert await origin.live("shop") is None
    await origin.publish("shop", None)


async def test_apps_do_not_share_manifests(origin: Origin, tree: Path) -> None:
    manifest = await released(origin, tree, index="1")
    assert await origin.live("blog") is None
    with pytest.raises(NotFound):
        await origin.publish("blog", manifest.digest)


@pytest.mark.parametrize("digest", [UNKNOWN, "sha256:../../live", "v1", ""])
async def test_a_manifest_never_uploaded_is_not_found(origin: Origin, tree: Path, digest: str) -> None:
    manifest = await released(origin, tree, index="1")
    with pytest.raises(NotFound):
        await origin.publish("shop", digest)
    with pytest.raises(NotFound):
        await origin.manifest("shop", digest)
    assert await origin.live("shop") == manifest.digest


async def test_a_bundle_without_files_is_a_bundle(origin: Origin, tree: Path) -> None:
    manifest = await released(origin, tree)
    assert await origin.live("shop") == manifest.digest


# -- the origin in a folder


def served(home: Path, path: str) -> bytes | None:
    """As the router finds it."""
    found = static.find(home, path)
    return found and found.blob.read_bytes()


async def test_the_router_serves_what_is_published(folder: FolderOrigin, tree: Path, tmp_path: Path) -> None:
    home = tmp_path / "origin/shop"
    await released(folder, tree, index="1", about="2")
    assert (served(home, "/"), served(home, "/about.html")) == (b"1", b"2")
    (tree / "about.html").unlink()
    await released(folder, tree, index="3")
    assert (served(home, "/"), served(home, "/about.html")) == (b"3", None)
    await folder.publish("shop", None)
    assert served(home, "/") is None


async def test_yesterdays_fingerprinted_files_are_still_served(
    folder: FolderOrigin, tree: Path, tmp_path: Path
) -> None:
    (tree / "app.3f9a1c2b.js").write_text("old")
    await released(folder, tree, index="1")
    (tree / "app.3f9a1c2b.js").unlink()
    await released(folder, tree, index="2")
    assert served(tmp_path / "origin/shop", "/app.3f9a1c2b.js") == b"old"


async def test_files_are_kept_by_content_and_the_manifest_says_which(
    folder: FolderOrigin, tree: Path, tmp_path: Path
) -> None:
    manifest = write(tree, index="1", same="1")
    assert await folder.upload("shop", manifest, tree) == 1
    digest = manifest.files[0].sha256
    home = tmp_path / "origin/shop"
    assert (home / "blobs" / digest[:2] / digest).read_bytes() == b"1"
    written = json.loads((home / "manifests" / f"{manifest.digest[7:]}.json").read_bytes())
    assert written["digest"] == manifest.digest
    assert [file["path"] for file in written["files"]] == ["/index.html", "/same.html"]


async def test_the_links_name_what_is_served_and_what_was_before(
    folder: FolderOrigin, tree: Path, tmp_path: Path
) -> None:
    first = await released(folder, tree, index="1")
    second = await released(folder, tree, index="2")
    await folder.publish("shop", second.digest)
    home = tmp_path / "origin/shop"
    assert str((home / "live").readlink()) == f"manifests/{second.digest[7:]}.json"
    assert str((home / "previous").readlink()) == f"manifests/{first.digest[7:]}.json"


async def test_a_publish_that_was_interrupted_is_taken_up(
    folder: FolderOrigin, tree: Path, tmp_path: Path
) -> None:
    first = await released(folder, tree, index="1")
    second = write(tree, index="2")
    await folder.upload("shop", second, tree)
    home = tmp_path / "origin/shop"
    (home / "previous").symlink_to((home / "live").readlink())
    (home / ".live").symlink_to("manifests/half-way.json")
    await folder.publish("shop", second.digest)
    assert await folder.live("shop") == second.digest
    assert str((home / "previous").readlink()) == f"manifests/{first.digest[7:]}.json"


async def test_a_file_that_changed_since_it_was_listed_is_not_published(
    folder: FolderOrigin, tree: Path, tmp_path: Path
) -> None:
    manifest = write(tree, index="1", about="2")
    (tree / "about.html").write_text("3")
    with pytest.raises(StageFailed, match=r"/about\.html has changed since it was built"):
        await folder.upload("shop", manifest, tree)
    (tree / "about.html").unlink()
    with pytest.raises(StageFailed, match=r"/about\.html cannot be read any more"):
        await folder.upload("shop", manifest, tree)
    with pytest.raises(NotFound):
        await folder.publish("shop", manifest.digest)
    left = [path for path in (tmp_path / "origin").rglob("*") if path.is_file()]
    assert left == []


async def test_an_upload_that_was_interrupted_is_taken_up(folder: FolderOrigin, tree: Path) -> None:
    manifest = write(tree, index="1", about="2")
    (tree / "index.html").rename(tree / "away")
    with pytest.raises(StageFailed):
        await folder.upload("shop", manifest, tree)
    (tree / "away").rename(tree / "index.html")
    assert await folder.upload("shop", manifest, tree) == 1
    await folder.publish("shop", manifest.digest)


async def test_a_file_cut_short_at_the_origin_is_brought_back(
    folder: FolderOrigin, tree: Path, tmp_path: Path
) -> None:
    manifest = await released(folder, tree, index="hello")
    (blob,) = (tmp_path / "origin/shop/blobs").glob("*/*")
    blob.write_text("hel")
    assert await folder.upload("shop", manifest, tree) == 1
    assert served(tmp_path / "origin/shop", "/") == b"hello"


@pytest.mark.parametrize("damage", ["", "[]", '{"files": []}'])
async def test_a_damaged_manifest_is_told_not_served_as_another(
    folder: FolderOrigin, tree: Path, tmp_path: Path, damage: str
) -> None:
    manifest = await released(folder, tree, index="1")
    (written,) = (tmp_path / "origin/shop/manifests").iterdir()
    written.write_text(damage)
    with pytest.raises(OriginUnavailable, match="is damaged"):
        await folder.manifest("shop", manifest.digest)


async def test_files_at_the_origin_may_be_read_by_the_router_alone_or_not(
    folder: FolderOrigin, tree: Path, tmp_path: Path
) -> None:
    before = os.umask(0o077)
    try:
        await released(folder, tree, index="1")
    finally:
        os.umask(before)
    (blob,) = (tmp_path / "origin/shop/blobs").glob("*/*")
    assert blob.stat().st_mode & 0o777 == 0o644


async def test_a_disk_that_does_not_play_along_is_worth_a_retry(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "a file").write_text("x")
    with pytest.raises(OriginUnavailable, match=r"the origin in .*a file"):
        await FolderOrigin(tmp_path / "a file").upload("shop", write(tree, index="1"), tree)
