"""The pool's page says what is: its examples run, its tables are those of the code."""

from __future__ import annotations

import re
import textwrap
from dataclasses import MISSING, Field, fields
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
from plugins.mariadb import MariaDB
from plugins.pooled import server_of, settings
from prometheus_client import CollectorRegistry
from sqlalchemy import Column, Integer, MetaData, String, Table, insert

import penstock_pool
from penstock_pool import ComputePool, ConnectionPool, PoolSettings, Server, errors
from penstock_pool.compute import ComputeError
from penstock_pool.compute.rejection import POLICIES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "operator/penstock_pool/README.md").read_text()
README = (ROOT / "README.md").read_text()

EXAMPLES = re.findall(r"^```python\n(.*?)```", PAGE + README, re.MULTILINE | re.DOTALL)


def part(title: str) -> str:
    return PAGE[PAGE.index(f"## {title}\n") :].split("\n## ")[0]


def default_of(field: Field[Any]) -> str:
    if field.default is not MISSING:
        return f"`{field.default!r}`"
    return "`{}`" if field.default_factory is not MISSING else ""


def test_every_setting_is_told_with_its_default() -> None:
    told: dict[str, str] = {}
    for names, defaults in re.findall(r"^\| (`[^|]*) \| ([^|]*)\|", part("Settings"), re.MULTILINE):
        values = defaults.strip().split(", ") if "," in names else [defaults.strip()]
        told |= dict(zip(re.findall(r"`(\w+)`", names), values, strict=True))
    assert told == {
        field.name: default_of(field)
        for kind in (PoolSettings, Server)
        for field in fields(kind)
        if field.init
    }


def test_every_error_that_a_caller_meets_is_told() -> None:
    told = {
        name
        for row in re.findall(r"^\| (`[^|]*) \|", part("Errors, and what to do"), re.MULTILINE)
        for name in re.findall(r"`(\w+)`", row)
    }
    raised = {
        name
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.PoolError)
    }
    causes = {"ConnectFailed", "Unreachable", "ServerFull", "AccessRefused"}
    assert told == raised - causes - {"PoolError", "PoolUnavailable", "Misuse"}


def test_every_parameter_and_error_of_the_compute_pool_is_told() -> None:
    told = set(re.findall(r"\w+", "".join(re.findall(r"`[^`\n]+`", part("The compute pool")))))
    errors = {kind.__name__ for kind in ComputeError.__subclasses__()}
    assert told >= signature(ComputePool).parameters.keys() | POLICIES.keys() | errors


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
async def test_examples_run(example: str, mariadb: MariaDB) -> None:
    where = mariadb.address
    url = f"mysql://{where['user']}:{where['password']}@127.0.0.1:{where['port']}/{where['database']}"
    here = f'Server("127.0.0.1", {where["port"]}, user="app", password="{where["password"]}", database="shop"'
    example = example.replace("mysql://app:secret@127.0.0.1/shop", url)
    example = re.sub(r'Server\("(?:db|primary|replica)", user="app"(?:, database="shop")?', here, example)
    example = example.replace("from prometheus_client import REGISTRY\n", "")
    async with ConnectionPool(server_of(where), settings()) as pool:
        await pool.execute("CREATE OR REPLACE TABLE wares (id INT PRIMARY KEY AUTO_INCREMENT, name TEXT)")
        wares = Table("wares", MetaData(), Column("id", Integer, primary_key=True), Column("name", String))
        known = {**vars(penstock_pool), **vars(errors), "pytest": pytest, "insert": insert, "wares": wares}
        known["REGISTRY"] = CollectorRegistry()
        known["pool"] = ConnectionPool(server_of(where), settings(name="example", limits=LIMITS))
        await run(example, known)
        await pool.execute("DROP TABLE wares")


LIMITS = {"reports": penstock_pool.Limit(1)}


async def run(example: str, known: dict[str, Any]) -> None:
    """Its tests too. An example that uses a pool which another one has opened gets it open."""
    if "async def test" in example:
        name = re.findall(r"async def (\w+)", example)[0]
        example += f"\nawait {name}()\n"
    if "pool = " not in example and "as pool" not in example:
        example = "async with pool:\n" + textwrap.indent(example, "    ")
    names = [name for name in known if not name.startswith("__")]
    source = f"async def example({', '.join(names)}):\n" + textwrap.indent(example, "    ")
    defined: dict[str, Any] = {}
    exec(compile(source, "example", "exec"), defined)
    await defined["example"](*(known[name] for name in names))
