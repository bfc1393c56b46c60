"""What needs more than the standard library says so when it is imported, and not before."""

from __future__ import annotations

import subprocess
import sys

import pytest

OF_OTHERS = ["asyncmy", "sqlalchemy", "prometheus_client", "opentelemetry"]
WITHOUT = "import sys; sys.modules.update(dict.fromkeys({}, None)); import penstock_pool{}"


def imported(part: str) -> subprocess.CompletedProcess[str]:
    code = WITHOUT.format(OF_OTHERS, part)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("part", ["", ".testing"])
def test_the_pool_itself_needs_nothing(part: str) -> None:
    assert imported(part).stderr == ""


@pytest.mark.parametrize("part", ["metrics", "tracing"])
def test_a_part_names_what_it_needs(part: str) -> None:
    assert f"install penstock[{part}]" in imported(f".{part}").stderr.splitlines()[-1]
