"""The git repositories Penstock keeps: one bare repository an app.

GitPython reads and sets them up; what changes refs or fetches is git itself, as a subprocess that can be
cancelled. No configuration of the machine or its user has a say, and a checkout is made of the commit's own
bytes: no attribute, filter, hook or submodule of a repository takes part.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import re
import shutil
import signal
import subprocess
import time
from binascii import unhexlify
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING

from .errors import Conflict, InvalidTree, RepositoryUnavailable

if TYPE_CHECKING:
    from git import Repo, Tree
    from git.objects.blob import Blob

NOTHING = "0" * 40
PUSH_REFS = "refs/penstock/pushes"

DEEPEST = 100
"""Folders inside one another that a commit may have: tools that walk a tree give up at about 1,000."""

MOST_FILES = 250_000
"""Files and folders a commit may have; a few bytes of trees that hold each other make billions of them."""

_PIECE = 65536

LONGEST_LINK = 4095
"""Bytes a link's target may have (PATH_MAX of Linux)."""

FETCH_LIMIT = 600.0
"""Seconds a fetch from a registered repository may take."""

MANY_PACKS = 50
"""Packs a repository may have before they are joined (git's own measure): each push and fetch brings one."""
PACKING_LIMIT = 600.0
"""Seconds that joining them may take."""
CUT_OFF = 86400.0
"""Seconds after which nobody writes any more to what git has begun to write."""

GIT_ENVIRONMENT = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    # Which commands git runs, whatever a repository's own settings say: those may not be ours any more.
    "GIT_CONFIG_COUNT": "3",
    "GIT_CONFIG_KEY_0": "core.hooksPath",
    "GIT_CONFIG_VALUE_0": os.devnull,
    "GIT_CONFIG_KEY_1": "core.alternateRefsCommand",
    "GIT_CONFIG_VALUE_1": "true",
    "GIT_CONFIG_KEY_2": "core.sshCommand",
    "GIT_CONFIG_VALUE_2": "ssh",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_OPTIONAL_LOCKS": "0",
    # Git holds every object but large files in memory, as large as its sender says it is.
    "GIT_ALLOC_LIMIT": "1g",
    "LC_ALL": "C.UTF-8",
    **{name: os.environ[name] for name in ("PATH", "HOME", "SSH_AUTH_SOCK") if name in os.environ},
}
"""All that git gets to see of the environment; home and agent for the keys to registered repositories."""

_SETTINGS = {
    # Without both of these git reports a push as stored that a power cut can still take back.
    ("core", "fsync"): "all",
    ("receive", "unpackLimit"): "1",
    ("fetch", "unpackLimit"): "1",
    ("receive", "procReceiveRefs"): ("refs/heads", "refs/tags"),
    ("receive", "advertisePushOptions"): "true",
    ("receive", "advertiseAtomic"): "false",
    ("transfer", "hideRefs"): "refs/penstock",
    ("http", "receivepack"): "true",
    ("http", "getanyfile"): "false",
    ("uploadpack", "allowAnySHA1InWant"): "false",
}

_FETCH_OPTIONS = ("--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules", "--no-auto-gc")

_PROTOCOLS = ("file", "git", "http", "https", "ssh")
"""Transports a registered repository may use; `ext` and others would run commands."""


_REDIRECTED = re.compile(r"returned error: 30[1278]\b")
_MOVED = " (a redirect, which is not followed; register the address where it is now)"
"""It may lead to an address that this machine reaches and the forge does not."""

_NOT_WRITTEN = re.compile(r"couldn't (write|close|set) |[Uu]nable to (create|write) (?!.*: File exists)")
"""What git says of a ref that the disk did not take (its refs/files-backend.c and lockfile.c)."""


