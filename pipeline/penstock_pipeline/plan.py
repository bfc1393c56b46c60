"""What is to be done, decided from facts alone: nothing here touches the world."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Collection
from itertools import pairwise
from operator import attrgetter

from .model import App, Manifest, Release, Run, RunKind, StageName, StaticFile

INDEX = "index.html"

RETRIED = (RunKind.PUSH, RunKind.REDEPLOY, RunKind.CONFIGURE)
"""Kinds of runs that are retried; the others are asked for again. Asking for the same variables again changes
nothing, so a release with them is retried too."""


def stages(kind: RunKind, *, approve: bool = False) -> tuple[StageName, ...]:
    """The stages of a run, in order. Only a push waits for approval, where the app asks for it; a rollback
    and its kin take what was built before, a refresh what is live."""
    match kind:
        case RunKind.PUSH if approve:
            return tuple(StageName)
        case RunKind.PUSH | RunKind.REDEPLOY:
            return tuple(stage for stage in StageName if stage is not StageName.APPROVE)
        case RunKind.ROLLBACK | RunKind.UNPIN | RunKind.CONFIGURE:
            return (StageName.START, StageName.DEPLOY, StageName.REFRESH)
        case RunKind.REFRESH:
            return (StageName.REFRESH,)


def pointless(run: Run, app: App, live: Release | None) -> str | None:
    """Why there is nothing to do any more for a run that waited while a push went live: what it was asked for
    would be going backwards. None: there is."""
    match run.kind:
        case RunKind.UNPIN if not app.pinned:
            return f"{app.name} is not pinned any more; nothing to do"
        case RunKind.REDEPLOY if live is not None and live.commit != run.commit:
            return f"{live.label} of {live.commit[:7]} went live meanwhile; nothing to do"
    return None


def kept(done: Collection[StageName], again: StageName) -> tuple[StageName, ...]:
    """The stages that a retry from `again` takes over as they were recorded. A checkout and what a build left
    in it are gone with their run, and so is a started candidate: they are made anew where they are needed."""
    order = list(StageName)
    gone = {
        StageName.TEST: (StageName.CHECKOUT,),
        StageName.BUILD: (StageName.CHECKOUT,),
        StageName.UPLOAD: (StageName.CHECKOUT, StageName.BUILD),
        StageName.DEPLOY: (StageName.START,),
    }.get(again, ())
    return tuple(stage for stage in order[: order.index(again)] if stage in done and stage not in gone)


def changed_paths(old: Manifest | None, new: Manifest | None) -> tuple[str, ...]:
    """Every URL path that answers differently under `new` than under `old`, sorted. New paths are among
    them: an edge may still hold that there was nothing."""
    before, after = _answers(old), _answers(new)
    return tuple(sorted(path for path in before | after if before.get(path) != after.get(path)))


def _answers(manifest: Manifest | None) -> dict[str, tuple[str, str]]:
    files = () if manifest is None else manifest.files
    return {
        path: (file.sha256, file.content_type) for file in files for path in (file.path, *aliases(file.path))
    }


def aliases(path: str) -> tuple[str, ...]:
    """The other paths that answer with the same file: `/docs/` for `/docs/index.html`, and the other way."""
    folder, _, name = path.rpartition("/")
    if name == INDEX:
        return (f"{folder}/",)
    return (f"{path}{INDEX}",) if not name else ()


def expected(manifest: Manifest | None, path: str) -> str | None:
    """The sha256 of what has to be served at `path`. None: no static file is."""
    files = () if manifest is None else manifest.files
    wanted = path + INDEX if path.endswith("/") else path
    at = bisect_left(files, wanted, key=attrgetter("path"))
    return files[at].sha256 if at < len(files) and files[at].path == wanted else None


def upload_order(manifest: Manifest) -> tuple[StaticFile, ...]:
    """Nothing goes up before what it refers to: fingerprinted assets, other assets, pages, the front page."""

    def place(file: StaticFile) -> tuple[bool, bool, bool, str]:
        return (file.path == f"/{INDEX}", _is_page(file.path), not file.fingerprinted, file.path)

    return tuple(sorted(manifest.files, key=place))


def _is_page(path: str) -> bool:
    return path.lower().endswith((".html", ".htm", ".xhtml"))


_HASHED_NAME = re.compile(
    r".+[.\-_](?P<token>[A-Za-z0-9]{8,64})"  # app.3f9a1c2b, index-BXh3k2Lq
    r"(?:\.(?:bundle|chunk|min|module))?"
    r"\.[A-Za-z0-9]{1,12}(?:\.map)?"
)


def is_fingerprinted(path: str) -> bool:
    """Whether the name carries a hash of the content, as bundlers write it: such a file never changes, so it
    may be cached for ever. When in doubt it does not: then it is purged when it changes."""
    name = _HASHED_NAME.fullmatch(path.rpartition("/")[2])
    return name is not None and not _is_page(path) and _is_hash(name["token"])


def _is_hash(token: str) -> bool:
    """Dates, versions and words with a number at their end change between letters and digits once or twice;
    hashes all the time."""
    kinds = ["digit" if c.isdigit() else "upper" if c.isupper() else "lower" for c in token]
    changes = sum(one != other for one, other in pairwise(kinds))
    if "digit" not in kinds or len(set(kinds)) == 1:
        return False
    if re.fullmatch(r"[0-9a-f]+", token):
        return changes >= 2 or len(token) >= 12
    return len(token) == 8 and changes >= 4
