"""Lines of `NAME=VALUE`, as `.env` files hold them. Nothing is expanded: a `$` is a `$`."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..errors import InvalidConfig

_LINE = re.compile(
    r"""\s*(?:export\s+)?
    (?P<name>[^\s=#"']+)[ \t]*=[ \t]*+
    (?:'(?P<literal>[^']*)' | "(?P<quoted>(?:[^"\\]|\\.)*)" | (?P<plain>(?!["'])[^\n]*))
    (?P<rest>[^\n]*)(?:\n|\Z)""",
    re.VERBOSE | re.DOTALL,
)
_NAME = re.compile(r"""[ \t]*(?:export\s+)?(?P<name>[^\s=#"']+)[ \t]*=""")
_NOTHING = re.compile(r"[^\S\n]*(?:\#[^\n]*)?(?:\n|\Z)")
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}


def read(text: str, *, file: str) -> dict[str, str]:
    """The values by name. In quotes a value may have many lines; in double ones a backslash stands before
    what is meant as it is, and `\\n`, `\\r`, `\\t` are what they are elsewhere; without quotes ` #` begins a
    comment. Raises `InvalidConfig` naming `file` and line."""
    values: dict[str, str] = {}
    for line, name, value in _pairs(text.replace("\r\n", "\n"), file):
        if name in values:
            raise InvalidConfig(f"{name} is given twice", file=file, line=line)
        values[name] = value
    return values


def _pairs(text: str, file: str) -> Iterator[tuple[int, str, str]]:
    at = 0
    while at < len(text):
        if nothing := _NOTHING.match(text, at):
            at = nothing.end()
            continue
        line = text.count("\n", 0, at) + 1
        found = _LINE.match(text, at)
        if found is None or not _NOTHING.fullmatch(found["rest"]):
            raise InvalidConfig(_complaint(text[at:].partition("\n")[0]), file=file, line=line)
        yield line, found["name"], _value(found)
        at = found.end()


def _value(found: re.Match[str]) -> str:
    if (literal := found["literal"]) is not None:
        return literal
    if (quoted := found["quoted"]) is not None:
        return re.sub(r"\\(.)", lambda match: _ESCAPES.get(match[1], match[1]), quoted, flags=re.DOTALL)
    return re.split(r"(?:^|\s)#", found["plain"], maxsplit=1)[0].strip()


def _complaint(line: str) -> str:
    """Says what is wrong without the value, which may be a secret."""
    if (named := _NAME.match(line)) is None:
        return "must read NAME=VALUE"
    return f"the quotes of {named['name']} do not end, or something follows them"
