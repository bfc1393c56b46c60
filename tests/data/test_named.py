"""Named queries: a file that is wrong says where, one that changes is followed, and parameters go by place or
by name."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plugins.house import eventually

from penstock_data import named
from penstock_data.errors import BadRequest, InvalidSettings
from penstock_data.named import INTERVAL, LARGEST, NamedQuery, Queries, parse

GOOD = """\
ware_by_id:
  sql: SELECT id, name FROM wares WHERE id = ?
  params: [id]
  read: true
price.of-range:
  sql: |
    SELECT price
    FROM wares WHERE id BETWEEN ? AND ?   # from, to
  params: [from, to]
all: {sql: SELECT 1}
add: {sql: "INSERT INTO wares VALUES (?, ?)"}
"""


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def one(text: str) -> NamedQuery:
    (query,) = parse(text, "queries.yaml").values()
    return query


def test_a_file_gives_names_to_statements(tmp_path: Path) -> None:
    (tmp_path / "queries.yaml").write_text(GOOD)
    queries = Queries.load(tmp_path / "queries.yaml")
    query = queries.get("ware_by_id")
    assert query == NamedQuery("ware_by_id", "SELECT id, name FROM wares WHERE id = ?", ("id",), 1, True)
    assert queries.get("nothing") is None
    assert queries.told() == [
        {"name": "ware_by_id", "params": ("id",), "read": True},
        {"name": "price.of-range", "params": ("from", "to"), "read": False},
        {"name": "all", "params": 0, "read": False},
        {"name": "add", "params": 2, "read": False},
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "line 1: allowed is a mapping"),
        ("# nothing\n", "line 1: allowed is a mapping"),
        ("{}", "line 1: allowed is a mapping"),
        ("- sql: SELECT 1", "line 1: allowed is a mapping"),
        ("SELECT 1", "line 1: allowed is a mapping"),
        ("a:\n  sql: SELECT 1\nb\n", "line 4: could not find expected ':'"),
        ("a: [1", "line 1: "),
        ("\x00", "is not YAML: unacceptable character"),
        ("a:\n  sql: SELECT 1\na:\n  sql: SELECT 2\n", 'line 3: found duplicate key "a"'),
        ("a:\n  sql: SELECT 1\n  sql: SELECT 2\n", 'line 3: found duplicate key "sql"'),
        ("a: {sql: SELECT 1}\n---\nb: {sql: SELECT 1}\n", "line 2: but found another document"),
        ("a:\n  sql: SELECT 1\n  reads: true\n", "line 3: a has 'reads'; allowed are sql, params, read"),
        ("\n\na: SELECT 1\n", "line 3: a is to be a mapping with sql"),
        ("a:\n  read: true\n", "line 1: a has no sql"),
        ("a:\n  sql: 7\n", "line 1: a has no sql"),
        ("a: &a\n  sql: *a\n", "line 1: a has no sql"),
        ("a:\n  sql: SELECT 1\n  read: yes\n", "line 3: a: read is to be true or false"),
        ("a:\n  sql: SELECT 1\n  read: !!bool x\n", "is not YAML"),
        ("1: {sql: SELECT 1}", "line 1: 1 is no name"),
        ("a b: {sql: SELECT 1}", "line 1: 'a b' is no name"),
        ("'': {sql: SELECT 1}", "line 1: '' is no name"),
        (f"{'a' * 129}: {{sql: SELECT 1}}", "is no name"),
        ("? [a, b]\n: {sql: SELECT 1}", "is no name"),
        (
            "b: {sql: SELECT 1}\na:\n  sql: SELECT 1; DROP TABLE t\n",
            "line 3: a: a second statement at character 11",
        ),
        ("a:\n  read: true\n  sql: DELETE FROM wares\n", "line 3: a: DELETE at character 1 is not allowed"),
        ("a:\n  sql: SET x = 1\n", "line 2: a: SET at character 1"),
        ("a:\n  sql: SELECT ?\n  params: []\n", "line 3: a: sql has 1 ?, and params 0 names"),
        ("a:\n  sql: SELECT '?'\n  params: [x]\n", "line 3: a: sql has 0 ?, and params 1 names"),
        ("a:\n  sql: SELECT ?, ?\n  params: [x, x]\n", "line 3: a: a name in params is there twice"),
        ("a:\n  sql: SELECT ?\n  params: x\n", "line 3: a: params is to be a list of names"),
        ("a:\n  sql: SELECT ?\n  params: [1]\n", "line 3: a: params is to be a list of names"),
        ("a:\n  sql: SELECT ?\n  params:\n", "line 3: a: params is to be a list of names"),
        ("a: !!python/object/apply:os.system [id]", "line 1: a is to be a mapping"),
    ],
    ids=lambda text: repr(text)[:40],
)
def test_a_file_that_is_wrong_says_where_and_what_is_allowed(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "queries.yaml").write_text(text)
    with pytest.raises(InvalidSettings) as raised:
        Queries.load(tmp_path / "queries.yaml")
    assert str(raised.value).startswith(str(tmp_path / "queries.yaml"))
    assert said in str(raised.value)


def test_what_a_query_inherits_counts_as_its_own() -> None:
    queries = parse(
        "base: &base {sql: SELECT ?, params: [x]}\nread:\n  <<: *base\n  read: true\n", "queries.yaml"
    )
    assert queries["read"] == NamedQuery("read", "SELECT ?", ("x",), 1, True)
    with pytest.raises(InvalidSettings, match="allowed are"):
        parse("base: &base {sql: SELECT 1}\nread:\n  <<: {more: 1}\n  sql: SELECT 1\n", "queries.yaml")


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="nowhere: No such file"):
        Queries.load(tmp_path / "nowhere")
    with pytest.raises(InvalidSettings, match="Is a directory"):
        Queries.load(tmp_path)
    (tmp_path / "latin").write_bytes(b"a: {sql: SELECT '\xe4'}")
    with pytest.raises(InvalidSettings, match="is not UTF-8 at byte 17"):
        Queries.load(tmp_path / "latin")
    (tmp_path / "large").write_bytes(b"#" * (LARGEST + 1))
    with pytest.raises(InvalidSettings, match=f"more than {LARGEST} bytes"):
        Queries.load(tmp_path / "large")


@given(st.text(st.sampled_from("ab:{}[]&*!|>-?'\"\\ \n#<,1sql")))
def test_any_text_is_a_file_or_wrong(text: str) -> None:
    for each in (text, f"a: {text}", f"a: {{sql: {text}}}"):
        try:
            parse(each, "queries.yaml")
        except InvalidSettings:
            continue


# -- parameters


def test_parameters_go_by_place_or_by_name() -> None:
    query = one("a: {sql: 'SELECT ?, ?', params: [x, y]}")
    assert query.bound([1, None]) == [1, None]
    assert query.bound((1, 2)) == (1, 2)
    assert query.bound({"y": 2, "x": [1]}) == [[1], 2]
    assert list(one("a: {sql: SELECT 1}").bound(())) == []
    assert one("a: {sql: SELECT 1}").bound({}) == []
    assert one("a: {sql: SELECT 1, params: []}").bound({}) == []


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ((), "params of a is to have 2 (x, y), and has 0"),
        ([1], "params of a is to have 2 (x, y), and has 1"),
        ([1, 2, 3], "and has 3"),
        ({}, "params of a is to have 2 (x, y): x is missing"),
        ({"x": 1}, "y is missing"),
        ({"x": 1, "y": 2, "z": 3}, "z is not one of them"),
        ({"X": 1, "y": 2}, "x is missing"),
        (None, "params of a is to be a list, or an object with their names"),
        ("xy", "params of a is to be a list"),
        (7, "params of a is to be a list"),
    ],
)
def test_parameters_that_do_not_fit_are_told(params: Any, said: str) -> None:
    with pytest.raises(BadRequest) as raised:
        one("a: {sql: 'SELECT ?, ?', params: [x, y]}").bound(params)
    assert said in raised.value.detail


def test_parameters_without_names_go_by_place_alone() -> None:
    with pytest.raises(BadRequest, match="have no names: send a list"):
        one("a: {sql: SELECT ?}").bound({"x": 1})
    with pytest.raises(BadRequest, match="x is not one of them"):
        one("a: {sql: SELECT 1}").bound({"x": 1})


# -- changes


async def test_a_change_is_found_at_the_next_look_and_no_look_is_too_soon(tmp_path: Path) -> None:
    file, clock = tmp_path / "queries.yaml", Clock()
    file.write_text("a: {sql: SELECT 1}")
    queries = Queries.load(file, clock=clock)
    file.write_text("a: {sql: SELECT 2, read: true}")
    clock.now = INTERVAL - 0.1
    assert not await queries.refresh()
    assert sql(queries) == "SELECT 1"
    clock.now = INTERVAL
    assert await queries.refresh()
    assert sql(queries) == "SELECT 2"
    clock.now = 2 * INTERVAL
    assert not await queries.refresh()


def sql(queries: Queries) -> str | None:
    found = queries.get("a")
    return found and found.sql


async def test_a_config_maps_link_is_followed(tmp_path: Path) -> None:
    for version in (1, 2):
        (tmp_path / f"..{version}").mkdir()
        (tmp_path / f"..{version}" / "queries.yaml").write_text(f"a: {{sql: SELECT {version}}}")
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "queries.yaml").symlink_to("..data/queries.yaml")
    clock = Clock()
    queries = Queries.load(tmp_path / "queries.yaml", clock=clock)
    (tmp_path / "..new").symlink_to("..2")
    (tmp_path / "..new").rename(tmp_path / "..data")
    clock.now = INTERVAL
    assert await queries.refresh()
    assert sql(queries) == "SELECT 2"


async def test_a_version_that_is_wrong_is_told_once_and_the_last_good_one_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "penstock_data")
    file, clock = tmp_path / "queries.yaml", Clock()
    file.write_text("a: {sql: SELECT 1}")
    queries = Queries.load(file, clock=clock)

    async def looked_at(*, times: int = 3) -> None:
        for _ in range(times):
            clock.now += INTERVAL
            await queries.refresh()

    for bad in ("a: {sql: SET x = 1}", "", "a: [", "a: {sql: SELECT 1, more: 2}"):
        file.write_text(bad)
        await looked_at()
        assert sql(queries) == "SELECT 1"
        assert len(caplog.records) == 1
        assert str(file) in caplog.text
        caplog.clear()
    file.unlink()
    await looked_at()
    assert sql(queries) == "SELECT 1"
    assert len(caplog.records) == 1
    assert "No such file" in caplog.text
    file.write_text("a: {sql: SELECT 3}")
    await looked_at(times=1)
    assert sql(queries) == "SELECT 3"


async def test_while_it_is_entered_it_follows_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(named, "INTERVAL", 0.01)
    file = tmp_path / "queries.yaml"
    file.write_text("a: {sql: SELECT 1}")
    async with Queries.load(file) as queries:
        file.write_text("a: [")
        await eventually(lambda: caplog.records)
        file.write_text("a: {sql: SELECT 2}")
        await eventually(lambda: sql(queries) == "SELECT 2")
    assert not [task for task in asyncio.all_tasks() if "named queries" in task.get_name()]
