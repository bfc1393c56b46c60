"""A checkout is the commit's own bytes, and nothing in a repository leads out of it."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
from plugins.house import eventually

from penstock_pipeline import repositories as repositories_module
from penstock_pipeline.errors import Conflict, InvalidTree, RepositoryUnavailable
from penstock_pipeline.repositories import Repositories, Repository

SIZE_LIMIT = 1_000_000

IDENTITY = {
    "GIT_AUTHOR_NAME": "a",
    "GIT_AUTHOR_EMAIL": "a@a",
    "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@a",
}


@pytest.fixture
async def repositories(tmp_path: Path) -> Repositories:
    repositories = Repositories(tmp_path / "repositories", hooks=tmp_path / "hooks", size_limit=SIZE_LIMIT)
    await repositories.create("shop", branch="main")
    return repositories


@pytest.fixture
async def repository(repositories: Repositories) -> AsyncIterator[Repository]:
    async with repositories.opened("shop") as opened:
        yield opened


async def test_a_repository_is_written_again_only_where_its_settings_would_be_others(
    repositories: Repositories, tmp_path: Path
) -> None:
    config = repositories.path("shop") / "config"
    config.write_text(config.read_text() + "# by hand\n")
    await repositories.create("shop", branch="main")
    assert config.read_text().endswith("# by hand\n")
    moved = Repositories(tmp_path / "repositories", hooks=tmp_path / "elsewhere", size_limit=SIZE_LIMIT)
    await moved.create("shop", branch="main")
    assert git(repositories, "config", "core.hooksPath").strip() == str(tmp_path / "elsewhere")
    assert "by hand" not in config.read_text()


def git(repositories: Repositories, *arguments: str, data: bytes = b"") -> str:
    environment = {**os.environ, **IDENTITY}
    done = subprocess.run(
        ["git", *arguments],
        cwd=repositories.path("shop"),
        input=data,
        capture_output=True,
        check=True,
        env=environment,
    )
    return done.stdout.decode().strip()


def blob(repositories: Repositories, data: bytes) -> str:
    return git(repositories, "hash-object", "-w", "--stdin", data=data)


def tree(repositories: Repositories, *entries: tuple[str, str, str]) -> str:
    """A tree of (mode, object, name), written as it is: git's tools would refuse much of what is tried."""
    data = b"".join(f"{mode} {name}\0".encode() + bytes.fromhex(oid) for mode, oid, name in entries)
    return git(repositories, "hash-object", "-t", "tree", "-w", "--stdin", "--literally", data=data)


def commit(repositories: Repositories, tree_id: str, *parents: str) -> str:
    return git(repositories, "commit-tree", tree_id, "-m", "x", *(f"-p{parent}" for parent in parents))


async def check_out(repositories: Repositories, tmp_path: Path, *entries: tuple[str, str, str]) -> Path:
    folder = tmp_path / "tree"
    async with repositories.opened("shop") as repository:
        await repository.check_out(commit(repositories, tree(repositories, *entries)), folder)
    return folder


async def test_files_modes_and_links_come_out_as_they_were_committed(
    repositories: Repositories, tmp_path: Path
) -> None:
    text, script = blob(repositories, b"a\r\nb\n"), blob(repositories, b"#!/bin/sh\n")
    inner = tree(
        repositories, ("100644", text, "deep.txt"), ("120000", blob(repositories, b"../run"), "link")
    )
    folder = await check_out(
        repositories,
        tmp_path,
        ("40000", inner, "folder"),
        ("100755", script, "run"),
        ("100644", text, "ünïcode"),
    )
    assert (folder / "folder/deep.txt").read_bytes() == b"a\r\nb\n"
    assert os.access(folder / "run", os.X_OK)
    assert not os.access(folder / "ünïcode", os.X_OK)
    assert (folder / "folder/link").resolve() == (folder / "run").resolve()


async def test_attributes_and_filters_have_no_say(repositories: Repositories, tmp_path: Path) -> None:
    attributes = b"* text eol=crlf ident export-ignore filter=evil working-tree-encoding=UTF-16\n"
    git(repositories, "config", "filter.evil.smudge", f"touch {tmp_path}/ran")
    folder = await check_out(
        repositories,
        tmp_path,
        ("100644", blob(repositories, attributes), ".gitattributes"),
        ("100644", blob(repositories, b"$Id$\n"), "file"),
    )
    assert (folder / "file").read_bytes() == b"$Id$\n"
    assert not (tmp_path / "ran").exists()


