"""A ConnectionPool with the real data service: apps ask by its name, and a patch reaches pools that run."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from cluster.workloads import SLEEP, pod
from cluster.workloads import ready as runs
from plugins.cluster import Images
from plugins.kubernetes_mariadb import MariaDBPod
from plugins.operators import POOL, SECRET, Operator, pool

from penstock_data.tokens import issue

WITHIN = 90.0

ASK = """
import json, sys, urllib.request
url, token, *body = sys.argv[1:]
request = urllib.request.Request(url, body[0].encode() if body else None)
request.add_header("Authorization", "Bearer " + token)
request.add_header("Content-Type", "application/json")
print(urllib.request.urlopen(request, timeout=10).read().decode())
"""

DATABASE = POOL["spec"]["database"]
EAGER = {"readiness": {"periodSeconds": 1, "failureThreshold": 2}, "startup": {"periodSeconds": 1}}


class App:
    """A pod that asks, as an app does."""

    def __init__(self, operator: Operator, image: str) -> None:
        self._operator = operator
        operator.kubernetes.apply(pod("app", image, SLEEP), namespace=operator.namespace)
        runs(operator.kubernetes, "app", operator.namespace)

    def token(self, *scopes: str) -> str:
        """Signed with the key that the operator made."""
        secret = self._operator.kubernetes.get("secret", "shop-db-tokens", namespace=self._operator.namespace)
        key = base64.b64decode(secret["data"]["key"])
        audience = "penstock-data/shop-db"
        return issue(
            key, issuer="penstock-data", audience=audience, subject="app", scopes=scopes, seconds=600
        )

    def ask(self, path: str, *body: dict[str, Any], host: str = "shop-db") -> Any:
        asked = (f"http://{host}:8080{path}", self.token("data:read", "data:write"), *map(json.dumps, body))
        return json.loads(self._operator.kubectl("exec", "app", "--", "python3", "-c", ASK, *asked))

    def pools(self) -> list[dict[str, Any]]:
        """What each of the pods tells of its pool."""
        return [self.ask("/v1/pool", host=address) for address in addresses(self._operator).values()]


def addresses(operator: Operator) -> dict[str, str]:
    """Of the pool's pods that are not about to end, by uid."""
    ours = (each for each in operator.list("pod") if "penstock-data" in each["metadata"]["labels"].values())
    return {
        each["metadata"]["uid"]: each["status"]["podIP"]
        for each in ours
        if "deletionTimestamp" not in each["metadata"]
    }


@pytest.fixture
def served(operator: Operator, database: MariaDBPod, images: Images) -> Operator:
    """A pool of one to four connections for each of two pods, ready."""
    operator.start(image=images.penstock("data"))
    wanted = pool(pool={"min": 1, "max": 4}, probes=EAGER, database={**DATABASE, "tls": "Disabled"})
    operator.kubernetes.apply(SECRET, wanted, namespace=operator.namespace)
    operator.until_ready()
    return operator


@pytest.fixture
def app(served: Operator, images: Images) -> App:
    return App(served, images.python())


def test_an_app_asks_its_database_by_the_name_of_the_pool(app: App, database: MariaDBPod) -> None:
    app.ask("/v1/query", {"sql": "CREATE TABLE wares (name TEXT)"})
    app.ask("/v1/query", {"sql": "INSERT INTO wares VALUES (?)", "params": ["a pipe"]})
    assert app.ask("/v1/query", {"sql": "SELECT * FROM wares"})["rows"] == [["a pipe"]]
    assert database.admin("SELECT name FROM shop.wares") == [["a pipe"]]


def test_another_sizing_reaches_the_pools_that_run(app: App, served: Operator) -> None:
    before, pods = app.pools(), addresses(served)
    assert [(each["min"], each["max"]) for each in before] == [(1, 4)] * 2
    served.patch(pool={"min": 2, "max": 9}, heartbeat={"interval": "1s"})
    served.until_ready()
    # Kubelet looks at a pod's files once a minute, and at once when something of the pod changes.
    served.kubectl("annotate", "pods", "--selector=app.kubernetes.io/instance=shop-db", "test=1")

    def sized() -> bool:
        told = [(each["min"], each["max"], each["heartbeat"]) for each in app.pools()]
        return told == [(2, 9, 1.0)] * 2

    served.until(sized, within=WITHIN)
    assert addresses(served) == pods
    assert [each["lost"] for each in app.pools()] == [0, 0]
    assert {each["generation"] for each in app.pools()} == {served.get("cpool")["metadata"]["generation"]}


def test_a_database_that_is_away_is_told_and_pods_stay(
    app: App, served: Operator, database: MariaDBPod
) -> None:
    pods = addresses(served)
    served.kubectl("scale", "deployment/mariadb", "--replicas=0")
    served.until(lambda: served.condition("Available") == "False", within=WITHIN)
    served.kubectl("scale", "deployment/mariadb", "--replicas=1")
    served.until_ready()
    assert addresses(served) == pods
    assert app.ask("/v1/query", {"sql": "SELECT 1"})["rows"] == [[1]]
