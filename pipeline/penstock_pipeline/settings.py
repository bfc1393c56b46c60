"""Everything that can be set, in one frozen object, read from the environment in one place.

Each field is set by `PENSTOCK_<NAME>` or by the option of `penstock up` of the same name. A wrong value is
refused with its name; nothing is corrected silently.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


def _default_state() -> Path:
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser() / "penstock"


class Settings(BaseSettings):
    """Settings of one Penstock on one machine."""

    model_config = SettingsConfigDict(
        env_prefix="PENSTOCK_", frozen=True, extra="forbid", allow_inf_nan=False
    )

    state: Path = Field(default_factory=_default_state)
    """Folder that holds everything: database, repositories, images, origin, logs. Made with mode 0700."""

    address: str = "127.0.0.1"
    """Address every listener binds to. Loopback by default: nothing is reachable from outside unasked."""

    port: int = Field(default=7070, ge=0, le=65535)
    """Port of the git door, webhooks, API and dashboard. 0: a free one is chosen once and remembered."""

    router_port: int = Field(default=7080, ge=0, le=65535)
    """Port where apps are reached by host name. 0: a free one is chosen once and remembered."""

    edge_ports: tuple[int, ...] = (7081, 7082)
    """One embedded caching edge a port. 0: a free one is chosen once and remembered."""

    app_ports: int = Field(default=7100, ge=0, le=65000)
    """First of the ports by which apps are reached without a host name, one an app. 0: free ones."""

    domain: str = "localhost"
    """An app `shop` is reached as `shop.<domain>`. Browsers resolve `*.localhost` to this machine."""

    public_url: str | None = None
    """Where people and forges reach the port: for links in events, commit statuses and webhooks. None: its
    own URL."""

    parallel_runs: int = Field(default=4, ge=1)
    """Runs that may move at once, over all apps (each app has one at most). Default: a small machine."""

    test_timeout: float = Field(default=1800, gt=0)
    """Seconds the `test` command may take."""

    build_timeout: float = Field(default=1800, gt=0)
    """Seconds the `build.run` command may take."""

    drain_timeout: float = Field(default=30, ge=0)
    """Seconds a replaced release may finish its requests in before it is told to end."""

    stop_timeout: float = Field(default=10, ge=0)
    """Seconds between SIGTERM and SIGKILL for an app's process group."""

    refresh_timeout: float = Field(default=60, gt=0)
    """Seconds within which every edge must serve the release; after that the run is red."""

    log_limit: int = Field(default=16 * 1024 * 1024, ge=1024)
    """Bytes kept of one stage's log; the rest is counted, dropped and told."""

    body_limit: int = Field(default=25 * 1024 * 1024, ge=1024)
    """Bytes a webhook body may have. GitHub's own cap on payloads is 25 MB (its webhook documentation)."""

    repository_limit: int = Field(default=4 * 1024**3, ge=1024)
    """Bytes a push may bring, packed, and the files of a commit may have together."""

    limit_files: int = Field(default=4096, ge=64)
    """Open files a process of an app, its build or its tests may have (RLIMIT_NOFILE)."""

    limit_memory: int | None = Field(default=None, ge=16 * 1024 * 1024)
    """Bytes of address space such a process may have (RLIMIT_AS). None: no limit; runtimes reserve much."""

    limit_file_size: int = Field(default=16 * 1024**3, ge=1024 * 1024)
    """Bytes a file that such a process writes may have (RLIMIT_FSIZE)."""

    limit_processes: int = Field(default=1024, ge=8)
    """Processes and threads that a test or build command, or a process of an app, may have at once with all
    that it starts: by a control group, or by RLIMIT_NPROC in a sandbox."""

    limit_cpu: int = Field(default=3600, ge=1)
    """Seconds of processor time a process of tests or a build may use (RLIMIT_CPU). Apps have no limit."""

    sandbox: Literal["auto", "bubblewrap", "none"] = "auto"
    """What repository code runs in: bubblewrap, nothing, or bubblewrap where the machine can do it."""

    sandbox_shows: tuple[Path, ...] = ()
    """What code in the sandbox may read beside the system's own programs and libraries: folders, files."""

    @field_validator("state")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        if not value.name or not str(value).isprintable():
            raise ValueError("must be the path of a folder of its own, in plain characters")
        whole = value.expanduser().absolute()
        if whole.is_symlink() and not whole.exists():  # perhaps its disk is not mounted: nothing begins anew
            raise ValueError(f"{whole} is a link to nowhere: mount what it leads to, or remove it")
        return whole.resolve()  # one path: what is hidden from apps has no other name

    @field_validator("public_url")
    @classmethod
    def _web_address(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", value):
            raise ValueError("must be a URL such as https://deploy.example.com")
        return value

    @field_validator("domain")
    @classmethod
    def _plain_domain(cls, value: str) -> str:
        if not value or not all(part.replace("-", "").isalnum() for part in value.split(".")):
            raise ValueError("must be a host name such as apps.example.com")
        return value.lower()

    @property
    def reached_at(self) -> str:
        """Where people and forges reach the port, without a slash at its end."""
        return (self.public_url or f"http://{self.address}:{self.port}").rstrip("/")

    def host(self, app: str) -> str:
        """The host name under which an app is reached."""
        return f"{app}.{self.domain}"
