"""What people write in `penstock.yaml`, or in a `Procfile`, or nothing at all.

Here are the nouns and what each may be; `files` reads an app's tree, `document` its YAML.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Command = str | tuple[str, ...]
"""A string is run by `/bin/sh -c`, a list is run as it is: the two forms Dockerfiles know."""


def _command(value: object) -> Command:
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, list | tuple) or not all(isinstance(word, str) for word in words):
        raise ValueError("must be a command line, or a list of words")
    if not words or not words[0].strip():
        raise ValueError("must not be empty: give a command or leave the key out")
    if any("\0" in word for word in words):
        raise ValueError("must not hold a NUL character")
    return value if isinstance(value, str) else tuple(words)


def _process_name(name: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,29}", name):
        raise ValueError("is no name for a process: use 1 to 30 of a-z, 0-9 and -, starting with a letter")
    return name


def _base(name: str) -> str:
    if not re.fullmatch(r"[!-~]+", name):
        raise ValueError("must be the name of an image, such as python:3.13-slim")
    return name


def _folder(name: str) -> str:
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or not name.isprintable() or "\\" in name:
        raise ValueError("must be a folder inside the repository, such as public")
    return path.as_posix()


def _url_path(path: str) -> str:
    if not re.fullmatch(r"/(?!/)[!\"$-~]*", path):
        raise ValueError("must be a path such as /healthz: it starts with one /, without host, spaces or #")
    return path


def _seconds(value: object) -> float:
    if isinstance(value, str):
        said = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?) ?(ms|s|m)?", value)
        value = said and float(said[1]) * {"ms": 0.001, "s": 1, "m": 60}[said[2] or "s"]
    if not isinstance(value, int | float) or not 0 < value <= 3600:
        raise ValueError("must be a duration such as 20s, 500ms or 2m, more than 0 and at most 60m")
    return value


_CheckedCommand = Annotated[Command, BeforeValidator(_command)]


class Section(BaseModel):
    """A mapping of known keys; the classes below are all there are."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Build(Section):
    """`build:`"""

    base: Annotated[str, AfterValidator(_base)] | None = None
    """Base image the app's layer is put on, where the runtime uses images. The local runtime uses this
    machine."""
    run: _CheckedCommand | None = None
    """Run in the checkout before it is packed, such as `pip install -r requirements.txt`."""


class Static(Section):
    """`static:`, or short: `static: public`"""

    dir: Annotated[str, AfterValidator(_folder)]
    """Folder inside the repository that goes to the origin; `.` is all of it."""

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: object) -> object:
        return {"dir": value} if isinstance(value, str) else value


class Health(Section):
    """`health:`, or short: `health: /healthz`"""

    path: Annotated[str, AfterValidator(_url_path)] | None = None
    """Answers 2xx or 3xx when the release is healthy. None: its port accepting a connection is enough."""
    within: Annotated[float, BeforeValidator(_seconds)] = 20.0
    """Seconds the candidate has for that, up to an hour; written as `20s`, `500ms`, `2m` or a number."""

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: object) -> object:
        return {"path": value} if isinstance(value, str) else value


class AppConfig(Section):
    """One app's configuration, whole and checked; what a release keeps of it."""

    processes: dict[Annotated[str, AfterValidator(_process_name)], _CheckedCommand] = Field(
        default_factory=dict
    )
    """By name; `web` is the one that serves and gets `PORT`. `web:` at the top level is short for it."""
    test: _CheckedCommand | None = None
    """Decides by its exit code whether the push goes on; run in a copy of the checkout."""
    build: Build = Build()
    """How the checkout becomes what is released."""
    static: Static | None = None
    """What the origin and the edges serve. None: no static files."""
    approve: bool = False
    """Whether a person has to let a push through before it starts."""
    health: Health = Health()
    """How a candidate proves that it may take traffic."""


def load(tree: Path) -> AppConfig:
    """The configuration of the app in `tree`: `penstock.yaml`, completed by a `Procfile`, else by what lies
    there (`public/index.html` or `index.html`). Raises `InvalidConfig`, which says all that is wrong."""
    # Imported where it is used: processes that only know the nouns above read no YAML.
    from . import files

    return files.load(tree)
