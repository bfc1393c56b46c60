"""The JSON Schema takes whatever the pipeline takes, and refuses what a schema can know to be wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from ruamel.yaml import YAML

from penstock_pipeline.config import AppConfig, load
from penstock_pipeline.config.schema import schema
from penstock_pipeline.errors import InvalidConfig

VALIDATOR = Draft202012Validator(schema())

FOLDERS = ("public", "public/", "a/b", ".", "2024", "'...'", "..a", "{dir: public}")
NO_FOLDERS = ("/etc", "''", "..", "a/../b", "../a", "a/..", "'a\\b'", "{}", "[a]")
PATHS = ("/", "/healthz?full=1", "{path: /}", "{}", '"/a!\\"$-~"')
NO_PATHS = ("healthz", "http://b/", "//b/c", "/a b", "/#a", "/ä", "7", "[/]")
DURATIONS = ("20s", "500ms", "2m", "7", "1.5", "1.5 s", "60m", "3600", "'20'", "0.1")
NO_DURATIONS = ("0", "0s", "-1", "3601", "1h", "s", "[1]", "0.0", "x")
DECISIONS = ("true", "True", "TRUE", "false", "yes", "No", "ON", "off", "1", "0", "y", "F", "'true'")

GOOD = [
    "web: python -m shop",
    "web: [python, -m, shop, 8080, true, '']",
    "processes: {web: a, worker-2: [b]}",
    "web: a\nprocesses: {worker: b}",
    "processes: {}\ntest: a",
    *(f"web: a\ntest: {test}" for test in ("true", "8080", "1.10", "no", "2001-01-01", "'a\n\n  b'")),
    "web: a\nbuild: {base: python:3.13-slim, run: make}",
    "web: a\nbuild: {}",
    "web: a\nbuild: {base: 3.13}",
    *(f"static: {folder}" for folder in FOLDERS),
    *(f"web: a\nhealth: {path}" for path in PATHS),
    *(f"web: a\nhealth: {{within: {within}}}" for within in DURATIONS),
    *(f"web: a\napprove: {approve}" for approve in DECISIONS),
]

BAD = [
    "webb: a",
    "- a",
    "a",
    *(f"web: {command}" for command in ("", "~", "Null", "''", "' '", "[]", "['', a]", "{a: b}", "[[a]]")),
    "web: a\nprocesses: {web: b}",
    *(f"processes: {odd}" for odd in ("a", "''", "[]", "{Web: a}", "{'': a}", f"{{{'a' * 31}: a}}")),
    *(f"web: a\nbuild: {odd}" for odd in ("make", "{base: a b}", "{bases: a}", "{run: []}")),
    *(f"web: a\nstatic: {folder}" for folder in NO_FOLDERS),
    *(f"web: a\nhealth: {path}" for path in NO_PATHS),
    *(f"web: a\nhealth: {{within: {within}}}" for within in NO_DURATIONS),
    *(f"web: a\napprove: {approve}" for approve in ("maybe", "2", "''", "[true]", "~")),
    "web: a\ndatabase: {pool: shop-db}",
]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository in which every folder that is named here is there."""
    tree = tmp_path_factory.mktemp("tree")
    for folder in ("public", "a/b", "2024", "...", "..a", "b"):
        (tree / folder).mkdir(parents=True)
    (tree / "index.html").touch()
    return tree


def taken(tree: Path, yaml: str) -> bool:
    (tree / "penstock.yaml").write_text(yaml)
    try:
        load(tree)
    except InvalidConfig:
        return False
    return True


def valid(yaml: str) -> bool:
    """As an editor sees it: YAML 1.2, dates being text."""
    read = YAML(typ="safe", pure=True).load(yaml)
    return VALIDATOR.is_valid(json.loads(json.dumps({} if read is None else read, default=str)))


def test_it_is_a_schema_of_its_dialect() -> None:
    made = schema()
    Draft202012Validator.check_schema(made)
    assert made["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert made["$id"].startswith("https://")


def test_every_key_is_there_and_says_what_it_is() -> None:
    def keys(node: Any, found: Callable[[dict[str, Any]], None]) -> None:
        if isinstance(node, dict):
            found(node.get("properties", {}))
        for inner in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            keys(inner, found)

    made = schema()
    assert set(made["properties"]) == {"web", *AppConfig.model_fields}
    del made["not"]
    silent: list[str] = []
    keys(made, lambda known: silent.extend(name for name, one in known.items() if not one.get("description")))
    assert silent == []


def test_defaults_are_told() -> None:
    made = schema()
    assert made["properties"]["approve"]["default"] is False
    assert made["$defs"]["Health"]["anyOf"][1]["properties"]["within"]["default"] == 20


@pytest.mark.parametrize("yaml", GOOD)
def test_what_is_taken_is_valid(tree: Path, yaml: str) -> None:
    assert (taken(tree, yaml), valid(yaml)) == (True, True)


@pytest.mark.parametrize("yaml", BAD)
def test_what_is_refused_is_not_valid(tree: Path, yaml: str) -> None:
    assert (taken(tree, yaml), valid(yaml)) == (False, False)


_WORD = st.sampled_from(
    ["a", "true", "7", "1.5", "''", "' '", "~", "/a", "..", "20s", "0", "[a]", "[]", "{}"]
)
_PAIR = st.tuples(st.sampled_from(["path", "dir", "within", "base", "run", "web", "worker", "x"]), _WORD)
_INNER = st.one_of(_WORD, st.lists(_PAIR, max_size=2).map(lambda pairs: _flow(dict(pairs))))
_KEYS = [*AppConfig.model_fields, "web", "odd"]


def _flow(pairs: dict[str, str]) -> str:
    return "{" + ", ".join(f"{key}: {value}" for key, value in pairs.items()) + "}"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
@given(st.dictionaries(st.sampled_from(_KEYS), _INNER, min_size=1, max_size=3))
def test_whatever_is_taken_is_valid(tree: Path, said: dict[str, str]) -> None:
    yaml = "".join(f"{key}: {value}\n" for key, value in said.items())
    assert not taken(tree, yaml) or valid(yaml)
