"""What the fixtures promise, seen from a run of pytest on a cluster that is there already."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from plugins import cluster as fixtures
from plugins.cluster import Images
from plugins.kubernetes_client import Kubernetes

REPOSITORY = Path(__file__).parents[2]

FAILING = """
from cluster.workloads import pod

def test_that_fails(cluster, namespace, images):
    print("namespace", namespace)
    cluster.apply(pod("talker", images.python(), "print('its last words')"), namespace=namespace)
    ended = "--for=jsonpath={.status.containerStatuses[0].restartCount}=1"
    cluster.kubectl("-n", namespace, "wait", "pod/talker", ended, "--timeout=30s")
    raise AssertionError("on purpose")
"""


def test_a_test_that_fails_tells_what_its_pods_said_and_its_namespace_goes(
    cluster: Kubernetes, images: Images, tmp_path: Path
) -> None:
    images.python()
    (tmp_path / "test_inner.py").write_text(FAILING)
    settings = {
        "PATH": cluster.programs.path,
        "PENSTOCK_TEST_KUBECONFIG": str(cluster.kubeconfig),
        "PENSTOCK_TEST_LOAD": "true",  # a command that does nothing: what it would load is there
    }
    options = ("--config-file=pyproject.toml", "-p", "no:cacheprovider")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(tmp_path / "test_inner.py")],
        cwd=REPOSITORY,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout
    assert "1 failed" in done.stdout.splitlines()[-1], "and no error at the end of the run"
    for told in ("on purpose", "its last words", "Successfully assigned", "Restart Count"):
        assert told in done.stdout
    (name,) = (line.split()[1] for line in done.stdout.splitlines() if line.startswith("namespace test-"))
    assert f"namespace/{name}" not in cluster.kubectl("get", "namespaces", "-o", "name")


@pytest.mark.parametrize("ci", ["", "true"])
def test_who_is_not_root_is_told_so_and_under_ci_it_is_an_error(
    ci: str, monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config
) -> None:
    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    outcome = pytest.fail.Exception if ci else pytest.skip.Exception
    with pytest.raises(outcome, match="needs root; PENSTOCK_TEST_KUBECONFIG"), fixtures.own(pytestconfig):
        raise AssertionError("started")
