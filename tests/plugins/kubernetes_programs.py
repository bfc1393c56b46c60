"""The programs of a Kubernetes, built from their Go modules into a cache folder that all clones share.

python tests/plugins/kubernetes_programs.py      builds what is missing

Every part has a folder of its own, named by its version and by what else decides how it comes out; a cluster
that runs keeps the programs it runs on.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from plugins.kubernetes_cache import folder, kept

SOURCE = Path(__file__).parents[1] / "cluster" / "programs"
NAMES = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet", "kubectl")
STRIPPED = "-s -w"

Say = Callable[[str], None]


class Missing(Exception):
    """Something has to be installed first; the message says what and how."""


@dataclass(frozen=True)
class Release:
    """A version of Kubernetes that the tests can run on, and what it needs beside it."""

    version: str
    module: str
    """The go.mod in `SOURCE` that asks for it."""
    containerd: str | None = None
    """A containerd to be built; None: Debian's is new enough."""


RELEASES = {
    "1.34": Release("1.34.4", "go.mod"),
    "1.36": Release("1.36.3", "kubernetes-1.36.mod", containerd="v2.2.1"),
}
DEFAULT = "1.34"


def chosen() -> Release:
    """The release that `PENSTOCK_TEST_KUBERNETES` asks for."""
    minor = os.environ.get("PENSTOCK_TEST_KUBERNETES", DEFAULT)
    if minor not in RELEASES:
        raise Missing(f"PENSTOCK_TEST_KUBERNETES={minor}: there are {' and '.join(RELEASES)}")
    return RELEASES[minor]


@dataclass(frozen=True)
class Part:
    """Something that is built for itself."""

    name: str
    folder: str
    """In the cache; equal folders hold equal programs."""
    minutes: float
    """How long it usually takes on two cores with nothing cached."""
    build: Callable[[Path], None]
    """Puts the programs into an empty folder."""


class Programs:
    """Where programs are: in folders of the cache, then where this machine has its own."""

    def __init__(self, *folders: Path) -> None:
        self.folders = os.pathsep.join(map(str, folders))
        own = os.environ.get("PATH", os.defpath)
        self.path = os.pathsep.join([*filter(None, [self.folders]), own, "/usr/sbin", "/sbin"])
        """As PATH; Debian has servers where only root looks."""

    def __getitem__(self, name: str) -> str:
        if found := shutil.which(name, path=self.path):
            return found
        raise Missing(f"{name} is needed and not installed")

    def __contains__(self, name: str) -> bool:
        return shutil.which(name, path=self.path) is not None


def built(release: Release, say: Say = print) -> Programs:
    """The programs of a release; makes those that are not there, which takes minutes, and says so."""
    return Programs(*(_built(part, say) for part in _parts(release)))


def unbuilt(release: Release) -> list[Part]:
    """What `built` would have to make."""
    return [part for part in _parts(release) if not (folder() / part.folder).is_dir()]


def _parts(release: Release) -> list[Part]:
    helm, coredns = "v3.19.5", "v1.12.4"
    parts = [
        Part("Kubernetes", _kubernetes_folder(release), 5, lambda into: _kubernetes(release, into)),
        Part("Helm", f"helm-{helm}", 1, _installs(f"helm.sh/helm/v3/cmd/helm@{helm}")),
        Part("CoreDNS", f"coredns-{coredns}", 1.5, _installs(f"github.com/coredns/coredns@{coredns}")),
    ]
    if version := release.containerd:
        module = "github.com/containerd/containerd/v2/cmd"
        programs = [f"{module}/{name}@{version}" for name in ("containerd", "containerd-shim-runc-v2", "ctr")]
        install = _installs(*programs, tags="no_btrfs,no_devmapper,no_zfs")
        parts.append(Part("containerd", f"containerd-{version}", 1, install))
    return parts


def _built(part: Part, say: Say) -> Path:
    def build(into: Path) -> None:
        if not shutil.which("go"):
            raise Missing(f"Go is needed to build Kubernetes, {_go_needed()} or newer: https://go.dev/dl")
        say(f"building {part.name} for the tests, once: about {part.minutes:g} min on two cores")
        began = time.monotonic()
        into.mkdir()
        part.build(into)
        say(f"built {part.name} in {time.monotonic() - began:.0f} s")

    return kept(part.folder, build)


def _kubernetes_folder(release: Release) -> str:
    module = SOURCE / release.module
    decides = [module, module.with_suffix(".sum"), SOURCE / "main.go"]
    told = hashlib.sha256(b"\0".join(file.read_bytes() for file in decides)).hexdigest()
    return f"kubernetes-{release.version}-{told[:12]}"


def _kubernetes(release: Release, into: Path) -> None:
    major, minor, _ = release.version.split(".")
    known = {"gitVersion": f"v{release.version}", "gitMajor": major, "gitMinor": minor}
    flags = " ".join(f"-X k8s.io/component-base/version.{name}={value}" for name, value in known.items())
    output = into / "kubernetes"
    _go(
        "build",
        f"-modfile={release.module}",
        "-trimpath",
        f"-ldflags={STRIPPED} {flags}",
        "-o",
        str(output),
        ".",
    )
    for name in NAMES:
        (into / name).symlink_to(output.name)


def _installs(*packages: str, tags: str = "") -> Callable[[Path], None]:
    def install(into: Path) -> None:
        _go("install", "-trimpath", f"-ldflags={STRIPPED}", f"-tags={tags}", *packages, GOBIN=str(into))

    return install


def _go(*arguments: str, **environment: str) -> None:
    done = subprocess.run(
        ["go", *arguments],
        cwd=SOURCE,
        env={**os.environ, "CGO_ENABLED": "0", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Missing(f"Go (needed: {_go_needed()} or newer) could not build:\n{done.stdout[-4000:]}")


def _go_needed() -> str:
    lines = (SOURCE / chosen().module).read_text().splitlines()
    return next(line.removeprefix("go ") for line in lines if line.startswith("go "))


if __name__ == "__main__":
    try:
        built(chosen(), lambda text: print(f"==> {text}", flush=True))
    except Missing as told:
        sys.exit(str(told))