class Repositories:
    """The bare repositories below one folder, `<app>.git` each. `hooks` is the folder of their hooks;
    `size_limit` in bytes is for what a push brings, and for the files of a commit."""

    def __init__(self, folder: Path, *, hooks: Path, size_limit: int) -> None:
        self.folder = folder
        self._hooks = hooks
        self._size_limit = size_limit
        self._settled = hashlib.sha256(repr((_SETTINGS, str(hooks), size_limit)).encode()).hexdigest()
        """What the configuration of a repository says last once it is as it should be."""

    @property
    def environment(self) -> dict[str, str]:
        """All that git gets to see of the environment where somebody pushes, which our hooks watch."""
        return {**GIT_ENVIRONMENT, "GIT_CONFIG_VALUE_0": str(self._hooks)}

    def path(self, app: str) -> Path:
        return self.folder / f"{app}.git"

    async def create(self, app: str, *, branch: str) -> None:
        """Makes the app's repository, or mends one whose settings are of another version or another place;
        what it holds stays. Raises `RepositoryUnavailable` where it cannot be written."""
        if self._is_settled(app):
            return
        from git.exc import GitCommandError

        try:
            await asyncio.to_thread(self._create, app, branch)
        except GitCommandError as error:
            said = str(error.stderr).strip().removeprefix("stderr: ").strip("'")
            raise RepositoryUnavailable(f"{self.path(app)} cannot be made: {said.strip()}") from error
        except OSError as error:
            raise RepositoryUnavailable(f"{self.path(app)} cannot be written: {error.strerror}") from error

    def _create(self, app: str, branch: str) -> None:
        from git import Repo

        with (
            Repo.init(self.path(app), bare=True, initial_branch=branch) as repo,
            repo.config_writer() as config,
        ):
            config.set_value("core", "hooksPath", str(self._hooks))
            config.set_value("receive", "maxInputSize", str(self._size_limit))
            for (section, option), value in _SETTINGS.items():
                config.remove_option(section, option) if config.has_option(section, option) else None
                for one in value if isinstance(value, tuple) else (value,):
                    config.add_value(section, option, one)
            config.set_value("penstock", "settled", self._settled)

    def _is_settled(self, app: str) -> bool:
        """Told by reading one file: of hundreds of apps an engine is to know it in a moment."""
        try:
            return f"settled = {self._settled}\n" in (self.path(app) / "config").read_text()
        except (OSError, UnicodeDecodeError):
            return False

    async def keep(self, app: str, push: int, commit: str) -> None:
        """Gives an accepted push a ref of its own, so that its objects stay."""
        await self._git(app, "update-ref", f"{PUSH_REFS}/{push}", commit)

    async def pack(self, app: str) -> None:
        """Joins packs where there are many, small ones first, without losing any object, referred to or not.
        Cut off at any point, it has changed nothing that counts. Raises `RepositoryUnavailable`."""
        packs = self.path(app) / "objects" / "pack"
        if len(list(packs.glob("*.pack"))) <= MANY_PACKS:
            return
        _clear_cut_off(packs)
        try:
            async with asyncio.timeout(PACKING_LIMIT):
                await self._git(app, "repack", "--geometric=2", "-d", "--threads=1", "--quiet")
        except TimeoutError as error:
            raise RepositoryUnavailable(f"it did not end within {PACKING_LIMIT:g} s") from error

    async def tip(self, app: str, ref: str) -> str | None:
        """The commit a ref points to; None where there is no such ref."""
        return await asyncio.to_thread(self._tip, app, ref)

    def _tip(self, app: str, ref: str) -> str | None:
        from git import Repo
        from git.refs.symbolic import SymbolicReference

        with Repo(self.path(app)) as repo:
            try:
                return SymbolicReference.dereference_recursive(repo, ref)
            except ValueError:
                return None

    async def is_commit(self, app: str, oid: str) -> bool:
        """Whether an object is a commit itself, not a tag of one."""
        code, kind, _ = await _run(self.path(app), "cat-file", "-t", "--end-of-options", oid)
        return code == 0 and kind.strip() == "commit"

    async def move(self, app: str, ref: str, *, to: str | None, expected: str | None) -> None:
        """Moves a ref by compare-and-swap (None: not there). Raises `Conflict` with git's own words where it
        was not at `expected`, or cannot be what it should be, `RepositoryUnavailable` where it cannot be
        written."""
        code, _, said = await _run(self.path(app), "update-ref", ref, to or NOTHING, expected or NOTHING)
        if code:
            why = said.strip().rpartition(f"'{ref}': ")[2].removeprefix("fatal: ")
            if _NOT_WRITTEN.search(why):
                raise RepositoryUnavailable(f"{ref.split('/', 2)[-1]} does not move: {why}")
            raise Conflict(f"{ref.split('/', 2)[-1]} does not move: {why}")

    async def contains(self, app: str, ancestor: str, commit: str) -> bool:
        """Whether `ancestor` is `commit` or part of its history."""
        code, _, _ = await _run(self.path(app), "merge-base", "--is-ancestor", ancestor, commit)
        return code == 0

    async def ahead(self, app: str, base: str, commit: str) -> int:
        """How many commits `commit` has that `base` has not."""
        return int(await self._git(app, "rev-list", "--count", f"{base}..{commit}"))

    @asynccontextmanager
    async def opened(self, app: str) -> AsyncIterator[Repository]:
        """The app's repository, while a commit is taken from it."""
        repo = await asyncio.to_thread(_open, self.path(app))
        try:
            yield Repository(self.path(app), repo, size_limit=self._size_limit)
        finally:
            await asyncio.to_thread(repo.close)

    async def _git(self, app: str, *arguments: str) -> str:
        code, out, problem = await _run(self.path(app), *arguments)
        if code:
            raise RepositoryUnavailable(
                f"git {arguments[0]} in {app}.git: {problem.strip() or f'exit code {code}'}"
            )
        return out


