"""The resource and the operator on a real API server, without pods: what is accepted, what is made of it, and
that it is kept so, whatever happens to the objects or to the operator."""

from __future__ import annotations

import base64
import json
import re
import time
from typing import Any

import pytest
import yaml
from plugins.kubernetes_client import Kubernetes
from plugins.operators import CHILDREN, CRD, POOL, SECRET, Operator, pool

SETTINGS = "pool.json"


@pytest.fixture
def kept(operator: Operator) -> Operator:
    """The operator runs, and README's example is applied, with its Secret."""
    operator.start()
    operator.kubernetes.apply(SECRET, POOL, namespace=operator.namespace)
    operator.until(lambda: operator.condition("Accepted") == "True" and operator.is_seen())
    return operator


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ({"pool": {"min": 31}}, r"min must not be above max \(when not given, min is 10 and max is 30\)"),
        ({"pool": {"max": 5}}, r"min must not be above max"),
        ({"pool": {"checkoutTimeout": "3 seconds"}}, r"spec\.pool\.checkoutTimeout"),
        ({"pool": {"checkoutTimeout": 3}}, r"spec\.pool\.checkoutTimeout"),
        ({"pool": {"min": -1}}, r"spec\.pool\.min"),
        ({"pool": {"limit": 3}}, r"unknown field \"spec\.pool\.limit\""),
        ({"heartbeat": {"interval": "0s"}}, r"spec\.heartbeat\.interval.*must be more than 0s"),
        ({"heartbeat": {"interval": "5d"}}, r"spec\.heartbeat\.interval"),
        ({"probes": {"liveness": {"periodSeconds": 0}}}, r"spec\.probes\.liveness\.periodSeconds"),
        ({"probes": {"liveness": {"successThreshold": 2}}}, r"spec\.probes\.liveness\.successThreshold"),
        ({"database": {"host": "mariadb", "name": "shop"}}, r"spec\.database\.credentialsSecretRef"),
        ({"database": {**POOL["spec"]["database"], "host": "a b"}}, r"spec\.database\.host"),
        (
            {"database": {**POOL["spec"]["database"], "tls": "Disabled", "caSecretRef": {"name": "ca"}}},
            r"caSecretRef is for tls Verify",
        ),
        ({"database": {**POOL["spec"]["database"], "tls": "Perhaps"}}, r"spec\.database\.tls"),
        ({"resources": {"limits": {"memory": "much"}}}, r"spec\.resources\.limits\.memory"),
    ],
)
def test_what_cannot_be_meant_never_gets_in(
    installed: Kubernetes, namespace: str, spec: dict[str, Any], told: str
) -> None:
    done = installed.ask("-n", namespace, "create", "--filename=-", input=json.dumps(pool(**spec)))
    assert done.returncode
    assert re.search(told, done.stderr), done.stderr


@pytest.mark.parametrize("name", ["1st", "shop.db", "s" * 64])
def test_a_name_that_no_service_can_have_never_gets_in(
    installed: Kubernetes, namespace: str, name: str
) -> None:
    done = installed.ask("-n", namespace, "create", "--filename=-", input=json.dumps(pool(name)))
    assert "the name is also that of a Service" in done.stderr


def test_what_is_not_asked_for_is_filled_in(installed: Kubernetes, namespace: str) -> None:
    installed.apply(pool(pool={}, probes={"startup": {"failureThreshold": 5}}), namespace=namespace)
    spec = installed.get("cpool", "shop-db", namespace=namespace)["spec"]
    assert spec["pool"] == {"min": 10, "max": 30, "checkoutTimeout": "3s"}
    assert spec["database"]["port"] == 3306
    assert spec["probes"]["readiness"]["periodSeconds"] == 5
    assert spec["probes"]["startup"]["failureThreshold"] == 5


def test_kubectl_explains_and_shows_it(installed: Kubernetes, namespace: str) -> None:
    assert "Connections that are kept open." in installed.kubectl("explain", "cpool.spec.pool.min")
    installed.apply(POOL, namespace=namespace)
    head, line = installed.kubectl("-n", namespace, "get", "cpool").splitlines()
    assert head.split() == ["NAME", "READY", "REPLICAS", "MIN", "MAX", "DATABASE", "AGE"]
    assert line.split()[:4] == ["shop-db", "10", "30", "shop"]


