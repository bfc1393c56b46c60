"""What this machine and this Penstock have and lack, each with what to do about it.

Nothing is changed, and the engine need not run: the state folder is read, the front is asked as a visitor
would ask it.
"""

from __future__ import annotations

import enum
import errno
import http.client
import os
import platform
import re
import resource
import shutil
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .cdn import RELEASE_PATH
from .errors import Invalid, PenstockError, Unavailable
from .front import Front
from .hook.spool import Spool
from .model import webhook_of
from .runtimes import sandbox
from .settings import Settings
from .tell import count
from .vault import Vault

GIT = (2, 29)
"""The first git with `proc-receive`, by which a push ends with the outcome of its run (its release notes)."""
FILES = 4096
"""Open files the engine should be allowed: each push and each visitor takes some."""
MIB = 1024 * 1024
SCARCE, LOW = 200 * MIB, 2048 * MIB
"""Bytes left on the disk that are a problem, and that are worth a warning."""
CLOCK = 60.0
"""Seconds by which files may be ahead of the clock."""
STUCK = 3600.0
"""Seconds without any event after which a run that moves is worth a look. Tests and builds may be long."""
PATIENCE = 5.0


class Level(enum.StrEnum):
    """How bad it is."""

    OK = "ok"
    """As it should be."""
    WARNING = "warning"
    """Works, with less than there could be, or not for long."""
    PROBLEM = "problem"
    """Something that Penstock promises does not work."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; `do` is what helps."""

    what: str
    level: Level
    says: str
    do: str = ""


@dataclass(frozen=True)
class Patient:
    """A Penstock. `status` is the engine's answer; None: it does not answer, and `silence` says why."""

    settings: Settings
    status: Mapping[str, Any] | None
    silence: str = ""
    repository: Path = field(default_factory=Path)
    """A repository that may have a hook whose spool is looked at."""

    @property
    def is_there(self) -> bool:
        return (self.settings.state / "penstock.db").exists()


def examine(patient: Patient) -> Iterator[Finding]:
    """Looks at one thing after the other."""
    for look in _LOOKS:
        try:
            yield from look(patient)
        except OSError as error:  # what one look cannot read keeps no other from looking
            says = f"{error.filename or 'this machine'}: {error.strerror or error}"
            yield _problem(look.__name__.strip("_"), says, "penstock doctor, as the user who runs Penstock")


def patient(settings: Settings, ask: Callable[[], Mapping[str, Any]]) -> Patient:
    """With what the engine answers when it is asked for its status."""
    try:
        return Patient(settings, ask())
    except Unavailable as error:
        return Patient(settings, None, str(error).partition("\n")[0])
    except PenstockError as error:
        return Patient(settings, None, str(error))


def _ok(what: str, says: str) -> Finding:
    return Finding(what, Level.OK, says)


def _warning(what: str, says: str, do: str) -> Finding:
    return Finding(what, Level.WARNING, says, do)


def _problem(what: str, says: str, do: str) -> Finding:
    return Finding(what, Level.PROBLEM, says, do)


# -- the machine


def _python(_: Patient) -> Iterator[Finding]:
    yield _ok("python", f"{platform.python_version()}, SQLite {sqlite3.sqlite_version}")


def _git(_: Patient) -> Iterator[Finding]:
    try:
        told = subprocess.run(
            ["git", "--version"], capture_output=True, text=True, timeout=PATIENCE, check=True
        )
    except (OSError, subprocess.SubprocessError):
        yield _problem("git", "cannot be run", "install git, and have it on the PATH")
        return
    found = re.search(r"(\d+)\.(\d+)\S*", told.stdout)
    if found is None or (int(found[1]), int(found[2])) >= GIT:
        yield _ok("git", found[0] if found else told.stdout.strip())
    else:
        yield _problem(
            "git", found[0], f"install git {GIT[0]}.{GIT[1]} or newer: pushes need its proc-receive hook"
        )


