"""A MariaDB inside a cluster: pods reach it by name; tests kill it, freeze it and start it again.

It is one pod with a Service. Its data is the pod's, so it stays when the server ends, however it ends, and is
gone with the pod. All is done through the API server, so it works on every cluster.
"""

from __future__ import annotations

from typing import Any

from plugins.kubernetes_client import Kubernetes, Manifest

NAME = "mariadb"
USER, PASSWORD, DATABASE = "app", "penstock", "shop"
WITHIN = 60.0


def manifests(image: str, *options: str) -> list[Manifest]:
    """The Deployment and the Service; `options` are the server's own, such as `--max-connections=50`."""
    labels = {"app": NAME}
    container: dict[str, Any] = {
        "name": NAME,
        "image": image,
        "imagePullPolicy": "Never",
        "args": list(options),
        "ports": [{"containerPort": 3306}],
        "readinessProbe": {
            "exec": {"command": ["mariadb", "--no-defaults", "--socket=/run/mariadb.sock", "-e", "SELECT 1"]},
            "periodSeconds": 1,
        },
        "volumeMounts": [{"name": "data", "mountPath": "/var/lib/mysql"}],
    }
    pod = {
        # With the pod's processes shared the server is not the first of them, which could be neither
        # killed nor frozen from within.
        "shareProcessNamespace": True,
        "terminationGracePeriodSeconds": 5,
        "containers": [container],
        "volumes": [{"name": "data", "emptyDir": {}}],
    }
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": NAME},
        "spec": {
            "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": NAME},
        "spec": {"selector": labels, "ports": [{"port": 3306}]},
    }
    return [deployment, service]


class MariaDBPod:
    """`app` owns the database `shop`, with the password `penstock`."""

    host = NAME
    """As pods of the same namespace find it."""

    def __init__(self, kubernetes: Kubernetes, namespace: str) -> None:
        self._kubernetes = kubernetes
        self.namespace = namespace

    def start(self, image: str, *options: str) -> None:
        """Returns when it answers; called again with other options, when it answers with those."""
        self._kubernetes.apply(*manifests(image, *options), namespace=self.namespace)
        self._kubernetes.rolled_out(f"deployment/{NAME}", namespace=self.namespace)

    def admin(self, statement: str) -> list[list[str]]:
        """What the database's root is answered: rows of texts, where NULL is `NULL`."""
        client = ("mariadb", "--no-defaults", "--socket=/run/mariadb.sock", "--batch", "--skip-column-names")
        said = self._inside(*client, f"--execute={statement}")
        return [line.split("\t") for line in said.splitlines()]

    def crash(self) -> None:
        """Ends the server as a power failure would; kubelet starts it again, with the same data."""
        self._signal("KILL")

    def restart(self) -> None:
        """Ends it politely: it says so to those who are connected; and it is started again."""
        self._signal("TERM")

    def freeze(self) -> None:
        """Stops it: its connections stay open and nobody answers; after some seconds it is not ready."""
        self._signal("STOP")

    def thaw(self) -> None:
        self._signal("CONT")

    def until_ready(self) -> None:
        """Waits until it answers again."""
        self._kubernetes.rolled_out(f"deployment/{NAME}", namespace=self.namespace, within=WITHIN)

    def _signal(self, name: str) -> None:
        self._inside("sh", "-c", f'kill -{name} "$(cat /run/mariadb.pid)"')

    def _inside(self, *command: str) -> str:
        where = ("--namespace", self.namespace, "exec", f"deployment/{NAME}", "--")
        return self._kubernetes.kubectl(*where, *command)
