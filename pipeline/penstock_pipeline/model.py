"""The pipeline's nouns: frozen values and the one table of legal transitions."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from .errors import Conflict


class RunStatus(enum.StrEnum):
    """Where a run stands; each member says how it is left."""

    QUEUED = "queued"
    """Accepted and durable, or approved. Left when it is claimed, superseded by a newer push or a rollback,
    or cancelled."""
    RUNNING = "running"
    """Claimed; the app's lease is held. Left by one of the endings below, or to wait for a person."""
    AWAITING = "awaiting"
    """Built and uploaded; a person has to let it through, and the app's lease is free meanwhile. Left when it
    is approved (queued again), superseded by a newer push or a rollback, or cancelled."""
    SUCCEEDED = "succeeded"
    """Every stage is done; every edge serves the release. Final."""
    FAILED = "failed"
    """A stage is red. Final; pushing the same commit again makes a new run."""
    CANCELLED = "cancelled"
    """Someone ended it. Final."""
    SUPERSEDED = "superseded"
    """A newer push or a rollback took its place before its end. Final; `superseded_by` names the run."""
    IGNORED = "ignored"
    """There is nothing to do for it any more: going where it was meant to go would be going backwards, to a
    commit that was live before. Final."""

    @property
    def ended(self) -> bool:
        return self not in (RunStatus.QUEUED, RunStatus.RUNNING, RunStatus.AWAITING)


_TRANSITIONS: Mapping[RunStatus, frozenset[RunStatus]] = {
    RunStatus.QUEUED: frozenset({RunStatus.RUNNING, RunStatus.SUPERSEDED, RunStatus.CANCELLED}),
    RunStatus.AWAITING: frozenset({RunStatus.QUEUED, RunStatus.SUPERSEDED, RunStatus.CANCELLED}),
    RunStatus.RUNNING: frozenset(
        {
            RunStatus.AWAITING,
            RunStatus.SUCCEEDED,
            RunStatus.FAILED,
            RunStatus.CANCELLED,
            RunStatus.SUPERSEDED,
            RunStatus.IGNORED,
        }
    ),
}


def move(run: int, now: RunStatus, to: RunStatus) -> RunStatus:
    """The new status of a run. Raises `Conflict` when `now` does not lead to `to`."""
    if to not in _TRANSITIONS.get(now, frozenset()):
        raise Conflict(f"run {run} is {now.value}; it cannot become {to.value}")
    return to


class StageName(enum.StrEnum):
    """The stations of a run, in order."""

    CHECKOUT = "checkout"
    TEST = "test"
    BUILD = "build"
    UPLOAD = "upload"
    APPROVE = "approve"
    START = "start"
    DEPLOY = "deploy"
    REFRESH = "refresh"


class RunKind(enum.StrEnum):
    """What set a run off; it decides which stages there are (`plan.stages`)."""

    PUSH = "push"
    """A commit that was pushed, by git or a webhook; or that push once more, from a stage of its choice."""
    REDEPLOY = "redeploy"
    """The live commit again, from its checkout on."""
    CONFIGURE = "configure"
    """The live release under the app's variables of now: a release of its own, for which nothing is built."""
    ROLLBACK = "rollback"
    """An earlier release as it was, variables included; pinned."""
    UNPIN = "unpin"
    """What was pushed last, under the variables of now: the end of a rollback."""
    REFRESH = "refresh"
    """The edges alone."""


@dataclass(frozen=True, slots=True)
class App:
    """Something that is deployed. `repository` is where webhooks fetch from; None: only the git door."""

    id: int
    name: str
    branch: str
    port: int
    repository: str | None = None
    webhook_sealed: str | None = field(default=None, repr=False)
    """The secret that proves its webhooks, as the vault has sealed it."""
    live_release: int | None = None
    live_run: int | None = None
    pinned: bool = False
    """Rolled back on purpose: stays on its release until a push goes live or it is unpinned."""
    environment: int | None = None
    """The variables that its next release gets; None: none were ever set."""

    @property
    def live_ref(self) -> str:
        """The branch that goes live, as a full ref."""
        return f"refs/heads/{self.branch}"

    def candidate(self, run: int) -> str:
        """The name under which a run's processes are started."""
        return f"{self.name}-{run}"


def webhook_of(app: str) -> str:
    """What the secret of an app's webhooks is sealed as being about."""
    return f"the webhook of {app}"


@dataclass(frozen=True, slots=True)
class Push:
    """One accepted git event. Accepted means committed to the store."""

    id: int
    app_id: int
    ref: str
    commit: str
    pusher: str
    source: str
    received_at: datetime


@dataclass(frozen=True, slots=True)
class Run:
    """One push (or rollback, see `RunKind`) travelling through the stages."""

    id: int
    app_id: int
    app: str
    kind: RunKind
    status: RunStatus
    commit: str
    actor: str
    source: str
    trace_id: str
    created_at: datetime
    push_id: int | None = None
    target_release: int | None = None
    release: int | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    error: str | None = None
    superseded_by: int | None = None
    retry_of: int | None = None
    """The run whose stages this one took over, up to the one that it was told to begin with."""
    environment: int | None = None
    """The variables it runs under: the app's when it began to move."""


@dataclass(frozen=True, slots=True)
class StageRecord:
    """What is durably known of one stage of one run; `result` feeds the stages after it."""

    run_id: int
    stage: StageName
    status: str
    attempt: int
    started_at: datetime
    ended_at: datetime | None = None
    says: str = ""
    result: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None

    @property
    def done(self) -> bool:
        return self.status == "done"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a run, in the order it was committed."""

    id: int
    run_id: int
    app_id: int
    at: datetime
    kind: str
    stage: StageName | None
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Release:
    """What a run produced and took live; immutable. `version` counts per app: v1, v2 …"""

    id: int
    app_id: int
    version: int
    run_id: int
    commit: str
    image: str | None
    manifest: str | None
    config: Mapping[str, Any]
    created_at: datetime
    environment: int | None = None
    """The variables it was made with."""

    @property
    def label(self) -> str:
        return f"v{self.version}"


@dataclass(frozen=True, slots=True)
class StaticFile:
    """One file of a static bundle. `fingerprinted`: its name carries a content hash, so it never changes."""

    path: str
    """Absolute URL path, such as `/index.html`; never percent-encoded."""
    sha256: str
    size: int
    content_type: str
    fingerprinted: bool


@dataclass(frozen=True, slots=True)
class Manifest:
    """All files of a static bundle, sorted by path; the digest names the whole."""

    digest: str
    files: tuple[StaticFile, ...]

    def by_path(self) -> dict[str, StaticFile]:
        return {file.path: file for file in self.files}
