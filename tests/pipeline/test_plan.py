"""What is to be done follows from facts alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_pipeline import plan
from penstock_pipeline.model import Manifest, RunKind, StageName, StaticFile


def file(path: str, content: str = "a", content_type: str = "text/plain") -> StaticFile:
    return StaticFile(path, content, len(content), content_type, plan.is_fingerprinted(path))


def manifest(*files: StaticFile) -> Manifest:
    return Manifest("sha256:0", tuple(sorted(files, key=lambda file: file.path)))


def test_a_push_passes_every_stage_in_order() -> None:
    assert plan.stages(RunKind.PUSH, approve=True) == tuple(StageName)


def test_only_a_push_of_an_app_that_asks_for_it_waits_for_approval() -> None:
    asking = [kind for kind in RunKind if StageName.APPROVE in plan.stages(kind, approve=True)]
    assert asking == [RunKind.PUSH]
    assert StageName.APPROVE not in plan.stages(RunKind.PUSH)


@pytest.mark.parametrize(
    ("again", "kept"),
    [
        ("checkout", ""),
        ("test", ""),
        ("build", "test"),
        ("upload", "test"),
        ("start", "checkout test build upload"),
        ("deploy", "checkout test build upload"),
        ("refresh", "checkout test build upload start deploy"),
    ],
)
def test_a_retry_takes_over_what_did_not_end_with_its_run(again: str, kept: str) -> None:
    done = plan.stages(RunKind.PUSH)
    assert plan.kept(done, StageName(again)) == tuple(StageName(name) for name in kept.split())


def test_a_rollback_starts_what_was_built_before() -> None:
    assert plan.stages(RunKind.ROLLBACK) == (StageName.START, StageName.DEPLOY, StageName.REFRESH)


def test_only_what_differs_has_changed() -> None:
    old = manifest(file("/same"), file("/bytes", "a"), file("/type"), file("/gone"))
    new = manifest(file("/same"), file("/bytes", "b"), file("/type", content_type="text/css"), file("/new"))
    assert plan.changed_paths(old, new) == ("/bytes", "/gone", "/new", "/type")


def test_a_folder_answers_with_its_index() -> None:
    old, new = (
        manifest(file("/index.html"), file("/docs/index.html")),
        manifest(file("/docs/index.html", "b")),
    )
    assert plan.changed_paths(old, new) == ("/", "/docs/", "/docs/index.html", "/index.html")


def test_a_changed_404_page_is_one_path() -> None:
    assert plan.changed_paths(manifest(file("/404.html")), manifest(file("/404.html", "b"))) == ("/404.html",)


def test_no_bundle_is_an_empty_one() -> None:
    assert plan.changed_paths(None, None) == ()
    assert plan.changed_paths(None, manifest(file("/a"))) == ("/a",)
    assert plan.changed_paths(manifest(file("/a")), None) == ("/a",)


@pytest.mark.parametrize(
    ("path", "others"),
    [
        ("/index.html", ("/",)),
        ("/", ("/index.html",)),
        ("/docs/index.html", ("/docs/",)),
        ("/docs/", ("/docs/index.html",)),
        ("/docs", ()),
        ("/my-index.html", ()),
        ("/index.htm", ()),
    ],
)
def test_aliases_go_both_ways(path: str, others: tuple[str, ...]) -> None:
    assert plan.aliases(path) == others


def test_expected_is_what_a_visitor_must_get() -> None:
    bundle = manifest(file("/index.html", "front"), file("/docs/index.html", "docs"), file("/a", "b"))
    assert [plan.expected(bundle, path) for path in ("/", "/index.html", "/docs/", "/a")] == [
        "front",
        "front",
        "docs",
        "b",
    ]
    assert [plan.expected(bundle, path) for path in ("/docs", "/b", "/a/", "/z")] == [None] * 4
    assert plan.expected(None, "/") is None


PATHS = st.sampled_from(["/a", "/b/c", "/index.html", "/b/index.html", "/404.html", "/x.3f9a1c2b.js"])
FILES = st.dictionaries(PATHS, st.tuples(st.sampled_from("pq"), st.sampled_from(["text/css", "text/html"])))
BUNDLES = st.none() | FILES.map(lambda files: manifest(*(file(path, *rest) for path, rest in files.items())))


def answer(bundle: Manifest | None, path: str) -> tuple[str, str] | None:
    """What a server says, written down without `plan`."""
    for served in () if bundle is None else bundle.files:
        if served.path == (f"{path}index.html" if path.endswith("/") else path):
            return served.sha256, served.content_type
    return None


@given(BUNDLES, BUNDLES)
def test_changed_are_exactly_the_paths_that_answer_differently(
    old: Manifest | None, new: Manifest | None
) -> None:
    asked = ["/", "/a", "/b/", "/b/c", "/index.html", "/b/index.html", "/404.html", "/x.3f9a1c2b.js", "/z"]
    differ = tuple(sorted(path for path in asked if answer(old, path) != answer(new, path)))
    assert plan.changed_paths(old, new) == differ
    assert all(plan.expected(new, path) == (answer(new, path) or (None,))[0] for path in asked)


def test_assets_go_up_before_what_refers_to_them() -> None:
    paths = [
        "/index.html",
        "/a.html",
        "/app.css",
        "/app.3f9a1c2b.js",
        "/docs/index.html",
        "/z.27e20196a850.css",
    ]
    assert [file.path for file in plan.upload_order(manifest(*map(file, paths)))] == [
        "/app.3f9a1c2b.js",
        "/z.27e20196a850.css",
        "/app.css",
        "/a.html",
        "/docs/index.html",
        "/index.html",
    ]


@pytest.mark.parametrize(
    "name",
    [
        "app.3f9a1c2b.js",
        "app.3f9a1c2b.js.map",
        "main.3f9a1c2b.chunk.js",
        "main.abcdef123456.css",
        "base.27e20196a850.css",
        "index-BXh3k2Lq.js",
        "logo_3f9a1c2b.svg",
        "application-908e25f4bf641868d8683022a5b62f54a3f9a1c2b4d5e6f7a8b9c0d1e2f3a4b5.css",
        "4bd1b696-2ef6b8b2e5bb1e3a.js",
        "inter.var-1a2b3c4d.woff2",
        "site.1a2b3c4d.webmanifest",
    ],
)
def test_names_as_bundlers_write_them_never_change_their_content(name: str) -> None:
    assert plan.is_fingerprinted(f"/assets/{name}")


@pytest.mark.parametrize(
    "name",
    [
        "jquery-3.7.1.min.js",
        "report-20261121.pdf",
        "report-20261121a.pdf",
        "photo-12345678.jpg",
        "IMG_20261121.jpg",
        "trip-DSCN2345.jpg",
        "case-iPhone15.png",
        "menu-cafe2024.pdf",
        "notes-deadbeef.txt",
        "about-us.html",
        "index.3f9a1c2b.html",
        "page-1a2b3c4d.HTM",
        "app.3f9a1c2.js",
        "3f9a1c2b.js",
        "app-3f9a1c2b",
        "bootstrap.bundle.min.js",
        "photo-1920x1080.jpg",
        "background.jpg",
        "app.css",
        "",
    ],
)
def test_other_names_are_not_taken_for_a_hash(name: str) -> None:
    assert not plan.is_fingerprinted(f"/3f9a1c2b.d/{name}")
