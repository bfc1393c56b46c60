"""The runtime port: where repository code runs.

Life cycle of a release in a runtime:

1. `execute`  one-off commands of a run (tests, build) in the runtime's sandbox; concurrent calls are fine.
2. `start`    the candidate beside the live release; idempotent by `Candidate.name`: what runs is adopted.
3. `healthy`  waits until the candidate answers; raises `Unhealthy` with its last log lines.
4. `switch`   traffic goes to the candidate (or, for an app without processes, to its static files alone);
              idempotent; when it returns, no new request reaches another release.
5. `retire`   drains and ends every instance of the app that is there when it is called, but the named one;
              idempotent.
6. `observe`  what runs now, for status and dashboard.
7. `serves`   whom it can go on serving; what else is live has to be started and switched to once more.

`RuntimeUnavailable` from any of them is worth a retry; every call may be repeated after a crash.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # The router's process loads this package and does without pydantic's 10 MB.
    from ..config import Command, Health


@dataclass(frozen=True, slots=True)
class Candidate:
    """What is to be started: one release of one app, before it has a version.

    `name` is unique over all apps and runs (`shop-118`) and the same when a stage is repeated.
    `image` is the digest of an image in the image store; None: nothing to start, static files alone.
    """

    app: str
    name: str
    image: str | None
    commit: str
    processes: Mapping[str, Command]
    """By process name; `web` serves and gets `PORT`. Empty: nothing to start."""
    health: Health
    env: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Route:
    """Where visitors of an app go: by `host`, and by `port` without a host name.

    `release` (such as `v42`) is told in the `X-Penstock-Release` response header.
    """

    app: str
    host: str
    port: int
    release: str
    candidate: str | None
    """Name of the candidate that serves; None: static files alone."""


@dataclass(frozen=True, slots=True)
class ProcessState:
    """One process as it is now. `restarts` counts since the release started."""

    app: str
    candidate: str
    process: str
    pid: int | None
    port: int | None
    restarts: int
    started_at: float | None


class Runtime(Protocol):
    """See the module's docstring for the life cycle."""

    @property
    def isolation(self) -> str:
        """What repository code runs in, for people: `bubblewrap`, or what there is instead and why."""
        ...

    async def execute(
        self,
        command: Command,
        *,
        name: str,
        tree: Path,
        env: Mapping[str, str],
        output: Callable[[bytes], None],
        timeout: float,
    ) -> int:
        """Run a command in `tree`; its combined output goes to `output` as it comes. Returns the exit code
        (negative: the signal that ended it). When it returns or is cancelled, all that it started is gone.
        Raises `StageFailed` when `timeout` seconds have passed, or a limit has ended it."""
        ...

    async def start(self, candidate: Candidate) -> None: ...

    async def healthy(self, candidate: Candidate) -> int:
        """Returns how many checks it took."""
        ...

    async def switch(self, route: Route) -> None: ...

    async def retire(self, app: str, *, keep: str | None) -> None:
        """`keep` names the candidate that stays; None ends all."""
        ...

    async def observe(self) -> list[ProcessState]: ...

    async def serves(self) -> set[str]:
        """Names of the apps that it keeps serving by itself, also after a restart of the machine."""
        ...
