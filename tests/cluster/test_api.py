"""What the API server itself does: it checks, merges, tells of changes, refuses, and comes back."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from cluster.workloads import pod
from kubernetes import client, config, watch
from kubernetes.client.exceptions import ApiException
from plugins.cluster import Images
from plugins.house import eventually
from plugins.kubernetes_client import Kubernetes, Manifest
from plugins.kubernetes_cluster import Cluster
from urllib3.exceptions import HTTPError

WITHIN = 60.0


@pytest.fixture
def core(apiserver: Kubernetes) -> client.CoreV1Api:
    return client.CoreV1Api(config.new_client_from_config(str(apiserver.kubeconfig)))


@pytest.fixture
def gates(apiserver: Kubernetes, namespace: str) -> Iterator[str]:
    """A kind of object with a rule: it opens no wider than it is. Named after the test's namespace."""
    group = f"{namespace}.test"
    size = {"type": "integer", "minimum": 0}
    rule = {"rule": "self.open <= self.width", "message": "opens no wider than it is"}
    spec = {
        "type": "object",
        "properties": {"width": size, "open": size},
        "required": ["width", "open"],
        "x-kubernetes-validations": [rule],
    }
    version = {
        "name": "v1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}},
    }
    definition = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"gates.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"plural": "gates", "singular": "gate", "kind": "Gate"},
            "versions": [version],
        },
    }
    apiserver.apply(definition, namespace=namespace)
    apiserver.kubectl("wait", "--for=condition=Established", f"crd/gates.{group}", "--timeout=30s")
    yield group
    apiserver.kubectl("delete", "crd", f"gates.{group}", "--wait=false")


def _gate(group: str, name: str, **spec: int) -> str:
    gate = {"apiVersion": f"{group}/v1", "kind": "Gate", "metadata": {"name": name}, "spec": spec}
    return json.dumps(gate)


def test_a_custom_resource_is_held_to_its_rule(apiserver: Kubernetes, namespace: str, gates: str) -> None:
    where = ("-n", namespace, "apply", "-f", "-")
    apiserver.kubectl(*where, input=_gate(gates, "good", width=3, open=2))
    refused = apiserver.ask(*where, input=_gate(gates, "bad", width=3, open=4))
    assert refused.returncode != 0
    assert "opens no wider than it is" in refused.stderr
    patched = apiserver.ask(
        "-n", namespace, "patch", "gate", "good", "--type=merge", '-p={"spec":{"open":9}}'
    )
    assert "opens no wider than it is" in patched.stderr
    assert [item["spec"]["open"] for item in apiserver.get("gates", namespace=namespace)["items"]] == [2]


def test_two_who_apply_the_same_field_conflict_until_one_is_forced(
    apiserver: Kubernetes, namespace: str
) -> None:
    def applied(manager: str, value: str, *flags: str) -> Any:
        metadata = {"name": "shared"}
        shared = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"key": value}}
        how = ("apply", "--server-side", f"--field-manager={manager}", *flags, "-f", "-")
        return apiserver.ask("-n", namespace, *how, input=json.dumps(shared))

    assert applied("first", "one").returncode == 0
    conflict = applied("second", "two")
    assert 'conflict with "first": .data.key' in conflict.stderr
    assert applied("second", "two", "--force-conflicts").returncode == 0
    assert apiserver.get("configmap", "shared", namespace=namespace)["data"] == {"key": "two"}


def test_a_watch_from_too_long_ago_is_told_that_it_has_expired(
    apiserver: Kubernetes, namespace: str, gates: str
) -> None:
    """The server remembers no change from before the kind was there, as it forgets all in time."""
    watched = f"/apis/{gates}/v1/namespaces/{namespace}/gates?watch=1&timeoutSeconds=5&resourceVersion=1"
    told = json.loads(apiserver.kubectl("get", "--raw", watched))
    assert (told["type"], told["object"]["code"], told["object"]["reason"]) == ("ERROR", 410, "Expired")


