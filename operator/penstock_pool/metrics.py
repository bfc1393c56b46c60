"""What a pool tells of itself, for Prometheus. Everything is computed when it is scraped: between two scrapes
this costs nothing.

    REGISTRY.register(PoolCollector(pool))

One collector for all pools of a process; the replicas of a pool come with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate

from penstock_pool.pool import ConnectionPool
from penstock_pool.stats import BUCKETS, PoolStats

try:
    from prometheus_client.metrics_core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
        Metric,
        SummaryMetricFamily,
    )
    from prometheus_client.registry import Collector
    from prometheus_client.utils import floatToGoString
except ImportError as error:  # pragma: no cover - with the extra it is there
    raise ImportError("penstock_pool.metrics needs prometheus_client: install penstock[metrics]") from error

STATES = ("idle", "busy", "connecting", "tending", "ending", "parked")

_GAUGES = {
    "min": "Connections that are kept open",
    "max": "Connections that are open at most",
    "ceiling": "Connections that are open at most while the server takes no more",
    "waiting": "Checkouts that wait for a connection",
}
_COUNTERS = {
    "timeouts": "Checkouts that were not served in time",
    "opened": "Connects that succeeded",
    "failed": "Connects that failed",
    "lost": "Connections found dead",
    "killed": "Statements killed after their task was cancelled",
}
_LIMITS = {
    "concurrency": "Connections that a class of query may use",
    "in_use": "Connections that a class of query uses",
    "waiting": "Checkouts that wait for a place in their class of query",
}


class PoolCollector(Collector):
    """A collector for `prometheus_client`, over all of these pools."""

    def __init__(self, *pools: ConnectionPool) -> None:
        self._pools = [each for pool in pools for each in (pool, *pool.replicas)]

    def collect(self) -> Iterator[Metric]:
        """What is scraped."""
        all_stats = [pool.stats() for pool in self._pools]
        yield from _states(all_stats)
        for name, told in _GAUGES.items():
            yield _filled(GaugeMetricFamily, name, told, all_stats)
        for name, told in _COUNTERS.items():
            yield _filled(CounterMetricFamily, name, told, all_stats)
        yield from _times(all_stats)
        yield from _limits(all_stats)


def _filled(
    kind: type[GaugeMetricFamily | CounterMetricFamily], name: str, told: str, all_stats: Iterable[PoolStats]
) -> Metric:
    family = kind(f"penstock_pool_{name}", told, labels=["pool"])
    for stats in all_stats:
        family.add_metric([stats.name], getattr(stats, name))
    return family


def _states(all_stats: Iterable[PoolStats]) -> Iterator[Metric]:
    connections = GaugeMetricFamily(
        "penstock_pool_connections", "Connections by what they are at", labels=["pool", "state"]
    )
    down = GaugeMetricFamily(
        "penstock_pool_down", "Whether the last attempt to connect failed", labels=["pool"]
    )
    for stats in all_stats:
        for state in STATES:
            connections.add_metric([stats.name, state], getattr(stats, state))
        down.add_metric([stats.name], stats.down is not None)
    yield connections
    yield down


def _times(all_stats: Iterable[PoolStats]) -> Iterator[Metric]:
    waits = HistogramMetricFamily(
        "penstock_pool_wait_seconds", "How long checkouts waited that had to and were served", labels=["pool"]
    )
    uses = SummaryMetricFamily("penstock_pool_use_seconds", "How long connections were held", labels=["pool"])
    for stats in all_stats:
        bounds = [*map(floatToGoString, BUCKETS), "+Inf"]
        buckets = list(zip(bounds, map(float, accumulate(stats.waits)), strict=True))
        waits.add_metric([stats.name], buckets, stats.waited_seconds)
        uses.add_metric([stats.name], stats.checkouts, stats.held_seconds)
    yield waits
    yield uses


def _limits(all_stats: Iterable[PoolStats]) -> Iterator[Metric]:
    for name, told in _LIMITS.items():
        family = GaugeMetricFamily(f"penstock_pool_limit_{name}", told, labels=["pool", "limit"])
        for stats in all_stats:
            for limit, limit_stats in stats.limits.items():
                family.add_metric([stats.name, limit], getattr(limit_stats, name))
        yield family
