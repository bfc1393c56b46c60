"""A ConnectionPool on a real node: pods are probed as asked for, changed, scaled, replaced and gone again."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from plugins.kubernetes_client import Kubernetes
from plugins.kubernetes_cluster import Cluster
from plugins.operators import CHILDREN, POOL, SECRET, SYSTEM, Operator, pool, rendered

WITHIN = 90.0


@pytest.fixture
def kept(operator: Operator, stand_in: str) -> Operator:
    """The README's example is applied and ready."""
    operator.start(image=stand_in)
    operator.kubernetes.apply(SECRET, POOL, namespace=operator.namespace)
    operator.until_ready()
    return operator


def pods(operator: Operator) -> dict[str, Any]:
    """Those that are not about to end, by uid."""
    running = (each for each in operator.list("pod") if "deletionTimestamp" not in each["metadata"])
    return {each["metadata"]["uid"]: each for each in running}


def answer(operator: Operator, path: str) -> str:
    """What a pod says behind the pool's Service."""
    service = f"/api/v1/namespaces/{operator.namespace}/services/shop-db:http/proxy"
    return operator.kubernetes.kubectl("get", "--raw", f"{service}{path}")


def test_pods_are_probed_as_asked_for_and_told_what_they_need(operator: Operator, stand_in: str) -> None:
    operator.start(image=stand_in)
    probes = {"liveness": {"periodSeconds": 3}, "readiness": {"successThreshold": 2, "periodSeconds": 1}}
    operator.kubernetes.apply(SECRET, pool(probes=probes), namespace=operator.namespace)
    operator.until_ready()
    running = pods(operator).values()
    assert len(running) == 2
    for pod in running:
        (container,) = pod["spec"]["containers"]
        asked = {name: container[f"{name}Probe"] for name in ("liveness", "readiness", "startup")}
        paths = {name: each["httpGet"]["path"] for name, each in asked.items()}
        assert paths == {"liveness": "/livez", "readiness": "/readyz", "startup": "/startupz"}
        assert asked["liveness"]["periodSeconds"] == 3
        assert asked["readiness"]["successThreshold"] == 2
    told = json.loads(answer(operator, "/config"))
    assert told == {
        "generation": told["generation"],
        "name": "shop-db",
        "min": 10,
        "max": 30,
        "checkout_timeout": 3.0,
        "heartbeat": 5.0,
    }
    assert answer(operator, "/who") == "app"


def test_another_sizing_reaches_the_pods_that_run(kept: Operator) -> None:
    before = pods(kept)
    kept.patch(pool={"max": 40})
    kept.until_ready()
    # Kubelet looks at a pod's files once a minute, and at once when something of the pod changes.
    kept.kubectl("annotate", "pods", "--all", "test=1")
    kept.until(lambda: json.loads(answer(kept, "/config"))["max"] == 40, within=WITHIN)
    assert pods(kept).keys() == before.keys()


def test_other_probes_replace_the_pods_and_some_always_serve(kept: Operator) -> None:
    before = pods(kept)
    kept.patch(probes={"liveness": {"periodSeconds": 4}})
    served = []

    def replaced() -> bool:
        served.append(kept.condition("Available"))
        answer(kept, "/livez")
        return kept.is_seen() and kept.condition() == "True"

    kept.until(replaced, within=WITHIN)
    assert set(served) == {"True"}
    kept.until(lambda: len(pods(kept)) == 2)
    after = pods(kept)
    assert not after.keys() & before.keys()
    for pod in after.values():
        assert pod["spec"]["containers"][0]["livenessProbe"]["periodSeconds"] == 4


def test_kubectl_scales_it_up_and_down_to_nothing(kept: Operator) -> None:
    kept.kubectl("scale", "cpool/shop-db", "--replicas=3")
    kept.until_ready()
    assert len(pods(kept)) == 3
    assert kept.get("cpool")["status"]["readyReplicas"] == 3
    kept.kubectl("scale", "cpool/shop-db", "--replicas=0")
    kept.until_ready()
    assert kept.condition("Ready", "reason") == "ScaledToZero"
    assert kept.condition("Available") == "False"


