"""From what is asked for to the objects that should be there."""

from __future__ import annotations

import json
from typing import Any

import pytest

from penstock_data.app import pool_of
from penstock_data.settings import Settings
from penstock_operator.desired import FILE, MANAGER, Object, objects, signing_key
from penstock_operator.spec import read
from penstock_pool import PoolSettings, Server

IMAGE, KEY = "penstock-data:1", "3-4"
META = {"namespace": "shop", "name": "shop-db", "uid": "1-2", "generation": 3}
DATABASE = {"host": "mariadb", "name": "shop", "credentialsSecretRef": {"name": "secret"}}


def made(**spec: Any) -> dict[str, Object]:
    """The objects by their kind."""
    wanted = objects(read({"metadata": META, "spec": {"database": DATABASE, **spec}}), IMAGE, KEY)
    return {each["kind"]: each for each in wanted}


def pods(**spec: Any) -> Object:
    """The template by which pods are made: another one replaces them."""
    template: Object = made(**spec)["Deployment"]["spec"]["template"]
    return template


def container(**spec: Any) -> Object:
    (only,) = pods(**spec)["spec"]["containers"]
    found: Object = only
    return found


def settings(**spec: Any) -> Object:
    """What the data service reads from its file."""
    found: Object = json.loads(made(**spec)["ConfigMap"]["data"][FILE])
    return found


def test_each_object_is_named_as_the_pool_and_gone_with_it() -> None:
    assert list(made()) == ["ConfigMap", "Service", "Deployment"]
    for each in made().values():
        meta = each["metadata"]
        assert (meta["namespace"], meta["name"]) == ("shop", "shop-db")
        (owner,) = meta["ownerReferences"]
        assert (owner["kind"], owner["name"], owner["uid"]) == ("ConnectionPool", "shop-db", "1-2")
        assert owner["controller"]


def test_the_labels_are_the_recommended_ones() -> None:
    labels = {
        "app.kubernetes.io/name": "penstock-data",
        "app.kubernetes.io/instance": "shop-db",
        "app.kubernetes.io/component": "data-service",
        "app.kubernetes.io/part-of": "penstock",
        "app.kubernetes.io/managed-by": MANAGER,
    }
    assert all(each["metadata"]["labels"] == labels for each in made().values())
    assert pods()["metadata"]["labels"] == labels
    assert pods()["metadata"]["annotations"] == {"penstock.dev/key": KEY}


def test_service_and_deployment_mean_the_same_pods() -> None:
    selector = made()["Service"]["spec"]["selector"]
    assert made()["Deployment"]["spec"]["selector"] == {"matchLabels": selector}
    assert selector.items() <= pods()["metadata"]["labels"].items()
    (port,) = made()["Service"]["spec"]["ports"]
    assert port["targetPort"] in [each["name"] for each in container()["ports"]]


def test_the_probes_are_those_asked_for() -> None:
    asked = {"liveness": {"periodSeconds": 7, "failureThreshold": 4}, "readiness": {"successThreshold": 2}}
    told = container(probes={**asked, "startup": {"initialDelaySeconds": 1, "timeoutSeconds": 5}})
    assert told["livenessProbe"] == probe("/livez", periodSeconds=7, failureThreshold=4)
    assert told["readinessProbe"] == probe("/readyz", periodSeconds=5, failureThreshold=2, successThreshold=2)
    assert told["startupProbe"] == probe(
        "/startupz", initialDelaySeconds=1, periodSeconds=2, timeoutSeconds=5, failureThreshold=30
    )


def probe(path: str, **fields: int) -> Object:
    usual = {"initialDelaySeconds": 0, "periodSeconds": 10, "timeoutSeconds": 2, "failureThreshold": 3}
    asks = {"path": path, "port": "http", "scheme": "HTTP"}
    return {"httpGet": asks, **usual, "successThreshold": 1, **fields}


def test_file_and_environment_are_what_the_data_service_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"pool": {"min": 2, "max": 5, "checkoutTimeout": "250ms"}, "heartbeat": {"interval": "1m"}}
    for each in container(**asked)["env"]:
        if each["name"] != "PENSTOCK_DATA_CONFIG":
            monkeypatch.setenv(each["name"], each.get("value", "app"))
    service = Settings.load(settings(**asked))
    assert service.generation == 3
    assert pool_of(service).settings == PoolSettings(
        name="shop-db", min=2, max=5, checkout_timeout=0.25, heartbeat=60.0, hold_warn=120.0
    )
    assert (service.address, service.port) == ("0.0.0.0", 8080)


