"""How repository code is kept apart from Penstock, from other apps and from the rest of the machine.

With bubblewrap (https://github.com/containers/bubblewrap) a command finds itself in namespaces of its own:

- files: the system's programs and libraries and the running Python, read-only; its own tree, home and TMPDIR,
  writable; a private /tmp. Nothing else: no state folder, no home of the user, no keys, no other app.
- processes: only its own. When the first one ends, so do all the others, whatever they call themselves.
- no capabilities and no way to gain any; own IPC, host name and view of control groups.
- the network is shared: apps must listen on loopback, and builds fetch packages.

Without it, code runs as the user who runs Penstock, in a process group of its own, with a scrubbed
environment and limits; it can read what that user can read.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import Invalid
from . import cgroup

Wanted = Literal["auto", "bubblewrap", "none"]

_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/nix/store")

_ETC = (
    *("alternatives", "ca-certificates", "ca-certificates.conf", "crypto-policies", "gai.conf", "group"),
    *("host.conf", "hosts", "java-11-openjdk", "java-17-openjdk", "java-21-openjdk", "ld.so.cache"),
    *("ld.so.conf", "ld.so.conf.d", "localtime", "magic", "mime.types", "nsswitch.conf", "os-release"),
    *("passwd", "pip.conf", "pki/ca-trust", "pki/tls/certs", "protocols", "resolv.conf", "services"),
    *("ssl/certs", "ssl/openssl.cnf", "timezone"),
)
"""What programs need of /etc to find libraries, names, hosts and certificates; no keys, no passwords."""

_TMP_BYTES = 1024 * 1024 * 1024
"""What /tmp may hold, and /var/tmp, which lie in memory. TMPDIR is a folder on the disk."""

_TRY_SECONDS = 10

_NAMESPACES = (
    *("--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"),
    *("--cap-drop", "ALL", "--die-with-parent"),
)

ENVIRONMENT_AT = 3
"""The descriptor by which a sandbox hears its environment, as further arguments: each ends with a NUL."""

_DEFAULT_SIGNALS = ("env", "--default-signal")
"""Whoever starts the sandbox ignores signals that are meant for what is in it (see `process`)."""


@dataclass(frozen=True, slots=True)
class Isolation:
    """What this machine can do. As text it is for people: `bubblewrap`, or what there is instead and why."""

    bwrap: str | None
    why_not: str = ""
    counts_processes: bool = True

    def __str__(self) -> str:
        kind = "bubblewrap" if self.bwrap else f"process group and limits ({self.why_not})"
        return kind if self.counts_processes else f"{kind}; the number of processes is not limited"

    def around(self, tree: Path, own: Path, *, hidden: Path, shown: Iterable[Path] = ()) -> tuple[str, ...]:
        """What goes before a command that works in `tree` with `own` for HOME and TMPDIR. Of `hidden` it sees
        no more than these; `shown` it may read. Paths are the same inside. Empty without bubblewrap."""
        if self.bwrap is None:
            return ()
        mounts = {**_read_only(shown), **_private(hidden)}
        mounts |= {path: ("--bind", str(path)) for path in (own / "home", own / "tmp", tree)}
        ordered = sorted(mounts, key=lambda path: len(path.parts))
        laid_out = [part for path in ordered for part in (*mounts[path], str(path))]
        environment = ("--args", str(ENVIRONMENT_AT))
        return _bwrap(self.bwrap, [*environment, *laid_out, "--remount-ro", str(hidden)], cwd=tree)


@functools.cache
def choose(wanted: Wanted) -> Isolation:
    """Tries once what the machine can do. Raises `Invalid` where bubblewrap is demanded and cannot be had."""
    bwrap, why_not = _bubblewrap(wanted)
    if wanted == "bubblewrap" and bwrap is None:
        raise Invalid(
            f"sandbox (PENSTOCK_SANDBOX) is 'bubblewrap', but {why_not}; "
            "install bubblewrap and allow user namespaces, or choose 'auto'"
        )
    counts = cgroup.available() is not None or (bwrap is not None and os.geteuid() != 0)
    return Isolation(bwrap, why_not, counts)


def _bubblewrap(wanted: Wanted) -> tuple[str | None, str]:
    """Where it is; or None and why not."""
    if wanted == "none":
        return None, "PENSTOCK_SANDBOX is none"
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        return None, "bwrap is not installed"
    problem = _try(bwrap)
    return (None, f"bwrap does not work here: {problem}") if problem else (bwrap, "")


def _try(bwrap: str) -> str:
    """What is in the way; nothing when a sandbox can be made."""
    laid_out = [part for path, how in _read_only(()).items() for part in (*how, str(path))]
    attempt = (*_bwrap(bwrap, laid_out, cwd=Path("/")), "/bin/sh", "-c", "exec true")
    try:
        done = subprocess.run(attempt, capture_output=True, timeout=_TRY_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    said = done.stderr.decode(errors="replace").strip().splitlines()
    return "" if done.returncode == 0 else (said[-1] if said else f"exit code {done.returncode}")


def _bwrap(bwrap: str, mounts: Iterable[str], *, cwd: Path) -> tuple[str, ...]:
    kernel = ("--proc", "/proc", "--dev", "/dev")
    end = ("--remount-ro", "/", "--chdir", str(cwd), "--", *_DEFAULT_SIGNALS)
    return (bwrap, *_NAMESPACES, *kernel, *mounts, *end)


def _read_only(shown: Iterable[Path]) -> dict[Path, tuple[str, ...]]:
    """By path, how it gets there."""
    etc = (Path("/etc") / name for name in _ETC)
    return {path: _as_it_is(path) for path in (*map(Path, _SYSTEM), *etc, *_python(), *shown)}


def _as_it_is(path: Path) -> tuple[str, ...]:
    if path.parent == Path("/") and path.is_symlink():  # such as /bin, where everything is in /usr
        return ("--symlink", str(path.readlink()))
    return ("--ro-bind-try", str(path))


def _python() -> Iterator[Path]:
    """The Python that runs Penstock, and what it was made from if it is a virtual environment: by the path it
    was given, and where links lead to from there."""
    program = Path(sys.executable).resolve()
    yield from {Path(sys.prefix), Path(sys.base_prefix), program.parent.parent} - {Path("/"), Path("/usr")}


def _private(hidden: Path) -> dict[Path, tuple[str, ...]]:
    tmp = ("--perms", "1777", "--size", str(_TMP_BYTES), "--tmpfs")
    return {Path("/tmp"): tmp, Path("/var/tmp"): tmp, hidden: ("--tmpfs",)}  # noqa: S108
