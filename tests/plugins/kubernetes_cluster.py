"""A cluster of the tests' own, in two steps: a control plane, then a node for it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from plugins import kubernetes_images as images
from plugins.kubernetes_client import Kubernetes
from plugins.kubernetes_control import ControlPlane
from plugins.kubernetes_images import Image
from plugins.kubernetes_machine import Machine, machine
from plugins.kubernetes_node import Node
from plugins.kubernetes_programs import Missing, Programs, Release, Say, built, chosen

PROGRAMS = {
    "containerd": "containerd",
    "runc": "runc",
    "etcd": "etcd-server",
    "iptables": "iptables",
    "ip": "iproute2",
    "conntrack": "conntrack",
    "openssl": "openssl",
    "mmdebstrap": "mmdebstrap",
    "busybox": "busybox-static",
    "unshare": "util-linux",
    "/usr/lib/cni/ptp": "containernetworking-plugins",
}
"""What is started or asked here, and Debian's package that has it."""


class Cluster(Kubernetes):
    """A cluster that a test may also harm. `cluster()` makes one and ends it."""

    def __init__(self, machine: Machine, programs: Programs, release: Release) -> None:
        self.machine = machine
        self.plane = ControlPlane(machine, programs)
        self._node = Node(self.plane, programs, release)
        self._loaded: set[str] = set()
        self.plane.start()
        super().__init__(self.plane.kubeconfig("admin"), programs)

    def start_node(self) -> None:
        """From here on there are pods."""
        self._node.start(images.pause())

    def load(self, image: Image) -> str:
        """Makes an image known to the node, once; returns the name by which pods ask for it."""
        if image.name not in self._loaded:
            self._node.load(image.archive)
            self._loaded.add(image.name)
        return image.name

    @contextmanager
    def without_apiserver(self) -> Iterator[None]:
        """Its API server is down for as long as the block lasts, and answers again at the end of it."""
        self.plane.apiserver.kill()
        try:
            yield
        finally:
            self.plane.apiserver.start()
            self.plane.apiserver.until(self.plane.ready)

    @contextmanager
    def frozen_kubelet(self) -> Iterator[None]:
        """Its node does nothing for as long as the block lasts; its containers go on."""
        self._node.kubelet.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._node.kubelet.signal(signal.SIGCONT)


@contextmanager
def cluster(say: Say = print) -> Iterator[Cluster]:
    """A cluster without a node, of the release that the environment asks for."""
    release = chosen()
    if told := missing():
        raise Missing(told)
    programs = built(release, say)
    with machine(programs.path) as node:
        yield Cluster(node, programs, release)


def missing() -> str | None:
    """What is to be installed before a cluster can be started, if anything is."""
    looked = Programs()
    absent = {
        package
        for name, package in PROGRAMS.items()
        if not (Path(name).exists() if name.startswith("/") else name in looked)
    }
    return f"a Kubernetes of its own needs apt-get install {' '.join(sorted(absent))}" if absent else None