def _files(patient: Patient) -> Iterator[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(FILES, patient.settings.limit_files)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        yield _ok("open files", f"{soft} at most")
    else:
        how = (
            f"ulimit -n {wanted}"
            if hard == resource.RLIM_INFINITY or hard >= wanted
            else "raise the hard limit"
        )
        yield _warning("open files", f"{soft} at most", f"{how}; under systemd: LimitNOFILE={wanted}")


def _isolation(patient: Patient) -> Iterator[Finding]:
    try:
        chosen = sandbox.choose(patient.settings.sandbox)
    except Invalid as error:
        yield _problem("isolation", str(error), "penstock up refuses to start like this")
        return
    if chosen.bwrap is not None and chosen.counts_processes:
        yield _ok("isolation", str(chosen))
    else:
        yield _warning("isolation", str(chosen), "install bubblewrap, and allow user namespaces")


# -- the state folder


def _state(patient: Patient) -> Iterator[Finding]:
    state = patient.settings.state
    if not state.is_dir():
        yield _warning(
            "state", f"there is no {state} yet", "penstock up makes it; or name another: --state DIR"
        )
        return
    if not os.access(state, os.R_OK | os.W_OK | os.X_OK):
        yield _problem(
            "state", f"{state} cannot be written", "run as its owner, or give it back to you: chown"
        )
    elif (mode := state.stat().st_mode & 0o777) & 0o077:
        yield _warning("state", f"{state} is open to others ({mode:03o})", f"chmod 700 {state}")
    else:
        yield _ok("state", f"{state} is yours alone")
    yield _room(state)


def _room(state: Path) -> Finding:
    left, inodes = shutil.disk_usage(state).free, os.statvfs(state)
    says = f"{left // MIB:,} MiB left"
    if inodes.f_files and inodes.f_favail < 1000:
        return _problem(
            "disk", f"{inodes.f_favail} files left", "remove files; many small ones use up the disk"
        )
    if left < SCARCE:
        return _problem("disk", says, "make room: pushes are refused when nothing can be written")
    return _ok("disk", says) if left >= LOW else _warning("disk", says, "make room before it is used up")


def _clock(patient: Patient) -> Iterator[Finding]:
    ahead = [file.stat().st_mtime - time.time() for file in patient.settings.state.glob("penstock.db*")]
    if max(ahead, default=0) > CLOCK:
        yield _warning(
            "clock",
            f"was set back: files are {max(ahead):.0f} s ahead of it",
            "set it right; times of runs are off",
        )
    else:
        yield _ok("clock", time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()))


def _database(patient: Patient) -> Iterator[Finding]:
    if not patient.is_there:
        return
    try:
        answer = [row[0] for row in _rows(patient, "PRAGMA quick_check(1)")]
    except sqlite3.Error as error:
        answer = [str(error)]
    file = patient.settings.state / "penstock.db"
    if answer == ["ok"]:
        yield _ok("database", f"whole, {file.stat().st_size // MIB:,} MiB")
    else:
        yield _problem(
            "database", f"{file}: {answer[0]}", "stop Penstock, and put back a copy of the state folder"
        )


def _rows(patient: Patient, query: str) -> list[tuple[Any, ...]]:
    file = patient.settings.state / "penstock.db"
    with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=PATIENCE)) as database:
        return database.execute(query).fetchall()


def _told(patient: Patient, query: str) -> list[tuple[Any, ...]]:
    """Rows, where the database can be read; that it cannot is told by `_database`."""
    if not patient.is_there:
        return []
    try:
        return _rows(patient, query)
    except sqlite3.Error:
        return []


_VARIABLES = """SELECT apps.name, environments.sealed FROM apps
JOIN environments ON environments.id = apps.environment"""
_WEBHOOKS = "SELECT name, webhook_sealed FROM apps WHERE webhook_sealed IS NOT NULL"


def _key(patient: Patient) -> Iterator[Finding]:
    """Every variable that is in force can be opened, and every webhook's secret."""
    file = patient.settings.state / "secrets.key"
    variables, webhooks = _told(patient, _VARIABLES), _told(patient, _WEBHOOKS)
    sealed = [*variables, *((webhook_of(app), text) for app, text in webhooks)]
    try:
        for about, text in sealed:
            Vault(file).open(text, about=about)
    except PenstockError as error:
        says, _, do = str(error).partition("\n")
        yield _problem("key", says, do or "make it readable for who runs Penstock")
        return
    apps = {app for app, _ in (*variables, *webhooks)}
    if file.exists() and file.stat().st_mode & 0o077:
        yield _warning("key", f"{file} is open to others", f"chmod 600 {file}")
    else:
        yield _ok(
            "key",
            f"opens the secrets of {count(len(apps), 'app')}" if apps else "nothing is sealed yet",
        )


# -- what runs


def _engine(patient: Patient) -> Iterator[Finding]:
    if patient.status is not None:
        yield _ok("engine", f"answers, version {patient.status['version']}")
    elif patient.is_there:
        yield _problem("engine", patient.silence, "penstock up")
    else:
        yield _warning("engine", "was never started here", "penstock up")


def _ports(patient: Patient) -> Iterator[Finding]:
    """Those that nobody of ours holds must be free."""
    settings = patient.settings
    wanted = {} if patient.status is not None else {"--port": settings.port}
    if _front_of(patient) is None:
        wanted["--router-port"] = settings.router_port
        wanted |= {f"--edge-port ({number})": port for number, port in enumerate(settings.edge_ports, 1)}
    taken = {option: port for option, port in wanted.items() if port and _is_taken(settings.address, port)}
    for option, port in taken.items():
        yield _problem("ports", f"{port} is taken by another program", f"choose another: {option}")
    if not taken:
        yield _ok("ports", "ours, or free")


