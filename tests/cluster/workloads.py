"""Small things to run in a cluster: a server, and a pod to ask from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from plugins.kubernetes_client import Kubernetes, Manifest

SERVER = """
import http.server, os, signal, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(503 if self.path == "/ready" and os.path.exists("/tmp/unready") else 200)
        self.end_headers()
        self.wfile.write(os.environ["HOSTNAME"].encode())

    def log_message(self, *_):
        pass

signal.signal(signal.SIGTERM, lambda *_: sys.exit())
print("serving", flush=True)
http.server.ThreadingHTTPServer(("", 8080), Handler).serve_forever()
"""
"""Answers with the name of its pod; says that it is not ready once there is a file `/tmp/unready`."""

ASK = "import urllib.request, sys; print(urllib.request.urlopen(sys.argv[1], timeout=5).read().decode())"

SLEEP = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit()); signal.pause()"


def container(image: str, code: str, **more: Any) -> dict[str, Any]:
    return {"name": "main", "image": image, "imagePullPolicy": "Never", "args": ["-c", code], **more}


def pod(name: str, image: str, code: str, **more: Any) -> Manifest:
    """A pod that runs a piece of Python; `more` is its container's."""
    spec = {"containers": [container(image, code, **more)], "terminationGracePeriodSeconds": 1}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": spec,
    }


def web(image: str, replicas: int) -> Sequence[Manifest]:
    """A Deployment of the server, with a readiness probe, and its Service: `http://web`."""
    labels = {"app": "web"}
    probe = {"httpGet": {"path": "/ready", "port": 8080}, "periodSeconds": 1, "failureThreshold": 1}
    template = {
        "metadata": {"labels": labels},
        "spec": {
            "containers": [container(image, SERVER, readinessProbe=probe)],
            "terminationGracePeriodSeconds": 1,
        },
    }
    spec = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}
    ports = {"selector": labels, "ports": [{"port": 80, "targetPort": 8080}]}
    metadata = {"name": "web"}
    return [
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec},
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": ports},
    ]


def ready(kubernetes: Kubernetes, name: str, namespace: str) -> None:
    """Waits until a pod is ready."""
    kubernetes.kubectl("-n", namespace, "wait", f"pod/{name}", "--for=condition=Ready", "--timeout=30s")