def test_the_objects_are_made_and_belong_to_the_pool(kept: Operator) -> None:
    uid = kept.get("cpool")["metadata"]["uid"]
    for kind in CHILDREN:
        (owner,) = kept.get(kind)["metadata"]["ownerReferences"]
        assert (owner["uid"], owner["controller"]) == (uid, True)
    assert kept.get("deployment")["spec"]["replicas"] == 2
    assert kept.condition("CredentialsFound") == "True"
    assert kept.condition("Ready", "reason") == "Progressing"


def test_nothing_of_ours_is_in_the_resource_but_its_status(kept: Operator) -> None:
    """No finalizer that would hold it when the operator is away, no memory in annotations."""
    meta = kept.get("cpool")["metadata"]
    assert "finalizers" not in meta
    assert list(meta.get("annotations", {})) == ["kubectl.kubernetes.io/last-applied-configuration"]


def test_another_sizing_replaces_no_pod(kept: Operator) -> None:
    before = kept.get("deployment")["metadata"]["generation"]
    kept.patch(pool={"min": 1, "max": 4}, heartbeat={"interval": "1m"})
    told = kept.until(lambda: file_of(kept)["max"] == 4 and file_of(kept))
    assert (told["min"], told["heartbeat"]) == (1, 60.0)
    kept.until(kept.is_seen)
    assert kept.get("deployment")["metadata"]["generation"] == before


def file_of(operator: Operator) -> Any:
    """What the pods read."""
    return json.loads(operator.get("configmap")["data"][SETTINGS])


def test_other_probes_are_those_of_the_next_pods(kept: Operator) -> None:
    kept.patch(probes={"liveness": {"periodSeconds": 3, "failureThreshold": 9}})
    probe = kept.until(lambda: probe_of(kept)["periodSeconds"] == 3 and probe_of(kept))
    assert (probe["failureThreshold"], probe["httpGet"]["path"]) == (9, "/livez")


def probe_of(operator: Operator) -> Any:
    return operator.get("deployment")["spec"]["template"]["spec"]["containers"][0]["livenessProbe"]


def test_kubectl_scales_the_pool(kept: Operator) -> None:
    kept.kubectl("scale", "cpool/shop-db", "--replicas=5")
    kept.until(lambda: kept.get("deployment")["spec"]["replicas"] == 5)
    scale = json.loads(kept.kubectl("get", "cpool", "shop-db", "--subresource=scale", "--output=json"))
    assert scale["spec"]["replicas"] == 5
    assert scale["status"]["selector"].endswith("app.kubernetes.io/instance=shop-db")


@pytest.mark.parametrize("kind", CHILDREN)
def test_what_is_deleted_comes_back(kept: Operator, kind: str) -> None:
    before = kept.uids()
    kept.kubectl("delete", kind, "shop-db")
    after = kept.until(lambda: all(kept.uids().values()) and kept.uids())
    assert {each for each in CHILDREN if after[each] != before[each]} == {kind}


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("configmap", {"data": {SETTINGS: "{}"}}),
        ("service", {"spec": {"selector": {"app.kubernetes.io/instance": "other"}}}),
        ("deployment", {"spec": {"replicas": 7}}),
        ("deployment", {"metadata": {"labels": {"app.kubernetes.io/managed-by": None}}}),
    ],
)
def test_what_is_altered_comes_back(kept: Operator, kind: str, change: dict[str, Any]) -> None:
    before = essence(kept.get(kind))
    kept.kubectl("patch", kind, "shop-db", "--type=merge", "--patch", json.dumps(change))
    kept.until(lambda: essence(kept.get(kind)) == before)


def essence(resource: dict[str, Any]) -> Any:
    return resource["metadata"]["labels"], resource.get("data"), resource.get("spec")


def test_what_others_add_stays(kept: Operator) -> None:
    kept.kubectl("annotate", "service", "shop-db", "example.com/owner=ann")
    kept.kubectl("rollout", "restart", "deployment/shop-db")
    kept.kubectl("scale", "cpool/shop-db", "--replicas=3")
    kept.until(lambda: kept.get("deployment")["spec"]["replicas"] == 3)
    template = kept.get("deployment")["spec"]["template"]["metadata"]
    assert "kubectl.kubernetes.io/restartedAt" in template["annotations"]
    assert kept.get("service")["metadata"]["annotations"]["example.com/owner"] == "ann"


def test_a_deleted_pool_leaves_nothing(kept: Operator) -> None:
    kept.kubectl("delete", "cpool", "shop-db")
    kept.until(lambda: not any(kept.uids().values()))
    time.sleep(1.5)
    assert not any(kept.uids().values()), "made again after the pool has gone"


