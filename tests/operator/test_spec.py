"""What a ConnectionPool asks for is read as it is written; the CRD and the operator agree, field by field."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from penstock_operator import spec
from penstock_operator.errors import InvalidSpec
from penstock_operator.spec import Database, Heartbeat, Probes, SecretRef, Sizing, Spec, read

ROOT = Path(__file__).parents[2]
CRD = yaml.safe_load((ROOT / "charts/penstock/crds/connectionpools.yaml").read_text())
VERSION = CRD["spec"]["versions"][0]
SCHEMA = VERSION["schema"]["openAPIV3Schema"]["properties"]["spec"]

LEAST = {"database": {"host": "mariadb", "name": "shop", "credentialsSecretRef": {"name": "shop-db"}}}


def asked(given: Mapping[str, Any]) -> Spec:
    meta = {"namespace": "shop", "name": "shop-db", "uid": "1-2", "generation": 3}
    return read({"metadata": meta, "spec": given}).spec


def changed(path: str, value: object) -> dict[str, Any]:
    """The least that may be asked for, with one field as told."""
    given: dict[str, Any] = deepcopy(LEAST)
    *parts, last = path.split(".")
    part = given
    for name in parts:
        part = part.setdefault(name, {})
    part[last] = value
    return given


def fields_of(schema: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every field that holds a value, by its full name."""
    for name, field in schema["properties"].items():
        if "properties" in field and name != "resources":
            yield from fields_of(field, f"{path}{name}.")
        else:
            yield f"{path}{name}", field


FIELDS = dict(fields_of(SCHEMA))


