"""A real Kubernetes for every suite: fixtures that start one when a test first asks, and share it.

    def test_something(cluster: Cluster, namespace: str) -> None:
        cluster.apply(deployment, namespace=namespace)
        cluster.rolled_out("deployment/web", namespace=namespace)
        cluster.kubectl("-n", namespace, "get", "pods")

- `apiserver`: an API server and the controllers (garbage collection, service accounts, endpoints), no node.
  For what needs no pods: custom resources, server-side apply, watches, owners. Ready in about 4 seconds.
- `cluster`: the same with a node: pods, Services, names, logs, exec. It is the same object.
- `own_cluster`: as `cluster`, for a test that harms it; not there on a cluster that is somebody else's.
- `namespace`: the name of a namespace of the test's own. It is deleted after the test, and at the end of the
  run all of them must have gone.
- `images`: small images for pods, loaded when asked for: `images.python()`, `images.penstock("data")`.
- `database`: a MariaDB in the namespace (see `kubernetes_mariadb`).

The first two have `kubeconfig`, `kubectl`, `ask`, `apply`, `get`, `rolled_out`, `helm`, `load` (see
`kubernetes_client`). Where a test fails that had a namespace, its pods, events and logs are in the report.
`PENSTOCK_TEST_KUBECONFIG=FILE` uses the cluster of that file instead, `PENSTOCK_TEST_LOAD` being the command
that brings the archive of an image to its nodes. How the own cluster is built stands in tests/README.md.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from plugins import kubernetes_images
from plugins.kubernetes_client import Kubernetes
from plugins.kubernetes_cluster import Cluster
from plugins.kubernetes_cluster import cluster as started
from plugins.kubernetes_existing import Existing
from plugins.kubernetes_mariadb import MariaDBPod
from plugins.kubernetes_programs import Missing

WITHIN = 60.0

_ended = pytest.StashKey[dict[str, str]]()
"""Namespaces of tests that are over, each with its test."""


class Images:
    """Builds images, once for all runs, and loads them, once in a run. All return the name for pods."""

    def __init__(self, kubernetes: Kubernetes) -> None:
        self._kubernetes = kubernetes

    def python(self) -> str:
        """Debian's Python with its whole standard library, and a shell; begins as `python3`."""
        return self._kubernetes.load(kubernetes_images.python())

    def penstock(self, extra: str) -> str:
        """The same with our wheel and one of its extras; begins as `python3 -m penstock_operator`, by that
        name."""
        return self._kubernetes.load(kubernetes_images.penstock(extra))

    def mariadb(self) -> str:
        """A MariaDB with a database `shop` for `app`; the arguments are the server's own options."""
        return self._kubernetes.load(kubernetes_images.mariadb())


@pytest.fixture(scope="session")
def apiserver(request: pytest.FixtureRequest) -> Iterator[Kubernetes]:
    """See the module: an API server with its controllers, and perhaps a node."""
    with ExitStack() as stack:
        kubernetes = _existing() or stack.enter_context(own(request.config))
        yield kubernetes
        _all_gone(kubernetes, request.config)


@pytest.fixture(scope="session")
def cluster(apiserver: Kubernetes) -> Kubernetes:
    """See the module: the API server with a node."""
    if isinstance(apiserver, Cluster):
        apiserver.start_node()
    return apiserver


@pytest.fixture
def own_cluster(cluster: Kubernetes) -> Cluster:
    """See the module: a cluster whose parts a test may end or freeze."""
    if not isinstance(cluster, Cluster):
        pytest.skip("does harm to the cluster, which is not ours")
    return cluster


@pytest.fixture(scope="session")
def images(cluster: Kubernetes) -> Images:
    """See the module: images for pods."""
    return Images(cluster)


@pytest.fixture
def namespace(apiserver: Kubernetes, request: pytest.FixtureRequest) -> Iterator[str]:
    """See the module: a namespace of the test's own."""
    name = f"test-{secrets.token_hex(4)}"
    apiserver.kubectl("create", "namespace", name)
    apiserver.kubectl("-n", name, "wait", "--for=create", "serviceaccount/default", "--timeout=30s")
    request.config.stash.setdefault(_ended, {})[name] = request.node.nodeid
    yield name
    apiserver.kubectl("delete", "namespace", name, "--wait=false")
    apiserver.kubectl("-n", name, "delete", "pods", "--all", "--grace-period=1", "--wait=false")


@pytest.fixture
def database(cluster: Kubernetes, images: Images, namespace: str) -> MariaDBPod:
    """See the module: a MariaDB that answers; pods reach it as `mariadb`."""
    pod = MariaDBPod(cluster, namespace)
    pod.start(images.mariadb())
    return pod


def _existing() -> Existing | None:
    file = os.environ.get("PENSTOCK_TEST_KUBECONFIG")
    return Existing(Path(file)) if file else None


@contextmanager
def own(config: pytest.Config) -> Iterator[Cluster]:
    """A cluster of our own; where there can be none, tests are left out, but not in silence and not in CI."""
    if os.geteuid() != 0:
        _cannot("a Kubernetes of its own needs root; PENSTOCK_TEST_KUBECONFIG=FILE uses one that is there")
    try:
        with started(lambda text: _say(config, text)) as own:
            yield own
    except Missing as told:
        _cannot(str(told))


def _cannot(why: str) -> None:
    pytest.fail(why) if os.environ.get("CI") else pytest.skip(why)


def _say(config: pytest.Config, text: str) -> None:
    """On the terminal at once, whatever pytest captures: it is about minutes."""
    capture = config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print(f"\n==> {text}", flush=True)


def _all_gone(kubernetes: Kubernetes, config: pytest.Config) -> None:
    """What keeps a namespace from going, such as a finalizer that nobody removes, is an error of its test."""
    ended = config.stash.get(_ended, {})
    deadline = time.monotonic() + WITHIN
    while left := ended.keys() & _namespaces(kubernetes):
        if time.monotonic() > deadline:
            raise AssertionError("\n".join(_stuck(kubernetes, name, ended[name]) for name in sorted(left)))
        time.sleep(0.2)


def _stuck(kubernetes: Kubernetes, name: str, test: str) -> str:
    why = kubernetes.ask("get", "namespace", name, "-o", "jsonpath={.status.conditions[*].message}")
    return f"the namespace of {test} does not go: {why.stdout}"


def _namespaces(kubernetes: Kubernetes) -> set[str]:
    names = kubernetes.kubectl("get", "namespaces", "--output=name").split()
    return {name.removeprefix("namespace/") for name in names}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where a test fails, what its pods said and what became of them is beside the traceback."""
    report = yield
    given = getattr(item, "funcargs", {})
    if report.failed and "namespace" in given:
        report.sections.append(("Kubernetes", _seen(given["apiserver"], given["namespace"])))
    return report


def _seen(kubernetes: Kubernetes, namespace: str) -> str:
    def asked(*arguments: str) -> str:
        answer = kubernetes.ask("--namespace", namespace, *arguments)
        return f"$ kubectl {' '.join(arguments)}\n{answer.stdout}{answer.stderr}"

    pods = kubernetes.ask("--namespace", namespace, "get", "pods", "-o", "name").stdout.split()
    logs = [asked("logs", pod, "--all-containers", "--prefix", "--tail=100") for pod in pods]
    what = (("get", "all", "-o", "wide"), ("describe", "pods"), ("events",))
    return "\n".join([*(asked(*words) for words in what), *logs])
