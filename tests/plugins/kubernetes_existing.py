"""A cluster that is there already, such as one of kind or minikube."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

from plugins.kubernetes_client import Kubernetes
from plugins.kubernetes_images import Image
from plugins.kubernetes_programs import Programs

WITHIN = 300.0


class Existing(Kubernetes):
    """Asked with the kubectl and the Helm that are on PATH."""

    def __init__(self, kubeconfig: Path) -> None:
        super().__init__(kubeconfig, Programs())

    def load(self, image: Image) -> str:
        """By `PENSTOCK_TEST_LOAD`, such as `kind load image-archive`: the archive is its last argument."""
        command = shlex.split(os.environ.get("PENSTOCK_TEST_LOAD", "kind load image-archive"))
        subprocess.run([*command, str(image.archive)], check=True, timeout=WITHIN)
        return image.name
