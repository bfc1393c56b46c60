"""A Kubernetes that tests ask: by kubectl, by Helm, by whatever reads a kubeconfig."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plugins.kubernetes_images import Image
from plugins.kubernetes_programs import Programs

WITHIN = 60.0

Manifest = Mapping[str, Any]
"""An object as `kubectl apply` reads it."""


class Kubernetes:
    """Whoever holds this may do everything in the cluster (`system:masters`)."""

    def __init__(self, kubeconfig: Path, programs: Programs) -> None:
        self.kubeconfig = kubeconfig
        """A file that kubectl, Helm, the client library and kopf read."""
        self.programs = programs

    def kubectl(self, *arguments: str, input: str | None = None, within: float = WITHIN) -> str:
        """What kubectl printed. Fails the test with kubectl's own words if it could not do it."""
        done = self.ask(*arguments, input=input, within=within)
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr or done.stdout}"
        return done.stdout

    def ask(
        self, *arguments: str, input: str | None = None, within: float = WITHIN
    ) -> subprocess.CompletedProcess[str]:
        """As `kubectl`, for a test that expects a refusal: whatever came of it."""
        return self._run("kubectl", arguments, input, within)

    def apply(self, *manifests: Manifest, namespace: str) -> None:
        """`kubectl apply` of objects that may be of many kinds."""
        together = {"apiVersion": "v1", "kind": "List", "items": manifests}
        self.kubectl("--namespace", namespace, "apply", "--filename=-", input=json.dumps(together))

    def get(self, *arguments: str, namespace: str) -> Any:
        """What `kubectl get` says of something, as data: `get("pod", "a", namespace=…)["status"]`."""
        return json.loads(self.kubectl("--namespace", namespace, "get", *arguments, "--output=json"))

    def rolled_out(self, what: str, *, namespace: str, within: float = WITHIN) -> None:
        """Waits until `deployment/name` runs as it was asked for last."""
        self.kubectl(
            *("--namespace", namespace, "rollout", "status", what, f"--timeout={within:.0f}s"),
            within=within + 5,
        )

    def helm(self, *arguments: str, within: float = 2 * WITHIN) -> str:
        """What Helm printed."""
        done = self._run("helm", arguments, None, within)
        assert done.returncode == 0, f"helm {' '.join(arguments)}: {done.stderr or done.stdout}"
        return done.stdout

    def load(self, image: Image) -> str:
        """Makes an image known to the nodes, once; returns the name by which pods ask for it, to be written
        with `imagePullPolicy: Never`."""
        raise NotImplementedError

    def command(self, program: str, *arguments: str) -> list[str]:
        """How to start `kubectl` or `helm` oneself, for what runs beside the test, such as `port-forward`."""
        return [self.programs[program], *arguments]

    @property
    def environment(self) -> dict[str, str]:
        """The environment in which every client finds this cluster and nothing of a person's own."""
        return {**os.environ, "KUBECONFIG": str(self.kubeconfig), "KUBERC": "off"}

    def _run(
        self, program: str, arguments: tuple[str, ...], input: str | None, within: float
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(program, *arguments),
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            text=True,
            check=False,
            timeout=within,
            env=self.environment,
        )
