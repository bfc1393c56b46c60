"""An app's variables: what it finds in its environment, some of them secret."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from .errors import Invalid
from .mask import MINIMUM
from .vault import Vault

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_OURS = re.compile(r"PENSTOCK_.*|PORT|LD_.*", re.ASCII)

LONGEST = 32 * 1024
"""Bytes a value may have."""
MOST = 128 * 1024
"""Bytes all of an app's variables may have together: what a process may be given has limits (execve(2))."""

MANY = 1000
"""Variables an app may have: bubblewrap takes at most 9,000 arguments, of which each variable is three."""


@dataclass(frozen=True, slots=True)
class Variable:
    """One value. A secret one is never shown again, and masked wherever it is printed."""

    value: str = field(repr=False)
    secret: bool = False


Variables = Mapping[str, Variable]


def check(name: str, variable: Variable) -> None:
    """Raises `Invalid`, which never tells the value."""
    if not _NAME.fullmatch(name):
        raise Invalid(f"variable {name!r}: use letters, digits and _, and begin with a letter or _")
    if _OURS.fullmatch(name):
        raise Invalid(f"variable {name}: the names PORT, PENSTOCK_… and LD_… are not an app's to set")
    if "\0" in variable.value:
        raise Invalid(f"variable {name}: a value cannot hold a NUL character")
    try:
        size = len(variable.value.encode())
    except UnicodeEncodeError as error:
        raise Invalid(f"variable {name}: the value must be text in UTF-8") from error
    if size > LONGEST:
        raise Invalid(f"variable {name}: a value has at most {LONGEST:,} bytes")
    if variable.secret and len(variable.value.strip()) < MINIMUM:
        raise Invalid(
            f"secret {name}: a value of fewer than {MINIMUM} characters cannot be masked in logs; "
            "set it with `penstock config set`, or use a longer one"
        )


def changed(before: Variables, changes: Mapping[str, Variable | None]) -> dict[str, Variable]:
    """The variables after a change; None removes one. Raises `Invalid`."""
    for name, variable in changes.items():
        if variable is not None:
            check(name, variable)
        elif name not in before:
            raise Invalid(f"there is no variable {name}; there are: {', '.join(before) or 'none'}")
    after = {**before, **changes}
    kept = {name: variable for name, variable in sorted(after.items()) if variable is not None}
    if len(kept) > MANY:
        raise Invalid(f"an app has at most {MANY:,} variables; these would be {len(kept):,}")
    if sum(len(name) + len(variable.value.encode()) for name, variable in kept.items()) > MOST:
        raise Invalid(f"an app's variables have at most {MOST:,} bytes together")
    return kept


def sealed(vault: Vault, app: str, variables: Variables) -> str:
    """As they are kept. Raises as `Vault.seal` does."""
    plain = json.dumps({name: asdict(variable) for name, variable in variables.items()})
    return vault.seal(plain.encode(), about=app)


def opened(vault: Vault, app: str, sealed: str | None) -> dict[str, Variable]:
    """What was kept; nothing, where nothing ever was. Raises as `Vault.open` does."""
    if sealed is None:
        return {}
    kept: dict[str, dict[str, Any]] = json.loads(vault.open(sealed, about=app))
    return {name: Variable(**variable) for name, variable in kept.items()}


def told(changes: Mapping[str, Variable | None]) -> str:
    """The change in words, without values: `set A, B; unset C`."""
    parted = {
        "set": [name for name, variable in changes.items() if variable is not None],
        "unset": [name for name, variable in changes.items() if variable is None],
    }
    return "; ".join(f"{verb} {', '.join(names)}" for verb, names in parted.items() if names)