def test_who_has_no_role_is_refused_and_who_has_one_may_do_that_much(
    apiserver: Kubernetes, namespace: str
) -> None:
    who = f"--as=system:serviceaccount:{namespace}:reader"
    apiserver.kubectl("-n", namespace, "create", "serviceaccount", "reader")
    refused = apiserver.ask("-n", namespace, who, "get", "pods")
    assert "Forbidden" in refused.stderr

    apiserver.kubectl("-n", namespace, "create", "role", "reads", "--verb=get,list", "--resource=pods")
    binding = ("--role=reads", f"--serviceaccount={namespace}:reader")
    apiserver.kubectl("-n", namespace, "create", "rolebinding", "reads", *binding)
    assert apiserver.ask("-n", namespace, who, "get", "pods").returncode == 0
    for beyond in (("delete", "pod", "any"), ("get", "secrets"), ("get", "pods", "-A")):
        assert "Forbidden" in apiserver.ask("-n", namespace, who, *beyond).stderr


def test_what_is_owned_goes_with_its_owner(apiserver: Kubernetes, namespace: str) -> None:
    apiserver.kubectl("-n", namespace, "create", "configmap", "owner")
    uid = apiserver.get("configmap", "owner", namespace=namespace)["metadata"]["uid"]
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid}
    metadata = {"name": "owned", "ownerReferences": [owner]}
    apiserver.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}, namespace=namespace)
    apiserver.kubectl("-n", namespace, "delete", "configmap", "owner")
    apiserver.kubectl("-n", namespace, "wait", "configmap/owned", "--for=delete", "--timeout=30s")


async def test_watches_are_resumed_when_the_api_server_was_away_for_five_seconds(
    own_cluster: Cluster, namespace: str, core: client.CoreV1Api, images: Images
) -> None:
    seen: list[str] = []
    own_cluster.kubectl("-n", namespace, "create", "configmap", "before")
    with ThreadPoolExecutor(1) as threads:
        watching = threads.submit(_watch, core, namespace, "after", seen)
        await eventually(lambda: seen == ["before"])
        with own_cluster.without_apiserver():
            assert own_cluster.ask("get", "nodes").returncode != 0
            await asyncio.sleep(5)  # that is how long it is away; nothing is waited for
        own_cluster.kubectl("-n", namespace, "create", "configmap", "after")
        watching.result(WITHIN)
    assert seen == ["before", "after"]

    # Scheduler, controllers and kubelet have theirs back as well, or this would neither run nor be seen.
    own_cluster.apply(_job(images.python()), namespace=namespace)
    await eventually(lambda: _succeeded(own_cluster, namespace), within=WITHIN)


def _watch(core: client.CoreV1Api, namespace: str, last: str, seen: list[str]) -> None:
    """Notes the names of config maps in the order in which they are made, each once, though the server goes
    away: who is cut off goes on from the last version it saw, and where that has expired it looks anew."""
    version, deadline = "", time.monotonic() + WITHIN
    ours = "metadata.name!=kube-root-ca.crt"
    while last not in seen and time.monotonic() < deadline:
        where = {"namespace": namespace, "field_selector": ours, "resource_version": version}
        try:
            for change in watch.Watch().stream(core.list_namespaced_config_map, **where, timeout_seconds=5):
                metadata = change["object"].metadata
                version = metadata.resource_version
                seen += [metadata.name] if metadata.name not in seen else []
                if last in seen:
                    return
        except ApiException as told:
            version = "" if told.status == 410 else version
        except HTTPError:  # refused or cut off
            time.sleep(0.1)


def _job(image: str) -> Manifest:
    template = pod("once", image, "print('ran')")["spec"] | {"restartPolicy": "Never"}
    metadata = {"name": "once"}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": {"template": {"spec": template}},
    }


def _succeeded(kubernetes: Kubernetes, namespace: str) -> bool:
    return bool(kubernetes.get("job", "once", namespace=namespace)["status"].get("succeeded") == 1)
