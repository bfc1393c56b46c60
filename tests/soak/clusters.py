"""Starts a cluster again and again and ends each by SIGKILL at a random moment; looks for what is left.

python tests/soak/clusters.py [--kills 20] [--seed N]

After the last one a cluster is started and ended as it should be. That must work, and then nothing may be left
of any: no process, mount, network, route, iptables rule, control group or folder. Clusters of others that run
meanwhile are none of our business.
"""

from __future__ import annotations

import argparse
import os
import random
import secrets
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
LONGEST = 20.0
"""Seconds after which the latest kill comes. A quiet machine has a cluster ready in half of that."""

WITHIN = 60.0
READY = b"export KUBECONFIG="
MARK = "PENSTOCK_TEST_MARK"


@dataclass
class Tally:
    """What was done and what is left of it."""

    kills: int = 0
    ready: int = 0
    """How many were killed when they were ready already."""
    started: float = 0.0
    """Seconds that the start after the last kill took, with what it had to clean up."""
    left: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        return not self.left

    def __str__(self) -> str:
        told = (
            f"{self.kills} kills, {self.ready} of them when ready; the next start took {self.started:.1f} s"
        )
        return "\n".join([told, *(f"left: {thing}" for thing in self.left)])


def soak(kills: int, chance: random.Random, longest: float = LONGEST) -> Tally:
    tally = Tally()
    mark = secrets.token_hex(8)
    for _ in range(kills):
        with _begun(mark) as process:
            tally.ready += _ready(process, chance.uniform(0, longest))
            process.send_signal(signal.SIGKILL)
        tally.kills += 1
    began = time.monotonic()
    with _begun(mark) as process:
        assert _ready(process, WITHIN), "no start after the last kill"
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
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        yield process


def _ready(process: subprocess.Popen[bytes], within: float) -> bool:
    """Whether it says within that many seconds how it is reached."""
    assert process.stdout is not None
    deadline = time.monotonic() + within
    os.set_blocking(process.stdout.fileno(), False)
    said = b""
    while time.monotonic() < deadline and process.poll() is None:
        said += process.stdout.read() or b""
        if READY in said:
            return True
        time.sleep(0.02)
    return False


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
