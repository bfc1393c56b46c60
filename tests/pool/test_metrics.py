"""What Prometheus scrapes is what the pool's page says, and what happened."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from asyncmy.errors import ProgrammingError
from plugins.house import eventually
from prometheus_client import CollectorRegistry, generate_latest

from penstock_pool import ConnectionPool, Limit
from penstock_pool.errors import CheckoutTimeout
from penstock_pool.metrics import PoolCollector

PoolOf = Callable[..., Awaitable[ConnectionPool]]
PAGE = Path(__file__).parents[2] / "operator/penstock_pool/README.md"


def registry_of(*pools: ConnectionPool) -> CollectorRegistry:
    registry = CollectorRegistry(auto_describe=True)
    registry.register(PoolCollector(*pools))
    return registry


async def test_the_page_names_what_is_scraped(pool_of: PoolOf) -> None:
    pool = await pool_of(limits={"reports": Limit(1)})
    scraped = set()
    for family in registry_of(pool).collect():
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = sorted({label for sample in family.samples for label in sample.labels} - {"le"})
        scraped.add((name, family.type, ", ".join(labels)))
    rows = re.findall(r"^\| `(penstock_pool_\w+)` \| (\w+) \| ([\w, ]+) \|", PAGE.read_text(), re.MULTILINE)
    assert set(rows) == scraped


async def test_what_happened_is_scraped(pool_of: PoolOf) -> None:
    pool = await pool_of(min=1, max=1, limits={"reports": Limit(1)})
    registry = registry_of(pool)

    def scraped(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"penstock_pool_{name}", {"pool": "shop", **labels})

    async with pool.connection(limit="reports"):
        assert scraped("connections", state="busy") == 1
        assert scraped("limit_in_use", limit="reports") == 1
        with pytest.raises(CheckoutTimeout):
            await asyncio.create_task(takes(pool, 0.01))
        waits = asyncio.create_task(takes(pool, 5))
        await eventually(lambda: scraped("waiting") == 1)
    await waits
    with pytest.raises(ProgrammingError):
        await pool.fetch("SELEKT")
    assert scraped("timeouts_total") == 1
    assert scraped("opened_total") == 1
    assert scraped("wait_seconds_count") == 2  # for the first connect, and in line
    assert scraped("use_seconds_count") == 3
    assert (scraped("use_seconds_sum") or 0) > 0
    assert scraped("down") == 0
    assert scraped("max") == scraped("ceiling") == 1


async def takes(pool: ConnectionPool, timeout: float) -> None:
    async with pool.connection(timeout=timeout):
        pass


async def test_buckets_add_up(pool_of: PoolOf) -> None:
    pool = await pool_of()
    await pool.fetch("SELECT 1")
    text = generate_latest(registry_of(pool)).decode()
    counts = [float(count) for count in re.findall(r"wait_seconds_bucket\{.*\} (\S+)", text)]
    assert counts == sorted(counts)
    assert f'penstock_pool_wait_seconds_count{{pool="shop"}} {counts[-1]}' in text
