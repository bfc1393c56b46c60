"""What every image store keeps to; and what the local OCI layout adds to it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from pathlib import Path

import pytest
from plugins.compute_tasks import gates
from plugins.house import eventually

from penstock_pipeline.errors import InvalidTree, NotFound, Unavailable
from penstock_pipeline.images import Image, ImageStore
from penstock_pipeline.images.layout import OciLayout
from penstock_pipeline.images.memory import MemoryImages
from penstock_pool.compute import ComputePool

NOTHING: frozenset[str] = frozenset()
UNKNOWN = "sha256:" + "0" * 64


@pytest.fixture(params=["layout", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ImageStore:
    return OciLayout(tmp_path / "images", ComputePool(1)) if request.param == "layout" else MemoryImages()


@pytest.fixture
def layout(tmp_path: Path) -> OciLayout:
    return OciLayout(tmp_path / "images", ComputePool(1))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    (tree / "bin").mkdir(parents=True)
    (tree / "bin/serve").write_text("#!/bin/sh\n")
    (tree / "bin/serve").chmod(0o755)
    (tree / "readme").write_text("hello")
    (tree / "start").symlink_to("bin/serve")
    return tree


async def packed(store: ImageStore, tree: Path) -> Image:
    image = await store.pack(tree, labels={}, exclude=NOTHING)
    await store.push(image.digest)
    return image


async def test_a_tree_comes_back_as_it_was(store: ImageStore, tree: Path, tmp_path: Path) -> None:
    image = await packed(store, tree)
    await store.unpack(image.digest, tmp_path / "a/b")
    assert (tmp_path / "a/b/readme").read_text() == "hello"
    assert (tmp_path / "a/b/start").readlink() == Path("bin/serve")
    assert os.access(tmp_path / "a/b/start", os.X_OK)
    assert image.files == 2


async def test_the_same_tree_is_the_same_image(store: ImageStore, tree: Path) -> None:
    one = await store.pack(tree, labels={"b": "1", "a": "2"}, exclude=NOTHING)
    os.utime(tree / "readme", (1, 1))
    assert await store.pack(tree, labels={"a": "2", "b": "1"}, exclude=NOTHING) == one


async def test_other_bytes_or_labels_are_another_image(store: ImageStore, tree: Path) -> None:
    digests = {(await store.pack(tree, labels=labels, exclude=NOTHING)).digest for labels in ({}, {"a": "b"})}
    (tree / "readme").write_text("hallo")
    assert len({*digests, (await store.pack(tree, labels={}, exclude=NOTHING)).digest}) == 3


async def test_what_is_excluded_is_not_in_it(store: ImageStore, tree: Path, tmp_path: Path) -> None:
    image = await store.pack(tree, labels={}, exclude=frozenset({"bin", "start"}))
    await store.push(image.digest)
    await store.unpack(image.digest, tmp_path / "back")
    assert [path.name for path in (tmp_path / "back").iterdir()] == ["readme"]


async def test_an_empty_tree_is_an_image_too(store: ImageStore, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    image = await packed(store, tmp_path / "empty")
    await store.unpack(image.digest, tmp_path / "back")
    assert (image.files, list((tmp_path / "back").iterdir())) == (0, [])


async def test_pushing_again_brings_nothing_new(store: ImageStore, tree: Path) -> None:
    image = await store.pack(tree, labels={}, exclude=NOTHING)
    assert await store.push(image.digest) > 0
    await store.pack(tree, labels={}, exclude=NOTHING)
    assert await store.push(image.digest) == 0


async def test_unpacking_again_leaves_what_is_there(store: ImageStore, tree: Path, tmp_path: Path) -> None:
    image = await packed(store, tree)
    await store.unpack(image.digest, tmp_path / "back")
    (tmp_path / "back/written-by-the-app").write_text("x")
    await store.unpack(image.digest, tmp_path / "back")
    assert (tmp_path / "back/written-by-the-app").exists()


async def test_an_image_is_unpacked_only_when_it_was_pushed(
    store: ImageStore, tree: Path, tmp_path: Path
) -> None:
    image = await store.pack(tree, labels={}, exclude=NOTHING)
    with pytest.raises(NotFound, match=image.digest):
        await store.unpack(image.digest, tmp_path / "back")
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("digest", [UNKNOWN, "sha256:../../etc", "v1", ""])
async def test_an_unknown_image_is_not_found(store: ImageStore, tmp_path: Path, digest: str) -> None:
    with pytest.raises(NotFound):
        await store.push(digest)
    with pytest.raises(NotFound):
        await store.unpack(digest, tmp_path / "back")


async def test_what_an_image_cannot_hold_is_refused(store: ImageStore, tree: Path) -> None:
    (tree / "out").symlink_to("/etc/passwd")
    with pytest.raises(InvalidTree, match="'out' links to '/etc/passwd'"):
        await store.pack(tree, labels={}, exclude=NOTHING)


async def test_a_store_in_memory_can_be_told_to_be_away(tree: Path, tmp_path: Path) -> None:
    store = MemoryImages()
    image = await packed(store, tree)
    store.unavailable = True
    with pytest.raises(Unavailable):
        await store.pack(tree, labels={}, exclude=NOTHING)
    with pytest.raises(Unavailable):
        await store.push(image.digest)
    with pytest.raises(Unavailable):
        await store.unpack(image.digest, tmp_path / "back")


# -- the OCI layout


async def test_the_folder_is_an_oci_layout_from_the_index_down(
    layout: OciLayout, tree: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "images"
    image = await layout.pack(tree, labels={"z": "1", "a": "2"}, exclude=NOTHING)
    assert await layout.push(image.digest) == 3

    def blob(descriptor: dict[str, object]) -> bytes:
        data = (folder / "blobs" / str(descriptor["digest"]).replace(":", "/")).read_bytes()
        assert descriptor["digest"] == f"sha256:{hashlib.sha256(data).hexdigest()}"
        assert descriptor["size"] == len(data)
        return data

    assert json.loads((folder / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    index = json.loads((folder / "index.json").read_bytes())
    (listed,) = index["manifests"]
    assert listed["digest"] == image.digest
    manifest = json.loads(blob(listed))
    assert manifest["annotations"] == {
        "a": "2",
        "org.opencontainers.image.created": "1970-01-01T00:00:00Z",
        "z": "1",
    }
    (layer,) = manifest["layers"]
    assert len(blob(layer)) == image.size
    config = json.loads(blob(manifest["config"]))
    assert config["rootfs"] == {"type": "layers", "diff_ids": [layer["digest"]]}
    assert config["created"] == "1970-01-01T00:00:00Z"
    assert config["config"] == {"WorkingDir": "/app", "Labels": {"a": "2", "z": "1"}}
    assert not list((folder / "building/blobs/sha256").iterdir())


async def test_images_that_share_a_layer_share_its_blob(layout: OciLayout, tree: Path) -> None:
    one, other = [await layout.pack(tree, labels={"n": n}, exclude=NOTHING) for n in "12"]
    assert [await layout.push(image.digest) for image in (one, other)] == [3, 2]


async def test_pushes_at_once_are_all_listed(layout: OciLayout, tree: Path, tmp_path: Path) -> None:
    images = [await layout.pack(tree, labels={"n": str(n)}, exclude=NOTHING) for n in range(12)]
    others = OciLayout(tmp_path / "images", ComputePool(1))
    new = await asyncio.gather(
        *((layout, others)[n % 2].push(image.digest) for n, image in enumerate(images))
    )
    listed = json.loads((tmp_path / "images/index.json").read_bytes())["manifests"]
    assert {entry["digest"] for entry in listed} == {image.digest for image in images}
    assert sum(new) == 1 + 2 * len(images)


async def test_a_push_that_was_interrupted_is_taken_up(
    layout: OciLayout, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = await layout.pack(tree, labels={}, exclude=NOTHING)
    rename, done = Path.rename, []

    def failing(path: Path, target: Path) -> Path:
        if len(done) == 2:
            raise OSError(28, "No space left on device")
        done.append(path)
        return rename(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", failing)
        with pytest.raises(Unavailable, match="No space left on device"):
            await layout.push(image.digest)
    assert not (tmp_path / "images/index.json").exists()
    assert await layout.push(image.digest) == 1
    await layout.unpack(image.digest, tmp_path / "back")


async def test_a_push_whose_blobs_are_gone_says_so(layout: OciLayout, tree: Path, tmp_path: Path) -> None:
    image = await layout.pack(tree, labels={}, exclude=NOTHING)
    for blob in (tmp_path / "images/building/blobs/sha256").iterdir():
        if blob.name not in image.digest:
            blob.unlink()
    with pytest.raises(NotFound, match=r"is incomplete: .* is gone; build it again"):
        await layout.push(image.digest)


async def test_a_damaged_layer_is_refused_leaves_nothing_and_heals_by_building_again(
    layout: OciLayout, tree: Path, tmp_path: Path
) -> None:
    image = await packed(layout, tree)
    blobs = tmp_path / "images/blobs/sha256"
    blob = max(blobs.iterdir(), key=lambda path: path.stat().st_size)
    blob.write_bytes(blob.read_bytes().replace(b"hello", b"hallo"))
    with pytest.raises(InvalidTree, match="does not have its digest; it is removed, push the commit again"):
        await layout.unpack(image.digest, tmp_path / "apps/back")
    assert not list((tmp_path / "apps").iterdir())
    with pytest.raises(NotFound, match="gone; push the commit again"):
        await layout.unpack(image.digest, tmp_path / "apps/back")
    await packed(layout, tree)
    await layout.unpack(image.digest, tmp_path / "apps/back")
    assert (tmp_path / "apps/back/readme").read_text() == "hello"


async def test_what_an_unpacking_left_when_it_was_killed_is_in_nobodys_way(
    layout: OciLayout, tree: Path, tmp_path: Path
) -> None:
    image = await packed(layout, tree)
    (tmp_path / "apps/.back.unpacking/bin").mkdir(parents=True)
    (tmp_path / "apps/.back.unpacking/other").write_text("x")
    await layout.unpack(image.digest, tmp_path / "apps/back")
    assert sorted(path.name for path in (tmp_path / "apps/back").iterdir()) == ["bin", "readme", "start"]
    assert [path.name for path in (tmp_path / "apps").iterdir()] == ["back"]


async def test_a_disk_that_does_not_play_along_is_worth_a_retry(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "a file").write_text("x")
    with pytest.raises(Unavailable, match=r"the image store in .*a file"):
        await OciLayout(tmp_path / "a file", ComputePool(1)).pack(tree, labels={}, exclude=NOTHING)


async def test_a_pack_that_fails_leaves_nothing(layout: OciLayout, tree: Path, tmp_path: Path) -> None:
    (tree / "out").symlink_to("/")
    with pytest.raises(InvalidTree):
        await layout.pack(tree, labels={}, exclude=NOTHING)
    assert not list((tmp_path / "images/building/blobs/sha256").iterdir())


async def test_trees_are_packed_as_the_pool_has_workers_and_nothing_else_waits_for_that(
    tree: Path, tmp_path: Path
) -> None:
    with ComputePool(1) as packing, gates(1) as (busy,):
        layout = OciLayout(tmp_path / "images", packing)
        image = await layout.pack(tree, labels={}, exclude=NOTHING)
        packing.submit(busy)
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(layout.pack(tree, labels={"n": "2"}, exclude=NOTHING))
            await eventually(lambda: packing.stats().queued == 1)
            await layout.push(image.digest)
            await layout.unpack(image.digest, tmp_path / "laid out")
            assert not waiting.done()
            busy.open()
        assert waiting.result().files == image.files
