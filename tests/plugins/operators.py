"""The operator as a process of its own, with no more rights than the chart gives it.

def test_something(operator: Operator) -> None:
    operator.start()
    operator.kubernetes.apply(pool(), namespace=operator.namespace)
    operator.until(lambda: operator.condition("Ready") == "True")
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
import yaml
from plugins import kubernetes_images
from plugins.kubernetes_cache import kept
from plugins.kubernetes_client import Kubernetes

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts/penstock"
CRD = CHART / "crds/connectionpools.yaml"
SYSTEM = "penstock-system"
WITHIN = 30.0
PATHS = {
    "pod": "api/v1/namespaces/{}/pods",
    "configmap": "api/v1/namespaces/{}/configmaps",
    "secret": "api/v1/namespaces/{}/secrets",
    "service": "api/v1/namespaces/{}/services",
    "deployment": "apis/apps/v1/namespaces/{}/deployments",
    "cpool": "apis/penstock.dev/v1alpha1/namespaces/{}/connectionpools",
}
CHILDREN = ("configmap", "service", "deployment")

EXAMPLE = re.search(
    r"^```yaml\n(apiVersion: penstock\.dev.*?)```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL
)
assert EXAMPLE
POOL = yaml.safe_load(EXAMPLE[1])
"""The README's own."""

SECRET = {
    "apiVersion": "v1",
    "kind": "Secret",
    "metadata": {"name": "shop-db"},
    "stringData": {"username": "app", "password": "penstock"},
}

T = TypeVar("T")


def pool(name: str = "shop-db", **spec: Any) -> dict[str, Any]:
    """The README's, with what is told instead of its own."""
    return {**POOL, "metadata": {"name": name}, "spec": {**POOL["spec"], **spec}}


class Operator:
    """Looks after one namespace, and is started, ended and killed by the test."""

    def __init__(
        self, kubernetes: Kubernetes, asked: httpx.Client, namespace: str, kubeconfig: Path, log: Path
    ) -> None:
        """`asked` is how a test reads what is there, again and again: kubectl takes its time to start."""
        self.kubernetes = kubernetes
        self._asked = asked
        self.namespace = namespace
        self.log = log
        self._kubeconfig = kubeconfig
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str, image: str = "penstock-data:none") -> None:
        """Nothing is known to it but what the cluster knows."""
        assert self._process is None
        command = [sys.executable, "-m", "penstock_operator", "--namespace", self.namespace, "--port=0"]
        environment = {**self.kubernetes.environment, "KUBECONFIG": str(self._kubeconfig)}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--image", image, *options], env=environment, stdout=log, stderr=log
            )

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """SIGKILL: it can do nothing more."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> int:
        """SIGTERM, as Kubernetes ends a pod; the exit code."""
        assert self._process is not None
        self._process.terminate()
        code = self._process.wait(timeout=WITHIN)
        self._process = None
        return code

    def patch(self, **spec: Any) -> None:
        """`kubectl patch` of the pool."""
        self.kubectl("patch", "cpool", "shop-db", "--type=merge", "--patch", json.dumps({"spec": spec}))

    def until(self, probe: Callable[[], T], *, within: float = WITHIN) -> T:
        """Polls until it is true; else the test fails with what the operator said."""
        deadline = time.monotonic() + within
        while not (answer := probe()):
            if time.monotonic() > deadline:
                pytest.fail(
                    f"not within {within} s; last answer: {answer!r}; the operator said:\n{self.said()}"
                )
            time.sleep(0.1)
        return answer

    def said(self) -> str:
        return self.log.read_text()[-5000:] if self.log.exists() else ""

    def kubectl(self, *arguments: str) -> str:
        return self.kubernetes.kubectl("--namespace", self.namespace, *arguments)

    def get(self, kind: str, name: str = "shop-db") -> Any:
        """As data; None: there is none."""
        answer = self._asked.get(f"{PATHS[kind].format(self.namespace)}/{name}")
        return None if answer.status_code == 404 else answer.raise_for_status().json()

    def list(self, kind: str) -> Any:
        """All there are in the namespace."""
        return self._asked.get(PATHS[kind].format(self.namespace)).raise_for_status().json()["items"]

    def uids(self) -> dict[str, str | None]:
        """Of the objects that belong to the pool, None where one is missing."""
        found = {kind: self.get(kind) for kind in CHILDREN}
        return {kind: each and each["metadata"]["uid"] for kind, each in found.items()}

    def condition(self, name: str = "Ready", field: str = "status") -> str | None:
        """What is told of the pool; None: nothing yet."""
        told = (self.get("cpool") or {}).get("status", {}).get("conditions", [])
        return next((each[field] for each in told if each["type"] == name), None)

    def until_ready(self, *, within: float = 90.0) -> None:
        """As many pods as asked for, all as asked for now."""
        self.until(lambda: self.is_seen() and self.condition() == "True", within=within)

    def is_seen(self) -> bool:
        """Whether what is told is about what is asked for now."""
        pool = self.get("cpool")
        return bool(pool.get("status", {}).get("observedGeneration") == pool["metadata"]["generation"])


def rendered(kubernetes: Kubernetes, **values: str) -> list[dict[str, Any]]:
    """The objects of the chart, without the CRD."""
    version = json.loads(kubernetes.kubectl("version", "--output=json"))["serverVersion"]["gitVersion"]
    told = [f"--set={name.replace('_', '.')}={value}" for name, value in values.items()]
    command = ("template", "penstock", str(CHART), "--namespace", SYSTEM, "--kube-version", version)
    return list(yaml.safe_load_all(kubernetes.helm(*command, *told)))


@pytest.fixture(scope="session")
def installed(apiserver: Kubernetes) -> Iterator[Kubernetes]:
    """The CRD and the operator's rights, as the chart has them; not its Deployment."""
    rights = [each for each in rendered(apiserver) if each["kind"] != "Deployment"]
    apiserver.kubectl("apply", "--server-side", f"--filename={CRD}")
    apiserver.kubectl("wait", "--for=condition=Established", f"--filename={CRD}")
    apiserver.kubectl("create", "namespace", SYSTEM)
    apiserver.apply(*rights, namespace=SYSTEM)
    yield apiserver
    apiserver.kubectl("delete", "namespace", SYSTEM, "--wait=false")
    apiserver.kubectl("delete", f"--filename={CRD}")
    for kind in ("clusterrole", "clusterrolebinding"):
        apiserver.kubectl("delete", kind, "penstock-operator")