async def test_submodules_are_left_out_and_named(
    repositories: Repositories, repository: Repository, tmp_path: Path
) -> None:
    tree_id = tree(repositories, ("160000", "1" * 40, "vendor"))
    left_out = await repository.check_out(commit(repositories, tree_id), tmp_path / "tree")
    assert left_out == ("vendor",)
    assert list((tmp_path / "tree/vendor").iterdir()) == []


@pytest.mark.parametrize("target", ["/etc/passwd", "../outside", "a/../../outside", "loop"])
async def test_links_that_lead_out_are_refused(
    repositories: Repositories, tmp_path: Path, target: str
) -> None:
    with pytest.raises(InvalidTree, match="loop"):
        await check_out(repositories, tmp_path, ("120000", blob(repositories, target.encode()), "loop"))


async def test_links_that_lead_out_together_are_refused(repositories: Repositories, tmp_path: Path) -> None:
    up = tree(repositories, ("120000", blob(repositories, b"../.."), "up"))
    folder = tree(repositories, ("40000", up, "b"))
    with pytest.raises(InvalidTree, match="sly"):
        await check_out(
            repositories,
            tmp_path,
            ("40000", folder, "a"),
            ("120000", blob(repositories, b"a/b/up/../x"), "sly"),
        )


@pytest.mark.parametrize("name", [".git", ".GIT", "..", "."])
async def test_names_that_mean_something_else_are_refused(
    repositories: Repositories, tmp_path: Path, name: str
) -> None:
    with pytest.raises(InvalidTree):
        await check_out(repositories, tmp_path, ("100644", blob(repositories, b"x"), name))


async def test_a_name_twice_never_writes_through_a_link(repositories: Repositories, tmp_path: Path) -> None:
    inner = tree(repositories, ("100644", blob(repositories, b"x"), "file"))
    link = blob(repositories, b"/tmp")
    with pytest.raises(InvalidTree, match="twice"):
        await check_out(repositories, tmp_path, ("120000", link, "same"), ("40000", inner, "same"))


async def test_folders_without_end_are_refused(repositories: Repositories, tmp_path: Path) -> None:
    folder = tree(repositories)
    for _ in range(150):
        folder = tree(repositories, ("40000", folder, "d"))
    with pytest.raises(InvalidTree, match="100 deep"):
        await check_out(repositories, tmp_path, ("40000", folder, "d"))


