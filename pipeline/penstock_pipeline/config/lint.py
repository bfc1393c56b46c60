"""Everything there is to say of an app's files, before anybody pushes them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import InvalidConfig
from . import AppConfig, files
from .document import Loc
from .files import FILE, PROCFILE, Said


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong (a push would be refused), or only `warning`: odd, and perhaps meant so."""

    file: str
    line: int | None
    text: str
    warning: bool = False


def lint(tree: Path) -> list[Finding]:
    """What is wrong in `tree`, else what is odd there, in the order of the files."""
    try:
        config, said = files.read(tree)
    except InvalidConfig as error:
        return [Finding(one.file, one.line, one.message) for one in (error, *error.also)]
    found = [Finding(*said.place(loc), text, warning=True) for loc, text in _odd(config, said, tree)]
    return sorted(found, key=lambda finding: (finding.file, finding.line or 0))


def _odd(config: AppConfig, said: Said, tree: Path) -> Iterator[tuple[Loc, str]]:
    if config.test is None:
        yield (), "there is no `test`: every push goes live untested"
    if "health" in said.values and "web" not in config.processes:
        yield ("health",), "`health` is for the process `web`, and there is none"
    if config.processes and config.health.path is None and "web" in config.processes:
        yield ("processes", "web"), "`health` has no path: a port that is open is taken for healthy"
    if config.build.base is not None:
        yield (
            ("build", "base"),
            "`build.base` has no effect on the local runtime, which uses this machine",
        )
    if (tree / PROCFILE).exists() and all(place.file == FILE for place in said.places.values()):
        yield ("processes",), f"the {PROCFILE} is not read, because there are processes here"
    yield from _odd_static(config, said, tree)


def _odd_static(config: AppConfig, said: Said, tree: Path) -> Iterator[tuple[Loc, str]]:
    if config.static is None:
        return
    folder = tree / config.static.dir
    if config.static.dir == ".":
        yield ("static",), "all of the repository is public, its sources and its tests with it"
    if not config.processes and not (folder / "index.html").is_file():
        yield ("static",), f"{config.static.dir} has no index.html: visitors of / find nothing"
