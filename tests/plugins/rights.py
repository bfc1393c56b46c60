"""What only root may do to a machine, for the tests that take something away from it."""

from __future__ import annotations

import os
import subprocess

import pytest


def as_root(*command: str) -> None:
    """By who runs the tests, or by sudo where that asks nothing. Where neither is allowed to, the test that
    needs it is skipped, with the reason; under CI it is red."""
    reasons = []
    for way in ((), ("sudo", "-n")):
        try:
            done = subprocess.run([*way, *command], capture_output=True, text=True, check=False)
        except FileNotFoundError as error:
            reasons.append(str(error))
            continue
        if done.returncode == 0:
            return
        reasons.append(done.stderr.strip() or f"exit code {done.returncode}")
    missing = f"{' '.join(command[:2])} is not to be had here: {'; '.join(reasons)}"
    if os.environ.get("CI") == "true":
        pytest.fail(missing)
    pytest.skip(missing)