async def test_what_is_too_much_is_refused_before_any_of_it_is_laid_out(
    repositories: Repositories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = blob(repositories, bytes(SIZE_LIMIT // 2))
    twice = [("100644", half, "a"), ("100644", half, "b")]
    folder = await check_out(repositories, tmp_path, *twice)
    assert sorted(one.name for one in folder.iterdir()) == ["a", "b"]
    with pytest.raises(InvalidTree, match="more than 1,000,000 bytes together"):
        await check_out(repositories, tmp_path, *twice, ("100644", blob(repositories, b"x"), "c"))
    monkeypatch.setattr(repositories_module, "MOST_FILES", 1)
    with pytest.raises(InvalidTree, match="more than 1 files and folders"):
        await check_out(repositories, tmp_path, *twice)
    assert sorted(one.name for one in folder.iterdir()) == ["a", "b"]


async def test_what_cannot_be_measured_to_its_end_is_not_laid_out(
    repositories: Repositories, tmp_path: Path
) -> None:
    lost = tree(repositories, ("100644", blob(repositories, b"x"), "lost"))
    entries = [("100644", blob(repositories, b"x"), "0"), ("40000", lost, "1")]
    (repositories.path("shop") / "objects" / lost[:2] / lost[2:]).unlink()
    with pytest.raises(RepositoryUnavailable, match="cannot be listed: git ended with exit code"):
        await check_out(repositories, tmp_path, *entries)
    assert not (tmp_path / "tree").exists()


async def test_a_branch_moves_only_from_where_it_was_expected(repositories: Repositories) -> None:
    first = commit(repositories, tree(repositories))
    second = commit(repositories, tree(repositories), first)
    await repositories.move("shop", "refs/heads/main", to=first, expected=None)
    with pytest.raises(Conflict, match=r"main does not move: .*already exists"):
        await repositories.move("shop", "refs/heads/main", to=second, expected=None)
    with pytest.raises(Conflict, match=r"main/x does not move: .*exists; cannot create"):
        await repositories.move("shop", "refs/heads/main/x", to=second, expected=None)
    await repositories.move("shop", "refs/heads/main", to=second, expected=first)
    assert await repositories.tip("shop", "refs/heads/main") == second
    assert await repositories.contains("shop", first, second)
    assert not await repositories.contains("shop", second, first)
    assert await repositories.ahead("shop", first, second) == 1


async def test_a_commit_is_fetched_from_the_registered_repository(
    repository: Repository, tmp_path: Path
) -> None:
    upstream = Repositories(tmp_path / "upstream", hooks=tmp_path, size_limit=SIZE_LIMIT)
    await upstream.create("shop", branch="main")
    wanted = commit(upstream, tree(upstream))
    git(upstream, "update-ref", "refs/heads/main", wanted)
    assert not await repository.has(wanted)
    await repository.fetch(str(upstream.path("shop")), ref="refs/heads/main", commit=wanted)
    assert await repository.has(wanted)


async def test_many_fetches_leave_few_packs_and_every_commit(
    repositories: Repositories, repository: Repository, tmp_path: Path
) -> None:
    upstream = Repositories(tmp_path / "upstream", hooks=tmp_path, size_limit=SIZE_LIMIT)
    await upstream.create("shop", branch="main")
    told = [commit(upstream, tree(upstream, ("100644", blob(upstream, b"%d" % n), "n"))) for n in range(60)]
    for one in told:  # each by force over the one before: none refers to another
        git(upstream, "update-ref", "refs/heads/main", one)
        await repository.fetch(str(upstream.path("shop")), ref="refs/heads/main", commit=one)
    packs = repositories.path("shop") / "objects/pack"
    assert len(list(packs.glob("*.pack"))) == 60
    left, in_use = packs / "tmp_pack_1", packs / ".tmp-2-pack"
    for file in (left, in_use):
        file.touch()
    os.utime(left, (1, 1))
    await repositories.pack("shop")
    assert len(list(packs.glob("*.pack"))) < 10
    assert (left.exists(), in_use.exists()) == (False, True)
    assert [await repository.has(one) for one in told] == [True] * 60


async def test_a_few_packs_are_left_as_they_are(repositories: Repositories) -> None:
    wanted = commit(repositories, tree(repositories))
    git(repositories, "update-ref", "refs/heads/main", wanted)
    git(repositories, "repack", "-q")
    packs = repositories.path("shop") / "objects/pack"
    before = sorted(packs.iterdir())
    await repositories.pack("shop")
    assert sorted(packs.iterdir()) == before


async def test_what_a_revision_names_is_found(repositories: Repositories, repository: Repository) -> None:
    first = commit(repositories, tree(repositories))
    second = commit(repositories, tree(repositories), first)
    assert await repository.find("refs/heads/main") is None
    await repositories.move("shop", "refs/heads/main", to=second, expected=None)
    assert await repository.find("refs/heads/main") == second
    assert await repository.find(f"{second}^") == first
    assert await repository.find(f"{first}^") is None


async def test_a_repository_that_is_closed_leaves_no_process(repositories: Repositories) -> None:
    entries = [("100644", blob(repositories, b"x"), f"file{number}") for number in range(300)]
    wanted = commit(repositories, tree(repositories, *entries))

    async def reading() -> None:
        async with repositories.opened("shop") as repository:
            while True:
                await repository.check_out(wanted, repositories.path("shop").parent / "tree")

    task = asyncio.create_task(reading())
    await eventually(git_children)
    task.cancel()
    await asyncio.wait([task])
    await eventually(lambda: not git_children())


def git_children() -> list[list[str]]:
    told = map(command_line, psutil.Process().children())
    return [command for command in told if "cat-file" in command]


@pytest.mark.parametrize("url", ["ext::sh -c touch% {}/ran", "--upload-pack=touch {}/ran", "/nowhere/at/all"])
async def test_a_repository_that_is_not_one_runs_nothing(
    repository: Repository, tmp_path: Path, url: str
) -> None:
    with pytest.raises(RepositoryUnavailable, match="cannot fetch"):
        await repository.fetch(url.format(tmp_path), ref="refs/heads/main", commit="1" * 40)
    assert not (tmp_path / "ran").exists()


@pytest.fixture
def of_another_hash(tmp_path: Path) -> tuple[Path, str]:
    """A repository whose objects are named by SHA-256, and a commit of it."""
    folder = tmp_path / "other"
    who = ("-c", "user.name=Ann", "-c", "user.email=ann@example.com", "-c", "commit.gpgsign=false")

    def run(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *who, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    folder.mkdir()
    run("init", "--quiet", "--initial-branch=main", "--object-format=sha256")
    run("commit", "--quiet", "--allow-empty", "--message=one")
    return folder, run("rev-parse", "HEAD")


async def test_a_repository_of_another_hash_is_told_as_that(
    repository: Repository, of_another_hash: tuple[Path, str]
) -> None:
    folder, wanted = of_another_hash
    with pytest.raises(RepositoryUnavailable, match="mismatched algorithms"):
        await repository.fetch(str(folder), ref="refs/heads/main", commit=wanted)


@pytest.mark.parametrize("target", ["file://{}/secret", "ext::sh -c touch% {}/ran", "ftp://127.0.0.1/x"])
async def test_a_repository_that_sends_git_elsewhere_is_not_followed_there(
    repository: Repository, tmp_path: Path, target: str
) -> None:
    async def redirect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        where = target.format(tmp_path)
        writer.write(f"HTTP/1.1 302 Found\r\nLocation: {where}\r\nContent-Length: 0\r\n\r\n".encode())
        writer.close()

    async with await asyncio.start_server(redirect, "127.0.0.1", 0) as forge:
        url = f"http://127.0.0.1:{forge.sockets[0].getsockname()[1]}/shop.git"
        with pytest.raises(RepositoryUnavailable, match="cannot fetch"):
            await repository.fetch(url, ref="refs/heads/main", commit="1" * 40)
    assert not (tmp_path / "ran").exists()


async def test_a_repository_that_has_moved_is_told_and_not_followed(repository: Repository) -> None:
    """Where it is now is for people to say: it may be an address that only this machine reaches."""
    asked = asyncio.Event()

    async def inside(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        writer.close()

    async with await asyncio.start_server(inside, "127.0.0.1", 0) as inner:
        where = f"http://127.0.0.1:{inner.sockets[0].getsockname()[1]}"

        async def moved(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            line = (await reader.readuntil(b"\r\n\r\n")).split(maxsplit=2)
            headers = f"Location: {where}{line[1].decode()}\r\nContent-Length: 0"
            writer.write(f"HTTP/1.1 301 Moved Permanently\r\n{headers}\r\n\r\n".encode())
            writer.close()

        async with await asyncio.start_server(moved, "127.0.0.1", 0) as forge:
            url = f"http://127.0.0.1:{forge.sockets[0].getsockname()[1]}/shop.git"
            with pytest.raises(
                RepositoryUnavailable, match=r"redirect.*register the address where it is now"
            ):
                await repository.fetch(url, ref="refs/heads/main", commit="1" * 40)
    assert not asked.is_set()


async def test_a_repository_that_never_answers_is_given_up_and_nothing_stays_behind(
    repositories: Repositories, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repositories_module, "FETCH_LIMIT", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/shop.git"
        with pytest.raises(RepositoryUnavailable, match=r"did not end within 0\.5 s"):
            await repository.fetch(url, ref="refs/heads/main", commit="1" * 40)
        await eventually(lambda: not [one for one in psutil.process_iter() if url in command_line(one)])


def command_line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


async def test_a_path_longer_than_the_system_has_is_refused(
    repositories: Repositories, tmp_path: Path
) -> None:
    folder = tree(repositories, ("100644", blob(repositories, b"x"), "file"))
    for _ in range(30):
        folder = tree(repositories, ("40000", folder, "d" * 200))
    with pytest.raises(InvalidTree, match="name too long"):
        await check_out(repositories, tmp_path, ("40000", folder, "d"))


async def test_pushes_are_durable_by_the_repositorys_own_settings(repositories: Repositories) -> None:
    assert git(repositories, "config", "core.fsync") == "all"
    assert git(repositories, "config", "receive.unpackLimit") == "1"
    await repositories.create("shop", branch="main")
    assert git(repositories, "config", "--get-all", "receive.procReceiveRefs").split() == [
        "refs/heads",
        "refs/tags",
    ]