def test_nothing_asked_for_is_what_the_pool_does_unasked() -> None:
    told = settings()
    assert told.pop("generation") == 3
    assert PoolSettings(**told) == PoolSettings(name="shop-db")
    assert Server(user="app").port == 3306


@pytest.mark.parametrize(
    "spec",
    [
        {"pool": {"min": 2, "max": 5, "checkoutTimeout": "1s"}},
        {"heartbeat": {"interval": "1s"}},
        {"replicas": 3},
    ],
)
def test_sizing_heartbeat_and_replicas_restart_nothing(spec: Any) -> None:
    assert pods(**spec) == pods()


@pytest.mark.parametrize(
    "spec",
    [
        {"database": {**DATABASE, "host": "other"}},
        {"database": {**DATABASE, "port": 3307}},
        {"database": {**DATABASE, "name": "other"}},
        {"database": {**DATABASE, "credentialsSecretRef": {"name": "other"}}},
        {"database": {**DATABASE, "tls": "Disabled"}},
        {"database": {**DATABASE, "caSecretRef": {"name": "authority"}}},
        {"probes": {"liveness": {"periodSeconds": 1}}},
        {"image": "penstock-data:2"},
        {"resources": {"limits": {"memory": "64Mi"}}},
    ],
)
def test_what_pods_get_as_they_start_replaces_them(spec: Any) -> None:
    assert pods(**spec) != pods()
    assert settings(**spec) == settings()


def test_the_database_and_who_asks_are_in_the_environment() -> None:
    database = {**DATABASE, "port": 3307, "name": "the/shop"}
    told = {each["name"]: each for each in container(database=database)["env"]}
    assert told["PENSTOCK_DATA_URL"]["value"] == "mysql://mariadb:3307/the%2Fshop?tls=true"
    assert told["PENSTOCK_DATA_CONFIG"]["value"] == "/etc/penstock/pool.json"
    for name in ("username", "password"):
        source = told[f"PENSTOCK_DATA_{name.upper()}"]["valueFrom"]
        assert source == {"secretKeyRef": {"name": "secret", "key": name}}


def test_the_database_is_verified_unless_that_is_not_wanted() -> None:
    def told(**database: Any) -> dict[str, Any]:
        environment = container(database={**DATABASE, **database})["env"]
        return {each["name"].removeprefix("PENSTOCK_DATA_"): each.get("value") for each in environment}

    assert told()["URL"].endswith("?tls=true")
    assert told(tls="Disabled")["URL"].endswith("?tls=false")
    assert "CA_FILE" not in told()
    assert told(caSecretRef={"name": "authority"})["CA_FILE"] == "/etc/penstock-ca/ca.crt"
    volumes = pods(database={**DATABASE, "caSecretRef": {"name": "authority"}})["spec"]["volumes"]
    assert {"name": "ca", "secret": {"secretName": "authority"}} in volumes


def test_the_key_for_tokens_is_the_pools_own_and_pods_read_it() -> None:
    secret = signing_key(read({"metadata": META, "spec": {"database": DATABASE}}), "a key")
    meta = secret["metadata"]
    assert (meta["namespace"], meta["name"]) == ("shop", "shop-db-tokens")
    assert meta["ownerReferences"] == made()["ConfigMap"]["metadata"]["ownerReferences"]
    assert secret["stringData"] == {"key": "a key"}
    (volume,) = (each for each in pods()["spec"]["volumes"] if "secret" in each)
    (mount,) = (each for each in container()["volumeMounts"] if each["name"] == volume["name"])
    told = {each["name"]: each.get("value") for each in container()["env"]}
    assert volume["secret"] == {"secretName": "shop-db-tokens"}
    assert told["PENSTOCK_DATA_KEY_FILE"] == f"{mount['mountPath']}/key"


def test_the_image_is_the_operators_unless_one_is_asked_for() -> None:
    assert container()["image"] == IMAGE
    assert container(image="mine:2")["image"] == "mine:2"


def test_the_container_may_do_nothing_it_does_not_need() -> None:
    assert pods()["spec"]["securityContext"]["runAsNonRoot"]
    assert not pods()["spec"]["automountServiceAccountToken"]
    assert container()["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container()["securityContext"]["readOnlyRootFilesystem"]


def test_what_is_decided_twice_is_the_same() -> None:
    """Else each look would replace the pods."""
    assert json.dumps(made()) == json.dumps(made())