def test_a_pool_is_deleted_though_the_operator_is_away(kept: Operator) -> None:
    kept.kill()
    kept.kubectl("delete", "cpool", "shop-db", "--timeout=10s")
    kept.until(lambda: not any(kept.uids().values()))


def test_a_pool_that_is_made_anew_at_once_gets_its_own_objects(kept: Operator) -> None:
    before = kept.uids()
    kept.kubectl("delete", "cpool", "shop-db")
    kept.kubernetes.apply(POOL, namespace=kept.namespace)
    kept.until(lambda: kept.condition("Accepted") == "True" and all(kept.uids().values()))
    after = kept.until(lambda: not set(kept.uids().values()) & set(before.values()) and kept.uids())
    assert all(after.values())


def test_what_changed_while_the_operator_was_dead_is_done_by_the_next_one(kept: Operator) -> None:
    kept.kill()
    kept.kubectl("delete", "service", "shop-db")
    kept.kubectl("scale", "cpool/shop-db", "--replicas=4")
    kept.kubernetes.apply(pool("till-db"), namespace=kept.namespace)
    kept.start()
    kept.until(lambda: kept.get("service") and kept.get("deployment")["spec"]["replicas"] == 4)
    kept.until(lambda: kept.get("deployment", "till-db"))


def test_killed_at_any_moment_the_next_one_goes_on(operator: Operator) -> None:
    operator.kubernetes.apply(SECRET, namespace=operator.namespace)
    for number in range(5):
        operator.start()
        operator.kubernetes.apply(pool(f"pool-{number}"), namespace=operator.namespace)
        time.sleep(0.8 + 0.15 * number)
        operator.kill()
    operator.start()
    names = [f"pool-{number}" for number in range(5)]
    operator.until(lambda: all(operator.get(kind, name) for kind in CHILDREN for name in names))


def test_told_to_end_it_ends_at_once(kept: Operator) -> None:
    began = time.monotonic()
    assert kept.stop() == 0
    assert time.monotonic() - began < 5
    assert "Traceback" not in kept.said()


def test_a_secret_that_is_missing_is_told_until_it_is_there(operator: Operator) -> None:
    operator.start()
    operator.kubernetes.apply(POOL, namespace=operator.namespace)
    operator.until(lambda: operator.condition("CredentialsFound") == "False")
    assert operator.condition("Ready", "reason") == "CredentialsMissing"
    assert operator.condition("Ready", "message") == "the Secret shop-db is missing"
    half = {**SECRET, "stringData": {"username": "app"}}
    operator.kubernetes.apply(half, namespace=operator.namespace)
    operator.until(lambda: operator.condition("Ready", "message") == "the Secret shop-db has no password")
    operator.kubernetes.apply(SECRET, namespace=operator.namespace)
    operator.until(lambda: operator.condition("CredentialsFound") == "True", within=45)


def test_a_ca_that_is_missing_is_told_too(operator: Operator) -> None:
    database = {**POOL["spec"]["database"], "caSecretRef": {"name": "authority"}}
    operator.start()
    operator.kubernetes.apply(SECRET, pool(database=database), namespace=operator.namespace)
    operator.until(lambda: operator.condition("Ready", "message") == "the Secret authority is missing")
    ca = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "authority"}}
    operator.kubernetes.apply({**ca, "stringData": {"tls.crt": "…"}}, namespace=operator.namespace)
    operator.until(lambda: operator.condition("Ready", "message") == "the Secret authority has no ca.crt")
    operator.kubernetes.apply({**ca, "stringData": {"ca.crt": "…"}}, namespace=operator.namespace)
    operator.until(lambda: operator.condition("CredentialsFound") == "True", within=45)


def test_what_is_missing_is_asked_for_ever_less_and_told_once(operator: Operator) -> None:
    operator.start()
    operator.kubernetes.apply(POOL, namespace=operator.namespace)
    operator.until(lambda: operator.condition("CredentialsFound") == "False")
    time.sleep(1.5)
    before, version = asked_for_secrets(operator), operator.get("cpool")["metadata"]["resourceVersion"]
    time.sleep(6)
    assert asked_for_secrets(operator) - before <= 3 * 4, "three questions at a look"
    assert operator.get("cpool")["metadata"]["resourceVersion"] == version


def asked_for_secrets(operator: Operator) -> float:
    """How often anybody read one since the server started."""
    told = operator.kubernetes.kubectl("get", "--raw", "/metrics")
    counted = re.findall(r'^apiserver_request_total\{.*resource="secrets".*verb="GET".*\} (.*)$', told, re.M)
    return sum(map(float, counted))


