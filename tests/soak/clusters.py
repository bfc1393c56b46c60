"""Starts a cluster again and again and ends each by SIGKILL at a random moment; looks for what is left.

python tests/soak/clusters.py [--kills 20] [--seed N]

Every other one is killed while it starts, the rest while pods start. Then a cluster is started and ended
as it should be: that must work, and nothing may be left of any, no process, mount, network, route, iptables
rule, control group or folder. Clusters of others that run meanwhile are none of our business.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import secrets
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from plugins.kubernetes_machine import left

STAY = Path(__file__).parents[1] / "cluster" / "stay.py"
STARTING, RUNNING = 10.0, 5.0
"""Seconds until the latest kill: of one that starts, and of pods that do."""

WITHIN = 120.0
READY = b"export KUBECONFIG="
MARK = "PENSTOCK_TEST_MARK"


@dataclass
class Tally:
    """What was done and what is left of it."""

    kills: int = 0
    running: int = 0
    """How many of them had pods."""
    started: float = 0.0
    """Seconds that the start after the last kill took, with what it had to clean up."""
    left: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        return not self.left

    def __str__(self) -> str:
        told = (
            f"{self.kills} kills, {self.running} of them with pods; the next start took {self.started:.1f} s"
        )
        return "\n".join([told, *(f"left: {thing}" for thing in self.left)])


def soak(kills: int, chance: random.Random) -> Tally:
    tally = Tally()
    mark = secrets.token_hex(8)
    for number in range(kills):
        with _begun(mark) as process:
            if number % 2:
                _run_pods(process)
                tally.running += 1
            time.sleep(chance.uniform(0, RUNNING if number % 2 else STARTING))
            process.send_signal(signal.SIGKILL)
        tally.kills += 1
    began = time.monotonic()
    with _begun(mark) as process:
        _ready(process)
        tally.started = time.monotonic() - began
        process.send_signal(signal.SIGTERM)
        assert process.wait(WITHIN) == 0
    tally.left = _left(mark)
    return tally


@contextmanager
def _begun(mark: str) -> Iterator[subprocess.Popen[bytes]]:
    """A cluster that somebody starts at a terminal; every process of it inherits the mark."""
    command = [sys.executable, str(STAY)]
    environment = {**os.environ, MARK: mark}
    with subprocess.Popen(command, bufsize=0, stdout=subprocess.PIPE, env=environment) as process:
        try:
            yield process
        finally:
            process.kill()


def _ready(process: subprocess.Popen[bytes]) -> str:
    """What it said until it was ready, how it is reached being the last of it."""
    assert process.stdout is not None
    said = b""
    while READY not in said:
        assert select.select([process.stdout], [], [], WITHIN)[0], f"no cluster: {said.decode()}"
        more = process.stdout.readline()
        assert more, f"no cluster: {said.decode()}"
        said += more
    return said.decode()


def _run_pods(process: subprocess.Popen[bytes]) -> None:
    """Asks for three pods, and waits for none of them."""
    said = _ready(process)
    exported = dict(re.findall(r"^export (\w+)=(.*)$", said, re.MULTILINE))
    (image,) = re.findall(r"penstock\.test/python:\w+", said)
    folder = exported["PATH"].split(os.pathsep)[0]
    pods = ("create", "deployment", "sleepers", f"--image={image}", "--replicas=3", "--", "sleep", "1000")
    kubectl = [f"{folder}/kubectl", f"--kubeconfig={exported['KUBECONFIG']}"]
    subprocess.run([*kubectl, *pods], check=True, capture_output=True, timeout=WITHIN)


def _left(mark: str) -> list[str]:
    """What is left when the kernel has had its moment."""
    deadline = time.monotonic() + WITHIN
    while (found := [*_processes(mark), *_mounts(), *_rules(), *left()]) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def _processes(mark: str) -> list[str]:
    told = f"{MARK}={mark}".encode()
    return [
        f"process {_read(folder / 'cmdline')!r}" for folder in _all() if told in _read(folder / "environ")
    ]


def _all() -> Iterator[Path]:
    ours = str(os.getpid())
    return (folder for folder in Path("/proc").glob("[0-9]*") if folder.name != ours)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:  # it has ended
        return b""


def _mounts() -> list[str]:
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return [f"mount {line}" for line in lines if "kubelet" in line or "io.containerd" in line]


def _rules() -> list[str]:
    done = subprocess.run(["iptables-save"], capture_output=True, text=True, check=True)
    return [f"rule {line}" for line in done.stdout.splitlines() if "KUBE-" in line or "CNI-" in line]


def main() -> int:
    parser = argparse.ArgumentParser(description="Kills clusters and looks for what is left.")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    tally = soak(arguments.kills, random.Random(arguments.seed))
    print(tally)
    return 0 if tally.sound else 1


if __name__ == "__main__":
    sys.exit(main())
