"""From what is seen of a Deployment to what is told of the pool."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from penstock_operator.errors import InvalidSpec, OperatorError, Refused, Taken
from penstock_operator.spec import Pool, read
from penstock_operator.status import Condition, Verdict, counts, refused, seen, status

THEN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
NOW = datetime(2026, 1, 2, 3, 4, 6, 999, tzinfo=UTC)
DATABASE = {"host": "mariadb", "name": "shop", "credentialsSecretRef": {"name": "secret"}}


def resource(told: dict[str, Any] | None = None, *, replicas: int = 2) -> dict[str, Any]:
    meta = {"namespace": "shop", "name": "shop-db", "uid": "1-2", "generation": 3}
    return {"metadata": meta, "spec": {"database": DATABASE, "replicas": replicas}, "status": told or {}}


def pool(replicas: int = 2) -> Pool:
    return read(resource(replicas=replicas))


def deployment(*conditions: tuple[str, str, str], observed: int = 5, **counted: int) -> dict[str, Any]:
    told = [{"type": kind, "status": holds, "message": why} for kind, holds, why in conditions]
    return {
        "metadata": {"generation": 5},
        "status": {"observedGeneration": observed, "conditions": told, **counted},
    }


def all_ready(count: int = 2) -> dict[str, Any]:
    return deployment(replicas=count, updatedReplicas=count, readyReplicas=count, availableReplicas=count)


def ready(seen_deployment: dict[str, Any], *, replicas: int = 2, lacks: str | None = None) -> Verdict:
    return seen(pool(replicas), seen_deployment, lacks)[Condition.READY]


def test_ready_is_every_pod_as_the_newest_generation_asks() -> None:
    assert ready(all_ready()) == Verdict(
        True, ready(all_ready()).reason, "2 of 2 pods are ready, 2 up to date"
    )
    assert ready(all_ready(0), replicas=0).reason == "ScaledToZero"


@pytest.mark.parametrize(
    ("case", "told"),
    [
        ("no status yet", {"metadata": {"generation": 1}}),
        ("of an older generation", {**all_ready(), "metadata": {"generation": 6}}),
        ("one is not ready", deployment(replicas=2, updatedReplicas=2, readyReplicas=1, availableReplicas=1)),
        (
            "an old one is left",
            deployment(replicas=3, updatedReplicas=2, readyReplicas=3, availableReplicas=3),
        ),
        ("too many", all_ready(3)),
        ("too few", all_ready(1)),
    ],
)
def test_until_then_it_is_on_its_way(case: str, told: dict[str, Any]) -> None:
    verdict = ready(told)
    assert (verdict.holds, verdict.reason) == (False, "Progressing"), case


def test_a_deployment_that_stands_still_says_why() -> None:
    late = deployment(("Progressing", "False", "has timed out"), replicas=2, updatedReplicas=2)
    assert ready(late) == Verdict(False, ready(late).reason, "has timed out")
    assert ready(late).reason == "Stalled"


def test_a_deployment_that_may_make_no_pods_says_why() -> None:
    full = deployment(("Progressing", "True", ""), ("ReplicaFailure", "True", "exceeded quota"))
    assert (ready(full).reason, ready(full).message) == ("PodsRefused", "exceeded quota")


def test_missing_credentials_are_the_reason_while_pods_are() -> None:
    verdicts = seen(pool(), deployment(), "the Secret secret is missing")
    assert verdicts[Condition.CREDENTIALS].holds is False
    assert verdicts[Condition.READY] == verdicts[Condition.CREDENTIALS]
    assert verdicts[Condition.READY].message == "the Secret secret is missing"


def test_pods_that_run_are_ready_though_their_secret_went() -> None:
    verdicts = seen(pool(), all_ready(), "the Secret secret is missing")
    assert not verdicts[Condition.CREDENTIALS].holds
    assert verdicts[Condition.READY].holds


def test_it_is_available_while_an_older_pod_serves() -> None:
    rolling = deployment(replicas=3, updatedReplicas=1, readyReplicas=2, availableReplicas=2)
    verdicts = seen(pool(), rolling, None)
    assert verdicts[Condition.AVAILABLE].holds
    assert not verdicts[Condition.READY].holds
    assert not seen(pool(), deployment(), None)[Condition.AVAILABLE].holds


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (InvalidSpec("spec.pool.min is 31"), "InvalidSpec"),
        (Taken("a Service shop-db is there"), "NameTaken"),
        (Refused("403 Forbidden"), "RefusedByCluster"),
    ],
)
def test_a_refusal_tells_why(error: OperatorError, reason: str) -> None:
    verdicts = refused(error)
    assert verdicts[Condition.ACCEPTED] == Verdict(False, verdicts[Condition.ACCEPTED].reason, str(error))
    assert verdicts[Condition.READY].reason == reason


def conditions(told: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["type"]: each for each in told["conditions"]}


def test_a_condition_that_stands_as_it_stood_keeps_its_time() -> None:
    before = status(resource(), seen(pool(), all_ready(), None), THEN)
    after = status(resource(before), seen(pool(), deployment(), None), NOW)
    assert conditions(after)["Accepted"]["lastTransitionTime"] == "2026-01-02T03:04:05Z"
    assert conditions(after)["Ready"]["lastTransitionTime"] == "2026-01-02T03:04:06Z"
    assert conditions(after)["Ready"]["status"] == "False"


def test_another_reason_is_no_transition() -> None:
    before = status(resource(), seen(pool(), deployment(), None), THEN)
    after = status(resource(before), seen(pool(), deployment(), "the Secret secret is missing"), NOW)
    assert conditions(after)["Ready"]["reason"] == "CredentialsMissing"
    assert conditions(after)["Ready"]["lastTransitionTime"] == "2026-01-02T03:04:05Z"


def test_what_is_told_twice_is_the_same() -> None:
    """Else telling it would be an event, which would be told."""
    verdicts, counted = seen(pool(), all_ready(), None), counts(pool(), all_ready())
    before = status(resource(), verdicts, THEN, **counted)
    assert status(resource(before), verdicts, NOW, **counted) == before


def test_what_is_not_judged_stays() -> None:
    before = status(resource(), seen(pool(), all_ready(), None), THEN, **counts(pool(), all_ready()))
    after = status(resource(before), refused(InvalidSpec("no")), NOW)
    assert conditions(after)["Available"] == conditions(before)["Available"]
    assert after["replicas"] == 2
    assert conditions(after)["Accepted"]["status"] == "False"


def test_it_tells_of_which_generation_it_is() -> None:
    told = status(resource(), seen(pool(), all_ready(), None), NOW)
    assert told["observedGeneration"] == 3
    assert {each["observedGeneration"] for each in told["conditions"]} == {3}


def test_the_selector_is_that_of_the_pods() -> None:
    selector = "app.kubernetes.io/name=penstock-data,app.kubernetes.io/instance=shop-db"
    assert counts(pool(), all_ready()) == {"replicas": 2, "readyReplicas": 2, "selector": selector}
