"""What the operator is told is checked at once, by name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from penstock_operator.__main__ import main
from penstock_operator.errors import InvalidSettings
from penstock_operator.settings import Settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("image", " "),
        ("namespaces", ("Not One",)),
        ("namespaces", ("",)),
        ("port", 0),
        ("port", 65536),
        ("looks", 0),
        ("resync", 0.0),
        ("resync", -1.0),
        ("resync", float("nan")),
    ],
)
def test_what_cannot_be_meant_is_refused(name: str, value: Any) -> None:
    with pytest.raises(InvalidSettings, match=f"^{name.removesuffix('s')}.* is .*; allowed is: "):
        Settings(**{"image": "penstock-data:1", name: value})


def test_a_wrong_option_ends_the_program_with_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--image", "penstock-data:1", "--namespace", "Not One"]) == 2
    assert capsys.readouterr().err == (
        "penstock-operator: namespace is 'Not One'; allowed is: the name of a namespace\n"
    )


def test_no_cluster_ends_the_program_with_a_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "penstock_operator", "--image", "penstock-data:1"]
    nowhere = {**os.environ, "KUBECONFIG": str(tmp_path / "none"), "HOME": str(tmp_path)}
    nowhere.pop("KUBERNETES_SERVICE_HOST", None)
    ended = subprocess.run(command, env=nowhere, capture_output=True, text=True, check=False)
    assert ended.returncode == 3
    assert "penstock-operator: there is no cluster around us, and no kubeconfig" in ended.stderr
