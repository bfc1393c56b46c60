"""What people write in `penstock.yaml`, or in a `Procfile`, or nothing at all."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

Command = str | tuple[str, ...]
"""A string is run by `/bin/sh -c`, a list is run as it is: the two forms Dockerfiles know."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Build(_Section):
    """`build:`"""

    base: str | None = None
    """Base image the app's layer is put on, where the runtime uses images. The local runtime uses this machine."""
    run: Command | None = None
    """Run in the checkout before it is packed, such as `pip install -r requirements.txt`."""


class Static(_Section):
    """`static:`"""

    dir: str
    """Folder inside the repository that goes to the origin."""


class Health(_Section):
    """`health:`"""

    path: str | None = None
    """Answers 2xx or 3xx when the release is healthy. None: its port accepting a connection is enough."""
    within: float = 20.0
    """Seconds the candidate has for that."""


class AppConfig(_Section):
    """One app's configuration, whole and checked; what a release keeps of it."""

    processes: dict[str, Command] = Field(default_factory=dict)
    """By name; `web` is the one that serves and gets `PORT`. `web:` at the top level is short for it."""
    test: Command | None = None
    build: Build = Build()
    static: Static | None = None
    health: Health = Health()