class Repository:
    """One repository, open to take a commit from: a single git process reads whatever is asked for, and sees
    what is fetched meanwhile."""

    def __init__(self, path: Path, repo: Repo, *, size_limit: int) -> None:
        self._path = path
        self._repo = repo
        self._size_limit = size_limit

    async def find(self, revision: str) -> str | None:
        """The object that a revision names (gitrevisions(7)); None where there is none."""
        return await asyncio.to_thread(self._find, revision)

    def _find(self, revision: str) -> str | None:
        try:
            return self._oid(revision).hex()
        except ValueError:
            return None

    def _oid(self, revision: str) -> bytes:
        """Raises ValueError where there is no such object."""
        oid, *_ = self._repo.git.get_object_data(revision)
        return unhexlify(oid)

    async def has(self, commit: str) -> bool:
        """Whether a commit is here, whole."""
        return await self.find(f"{commit}^{{tree}}") is not None

    async def fetch(self, url: str, *, ref: str, commit: str) -> bool:
        """Brings a commit from the registered repository: by its branch, which is quicker, else by itself.
        Returns whether the branch held it. Raises `RepositoryUnavailable` where neither brings it within
        `FETCH_LIMIT`."""
        async with _within(FETCH_LIMIT, commit[:12]):
            problem = ""
            for wanted in (ref, commit):
                code, said = await self._fetch(url, wanted)
                problem = problem or said  # why the branch did not come says more than what follows
                if code == 0 and await self.has(commit):
                    return wanted == ref
        raise RepositoryUnavailable(
            f"cannot fetch {commit[:12]} of {ref} from the registered repository: {problem}"
        )

    async def fetch_branch(self, url: str, ref: str) -> str:
        """Brings a branch of the registered repository; the commit it is at. Raises `RepositoryUnavailable`
        where it does not come within `FETCH_LIMIT`."""
        async with _within(FETCH_LIMIT, ref):
            code, said = await self._fetch(url, ref, "--write-fetch-head")
            tip = await self.find("FETCH_HEAD") if code == 0 else None
        if tip is None:
            raise RepositoryUnavailable(f"cannot fetch {ref} from the registered repository: {said}")
        return tip

    async def _fetch(self, url: str, wanted: str, *options: str) -> tuple[int, str]:
        allow = [part for name in _PROTOCOLS for part in ("-c", f"protocol.{name}.allow=always")]
        settings = ("-c", "protocol.allow=never", *allow, "-c", "http.followRedirects=false")
        fetch = ("fetch", *_FETCH_OPTIONS, *options, "--end-of-options", url, wanted)
        code, _, said = await _run(self._path, *settings, *fetch)
        return code, f"{said.strip()}{_MOVED if _REDIRECTED.search(said) else ''}"

    async def check_out(self, commit: str, folder: Path) -> tuple[str, ...]:
        """Lays the exact files of a commit out in `folder`, which is made anew. Returns the paths of
        submodules, which are left out. Raises `InvalidTree` for what cannot be laid out safely, or is more
        than a commit may have."""
        return await asyncio.to_thread(self._check_out, commit, folder)

    def _check_out(self, commit: str, folder: Path) -> tuple[str, ...]:
        self._measure(commit)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            return _Checkout(folder).write(self._tree(commit))
        except ValueError as error:  # GitPython's own refusal of names that mean something else
            raise InvalidTree(f"the commit cannot be laid out safely: {error}") from error
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            raise InvalidTree("the commit holds a path with a name too long for this system") from error

    def _measure(self, commit: str) -> None:
        """Counts before anything is laid out, and stops where it is too much. Raises `RepositoryUnavailable`
        where not all of it could be counted."""
        command = ("git", "ls-tree", "-r", "-t", "-l", "-z", "--full-tree", commit)
        with subprocess.Popen(
            command,
            cwd=self._path,
            env=GIT_ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as listing:
            assert listing.stdout is not None
            try:
                _check_sizes(_sizes(listing.stdout), self._size_limit)
                code = listing.wait()
            finally:
                listing.kill()
        if code:
            how = f"exit code {code}" if code > 0 else f"signal {-code}"
            raise RepositoryUnavailable(f"the files of {commit[:12]} cannot be listed: git ended with {how}")

    def _tree(self, commit: str) -> Tree:
        """As GitPython has it of a commit, without a second process to look at that."""
        from git import Tree

        return Tree(self._repo, self._oid(f"{commit}^{{tree}}"), Tree.tree_id << 12, "")


def _clear_cut_off(packs: Path) -> None:
    """What was begun by a git that was killed; nobody else ever removes it."""
    for begun in (*packs.glob("tmp_*"), *packs.glob(".tmp-*")):
        with suppress(FileNotFoundError):
            if time.time() - begun.stat().st_mtime > CUT_OFF:
                begun.unlink()


def _open(path: Path) -> Repo:
    from git import Repo

    return Repo(path)


@asynccontextmanager
async def _within(seconds: float, wanted: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise RepositoryUnavailable(
            f"fetching {wanted} from the registered repository did not end within {seconds:g} s"
        ) from error


async def _run(at: Path, *arguments: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        "git",
        *arguments,
        cwd=at,
        env=GIT_ENVIRONMENT,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        out, problem = await process.communicate()
    except asyncio.CancelledError:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its helpers too, which may wait for a network
        await process.wait()
        raise
    return process.returncode or 0, out.decode(errors="replace"), problem.decode(errors="replace")


def _sizes(listing: IO[bytes]) -> Iterator[int]:
    """Bytes of each file and 0 for each folder, from what `git ls-tree -l -z` prints."""
    rest = b""
    while piece := listing.read(_PIECE):
        *entries, rest = (rest + piece).split(b"\0")
        if len(rest) > _PIECE:
            raise InvalidTree("the commit holds a path with a name too long for this system")
        for entry in entries:
            size = entry.split(maxsplit=4)[3]
            yield 0 if size == b"-" else int(size)


def _check_sizes(sizes: Iterator[int], limit: int) -> None:
    total = 0
    for number, size in enumerate(sizes, start=1):
        total += size
        if number > MOST_FILES:
            raise InvalidTree(f"the commit holds more than {MOST_FILES:,} files and folders")
        if total > limit:
            raise InvalidTree(f"the commit's files have more than {limit:,} bytes together")


class _Checkout:
    """Writes one tree. Links come last, so that no file is ever written through one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._links: list[tuple[PurePosixPath, str]] = []
        self._submodules: list[str] = []

    def write(self, tree: Tree) -> tuple[str, ...]:
        for blob, path in self._blobs(tree, PurePosixPath()):
            if blob.mode == blob.link_mode:
                self._links.append((path, _target(blob, path)))
            else:
                self._write_file(blob, path)
        for path, target in self._links:
            self._link(path, target)
        for path, target in self._links:
            self._check_link(path, target)
        return tuple(self._submodules)

    def _blobs(self, tree: Tree, above: PurePosixPath) -> Iterator[tuple[Blob, PurePosixPath]]:
        prefix = f"{tree.path}/" if tree.path else ""
        for item in tree:
            path = above / _safe(str(item.path).removeprefix(prefix), above)
            if item.type == "tree":
                self._make_folder(path)
                yield from self._blobs(item, path)
            elif item.type == "blob":
                yield item, path
            else:
                self._make_folder(path)
                self._submodules.append(str(path))

    def _make_folder(self, path: PurePosixPath) -> None:
        if len(path.parts) > DEEPEST:
            raise InvalidTree(
                f"the commit nests folders more than {DEEPEST} deep, below {'/'.join(path.parts[:3])}"
            )
        try:
            (self._folder / path).mkdir()
        except FileExistsError as error:
            raise InvalidTree(f"the commit names {path} twice") from error

    def _write_file(self, blob: Blob, path: PurePosixPath) -> None:
        mode = 0o755 if blob.mode & 0o111 else 0o644
        try:
            file = os.open(self._folder / path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        except FileExistsError as error:
            raise InvalidTree(f"the commit names {path} twice") from error
        with os.fdopen(file, "wb") as out:
            shutil.copyfileobj(blob.data_stream, out, 1 << 20)

    def _link(self, path: PurePosixPath, target: str) -> None:
        try:
            (self._folder / path).symlink_to(target)
        except FileExistsError as error:
            raise InvalidTree(f"the commit names {path} twice") from error

    def _check_link(self, path: PurePosixPath, target: str) -> None:
        """Only when all links are there is it known where each one leads."""
        try:
            end = (self._folder / path).resolve()
            # Links in a circle have no end: Python up to 3.12 raises, later ones give one of them.
            inside = end.is_relative_to(self._folder.resolve()) and not end.is_symlink()
        except (OSError, RuntimeError):
            inside = False
        if target.startswith("/") or not inside:
            raise InvalidTree(f"the link {path} leads out of the repository, to {target!r}")


def _target(link: Blob, path: PurePosixPath) -> str:
    target = link.data_stream.read(LONGEST_LINK + 1)
    if not 0 < len(target) <= LONGEST_LINK or b"\0" in target:
        raise InvalidTree(f"the link {path} leads nowhere: its target is no path that a system could have")
    return str(target.decode("utf-8", "surrogateescape"))


def _safe(name: str, above: PurePosixPath) -> str:
    if name in ("", ".", "..") or "/" in name or name.lower() == ".git":
        raise InvalidTree(
            f"the commit holds a file named {str(above / name)!r}, which cannot be laid out safely"
        )
    return name
