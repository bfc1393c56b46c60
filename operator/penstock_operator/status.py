"""What a pool's status tells: pure, from what was seen to conditions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from penstock_operator.desired import selector
from penstock_operator.errors import InvalidSpec, OperatorError, Taken
from penstock_operator.spec import Pool

Resource = Mapping[str, Any]


class Condition(StrEnum):
    """What is told of a pool; each is True, False or not there yet."""

    ACCEPTED = "Accepted"
    """What is asked for can be meant, and the cluster took the objects. Left False by an edit, or by removing
    what is in the way."""

    CREDENTIALS = "CredentialsFound"
    """The Secrets that pods need are there: with username and password, and, if that is asked for, with
    the database's CA. Left False by creating them."""

    AVAILABLE = "Available"
    """At least one pod serves, be it of an older generation."""

    READY = "Ready"
    """As many pods as asked for are ready, all of them as the newest generation asks."""


class Reason(StrEnum):
    """Why a condition is as it is, for programs."""

    APPLIED = "Applied"
    INVALID_SPEC = "InvalidSpec"
    NAME_TAKEN = "NameTaken"
    REFUSED = "RefusedByCluster"
    FOUND = "Found"
    CREDENTIALS_MISSING = "CredentialsMissing"
    PODS_READY = "PodsReady"
    NO_PODS_READY = "NoPodsReady"
    SCALED_TO_ZERO = "ScaledToZero"
    PROGRESSING = "Progressing"
    STALLED = "Stalled"
    """No progress for the Deployment's deadline of ten minutes: it goes on trying."""
    PODS_REFUSED = "PodsRefused"
    """The cluster lets the Deployment make no pods: a quota, a policy."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a condition stands, and why."""

    holds: bool
    reason: Reason
    message: str


Verdicts = dict[Condition, Verdict]


def refused(error: OperatorError) -> Verdicts:
    """Of a pool whose objects could not be made what it asks for; what runs, runs on as it was."""
    reason = _reason(error)
    return {
        Condition.ACCEPTED: Verdict(False, reason, str(error)),
        Condition.READY: Verdict(False, reason, "what is asked for is not accepted"),
    }


def seen(pool: Pool, deployment: Resource, lacks: str | None) -> Verdicts:
    """Of a pool whose objects are applied. `lacks`: what is wrong with a Secret."""
    found = Verdict(not lacks, Reason.CREDENTIALS_MISSING if lacks else Reason.FOUND, lacks or "")
    return {
        Condition.ACCEPTED: Verdict(True, Reason.APPLIED, ""),
        Condition.CREDENTIALS: found,
        Condition.AVAILABLE: _available(deployment),
        Condition.READY: _ready(pool, deployment, found),
    }


def counts(pool: Pool, deployment: Resource) -> dict[str, Any]:
    """What the scale subresource and `kubectl get` read."""
    told = deployment.get("status", {})
    return {
        "replicas": told.get("replicas", 0),
        "readyReplicas": told.get("readyReplicas", 0),
        "selector": ",".join(f"{name}={value}" for name, value in selector(pool).items()),
    }


def status(resource: Resource, verdicts: Verdicts, now: datetime, **others: Any) -> dict[str, Any]:
    """The whole status: what is not judged anew stays; a condition that stands as it stood keeps its time."""
    before = resource.get("status", {})
    generation = resource["metadata"]["generation"]
    conditions = {told["type"]: told for told in before.get("conditions", [])}
    for condition, verdict in verdicts.items():
        conditions[condition.value] = _told(condition, verdict, conditions.get(condition), generation, now)
    ordered = [conditions[name] for name in sorted(conditions)]
    return {**before, **others, "observedGeneration": generation, "conditions": ordered}


def _told(
    condition: Condition, verdict: Verdict, before: Resource | None, generation: int, now: datetime
) -> dict[str, Any]:
    holds = str(verdict.holds)
    unchanged = before is not None and before["status"] == holds
    since = before["lastTransitionTime"] if before and unchanged else now.strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "type": condition.value,
        "status": holds,
        "reason": verdict.reason.value,
        "message": verdict.message,
        "lastTransitionTime": since,
        "observedGeneration": generation,
    }


def _reason(error: OperatorError) -> Reason:
    match error:
        case InvalidSpec():
            return Reason.INVALID_SPEC
        case Taken():
            return Reason.NAME_TAKEN
        case _:
            return Reason.REFUSED


def _available(deployment: Resource) -> Verdict:
    ready = deployment.get("status", {}).get("availableReplicas", 0)
    if ready:
        return Verdict(True, Reason.PODS_READY, "")
    return Verdict(False, Reason.NO_PODS_READY, "no pod is ready")


def _ready(pool: Pool, deployment: Resource, credentials: Verdict) -> Verdict:
    wanted = pool.spec.replicas
    if _rolled_out(deployment, wanted):
        return Verdict(True, Reason.PODS_READY if wanted else Reason.SCALED_TO_ZERO, _of(deployment, wanted))
    if not credentials.holds:
        return credentials
    return _stuck(deployment) or Verdict(False, Reason.PROGRESSING, _of(deployment, wanted))


def _rolled_out(deployment: Resource, wanted: int) -> bool:
    """All pods are new and ready, and no old one is left."""
    if not _looked_at(deployment):
        return False
    told = deployment["status"]
    return all(told.get(name, 0) == wanted for name in ("replicas", "updatedReplicas", "availableReplicas"))


def _looked_at(deployment: Resource) -> bool:
    """Whether the Deployment's status is about what we last asked it for."""
    observed: int = deployment.get("status", {}).get("observedGeneration", 0)
    return observed >= int(deployment["metadata"]["generation"])


def _stuck(deployment: Resource) -> Verdict | None:
    if not _looked_at(deployment):
        return None
    conditions = {told["type"]: told for told in deployment["status"].get("conditions", [])}
    failure, progress = conditions.get("ReplicaFailure"), conditions.get("Progressing")
    if failure and failure["status"] == "True":
        return Verdict(False, Reason.PODS_REFUSED, failure.get("message", ""))
    if progress and progress["status"] == "False":
        return Verdict(False, Reason.STALLED, progress.get("message", ""))
    return None


def _of(deployment: Resource, wanted: int) -> str:
    told = deployment.get("status", {}) if _looked_at(deployment) else {}
    ready, updated = told.get("readyReplicas", 0), told.get("updatedReplicas", 0)
    return f"{ready} of {wanted} pods are ready, {updated} up to date"
