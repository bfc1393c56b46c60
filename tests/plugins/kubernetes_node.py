"""A node: containerd, kubelet, kube-proxy and the DNS, on the machine of a control plane."""

from __future__ import annotations

import json
import urllib.request
from functools import partial
from pathlib import Path
from typing import Any

from plugins.kubernetes_control import ControlPlane
from plugins.kubernetes_images import Image
from plugins.kubernetes_machine import Daemon
from plugins.kubernetes_programs import Programs, Release

WITHIN = 60.0
NAME = "node"

_CONTAINERD_1 = """
version = 2
oom_score = 0

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
restrict_oom_score_adj = true

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{networks}"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
"""

_CONTAINERD_2 = """
version = 3
oom_score = 0

[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{pause}"

[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true

[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["/usr/lib/cni"]
conf_dir = "{networks}"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
"""

_COREDNS = """
.:53 {{
    bind {address}
    errors
    ready {address}:8181
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {kubeconfig}
        ttl 1
    }}
}}
"""
"""Names of the cluster and no others: nothing here leads outside."""


class Node:
    """Started with `start`; it is ended with its machine."""

    def __init__(self, plane: ControlPlane, programs: Programs, release: Release) -> None:
        self.plane = plane
        self.machine = plane.machine
        self._programs = programs
        self._release = release

    def start(self, pause: Image) -> None:
        """Returns when pods can be run. `pause` is the image that holds the namespaces of each."""
        self._networks()
        containerd = self._containerd(pause)
        names = self._coredns()
        self.plane.scheduler()
        proxy = self._proxy()
        containerd.until(self._serves_containers)
        self.load(pause.archive)
        self.kubelet = self._kubelet()
        self.kubelet.until(self._ready, WITHIN)
        names.until(partial(_answers, f"http://{self.machine.address}:8181/ready"))
        proxy.until(partial(_answers, f"http://{self.machine.address}:10256/healthz"))

    def load(self, archive: Path) -> None:
        """Makes the images of an archive known to the node."""
        self.machine.run("ctr", "--namespace=k8s.io", "images", "import", str(archive))

    def _networks(self) -> None:
        """Pods are joined by routes, not by a bridge: so whatever passes between them passes iptables too,
        and no module of the kernel has to be loaded for that."""
        subnet = next(self.machine.network.subnets(new_prefix=24))
        ranges = [[{"subnet": str(subnet)}]]
        addresses = {"type": "host-local", "ranges": ranges, "routes": [{"dst": "0.0.0.0/0"}]}
        link = {"type": "ptp", "ipam": addresses}
        ports = {"type": "portmap", "capabilities": {"portMappings": True}}
        network = {"cniVersion": "0.4.0", "name": "pods", "plugins": [link, ports]}
        self._write("networks/pods.conflist", json.dumps(network))

    def _containerd(self, pause: Image) -> Daemon:
        template = _CONTAINERD_2 if self._release.containerd else _CONTAINERD_1
        networks = self.machine.folder / "networks"
        config = self._write("containerd.toml", template.format(pause=pause.name, networks=networks))
        return self._start("containerd", config=config)

    def _serves_containers(self) -> bool:
        try:
            self.machine.run("ctr", "version")
        except AssertionError:
            return False
        return True

    def _coredns(self) -> Daemon:
        kubeconfig = self.plane.kubeconfig("admin")
        config = self._write("Corefile", _COREDNS.format(address=self.machine.address, kubeconfig=kubeconfig))
        return self.machine.start("coredns", self._programs["coredns"], "-conf", str(config))

    def _proxy(self) -> Daemon:
        return self._start(
            "kube-proxy",
            kubeconfig=self.plane.kubeconfig("system:kube-proxy"),
            hostname_override=NAME,
            proxy_mode="iptables",
            iptables_min_sync_period="100ms",
            cluster_cidr=self.plane.pods,
            conntrack_max_per_core=0,
            conntrack_tcp_timeout_established=0,
            conntrack_tcp_timeout_close_wait=0,
        )

    def _kubelet(self) -> Daemon:
        return self._start(
            "kubelet",
            kubeconfig=self.plane.kubeconfig("system:node:node"),
            config=self._write("kubelet.json", json.dumps(self._kubelet_configuration())),
            hostname_override=NAME,
            node_ip=self.machine.address,
        )

    def _kubelet_configuration(self) -> dict[str, Any]:
        """What is not a matter of course: there is no systemd, and limits may not be raised; nothing is
        evicted for want of disk; who crashes again and again is started again after two seconds at most."""
        never = dict.fromkeys(
            ("memory.available", "nodefs.available", "nodefs.inodesFree", "imagefs.available"), "0%"
        )
        names = self._write("resolv.conf", f"nameserver {self.machine.address}\n")
        configuration: dict[str, Any] = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(self.plane.client_certificate)},
            },
            "authorization": {"mode": "Webhook"},
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self.machine.cgroup}",
            "enforceNodeAllocatable": [],
            "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
            "clusterDNS": [self.machine.address],
            "clusterDomain": "cluster.local",
            "resolvConf": str(names),
            "failSwapOn": False,
            "oomScoreAdj": 0,
            "maxOpenFiles": 20000,
            "evictionHard": never,
            "imageGCHighThresholdPercent": 100,
            "featureGates": {"KubeletCrashLoopBackOffMax": True},
            "crashLoopBackOff": {"maxContainerRestartPeriod": "2s"},
        }
        if self._release.containerd:  # with 1.35 began both: containerd 2, and no version 1 of control groups
            configuration["failCgroupV1"] = False
        return configuration

    def _ready(self) -> bool:
        node = self.plane.ask(f"/api/v1/nodes/{NAME}")
        if node is None or node["spec"].get("taints"):
            return False
        conditions = {condition["type"]: condition["status"] for condition in node["status"]["conditions"]}
        return conditions.get("Ready") == "True"

    def _write(self, name: str, text: str) -> Path:
        file = self.machine.folder / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        return file

    def _start(self, name: str, **flags: object) -> Daemon:
        given = (f"--{flag.replace('_', '-')}={value}" for flag, value in flags.items())
        return self.machine.start(name, self._programs[name], *given)


def _answers(url: str) -> bool:
    """Past every proxy that the environment names."""
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False
