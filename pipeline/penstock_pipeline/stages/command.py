"""The commands an app brings along for its test and build stages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..config import Command
from ..errors import StageFailed
from ..model import StageName
from .work import Work


async def execute(
    work: Work,
    stage: StageName,
    command: Command,
    *,
    tree: Path,
    timeout: float,
    env: Mapping[str, str] | None = None,
) -> None:
    """Runs a command of the app in the runtime's sandbox, its output going to the stage's log, masked. Raises
    `StageFailed` unless it ends with exit code 0."""
    own = {"PENSTOCK_APP": work.app.name, "PENSTOCK_COMMIT": work.run.commit, "CI": "true"}
    name = f"{work.app.candidate(work.run.id)}-{stage.value}"
    with work.parts.logs.open(work.run.id, stage, work.mask) as log:
        try:
            code = await work.parts.runtime.execute(
                command, name=name, tree=tree, env={**(env or {}), **own}, output=log.write, timeout=timeout
            )
            problem = _problem(command, code)
        except StageFailed as error:
            problem = str(error)
    if problem:
        raise StageFailed(problem, tail=work.parts.logs.tail(work.run.id, stage))


def _problem(command: Command, code: int) -> str:
    shown = command if isinstance(command, str) else " ".join(command)
    how = f"exit code {code}" if code > 0 else f"signal {-code}"
    return f"`{shown}` ended with {how}" if code else ""
