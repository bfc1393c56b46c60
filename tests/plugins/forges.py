"""Forges as far as commit statuses go: they check each request as the real ones document and enforce it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from plugins.receivers import Received

TOKEN = "a-token-of-the-forge"

_SHA = r"[0-9a-f]{40}"
_GITLAB_OPEN = ("pending", "running")


@dataclass
class Forge:
    """`statuses` is what it shows by commit and name; `history` all that it took."""

    path: str
    """Of the repository in its API, as it is in a request."""
    token: Mapping[str, str]
    states: tuple[str, ...]
    name: str = "context"
    headers: Mapping[str, str] = field(default_factory=dict)
    statuses: dict[tuple[str, str], str] = field(default_factory=dict)
    history: list[tuple[str, str]] = field(default_factory=list)
    """State and description."""

    def answer(self, one: Received) -> tuple[int, dict[str, str], str]:
        for name, value in self.token.items():
            if one.headers.get(name) != value:
                return 401, {}, '{"message": "401 Unauthorized"}'
        if one.method == "GET" and one.path == self.path:
            return 200, {}, "{}"
        found = re.fullmatch(f"{re.escape(self.path)}/statuses/({_SHA})", one.path)
        if one.method != "POST" or found is None:
            return 404, {}, '{"message": "404 Not found"}'
        return self._take(found[1], one)

    def _take(self, commit: str, one: Received) -> tuple[int, dict[str, str], str]:
        for name, value in {**self.headers, "content-type": "application/json"}.items():
            if one.headers.get(name) != value:
                return 415, {}, name
        status = one.document
        key = (commit, status[self.name])
        wrong = self._wrong(status, self.statuses.get(key))
        if wrong is not None:
            return wrong
        self.statuses[key] = status["state"]
        self.history.append((status["state"], status["description"]))
        return 201, {}, "{}"

    def _wrong(self, status: Mapping[str, str], before: str | None) -> tuple[int, dict[str, str], str] | None:
        if status["state"] not in self.states or not status["target_url"].startswith("http"):
            return 422, {}, "Validation Failed"
        if len(status["description"]) > 140:
            return 422, {}, "description is too long (maximum is 140 characters)"
        if self.name == "name" and before in _GITLAB_OPEN and status["state"] in ("pending", before):
            told = {"pending": "enqueue", "running": "run"}[status["state"]]
            return 400, {}, f'{{"message":"Cannot transition status via :{told} from :{before}"}}'
        return None


def github() -> Forge:
    """docs.github.com, REST API, "Create a commit status"."""
    return Forge(
        "/api/v3/repos/you/shop",
        {"authorization": f"Bearer {TOKEN}"},
        ("error", "failure", "pending", "success"),
        headers={"accept": "application/vnd.github+json", "x-github-api-version": "2022-11-28"},
    )


def gitlab() -> Forge:
    """docs.gitlab.com, Commits API, "Set commit pipeline status"; its state machine refuses a state twice."""
    return Forge(
        "/api/v4/projects/you%2Fshop",
        {"private-token": TOKEN},
        ("pending", "running", "success", "failed", "canceled", "skipped"),
        name="name",
    )


def gitea() -> Forge:
    """The API description of Gitea and Forgejo, `repoCreateStatus`."""
    return Forge(
        "/api/v1/repos/you/shop",
        {"authorization": f"token {TOKEN}"},
        ("pending", "success", "error", "failure", "warning"),
    )
