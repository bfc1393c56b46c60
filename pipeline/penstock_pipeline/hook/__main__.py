"""The hook itself: `penstock hook`, or `python -m penstock_pipeline.hook`, which starts faster.

Run by git it always ends with 0: the push to the repository here has happened, whatever Penstock says.
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import json
import os
import re
import select
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ..durable import aside
from ..errors import Conflict, Invalid, PenstockError, Unavailable
from .send import Door, described, keep_sending, send_all, verdict
from .spool import Message, Spool

HEARD = 4.0
"""Seconds a push waits for what Penstock says to it."""

_MARK = "# penstock hook"
_MOVED = re.compile(rb"^([0-9a-f]{40,64}) ([0-9a-f]{40,64}) (refs/heads/.+)$", re.MULTILINE)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0, or 2 and 3 as of any `penstock` command."""
    options = _parser().parse_args(arguments)
    try:
        if options.install:
            install(options)
        elif options.flush:
            flush(options)
        else:
            receive(options)
    except (PenstockError, OSError) as error:
        tell(f" !     {error}")
        return (3 if isinstance(error, Unavailable) else 2) if options.install or options.flush else 0
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="penstock hook",
        description="As git's post-receive hook: keeps what is pushed here until a Penstock knows of it.",
        epilog="Example: penstock hook --install /srv/git/shop.git --url http://host:7070/hooks/generic/shop",
    )
    add = parser.add_argument
    add("repository", nargs="?", type=Path, default=Path(os.environ.get("GIT_DIR", ".")))
    add("--install", action="store_true", help="write the hook into the repository")
    add("--flush", action="store_true", help="send what is kept, now, and say how it went")
    add(
        "--url",
        default=os.environ.get("PENSTOCK_WEBHOOK_URL", ""),
        help="where to tell, such as http://host:7070/hooks/generic/APP [PENSTOCK_WEBHOOK_URL]",
    )
    add("--secret-file", type=Path, help="file with the webhook's secret [else PENSTOCK_WEBHOOK_SECRET]")
    return parser


# -- run by git


def receive(options: argparse.Namespace) -> None:
    """Keeps what git says was pushed (githooks(5): lines `old new ref`), then has it sent."""
    if sys.stdin.isatty():
        raise Invalid("git runs this; put it into a repository: penstock hook --install REPO --url URL")
    spool, unkept = Spool(options.repository), []
    for message in messages(sys.stdin.buffer.read()):
        try:
            spool.keep(message)
        except OSError as error:
            tell(f" !     {described(message)} cannot be kept in {spool.folder}: {error.strerror or error}")
            unkept.append(message)
    if not unkept and not spool.waiting():
        return
    try:
        door = _door(options)
    except Invalid as error:
        raise Invalid(f"{error}; what waits is kept in {spool.folder}") from error
    _send_aside(spool, door, unkept)


def messages(lines: bytes) -> list[Message]:
    """One a branch that was moved or made; nothing else can go live."""
    found, pusher = [], _pusher()
    for line in _MOVED.findall(lines):
        before, after, ref = (word.decode("utf-8", "surrogateescape") for word in line)
        if set(after) != {"0"}:
            told = {"ref": ref, "before": before, "after": after, "pusher": pusher}
            found.append(Message.new(json.dumps(told).encode()))
    return found


def _pusher() -> str:
    """Who pushed, as gitolite or `git http-backend` calls them, else the system's user."""
    with contextlib.suppress(KeyError, OSError):  # a user whom the system has no name for
        return os.environ.get("GL_USER") or os.environ.get("REMOTE_USER") or getpass.getuser()
    return str(os.getuid())


def _send_aside(spool: Spool, door: Door, unkept: Sequence[Message]) -> None:
    """Sends in a process of its own session, which stays when the push is over; hears it for a while."""
    ear, mouth = os.pipe()
    if os.fork():
        os.close(mouth)
        return _hear(ear)
    os.setsid()
    os.chdir("/")
    for stream in (0, 1):
        os.dup2(os.open(os.devnull, os.O_RDWR), stream)
    os.dup2(mouth, 2)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    _send_now(door, unkept)
    return keep_sending(spool, door, tell, let_go=_let_go)


def _hear(ear: int) -> None:
    deadline = time.monotonic() + HEARD
    while select.select([ear], [], [], max(0.0, deadline - time.monotonic()))[0]:
        if not (said := os.read(ear, 65536)):
            return
        os.write(2, said)
    tell("-----> Kept       Penstock takes its time; it is told of this push as soon as it answers")


def _let_go() -> None:
    """The push need not wait any longer."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _send_now(door: Door, unkept: Sequence[Message]) -> None:
    for message in unkept:
        try:
            tell(verdict(message, door.send(message)))
        except Unavailable as error:
            tell(f" !     Penstock is away ({error}) and was not told of {described(message)}")


def tell(line: str) -> None:
    try:
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()
    except OSError:  # the push is over; nobody listens
        _let_go()


# -- run by people


def flush(options: argparse.Namespace) -> None:
    """Sends what waits. Raises `Unavailable` where Penstock is away."""
    spool = Spool(options.repository)
    if not spool.waiting():
        return tell("-----> Nothing waits")
    with spool.alone() as alone:
        if not alone:
            raise Conflict(f"another process sends what waits in {spool.folder}; its number is in lock there")
        return send_all(spool, _door(options), tell)


def install(options: argparse.Namespace) -> None:
    """Writes the hook. Raises `Conflict` where another one is there."""
    _door(options)
    hook = _hooks(options.repository) / "post-receive"
    script = _script(options)
    if hook.exists() and _MARK not in hook.read_text(errors="replace"):
        raise Conflict(f"{hook} is there already; add to it, as the last line: {script.splitlines()[-1]}")
    with aside(hook.parent) as new:
        new.file.write(script.encode())
        new.become(hook, mode=0o755)
    tell(f"-----> Installed  {hook}")


def _hooks(repository: Path) -> Path:
    command = ["git", "-C", str(repository), "rev-parse", "--git-path", "hooks"]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    if asked.returncode:
        raise Invalid(f"{repository} is no git repository: {asked.stderr.strip()}")
    return (repository / asked.stdout.strip()).absolute()


def _script(options: argparse.Namespace) -> str:
    command = [sys.executable, "-P", "-m", "penstock_pipeline.hook", "--url", options.url]
    if options.secret_file is not None:
        command += ["--secret-file", str(options.secret_file.absolute())]
    return f'#!/bin/sh\n{_MARK}: tells a Penstock of pushes\nexec {shlex.join(command)} "$@"\n'


def _door(options: argparse.Namespace) -> Door:
    file = options.secret_file
    try:
        secret = os.environ.get("PENSTOCK_WEBHOOK_SECRET", "") if file is None else file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(f"the webhook's secret cannot be read: {error}") from error
    return Door(options.url, secret.strip())


if __name__ == "__main__":
    sys.exit(main())