def _is_taken(address: str, port: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False


def _front_of(patient: Patient) -> Front | None:
    front = Front.read(patient.settings.state)
    return front if front is not None and front.is_alive() else None


def _front(patient: Patient) -> Iterator[Finding]:
    if not patient.is_there:
        return
    front = _front_of(patient)
    if front is None:
        yield _problem("front", "nothing serves visitors", "penstock up")
        return
    for name, port in (("router", front.router_port), *_edges(front)):
        try:
            _asked(front.address, port, "/", patient.settings.domain)
            yield _ok(name, f"answers on {front.address}:{port}")
        except (OSError, http.client.HTTPException) as error:
            yield _problem(
                name, f"does not answer on {front.address}:{port}: {error}", "penstock down, penstock up"
            )


def _edges(front: Front) -> list[tuple[str, int]]:
    return [(f"edge-{number}", port) for number, port in enumerate(front.edge_ports, 1)]


def _releases(patient: Patient) -> Iterator[Finding]:
    """Every edge serves what is live, and owes nothing."""
    owing = {
        app for app, _ in _told(patient, "SELECT apps.name, edge FROM debts JOIN apps ON apps.id = app_id")
    }
    front, right = _front_of(patient), True
    live = {
        app["name"]: app["live"]["label"] for app in (patient.status or {"apps": ()})["apps"] if app["live"]
    }
    for app in sorted(owing | live.keys()):
        wrong = [] if front is None or app not in live else list(_wrong(patient, front, app, live[app]))
        if app in owing or wrong:
            right = False
            says = "; ".join(wrong) or "an edge may hold what is no longer live"
            yield _problem("edges", f"{app}: {says}", f"penstock refresh {app}")
    if right and live:
        yield _ok("edges", f"serve what is live of {count(len(live), 'app')}")


def _wrong(patient: Patient, front: Front, app: str, label: str) -> Iterator[str]:
    for edge, port in _edges(front):
        try:
            release = _asked(front.address, port, RELEASE_PATH, patient.settings.host(app))
        except (OSError, http.client.HTTPException) as error:
            release = str(error)
        if release != label:
            yield f"{edge} answers {release or 'with no release'} instead of {label}"


def _asked(address: str, port: int, path: str, host: str) -> str:
    """The release that the answer is of."""
    with closing(http.client.HTTPConnection(address, port, timeout=PATIENCE)) as connection:
        connection.request("GET", path, headers={"Host": host})
        answer = connection.getresponse()
        answer.read(MIB)
        return answer.getheader("X-Penstock-Release", "")


def _processes(patient: Patient) -> Iterator[Finding]:
    """What is live runs; one that keeps ending is found between two of its lives."""
    apps = [] if patient.status is None else patient.status["apps"]
    live = [process for app in apps for process in app["processes"] if process["live"]]
    for down in (process for process in live if process["pid"] is None):
        app, name = down["app"], down["process"]
        log = patient.settings.state / "runtime" / down["candidate"] / f"{name}.log"
        says = f"{name} of {app} is down, after {count(down['restarts'], 'restart')}"
        yield _problem("processes", says, f"what it said: {log}; to go back: penstock rollback {app}")
    if live and all(process["pid"] for process in live):
        yield _ok("processes", f"{len(live)} live, none is down")


_MOVING = """SELECT runs.id, apps.name, strftime('%s', 'now') - max(events.at)
FROM runs JOIN apps ON apps.id = runs.app_id JOIN events ON events.run_id = runs.id
WHERE runs.status IN ('queued', 'running') GROUP BY runs.id"""


def _runs(patient: Patient) -> Iterator[Finding]:
    moving = _told(patient, _MOVING)
    if patient.status is None and moving:
        yield _warning("runs", f"{len(moving)} wait for the engine", "penstock up goes on with them")
        return
    stuck = [(run, app, quiet) for run, app, quiet in moving if quiet > STUCK]
    for run, app, quiet in stuck:
        says = f"run {run} of {app} has said nothing for {quiet / 3600:.0f} h"
        yield _warning("runs", says, f"penstock show {run}; to end it: penstock cancel {run}")
    if patient.is_there and not stuck:
        yield _ok("runs", f"{len(moving)} on their way, none is stuck")


def _spool(patient: Patient) -> Iterator[Finding]:
    """Where this is a repository with a hook, nothing is left behind in it."""
    spool = Spool(patient.repository)
    if not spool.folder.is_dir():
        return
    waiting = len(spool.waiting())
    if waiting:
        yield _warning(
            "hook",
            f"{count(waiting, 'push', 'pushes')} kept in {spool.folder}: {spool.trouble}",
            "penstock hook --flush",
        )
    else:
        yield _ok("hook", f"nothing waits in {spool.folder}")


_LOOKS: tuple[Callable[[Patient], Iterator[Finding]], ...] = (
    *(_python, _git, _files, _isolation),
    *(_state, _clock, _database, _key),
    *(_engine, _ports, _front, _releases, _processes, _runs, _spool),
)
