"""A MariaDB in the cluster: reached by name; its data outlives the ends that tests give it."""

from __future__ import annotations

from cluster.workloads import SLEEP, pod, ready
from plugins.cluster import Images
from plugins.house import eventually
from plugins.kubernetes_client import Kubernetes
from plugins.kubernetes_mariadb import MariaDBPod

GREETING = """
import socket
with socket.create_connection(("mariadb", 3306), timeout=2) as connection:
    print(b"MariaDB" in connection.recv(100))
"""
"""The first packet comes from the server."""


async def test_it_is_reached_by_name_and_killed_and_frozen_and_restarted(
    database: MariaDBPod, cluster: Kubernetes, namespace: str, images: Images
) -> None:
    cluster.apply(pod("client", images.python(), SLEEP), namespace=namespace)
    ready(cluster, "client", namespace)

    def greeted() -> bool:
        asked = cluster.ask("-n", namespace, "exec", "client", "--", "python3", "-c", GREETING)
        return asked.stdout == "True\n"

    assert greeted()
    database.admin("CREATE TABLE shop.kept (id INT PRIMARY KEY)")
    database.admin("INSERT INTO shop.kept VALUES (7)")
    for end in (database.crash, database.restart):
        end()
        await eventually(greeted, within=30)
        database.until_ready()
        assert database.admin("SELECT id FROM shop.kept") == [["7"]]

    database.freeze()
    await eventually(lambda: not greeted(), within=30)
    database.thaw()
    await eventually(greeted, within=30)
