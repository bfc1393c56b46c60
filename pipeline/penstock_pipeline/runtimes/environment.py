"""What repository code finds in its environment: nothing of Penstock's own, apart from PATH.

Build commands install Python packages into the tree itself, under `.penstock/python` (pip is told so by
`PIP_TARGET`), so that they become part of the image and are on the path of what runs from it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from . import Candidate
from .process import MARK

PACKAGES = Path(".penstock/python")

_PIP = {"PIP_NO_COMPILE": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PYTHONDONTWRITEBYTECODE": "1"}
"""The same tree gives the same image: no bytecode with dates in it."""


def of_command(tree: Path, own: Path, env: Mapping[str, str], *, mark: str) -> dict[str, str]:
    """For a one-off command in `tree`; `own` is a folder of its own for HOME and TMPDIR."""
    packages = tree / PACKAGES
    pip = {**_PIP, "PIP_TARGET": str(packages)}
    return {**_scrubbed(own), **pip, **_python(packages), **env, MARK: mark}


def of_process(
    candidate: Candidate, process: str, port: int | None, folder: Path, *, mark: str
) -> dict[str, str]:
    """For a process of a release that is laid out in `folder`/root."""
    packages = folder / "root" / PACKAGES
    says = {
        "PENSTOCK_APP": candidate.app,
        "PENSTOCK_COMMIT": candidate.commit,
        "PENSTOCK_PROCESS": process,
        **({} if port is None else {"PORT": str(port)}),
    }
    python = _python(packages) if packages.is_dir() else {}
    return {**_scrubbed(folder), **python, **candidate.env, **says, MARK: mark}


def _scrubbed(own: Path) -> dict[str, str]:
    return {
        "PATH": _path(),
        "HOME": str(own / "home"),
        "TMPDIR": str(own / "tmp"),
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "PYTHONUNBUFFERED": "1",
    }


def _python(packages: Path) -> dict[str, str]:
    return {"PYTHONPATH": str(packages), "PATH": f"{packages / 'bin'}:{_path()}"}


def _path() -> str:
    return f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"
