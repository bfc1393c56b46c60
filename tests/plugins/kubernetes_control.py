"""The control plane: etcd, the API server, the controllers."""

from __future__ import annotations

import json
import secrets
import ssl
import urllib.request
from functools import cached_property
from pathlib import Path
from typing import Any

from plugins.kubernetes_machine import Daemon, Machine
from plugins.kubernetes_programs import Programs

WITHIN = 60.0

USERS = {
    "admin": "system:masters",
    "system:kube-controller-manager": "",
    "system:kube-scheduler": "",
    "system:kube-proxy": "",
    "system:node:node": "system:nodes",
}
"""Who may enter, each with a token, and the group that says what for. What the others may is said by name."""


class ControlPlane:
    """Started with `start`; it is ended with its machine."""

    def __init__(self, machine: Machine, programs: Programs) -> None:
        self.machine = machine
        self._programs = programs
        self.url = f"https://{machine.address}:6443"
        pods, services = list(machine.network.subnets(prefixlen_diff=1))
        self.pods = str(pods)
        self.services = str(next(services.subnets(new_prefix=20)))
        self._tokens = {user: secrets.token_hex(16) for user in USERS}

    def start(self) -> None:
        """Returns when the server is ready and the controllers have begun."""
        self._write_secrets()
        self._etcd()
        self.apiserver = self._apiserver()
        self.apiserver.until(self.ready, WITHIN)
        self.controllers = self._controllers()  # which would give up on a server that takes its time
        self.controllers.until(self._account_made, WITHIN)

    def ready(self) -> bool:
        return self._opened("/readyz") == b"ok"

    def kubeconfig(self, user: str) -> Path:
        """A file with which that user is let in."""
        file = self._folder / f"{user.rpartition(':')[2]}.kubeconfig"
        if not file.exists():
            cluster = {"server": self.url, "certificate-authority": str(self._certificate)}
            context = {"cluster": "penstock", "user": user}
            entries = {
                "clusters": [{"name": "penstock", "cluster": cluster}],
                "users": [{"name": user, "user": {"token": self._tokens[user]}}],
                "contexts": [{"name": "penstock", "context": context}],
            }
            config = {"apiVersion": "v1", "kind": "Config", "current-context": "penstock", **entries}
            file.touch(mode=0o600)
            file.write_text(json.dumps(config, indent=1))
        return file

    @property
    def _folder(self) -> Path:
        return self.machine.folder

    @property
    def _certificate(self) -> Path:
        """The server makes it for itself, so it is also what its clients are to trust."""
        return self._folder / "apiserver" / "apiserver.crt"

    @property
    def client_certificate(self) -> Path:
        """By which kubelet knows the API server."""
        return self._folder / "kubelet-client.crt"

    @property
    def _client_key(self) -> Path:
        return self.client_certificate.with_suffix(".key")

    @property
    def _signing_key(self) -> Path:
        return self._folder / "service-accounts.key"

    def _write_secrets(self) -> None:
        tokens = (f'{self._tokens[user]},{user},{user},"{group}"\n' for user, group in USERS.items())
        file = self._folder / "tokens.csv"
        file.touch(mode=0o600)
        file.write_text("".join(tokens))
        ec = ("-pkeyopt", "ec_paramgen_curve:prime256v1")
        new = ("req", "-x509", "-nodes", "-newkey", "ec", *ec, "-days", "2")
        subject = ("-subj", "/O=system:masters/CN=kube-apiserver")
        files = ("-keyout", str(self._client_key), "-out", str(self.client_certificate))
        self.machine.run("openssl", *new, *subject, *files)
        key = ("ecparam", "-name", "prime256v1", "-genkey", "-noout")
        self.machine.run("openssl", *key, "-out", str(self._signing_key))

    def _etcd(self) -> None:
        """Its only client is on the machine. It keeps nothing for ever, so it need not wait for a disk."""
        self.machine.start("etcd", self._programs["etcd"], "--data-dir=/var/lib/etcd", "--unsafe-no-fsync")

    def _apiserver(self) -> Daemon:
        issuer = "https://kubernetes.default.svc.cluster.local"
        return self._start(
            "kube-apiserver",
            etcd_servers="http://127.0.0.1:2379",
            bind_address=self.machine.address,
            advertise_address=self.machine.address,
            secure_port=6443,
            cert_dir=self._certificate.parent,
            token_auth_file=self._folder / "tokens.csv",
            authorization_mode="Node,RBAC",
            enable_admission_plugins="NodeRestriction",
            allow_privileged="true",
            service_cluster_ip_range=self.services,
            service_account_issuer=issuer,
            service_account_signing_key_file=self._signing_key,
            service_account_key_file=self._signing_key,
            kubelet_preferred_address_types="InternalIP",
            kubelet_client_certificate=self.client_certificate,
            kubelet_client_key=self._client_key,
        )

    def _controllers(self) -> Daemon:
        return self._start(
            "kube-controller-manager",
            kubeconfig=self.kubeconfig("system:kube-controller-manager"),
            use_service_account_credentials="true",
            service_account_private_key_file=self._signing_key,
            root_ca_file=self._certificate,
            allocate_node_cidrs="true",
            cluster_cidr=self.pods,
            service_cluster_ip_range=self.services,
            leader_elect="false",
            kube_api_qps=200,
            kube_api_burst=400,
        )

    def scheduler(self) -> Daemon:
        kubeconfig = self.kubeconfig("system:kube-scheduler")
        return self._start("kube-scheduler", kubeconfig=kubeconfig, leader_elect="false")

    def _start(self, name: str, **flags: object) -> Daemon:
        given = (f"--{flag.replace('_', '-')}={value}" for flag, value in flags.items())
        return self.machine.start(name, self._programs[name], *given)

    def _account_made(self) -> bool:
        """Each namespace is given an account by a controller."""
        return self.ask("/api/v1/namespaces/default/serviceaccounts/default") is not None

    def ask(self, path: str) -> Any:
        """What the API server has at a path; None if there is nothing, or no API server."""
        answer = self._opened(path)
        return None if answer is None else json.loads(answer)

    def _opened(self, path: str) -> bytes | None:
        try:
            token = {"Authorization": f"Bearer {self._tokens['admin']}"}
            request = urllib.request.Request(f"{self.url}{path}", headers=token)
            with self._opener.open(request, timeout=5) as response:
                return bytes(response.read())
        except OSError:
            return None

    @cached_property
    def _opener(self) -> urllib.request.OpenerDirector:
        """Past every proxy that the environment names."""
        trusted = ssl.create_default_context(cafile=self._certificate)
        handlers = (urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trusted))
        return urllib.request.build_opener(*handlers)
