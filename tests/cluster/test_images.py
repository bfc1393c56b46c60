"""Images: our wheel runs in one, and what is made once is made once."""

from __future__ import annotations

from pathlib import Path

import pytest
from cluster.workloads import pod
from plugins import kubernetes_cache
from plugins.cluster import Images
from plugins.kubernetes_client import Kubernetes

USE = "import kopf, kubernetes, penstock_operator; print(penstock_operator.__file__)"


def test_our_wheel_and_what_it_needs_are_in_an_image(
    cluster: Kubernetes, namespace: str, images: Images
) -> None:
    ours = pod("ours", images.penstock("operator"), USE, command=["python3"])
    cluster.apply(ours, namespace=namespace)
    ended = "--for=jsonpath={.status.containerStatuses[0].restartCount}=1"
    cluster.kubectl("-n", namespace, "wait", "pod/ours", ended, "--timeout=30s")
    assert "/app/penstock_operator/" in cluster.kubectl("-n", namespace, "logs", "ours", "--previous")


def test_what_is_kept_is_made_once_and_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    abandoned = kubernetes_cache.folder() / "unfinished-thing-of-somebody-killed"
    abandoned.mkdir()

    def works(file: Path) -> None:
        file.write_text("whole")

    def breaks(file: Path) -> None:
        file.write_text("half")
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError):
        kubernetes_cache.kept("thing", breaks)
    assert not abandoned.exists()
    assert kubernetes_cache.kept("thing", works).read_text() == "whole"
    assert kubernetes_cache.kept("thing", breaks).read_text() == "whole"
    assert [thing.name for thing in kubernetes_cache.folder().iterdir() if thing.is_file()] == ["thing"]
