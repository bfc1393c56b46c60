"""Start: the candidate comes up beside the live release and has to prove itself healthy."""

from __future__ import annotations

from .work import Outcome, Work


async def start(work: Work) -> Outcome:
    """Raises `Unhealthy` with the candidate's last log lines."""
    if not work.candidate.processes:
        return Outcome()
    await work.parts.runtime.start(work.candidate)
    checks = await work.parts.runtime.healthy(work.candidate)
    says = f"healthy on the {_ordinal(checks)} check" if checks else "running"
    return Outcome(f"{says} under {work.parts.runtime.isolation}")


def _ordinal(number: int) -> str:
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th") if number % 100 not in (11, 12, 13) else "th"
    return f"{number}{ending}"
