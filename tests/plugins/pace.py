"""How fast an engine goes on after a crash: the seconds that are promised for a quiet machine, asked of a
busy one as well."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median

RESUMES_WITHIN = 2.0
"""Seconds from the start of an engine to the first new event of a run that it resumes: mostly …"""

RESUMES_AT_WORST = 5.0
"""… and at worst."""

BUSY = 1.5


def slower(pid: int) -> float:
    """How many times longer than on a quiet machine a process has needed by now: it had a processor for some
    time, and waited for one for some (the first two figures of the kernel's schedstat). Where it waited much,
    it has also shared caches with many. 1 where the system does not tell."""
    try:
        used, waited, _ = map(int, Path(f"/proc/{pid}/schedstat").read_text().split())
    except OSError:
        return 1.0
    times = (used + waited) / max(used, 1)
    return times if times < BUSY else BUSY * times


def slow(resumed: Sequence[float]) -> list[str]:
    """What is wrong with these seconds, as a quiet machine would have had them."""
    if not resumed or (median(resumed) <= RESUMES_WITHIN and max(resumed) <= RESUMES_AT_WORST):
        return []
    return [f"runs go on {spread(resumed)}; {RESUMES_WITHIN:g} s and {RESUMES_AT_WORST:g} s are promised"]


def spread(seconds: Sequence[float]) -> str:
    return f"in {median(seconds or [0.0]):.2f} s (worst {max(seconds, default=0.0):.2f} s)"
