"""A machine for a cluster inside this one: namespaces of its own for processes, mounts and the network.

    with machine() as node:
        etcd = node.start("etcd", "etcd", "--data-dir=/var/lib/etcd")

All that runs in it ends with its first process, whatever became of whom: the kernel sees to that, and to the
mounts, links, routes and iptables rules of its namespaces. The first process ends when our end of its input
closes, so also when we are killed. What outlives that are control groups and a folder; both bear the
machine's number, and the next one that is made removes those whose owner is gone.

Machines stand side by side: each has a number of its own, and by it addresses, control groups and a folder.
What is in /run, /var/lib and /var/log of one is seen by nobody else and held in memory.
"""

from __future__ import annotations

import fcntl
import ipaddress
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import psutil

_NUMBERED = re.compile(r"(?:^penstock|/penstock-cluster-|/clusters/)(\d+)$")
"""What bears the number of a machine: a link, a control group, a folder."""

ROOT = Path("/var/cache/penstock-tests/clusters")
"""A place for all of root's clusters on this machine, whichever cache folder or clone they come from."""

NUMBERS = range(100)
WITHIN = 30.0

_FIRST_PROCESS = """
mount --make-rshared /
for folder in /run /var/lib /var/log; do mount -t tmpfs -o mode=755 tmpfs $folder; done
mkdir /run/lock /run/netns
ip link set lo up
echo ready
exec env --ignore-signal=CHLD cat >/dev/null
"""
"""Shared mounts are what kubelet asks for; they are shared with the namespaces below this one, not with ours.
With its children's ends ignored, `cat` is a first process that leaves no zombies."""


class Daemon:
    """A program that runs on a machine until it is ended, or the machine is."""

    def __init__(self, name: str, command: list[str], environment: dict[str, str], log: Path) -> None:
        self.name = name
        self.log = log
        self._command = command
        self._environment = environment
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as output:
            self._entering = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self._environment,
                start_new_session=True,  # Ctrl-C is ours to answer
            )

    def kill(self) -> None:
        """Ends it as a crash would, and waits until it has ended."""
        self.signal(signal.SIGKILL)
        self.wait()

    def wait(self) -> None:
        """Returns when it has ended."""
        self._entering.wait(WITHIN)

    def signal(self, number: signal.Signals) -> None:
        """To the program itself: what we started entered the namespaces and waits for it."""
        with suppress(psutil.NoSuchProcess):
            for program in psutil.Process(self._entering.pid).children():
                program.send_signal(number)

    @property
    def ended(self) -> bool:
        return self._entering.poll() is not None

    def until(self, probe: Callable[[], bool], within: float = WITHIN) -> None:
        """Waits for an answer; without one, the last lines of the log are the error."""
        deadline = time.monotonic() + within
        while not probe():
            if self.ended or time.monotonic() > deadline:
                told = "ended" if self.ended else f"not ready within {within:g} s"
                raise AssertionError(f"{self.name} {told}:\n{self.last_words()}")
            time.sleep(0.02)

    def last_words(self, lines: int = 30) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