def test_a_deployment_that_is_deleted_comes_back_with_its_pods(kept: Operator) -> None:
    before = kept.uids()["deployment"]
    kept.kubectl("delete", "deployment", "shop-db")
    kept.until(lambda: kept.uids()["deployment"] not in (before, None))
    kept.until_ready()
    kept.until(lambda: len(pods(kept)) == 2)


def test_the_operator_is_killed_amid_a_rollout(kept: Operator, stand_in: str) -> None:
    before = pods(kept)
    kept.patch(probes={"liveness": {"periodSeconds": 4}}, replicas=3)
    kept.until(lambda: kept.get("deployment")["spec"]["replicas"] == 3)
    kept.kill()
    kept.kubectl("delete", "service", "shop-db")
    kept.start(image=stand_in)
    kept.until_ready()
    kept.until(lambda: len(pods(kept)) == 3)
    assert not pods(kept).keys() & before.keys()
    assert answer(kept, "/livez") == ""


def test_an_apiserver_that_is_away_ends_nothing(kept: Operator, own_cluster: Cluster) -> None:
    before = pods(kept).keys()
    with own_cluster.without_apiserver():
        time.sleep(5)
    assert kept.runs
    kept.kubectl("scale", "cpool/shop-db", "--replicas=3")
    kept.kubectl("delete", "service", "shop-db")
    kept.until(lambda: kept.get("service"), within=WITHIN)
    kept.until_ready()
    assert before < pods(kept).keys()


def test_pods_wait_for_the_secret_and_start_when_it_comes(operator: Operator, stand_in: str) -> None:
    operator.start(image=stand_in)
    operator.kubernetes.apply(POOL, namespace=operator.namespace)
    operator.until(lambda: operator.condition("Ready", "reason") == "CredentialsMissing")
    operator.until(lambda: waits_for(operator) == {"CreateContainerConfigError"})
    operator.kubernetes.apply(SECRET, namespace=operator.namespace)
    operator.until_ready()
    assert operator.condition("CredentialsFound") == "True"


def waits_for(operator: Operator) -> set[str]:
    """Why containers do not run."""
    states = [
        status["state"]
        for pod in pods(operator).values()
        for status in pod["status"].get("containerStatuses", [])
    ]
    return {state["waiting"]["reason"] for state in states if "waiting" in state}


def test_an_image_that_is_not_there_takes_nothing_away(kept: Operator, stand_in: str) -> None:
    kept.patch(image="127.0.0.1:1/none:1")  # nobody listens there, which is known at once
    kept.until(lambda: kept.is_seen() and kept.condition("Ready", "reason") == "Progressing")
    kept.until(lambda: waits_for(kept) & {"ErrImagePull", "ImagePullBackOff"}, within=WITHIN)
    assert kept.condition("Available") == "True"
    assert answer(kept, "/readyz") == ""
    kept.patch(image=stand_in)
    kept.until_ready()


def test_a_deleted_pool_leaves_nothing_that_runs(kept: Operator) -> None:
    kept.kubectl("delete", "cpool", "shop-db")
    kinds = ",".join([*CHILDREN, "replicaset", "pod", "endpointslice"])

    def left() -> set[str]:
        return set(kept.kubectl("get", kinds, "--output=name").split())

    kept.until(lambda: left() == {"configmap/kube-root-ca.crt"}, within=WITHIN)


@pytest.fixture
def deployed(cluster: Kubernetes, installed: Kubernetes, images: Any, stand_in: str) -> Iterator[Kubernetes]:
    """The operator as the chart runs it: in a pod, for all namespaces."""
    objects = rendered(cluster, operator_image=images.penstock("operator"), data_image=stand_in)
    cluster.apply(*objects, namespace=SYSTEM)
    cluster.rolled_out("deployment/penstock-operator", namespace=SYSTEM)
    yield cluster
    cluster.kubectl("--namespace", SYSTEM, "delete", "deployment", "penstock-operator", "--wait")


def test_the_chart_runs_the_operator_for_all_namespaces(deployed: Kubernetes, namespace: str) -> None:
    deployed.apply(SECRET, POOL, namespace=namespace)
    deployed.kubectl(
        "-n", namespace, "wait", "--for=condition=Ready", "cpool/shop-db", f"--timeout={WITHIN}s"
    )
