"""How many bad inputs there are here; each leaves the Penstock that they share as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

LEAST = 60
"""How many were promised at least; there are far more."""


def test_there_are_enough_bad_inputs(request: pytest.FixtureRequest) -> None:
    here = Path(__file__).parent
    collected = [item for item in request.session.items if item.path.parent == here]
    if {item.path for item in collected} != set(here.glob("test_*.py")):
        pytest.skip("counts only where the whole folder is collected")
    assert len(collected) >= LEAST
