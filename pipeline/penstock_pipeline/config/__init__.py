"""What people write in `penstock.yaml`, or in a `Procfile`, or nothing at all.

Here are the nouns and what each may be; `files` reads an app's tree, `document` its YAML.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Annotated, ClassVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    model_validator,
)

Command = str | tuple[str, ...]
"""A string is run by `/bin/sh -c`, a list is run as it is: the two forms Dockerfiles know."""


MOST_PROCESSES = 50
"""Processes of one app, all of which start at once."""

_LONGEST_WORD = 100_000
"""Bytes of one argument; Linux takes 131,071 (MAX_ARG_STRLEN)."""

_PROCESS_NAME = r"[a-z][a-z0-9-]{0,29}"
_IMAGE_NAME = r"[!-~]+"
_URL_PATH = r'/(?!/)[!"$-~]*'


def _command(value: object) -> Command:
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, list | tuple) or not all(isinstance(word, str) for word in words):
        raise ValueError("must be a command line, or a list of words")
    if not words or not words[0].strip():
        raise ValueError("must not be empty: give a command or leave the key out")
    if any("\0" in word for word in words):
        raise ValueError("must not hold a NUL character")
    if any(len(word.encode()) > _LONGEST_WORD for word in words):
        raise ValueError(f"is longer than {_LONGEST_WORD:,} bytes: put it into a script")
    return value if isinstance(value, str) else tuple(words)


def _process_name(name: str) -> str:
    if not re.fullmatch(_PROCESS_NAME, name):
        raise ValueError("is no name for a process: use 1 to 30 of a-z, 0-9 and -, starting with a letter")
    return name


def _base(name: str) -> str:
    if not re.fullmatch(_IMAGE_NAME, name):
        raise ValueError("must be the name of an image, such as python:3.13-slim")
    return name


def _folder(name: str) -> str:
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or not name.isprintable() or "\\" in name:
        raise ValueError("must be a folder inside the repository, such as public")
    return path.as_posix()


def _url_path(path: str) -> str:
    if not re.fullmatch(_URL_PATH, path):
        raise ValueError("must be a path such as /healthz: it starts with one /, without host, spaces or #")
    return path


def _seconds(value: object) -> float:
    if isinstance(value, str):
        said = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?) ?(ms|s|m)?", value)
        value = said and float(said[1]) * {"ms": 0.001, "s": 1, "m": 60}[said[2] or "s"]
    if not isinstance(value, int | float) or not 0 < value <= 3600:
        raise ValueError("must be a duration such as 20s, 500ms or 2m, more than 0 and at most 60m")
    return value


_SCALAR = ["string", "number", "boolean"]
"""What is written without quotes may look like a number; it is taken as the text that it is."""
_WORD = {"type": _SCALAR, "pattern": r"\S"}
_WORDS = {"type": "array", "prefixItems": [_WORD], "items": {"type": _SCALAR}, "minItems": 1}

_CheckedCommand = Annotated[Command, BeforeValidator(_command), WithJsonSchema({"anyOf": [_WORD, _WORDS]})]
_ProcessName = Annotated[
    str, AfterValidator(_process_name), WithJsonSchema({"type": "string", "pattern": f"^{_PROCESS_NAME}$"})
]
_Base = Annotated[
    str, AfterValidator(_base), WithJsonSchema({"type": _SCALAR, "pattern": f"^{_IMAGE_NAME}$"})
]
_Folder = Annotated[
    str,
    AfterValidator(_folder),
    WithJsonSchema({"type": _SCALAR, "pattern": r"^(?!/)(?!(.*/)?\.\.(/|$))[^\\]+$"}),
]
_UrlPath = Annotated[
    str, AfterValidator(_url_path), WithJsonSchema({"type": "string", "pattern": f"^{_URL_PATH}$"})
]
_Duration = Annotated[
    float,
    BeforeValidator(_seconds),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "exclusiveMinimum": 0, "maximum": 3600},
                {"type": "string", "pattern": r"^(?=.*[1-9])[0-9]{1,9}(\.[0-9]{1,9})? ?(ms|s|m)?$"},
            ]
        }
    ),
]
_YES_OR_NO = "|".join(
    "".join(f"[{c}{c.upper()}]" if c.isalpha() else c for c in word)
    for word in ("true", "yes", "on", "t", "y", "1", "false", "no", "off", "f", "n", "0")
)
_YesOrNo = Annotated[
    bool,
    WithJsonSchema(
        {"anyOf": [{"enum": [True, False, 0, 1]}, {"type": "string", "pattern": f"^({_YES_OR_NO})$"}]}
    ),
]


class Section(BaseModel):
    """A mapping of known keys; the classes below are all there are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    short: ClassVar[str | None] = None
    """The key that is meant where text stands in the place of the mapping."""

    @model_validator(mode="before")
    @classmethod
    def _long(cls, value: object) -> object:
        return {cls.short: value} if cls.short is not None and isinstance(value, str) else value


class Build(Section):
    """`build:`"""

    base: _Base | None = None
    """Base image the app's layer is put on, where the runtime uses images. The local runtime uses this
    machine."""
    run: _CheckedCommand | None = None
    """Run in the checkout before it is packed, such as `pip install -r requirements.txt`."""


class Static(Section):
    """`static:`, or short: `static: public`"""

    short = "dir"

    dir: _Folder
    """Folder inside the repository that goes to the origin; `.` is all of it."""


class Health(Section):
    """`health:`, or short: `health: /healthz`"""

    short = "path"

    path: _UrlPath | None = None
    """Answers 2xx or 3xx when the release is healthy. None: its port accepting a connection is enough."""
    within: _Duration = 20.0
    """Seconds the candidate has for that, up to an hour; written as `20s`, `500ms`, `2m` or a number."""


class AppConfig(Section):
    """One app's configuration, whole and checked; what a release keeps of it."""

    processes: dict[_ProcessName, _CheckedCommand] = Field(default_factory=dict, max_length=MOST_PROCESSES)
    """By name; `web` is the one that serves and gets `PORT`. `web:` at the top level is short for it."""
    test: _CheckedCommand | None = None
    """Decides by its exit code whether the push goes on; run in a copy of the checkout."""
    build: Build = Build()
    """How the checkout becomes what is released."""
    static: Static | None = None
    """What the origin and the edges serve. None: no static files."""
    approve: _YesOrNo = False
    """Whether a person has to let a push through before it starts."""
    health: Health = Health()
    """How a candidate proves that it may take traffic."""


def load(tree: Path) -> AppConfig:
    """The configuration of the app in `tree`: `penstock.yaml`, completed by a `Procfile`, else by what lies
    there (`public/index.html` or `index.html`). Raises `InvalidConfig`, which says all that is wrong."""
    # Imported where it is used: processes that only know the nouns above read no YAML.
    from . import files

    return files.load(tree)