def test_the_key_for_tokens_is_made_once_and_goes_with_the_pool(kept: Operator) -> None:
    before = key_of(kept)
    assert len(base64.b64decode(before or "")) >= 32
    kept.kill()
    kept.patch(pool={"max": 40})
    kept.start()
    kept.until(lambda: file_of(kept)["max"] == 40)
    assert key_of(kept) == before
    pods = annotated(kept)
    kept.kubectl("delete", "secret", "shop-db-tokens")
    kept.patch(pool={"max": 41})
    kept.until(lambda: key_of(kept) not in (None, before))
    kept.until(lambda: annotated(kept) != pods)  # all pods are to have the same one
    kept.kubectl("patch", "secret", "shop-db-tokens", "--type=json", "--patch", WITHOUT_KEY)
    kept.patch(pool={"max": 42})
    kept.until(
        lambda: kept.condition("CredentialsFound", "message") == "the Secret shop-db-tokens has no key"
    )
    kept.kubectl("delete", "cpool", "shop-db")
    kept.until(lambda: key_of(kept) is None)


WITHOUT_KEY = json.dumps([{"op": "remove", "path": "/data/key"}])


def annotated(operator: Operator) -> Any:
    return operator.get("deployment")["spec"]["template"]["metadata"]["annotations"]


def key_of(operator: Operator) -> str | None:
    secret = operator.get("secret", "shop-db-tokens")
    return secret and str(secret["data"]["key"])


def test_a_key_of_somebody_else_is_not_taken(operator: Operator) -> None:
    refuses_to_take(operator, {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "shop-db-tokens"}})
    assert "data" not in operator.get("secret", "shop-db-tokens")


def refuses_to_take(operator: Operator, theirs: dict[str, Any]) -> None:
    operator.kubernetes.apply(SECRET, theirs, namespace=operator.namespace)
    operator.start()
    operator.kubernetes.apply(POOL, namespace=operator.namespace)
    operator.until(lambda: operator.condition("Accepted", "reason") == "NameTaken")
    assert operator.condition("Accepted", "message") == (
        f"a {theirs['kind']} {theirs['metadata']['name']} is there already and does not belong to this pool"
    )


def test_the_objects_of_somebody_else_are_left_as_they_are(operator: Operator) -> None:
    theirs = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "shop-db"}}
    refuses_to_take(operator, theirs | {"spec": {"selector": {"app": "theirs"}, "ports": [{"port": 80}]}})
    assert operator.get("service")["spec"]["selector"] == {"app": "theirs"}
    operator.kubectl("delete", "service", "shop-db")
    operator.until(lambda: operator.condition("Accepted") == "True", within=45)


def test_what_the_cluster_refuses_is_told(operator: Operator) -> None:
    operator.start()
    resources = {"requests": {"memory": "2Gi"}, "limits": {"memory": "1Gi"}}
    operator.kubernetes.apply(SECRET, pool(resources=resources), namespace=operator.namespace)
    operator.until(lambda: operator.condition("Accepted", "reason") == "RefusedByCluster")
    told = operator.condition("Accepted", "message")
    assert told
    assert "must be less than or equal to memory limit" in told
    operator.kubernetes.apply(POOL, namespace=operator.namespace)
    operator.until(lambda: operator.condition("Accepted") == "True")


def test_what_an_older_crd_let_in_is_told_and_healed_by_an_edit(operator: Operator) -> None:
    kubernetes = operator.kubernetes
    lax = yaml.safe_load(CRD.read_text())
    schema = lax["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    del schema["pool"]["x-kubernetes-validations"]
    kubernetes.kubectl("apply", "--server-side", "--filename=-", input=json.dumps(lax))
    try:
        operator.until(lambda: not refused(operator, pool(pool={"min": 31})))
    finally:
        kubernetes.kubectl("apply", "--server-side", f"--filename={CRD}")
    operator.start()
    operator.until(lambda: operator.condition("Accepted", "reason") == "InvalidSpec")
    assert operator.condition("Accepted", "message") == "spec.pool.min is 31; allowed is: 0 to 30"
    kubernetes.apply(SECRET, POOL, namespace=operator.namespace)
    operator.until(lambda: operator.condition("Accepted") == "True")


def refused(operator: Operator, resource: dict[str, Any]) -> bool:
    command = ("-n", operator.namespace, "apply", "--filename=-")
    return bool(operator.kubernetes.ask(*command, input=json.dumps(resource)).returncode)
