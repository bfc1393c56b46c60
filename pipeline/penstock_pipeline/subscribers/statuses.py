"""Commit statuses: how a commit stands, as each forge wants to be told. Pure values, one a forge.

Paths, headers and states as the forges document them: GitHub's REST API "Commit statuses" (2022-11-28),
GitLab's "Commits API: set commit pipeline status", Gitea's and Forgejo's `repoCreateStatus`. What is told is
how the run stands when it is told, so a message that comes late or twice never takes anything back.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

from .. import tell
from ..errors import Invalid
from ..model import Release, Run, RunStatus
from ..store.subscriptions import Told
from .message import AGENT, Message

_STATES: Mapping[RunStatus, str] = {
    RunStatus.QUEUED: "pending",
    RunStatus.RUNNING: "pending",
    RunStatus.AWAITING: "pending",
    RunStatus.SUCCEEDED: "success",
    RunStatus.FAILED: "failure",
    RunStatus.CANCELLED: "error",
    RunStatus.SUPERSEDED: "error",
    RunStatus.IGNORED: "success",
}
# GitLab takes a new description only together with a new state, and no state twice.
_OF_GITLAB: Mapping[RunStatus, str] = {
    **_STATES,
    RunStatus.AWAITING: "running",
    RunStatus.FAILED: "failed",
    RunStatus.CANCELLED: "canceled",
    RunStatus.SUPERSEDED: "canceled",
}

_CLONED = re.compile(
    r"(?:(?P<scheme>https?|ssh|git)://(?:[^@/]*@)?(?P<host>[^/:@]+)(?P<port>:\d+)?/|[^@/:]+@(?P<ssh>[^/:@]+):)"
    r"/*(?P<path>.+?)(?:\.git)?/*"
)
_PATH = re.compile(r"(?!(?:.*/)?\.\.?(?:/|$))[\w.-]+(?:/[\w.-]+)+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Forge:
    """One kind of forge."""

    title: str
    api: str
    """Where its API is under the forge's own address."""
    repository: Callable[[str], str]
    """Where a repository is in the API, from its path such as `you/shop`."""
    sign: Callable[[str], Mapping[str, str]]
    """The headers that prove, with a token, who asks."""
    states: Mapping[RunStatus, str] = field(default_factory=lambda: _STATES)
    name: str = "context"
    """The field that tells our statuses from others'."""
    known_by: str | None = None
    hosts: Mapping[str, str] = field(default_factory=dict)
    """Addresses whose API is elsewhere."""


def _plain(path: str) -> str:
    return f"/repos/{path}"


def _gitea(title: str) -> Forge:
    """Forgejo has kept Gitea's API."""
    return Forge(title, "/api/v1", _plain, lambda token: {"Authorization": f"token {token}"})


FORGES: Mapping[str, Forge] = {
    "github": Forge(
        "GitHub",
        "/api/v3",
        _plain,
        lambda token: {
            "Authorization": f"Bearer {token}",
            "Accept": "application/vnd.github+json",
            "X-GitHub-Api-Version": "2022-11-28",
        },
        hosts={"github.com": "https://api.github.com"},
    ),
    "gitlab": Forge(
        "GitLab",
        "/api/v4",
        lambda path: f"/projects/{quote(path, safe='')}",
        lambda token: {"PRIVATE-TOKEN": token},
        states=_OF_GITLAB,
        name="name",
        known_by="Cannot transition status",
    ),
    "gitea": _gitea("Gitea"),
    "forgejo": _gitea("Forgejo"),
}

LONGEST = 140
"""Characters of a description: GitHub refuses longer ones."""


def repository_url(forge: Forge, *, api: str | None, repository: str | None, cloned: str | None) -> str:
    """Where the forge's API has the repository: as it is `cloned`, as far as nothing else is said. Raises
    `Invalid` where that does not tell."""
    known = _CLONED.fullmatch(cloned or "")
    path = repository or (known and known["path"]) or ""
    if not _PATH.fullmatch(path):
        raise Invalid("the app's repository does not tell whose it is there: add --repository OWNER/NAME")
    if api is None and known is None:
        raise Invalid(f"the app's repository does not tell which {forge.title}: add --url with its API's URL")
    return (api or _api(forge, known)).rstrip("/") + forge.repository(path)


def _api(forge: Forge, known: re.Match[str] | None) -> str:
    assert known is not None
    host = known["host"] or known["ssh"]
    web = known["scheme"] in ("http", "https")
    port = known["port"] or "" if web else ""
    return forge.hosts.get(host, f"{known['scheme'] if web else 'https'}://{host}{port}{forge.api}")


def message(kind: str, url: str, token: str, told: Told, *, base: str) -> Message | None:
    """What a forge is told of the commit that an event is about; None: the event says nothing of it."""
    if (run := told.newest) is None:
        return None
    forge = FORGES[kind]
    status = {
        "state": forge.states[run.status],
        forge.name: f"penstock/{run.app}",
        "target_url": f"{base}/runs/{run.id}",
        "description": _description(run, told.release),
    }
    headers = {**_headers(forge, token), "Content-Type": "application/json"}
    at = f"{url}/statuses/{run.commit}"
    return Message("POST", at, headers, json.dumps(status).encode(), known_by=forge.known_by)


def ping(kind: str, url: str, token: str) -> Message:
    """Asks for the repository itself: whether address and token are right, without telling anything."""
    return Message("GET", url, _headers(FORGES[kind], token))


def _headers(forge: Forge, token: str) -> dict[str, str]:
    return {"User-Agent": AGENT, **forge.sign(token)}


def _description(run: Run, release: Release | None) -> str:
    match run.status:
        case RunStatus.SUCCEEDED:
            says = f"{release.label} is live on every edge" if release else "every edge serves it"
        case RunStatus.FAILED:
            says = (run.error or "failed").splitlines()[0]
        case RunStatus.AWAITING:
            says = f"not live: run {run.id} waits for approval"
        case RunStatus.CANCELLED:
            says = f"run {run.id} was cancelled"
        case RunStatus.SUPERSEDED:
            says = f"superseded by run {run.superseded_by}"
        case RunStatus.IGNORED:
            says = "part of what is live already"
        case _:
            says = f"run {run.id} is on its way"
    return tell.clean(says)[:LONGEST]