def defaulted(schema: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """As the apiserver fills in what is not given."""
    filled = dict(given)
    for name, field in schema.get("properties", {}).items():
        if "default" in field:
            filled.setdefault(name, field["default"])
        if name in filled and "properties" in field:
            filled[name] = defaulted(field, filled[name])
    return filled


def camel(name: str) -> str:
    return re.sub(r"_(.)", lambda found: found[1].upper(), name)


def names_of(kind: type, path: str = "") -> Iterator[str]:
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        inner = next(
            (it for it in typing.get_args(hints[field.name]) if dataclasses.is_dataclass(it)),
            hints[field.name],
        )
        if dataclasses.is_dataclass(inner):
            yield from names_of(typing.cast(type, inner), f"{path}{camel(field.name)}.")
        else:
            yield f"{path}{camel(field.name)}"


def test_the_least_that_may_be_asked_for_is_a_database() -> None:
    assert asked(LEAST) == Spec(
        database=Database(
            host="mariadb", port=3306, name="shop", credentials_secret_ref=SecretRef("shop-db")
        ),
        pool=Sizing(min=10, max=30, checkout_timeout=3.0),
        heartbeat=Heartbeat(5.0),
        probes=Probes(),
        replicas=1,
    )


def test_which_pool_it_is_comes_with_it() -> None:
    meta = {"namespace": "shop", "name": "shop-db", "uid": "1-2", "generation": 3}
    pool = read({"metadata": meta, "spec": LEAST})
    assert (pool.namespace, pool.name, pool.uid, pool.generation) == ("shop", "shop-db", "1-2", 3)


def test_the_crd_has_the_fields_of_the_operator_and_no_others() -> None:
    assert sorted(names_of(Spec)) == sorted(FIELDS)


def test_the_crd_fills_in_what_the_operator_would() -> None:
    assert asked(defaulted(SCHEMA, LEAST)) == asked(LEAST)
    silent = {name for name, field in FIELDS.items() if "default" not in field}
    required = {f"database.{name}" for name in SCHEMA["properties"]["database"]["required"][:2]}
    assert silent == required | {
        "database.credentialsSecretRef.name",
        "database.caSecretRef.name",
        "image",
    }


def test_the_crd_is_what_the_operator_asks_for() -> None:
    names = CRD["spec"]["names"]
    assert (CRD["spec"]["group"], VERSION["name"]) == (spec.GROUP, spec.VERSION)
    assert (names["kind"], names["plural"], names["shortNames"]) == (spec.KIND, spec.PLURAL, ["cpool"])
    patterns = {name: field["pattern"] for name, field in FIELDS.items() if "pattern" in field}
    assert patterns == {
        "database.host": spec.HOST,
        "database.credentialsSecretRef.name": spec.OBJECT_NAME,
        "database.caSecretRef.name": spec.OBJECT_NAME,
        "pool.checkoutTimeout": spec.DURATION,
        "heartbeat.interval": spec.DURATION,
    }


def test_every_field_of_the_crd_is_explained() -> None:
    def explained(schema: Mapping[str, Any], path: str) -> None:
        assert schema.get("description"), path
        for name, field in schema.get("properties", {}).items():
            explained(field, f"{path}.{name}")

    explained(SCHEMA, "spec")
    explained(VERSION["schema"]["openAPIV3Schema"]["properties"]["status"], "status")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        *((path, field["minimum"] - 1) for path, field in FIELDS.items() if "minimum" in field),
        *((path, field["maximum"] + 1) for path, field in FIELDS.items() if "maximum" in field),
        *((path, True) for path, field in FIELDS.items() if field["type"] == "integer"),
        *((path, "3") for path, field in FIELDS.items() if field["type"] == "integer"),
        *((path, 3) for path, field in FIELDS.items() if field["type"] == "string"),
        *((path, "x" * (field["maxLength"] + 1)) for path, field in FIELDS.items() if "maxLength" in field),
        *((path, "not @ all") for path, field in FIELDS.items() if "pattern" in field),
        ("database.name", ""),
        ("database.tls", "Maybe"),
        ("database.caSecretRef.name", ""),
        ("image", ""),
        ("pool.min", 31),
        ("pool.max", 9),
        ("heartbeat.interval", "0s"),
        ("pool", 3),
        ("probes.liveness", ["often"]),
        ("resources", "many"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_its_full_name(path: str, value: object) -> None:
    where = "pool.min" if path == "pool.max" and value == 9 else path
    with pytest.raises(InvalidSpec, match=rf"^spec\.{re.escape(where)} is .*; allowed is: "):
        asked(changed(path, value))


def test_a_ca_is_of_no_use_to_who_speaks_in_plain_text() -> None:
    both = changed("database.tls", "Disabled")
    both["database"]["caSecretRef"] = {"name": "ca"}
    with pytest.raises(
        InvalidSpec, match=r"^spec\.database\.tls is 'Disabled'; allowed is: Verify, for which"
    ):
        asked(both)


@pytest.mark.parametrize("path", ["database", "database.host", "database.credentialsSecretRef"])
def test_what_has_to_be_given_is_asked_for(path: str) -> None:
    with pytest.raises(InvalidSpec, match=rf"^spec\.{re.escape(path)}\b"):
        asked(changed(path, None))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("3s", 3.0),
        ("250ms", 0.25),
        ("1m30s", 90.0),
        ("1.5s", 1.5),
        ("2h", 7200.0),
        ("0s", 0.0),
        ("1m500ms", 60.5),
    ],
)
def test_a_duration_is_seconds(text: str, seconds: float) -> None:
    assert asked(changed("pool.checkoutTimeout", text)).pool.checkout_timeout == seconds


@pytest.mark.parametrize("text", ["3", "s", "3 s", "-3s", "3d", "3s\n", "three seconds", "", "1..5s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(InvalidSpec, match=r"^spec\.pool\.checkoutTimeout is "):
        asked(changed("pool.checkoutTimeout", text))


def test_what_a_newer_crd_adds_is_not_in_the_way() -> None:
    """It fills in its defaults for every pool that is there, before the operator is the newer one too."""
    assert asked(changed("pool.lifetime", "30m")) == asked(LEAST)


def test_what_is_read_does_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        asked(LEAST).replicas = 3  # type: ignore[misc]