@pytest.fixture(scope="session")
def as_operator(installed: Kubernetes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kubeconfig with the rights of the operator's ServiceAccount."""
    token = installed.kubectl("--namespace", SYSTEM, "create", "token", "penstock-operator", "--duration=2h")
    config = yaml.safe_load(installed.kubectl("config", "view", "--raw"))
    config["users"] = [{"name": "operator", "user": {"token": token.strip()}}]
    for context in config["contexts"]:
        context["context"]["user"] = "operator"
    file = tmp_path_factory.mktemp("operator") / "kubeconfig"
    file.write_text(yaml.safe_dump(config))
    return file


@pytest.fixture(scope="session")
def asked(installed: Kubernetes) -> Iterator[httpx.Client]:
    """A way to the API server for requests that cost nothing."""
    command = installed.command("kubectl", "proxy", "--port=0")
    proxy = subprocess.Popen(command, env=installed.environment, stdout=subprocess.PIPE, text=True)
    assert proxy.stdout
    with proxy, httpx.Client(base_url=f"http://{proxy.stdout.readline().split()[-1]}") as client:
        yield client
        proxy.kill()


@pytest.fixture(scope="session")
def stand_in(cluster: Kubernetes) -> str:
    """An image that answers probes as the data service does."""
    program = Path(__file__).with_name("stand_in.py")
    checksum = hashlib.sha256(program.read_bytes()).hexdigest()[:12]

    def layer(file: Path) -> None:
        with tarfile.open(file, "w") as archive:
            archive.add(program, program.name)

    layers = [kubernetes_images._python_layer(), kept(f"layer-stand-in-{checksum}.tar", layer)]
    return cluster.load(kubernetes_images._image("stand-in", layers, ["python3", f"/{program.name}"]))


@pytest.fixture
def operator(
    installed: Kubernetes, asked: httpx.Client, as_operator: Path, namespace: str, tmp_path: Path
) -> Iterator[Operator]:
    """Not started yet; killed after the test."""
    process = Operator(installed, asked, namespace, as_operator, tmp_path / "operator.log")
    yield process
    process.kill()
