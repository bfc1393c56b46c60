"""From the files of a tree to a checked configuration; every error names file and line."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from pydantic import ValidationError

from ..errors import InvalidConfig
from . import MOST_PROCESSES, AppConfig, Build, Health, Section, Static
from .document import Document, Loc

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

FILE = "penstock.yaml"
PROCFILE = "Procfile"

LARGEST = 256 * 1024
"""Bytes either file may have."""

MOST_TOLD = 20
"""Things that are said to be wrong with the files of one push."""

NOT_YET = frozenset({"database"})
"""Keys of a later version: refused rather than ignored."""


class Place(NamedTuple):
    file: str
    line: int | None


@dataclass(frozen=True, slots=True)
class Said:
    """What the files say as plain values, and the place of each."""

    values: dict[str, Any] = field(default_factory=dict)
    places: dict[Loc, Place] = field(default_factory=dict)

    def place(self, loc: Loc) -> Place:
        """Where `loc` was said, or else what it is a part of."""
        while loc and loc not in self.places:
            loc = loc[:-1]
        return self.places.get(loc, Place(FILE, None))

    def refuse(self, message: str, loc: Loc) -> NoReturn:
        place = self.place(loc)
        raise InvalidConfig(message, file=place.file, line=place.line)


def load(tree: Path) -> AppConfig:
    """See `config.load`."""
    return read(tree)[0]


def read(tree: Path) -> tuple[AppConfig, Said]:
    """The configuration, and what of it was said where."""
    said = _read_yaml(tree)
    _take_web(said)
    if said.values.get("processes", {}) == {}:
        _read_procfile(tree, said)
    config = _validated(said)
    if config.static is not None:
        _check_folder(tree, config.static, said)
    elif not config.processes:
        config = config.model_copy(update={"static": _found_static(tree)})
    return config, said


def _read_yaml(tree: Path) -> Said:
    if (tree / "penstock.yml").exists():
        raise InvalidConfig(f"rename it to {FILE}", file="penstock.yml")
    if (text := _read_text(tree, FILE)) is None:
        return Said()
    document = Document(text, file=FILE)
    return Said(document.values, {loc: Place(FILE, line) for loc, line in document.lines.items()})


def _read_text(tree: Path, name: str) -> str | None:
    """None: there is no such file."""
    path = tree / name
    if not path.exists() and not path.is_symlink():
        return None
    if not path.is_file() or not path.resolve().is_relative_to(tree.resolve()):
        raise InvalidConfig("must be a plain file of the repository", file=name)
    with path.open("rb") as file:
        raw = file.read(LARGEST + 1)
    if len(raw) > LARGEST:
        raise InvalidConfig(f"is larger than {LARGEST // 1024} KiB", file=name)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InvalidConfig("is not UTF-8 text", file=name, line=line) from error


def _take_web(said: Said) -> None:
    """`web: …` is short for `processes: {web: …}`."""
    if "web" not in said.values:
        return
    web = said.values.pop("web")
    processes = said.values.setdefault("processes", {})
    if not isinstance(processes, dict):
        return
    if "web" in processes:
        said.refuse("`web` is given twice: here and under `processes`; keep one", ("web",))
    processes["web"] = web
    said.places["processes", "web"] = said.place(("web",))


def _read_procfile(tree: Path, said: Said) -> None:
    processes = said.values["processes"] = {}
    problems = []
    for number, line in enumerate((_read_text(tree, PROCFILE) or "").split("\n"), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, colon, command = (part.strip() for part in line.partition(":"))
        if not colon:
            problems.append((PROCFILE, number, "must read `name: command`"))
        elif name in processes:
            problems.append((PROCFILE, number, f"process `{name}` is given twice"))
        processes.setdefault(name, command)
        said.places["processes", name] = Place(PROCFILE, number)
    if problems:
        raise _all_of(problems)


def _check_folder(tree: Path, static: Static, said: Said) -> None:
    folder = (tree / static.dir).resolve()
    if not folder.is_dir():
        said.refuse(f"`static`: there is no folder {static.dir} in the repository", ("static", "dir"))
    if not folder.is_relative_to(tree.resolve()):
        said.refuse(f"`static`: {static.dir} leads out of the repository", ("static", "dir"))


def _found_static(tree: Path) -> Static:
    for folder in ("public", "."):
        if (tree / folder / "index.html").is_file():
            return Static(dir=folder)
    message = (
        "there is nothing to serve: no process, no static folder, no index.html. Write for example:\n"
        "web: python -m shop\n"
        "static: public"
    )
    raise InvalidConfig(message, file=FILE)


# -- checking, and saying what is wrong

_SECTIONS: Mapping[Loc, type[Section]] = {
    (): AppConfig,
    ("build",): Build,
    ("static",): Static,
    ("health",): Health,
}


def _validated(said: Said) -> AppConfig:
    try:
        return AppConfig.model_validate(said.values)
    except ValidationError as error:
        problems = [(*said.place(problem["loc"]), _told(problem, said)) for problem in error.errors()]
        raise _all_of(sorted(problems, key=lambda problem: problem[1] or 0)) from error


def _all_of(problems: Sequence[tuple[str, int | None, str]]) -> InvalidConfig:
    """One error for all of them, the first in front; of very many, the first `MOST_TOLD`."""
    (file, line, text), *others = problems[:MOST_TOLD]
    also = [InvalidConfig(text, file=file, line=line) for file, line, text in others]
    return InvalidConfig(text, file=file, line=line, also=also)


def _told(problem: ErrorDetails, said: Said) -> str:
    loc = tuple(part for part in problem["loc"] if part != "[key]")
    if loc == ("processes", "web") and ("web",) in said.places:
        loc = ("web",)
    name = ".".join(map(str, loc))
    match problem["type"]:
        case "extra_forbidden":
            return _unknown(name, str(loc[-1]), loc[:-1])
        case "missing":
            return f"`{name}` is missing"
        case "value_error":
            return f"`{name}` {problem['ctx']['error']}"
        case "model_type" | "dict_type":
            return f"`{name}` must have keys and values of its own"
        case "string_type":
            return f"`{name}` must be text"
        case "too_long":
            return f"`{name}`: an app has at most {MOST_PROCESSES} of them"
    return f"`{name}`: {problem['msg']}"


def _unknown(name: str, key: str, section: Loc) -> str:
    if name in NOT_YET:
        return f"`{name}` is not supported by this version"
    known = [*(() if section else ("web",)), *_SECTIONS[section].model_fields]
    near = difflib.get_close_matches(key, known, n=1)
    hint = f" (did you mean `{near[0]}`?)" if near else ""
    return f"unknown key `{name}`{hint}; known: {', '.join(known)}"
