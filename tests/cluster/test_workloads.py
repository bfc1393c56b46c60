"""What runs in pods: rolled out, reached by name, looked into, limited, taken out, killed."""

from __future__ import annotations

import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from cluster.workloads import ASK, SLEEP, pod, ready, web
from plugins.cluster import Images
from plugins.house import eventually
from plugins.kubernetes_client import Kubernetes


@pytest.fixture
def python(images: Images) -> str:
    return images.python()


def test_a_deployment_is_rolled_out_and_reached_by_name_from_another_pod(
    cluster: Kubernetes, namespace: str, python: str
) -> None:
    cluster.apply(*web(python, replicas=2), pod("client", python, SLEEP), namespace=namespace)
    cluster.rolled_out("deployment/web", namespace=namespace)
    ready(cluster, "client", namespace)
    names = {
        item["metadata"]["name"] for item in cluster.get("pods", "-lapp=web", namespace=namespace)["items"]
    }
    assert len(names) == 2
    for url in ("http://web", f"http://web.{namespace}.svc.cluster.local"):
        asked = cluster.kubectl("-n", namespace, "exec", "client", "--", "python3", "-c", ASK, url)
        assert asked.strip() in names

    service = cluster.get("service", "web", namespace=namespace)["spec"]["clusterIP"]
    cluster.kubectl("-n", namespace, "delete", "deployment", "web", "--cascade=foreground", "--timeout=30s")
    assert not cluster.get("pods", "-lapp=web", namespace=namespace)["items"]
    refused = cluster.ask("-n", namespace, "exec", "client", "--", "python3", "-c", ASK, f"http://{service}")
    assert "Connection refused" in refused.stderr


def test_a_pod_is_looked_into_and_reached_from_here(cluster: Kubernetes, namespace: str, python: str) -> None:
    cluster.apply(*web(python, replicas=1), namespace=namespace)
    cluster.rolled_out("deployment/web", namespace=namespace)
    assert cluster.kubectl("-n", namespace, "logs", "deployment/web") == "serving\n"
    told = cluster.kubectl("-n", namespace, "exec", "deployment/web", "-i", "--", "cat", input="through")
    assert told == "through"
    with _forwarded(cluster, namespace, "service/web") as port:
        (name,) = (item["metadata"]["name"] for item in cluster.get("pods", namespace=namespace)["items"])
        assert urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=5).read().decode() == name


@contextmanager
def _forwarded(kubernetes: Kubernetes, namespace: str, what: str) -> Iterator[int]:
    command = kubernetes.command("kubectl", "--namespace", namespace, "port-forward", what, ":80")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=kubernetes.environment) as forward:
        assert forward.stdout is not None
        first = forward.stdout.readline()  # Forwarding from 127.0.0.1:41234 -> 8080
        yield int(first.split(" -> ")[0].rpartition(":")[2])
        forward.terminate()


async def test_who_takes_more_memory_than_is_allowed_is_killed(
    cluster: Kubernetes, namespace: str, python: str
) -> None:
    limits = {"limits": {"memory": "64Mi"}}
    greedy = pod("greedy", python, "held = b'x' * (256 << 20)", resources=limits)
    cluster.apply(greedy, namespace=namespace)

    def ended() -> str | None:
        status = cluster.get("pod", "greedy", namespace=namespace)["status"]
        states = status.get("containerStatuses", [{}])[0]
        last = states.get("lastState", {}).get("terminated") or states.get("state", {}).get("terminated")
        return last and str(last["reason"])

    assert await eventually(ended, within=30) == "OOMKilled"


async def test_who_is_not_ready_is_taken_out_of_the_service(
    cluster: Kubernetes, namespace: str, python: str
) -> None:
    cluster.apply(*web(python, replicas=2), namespace=namespace)
    cluster.rolled_out("deployment/web", namespace=namespace)

    def reached() -> list[str]:
        slices = cluster.get("endpointslices", "-lkubernetes.io/service-name=web", namespace=namespace)
        ends = [end for item in slices["items"] for end in item["endpoints"] or []]
        return [end["targetRef"]["name"] for end in ends if end["conditions"]["ready"]]

    first, second = await eventually(lambda: _two(reached()))
    cluster.kubectl("-n", namespace, "exec", first, "--", "touch", "/tmp/unready")
    await eventually(lambda: reached() == [second])
    cluster.kubectl("-n", namespace, "exec", first, "--", "rm", "/tmp/unready")
    await eventually(lambda: _two(reached()))


def _two(names: list[str]) -> list[str] | None:
    return names if len(names) == 2 else None


async def test_a_container_that_dies_is_started_again_and_a_pod_that_is_deleted_is_replaced(
    cluster: Kubernetes, namespace: str, python: str
) -> None:
    cluster.apply(*web(python, replicas=1), namespace=namespace)
    cluster.rolled_out("deployment/web", namespace=namespace)

    def pods() -> dict[str, int]:
        """The pods that are ready, each with how often it was started again."""
        found = (item for item in cluster.get("pods", namespace=namespace)["items"])
        states = {
            item["metadata"]["name"]: item["status"].get("containerStatuses", [{}])[0] for item in found
        }
        return {name: state["restartCount"] for name, state in states.items() if state.get("ready")}

    ((first, restarts),) = pods().items()
    assert restarts == 0
    cluster.kubectl("-n", namespace, "exec", first, "--", "kill", "1")
    await eventually(lambda: pods() == {first: 1}, within=30)
    cluster.kubectl("-n", namespace, "delete", "pod", first, "--wait=false")
    await eventually(lambda: pods() and first not in pods(), within=30)