class Machine:
    """See the module. `machine()` makes one and ends it."""

    def __init__(self, number: int, path: str = os.defpath) -> None:
        self.number = number
        self._environment = {**os.environ, "PATH": path}
        self.folder = ROOT / str(number)
        """Seen at the same path from inside and from outside; gone with the machine."""
        self.network = ipaddress.ip_network(f"10.{128 + number}.0.0/16")
        """All addresses of it, of pods and of Services; from outside they are reached as from inside."""
        self.outside, self.address = str(self.network[-3]), str(self.network[-2])
        """Both ends of the link into it."""
        self.cgroup = f"penstock-cluster-{number}"
        self._process: subprocess.Popen[bytes] | None = None
        self._daemons: list[Daemon] = []

    def start(self, name: str, *command: str) -> Daemon:
        """Starts a program on the machine; what it says is in `folder/NAME.log`."""
        daemon = Daemon(name, self.inside(*command), self._environment, self.folder / f"{name}.log")
        self._daemons.append(daemon)
        return daemon

    def run(self, *command: str, input: bytes | None = None) -> str:
        """Runs a command on the machine, which must succeed."""
        return _run(*self.inside(*command), input=input, environment=self._environment)

    def inside(self, *command: str) -> list[str]:
        """The command that runs this one on the machine."""
        target = ("--target", str(self._first), "--mount", "--net", "--pid")
        return ["nsenter", *target, "--wd=/", "--", *command]

    def boot(self) -> None:
        for group in _cgroup_roots():
            (group / self.cgroup).mkdir(exist_ok=True)
        namespaces = ("--mount", "--net", "--pid", "--mount-proc", "--propagation=private")
        self._process = subprocess.Popen(
            ["unshare", "--fork", "--kill-child", *namespaces, "sh", "-euc", _FIRST_PROCESS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        said = self._process.stdout
        assert said is not None
        with said:
            assert said.readline() == b"ready\n", "no namespaces could be made, though we are root"
        (first,) = psutil.Process(self._process.pid).children()
        self._first = first.pid
        _record(self.folder, first.pid)
        self._connect()

    def halt(self) -> None:
        """Ends all that runs on it and removes all that is left of it."""
        if self._process is not None:
            self._process.communicate(timeout=WITHIN)  # closes its standard input
        for daemon in self._daemons:
            daemon.wait()
        _remove_cgroups(self.cgroup)

    def _connect(self) -> None:
        link, prefix = f"penstock{self.number}", 30
        _run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", str(self._first))
        _run("ip", "address", "add", f"{self.outside}/{prefix}", "dev", link)
        _run("ip", "link", "set", link, "up")
        self.run("ip", "address", "add", f"{self.address}/{prefix}", "dev", "eth0")
        self.run("ip", "link", "set", "eth0", "up")
        self.run("ip", "route", "add", "default", "via", self.outside)
        _run("ip", "route", "add", str(self.network), "via", self.address)


@contextmanager
def machine(path: str) -> Iterator[Machine]:
    """A machine for as long as the block lasts, where programs are looked for in `path`.
    Before that, what killed owners of others left is removed."""
    made, owned = _claimed(path)
    with owned:
        try:
            made.boot()
            yield made
        finally:
            made.halt()
            with _alone():
                shutil.rmtree(made.folder)


def _claimed(path: str) -> tuple[Machine, IO[str]]:
    """A machine whose number nobody else has: who holds the lock on its file `owner` lives."""
    with _alone():
        for folder in _folders():
            _sweep(folder)
        taken = {int(folder.name) for folder in _folders()} | _routed()
        free = next((number for number in NUMBERS if number not in taken), None)
        assert free is not None, "10.128.0.0/16 and all after it up to 10.227.0.0/16 lead elsewhere already"
        made = Machine(free, path)
        made.folder.mkdir(mode=0o700)
        owned = (made.folder / "owner").open("w")
        fcntl.flock(owned, fcntl.LOCK_EX)
    return made, owned


def left() -> list[str]:
    """What bears the number of a machine whose owner is gone. The next machine that is made removes it."""
    with _alone():
        owned = {folder.name for folder in _folders() if not _ownerless(folder)}
        links = [link["ifname"] for link in json.loads(_run("ip", "-json", "link"))]
        groups = [str(group) for root in _cgroup_roots() for group in root.iterdir()]
        things = [*links, *groups, *map(str, _folders())]
        numbers = ((thing, _NUMBERED.search(thing)) for thing in things)
        return [thing for thing, found in numbers if found and found[1] not in owned]


def _ownerless(folder: Path) -> bool:
    """Whether nobody holds the lock on a machine's record."""
    with (folder / "owner").open("a") as record:
        try:
            fcntl.flock(record, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _sweep(folder: Path) -> None:
    """Removes what is left of a machine, unless its owner lives."""
    if _ownerless(folder):
        with suppress(FileNotFoundError):
            first = json.loads((folder / "first").read_text())
            _end(first["pid"], first["since"])
        _remove_cgroups(Machine(int(folder.name)).cgroup)
        shutil.rmtree(folder)


def _record(folder: Path, first: int) -> None:
    """Writes down the machine's first process, for who finds the folder without its owner."""
    unfinished = folder / "first.unfinished"
    unfinished.write_text(json.dumps({"pid": first, "since": _since(first), "owner": os.getpid()}))
    unfinished.rename(folder / "first")


def _end(pid: int, since: str | None) -> None:
    """Ends a process if it is still the one that began at that time."""
    if since is None or _since(pid) != since:
        return
    os.kill(pid, signal.SIGKILL)
    _until(lambda: _since(pid) != since, f"process {pid} to end")


def _since(pid: int) -> str | None:
    """When a process began, in ticks since the boot: with its number, what tells it from any other."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (FileNotFoundError, ProcessLookupError):
        return None


def _cgroup_roots() -> list[Path]:
    """Where control groups are mounted: in one place by version 2, for each controller by version 1."""
    mounts = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
    return [Path(mount[1]) for mount in mounts if mount[2] in ("cgroup", "cgroup2")]


def _remove_cgroups(name: str) -> None:
    """A group can be removed when its processes have gone, which takes the kernel a moment."""

    def gone() -> bool:
        for top in (root / name for root in _cgroup_roots()):
            for group in [*sorted(top.rglob("*/"), reverse=True), top]:
                with suppress(OSError):
                    group.rmdir()
        return not any((root / name).exists() for root in _cgroup_roots())

    _until(gone, f"the control groups {name} to be empty")


def _routed() -> set[int]:
    """The numbers whose addresses lead elsewhere on this machine."""
    routes = json.loads(_run("ip", "-json", "route", "show", "table", "all"))
    nets = []
    for route in routes:
        with suppress(ValueError):  # `default`, and addresses of version 6
            nets.append(ipaddress.IPv4Network(route["dst"], strict=False))
    wide = [net for net in nets if net.prefixlen]
    return {number for number in NUMBERS if any(Machine(number).network.overlaps(net) for net in wide)}


def _folders() -> list[Path]:
    return [folder for folder in ROOT.iterdir() if folder.is_dir()]


@contextmanager
def _alone() -> Iterator[None]:
    ROOT.mkdir(parents=True, exist_ok=True, mode=0o755)
    lock: IO[str]
    with (ROOT / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _until(probe: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WITHIN
    while not probe():
        assert time.monotonic() < deadline, f"waited {WITHIN:g} s for {what}"
        time.sleep(0.02)


def _run(*command: str, input: bytes | None = None, environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        command, input=input, env=environment, capture_output=True, check=False, timeout=2 * WITHIN
    )
    assert done.returncode == 0, f"{' '.join(command)}: {(done.stderr or done.stdout).decode()}"
    return done.stdout.decode()
