"""A short form of `make soak`."""

from __future__ import annotations

import random

from plugins.kubernetes_cluster import Cluster
from soak.clusters import soak


def test_nothing_is_left_of_clusters_that_were_killed(own_cluster: Cluster) -> None:
    tally = soak(2, random.Random(11))
    print(tally)
    assert tally.sound, str(tally)
    assert (tally.kills, tally.running) == (2, 1)
    assert "node" in own_cluster.kubectl("get", "nodes")  # beside all of them
