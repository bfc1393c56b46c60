"""What is counted, and how it is shown to Prometheus."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from penstock_data.leases import Leases
from penstock_data.tenants import Turns
from penstock_pool import ConnectionPool
from penstock_pool.metrics import PoolCollector

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Seconds: upper bounds of the histogram of requests."""


class Tally:
    """Requests by their outcome; what it costs is paid by who looks."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self.answered: Counter[int] = Counter()
        """By status; 499: the client left."""
        self.under_way = 0
        self.buckets = [0] * (len(BUCKETS) + 1)
        self.seconds = 0.0

    def begin(self) -> float:
        """What `end` is given."""
        self.under_way += 1
        return self._clock()

    def end(self, began: float, status: int) -> None:
        seconds = self._clock() - began
        self.under_way -= 1
        self.answered[status] += 1
        self.buckets[bisect_left(BUCKETS, seconds)] += 1
        self.seconds += seconds


class DataCollector(Collector):
    """The figures of one service."""

    def __init__(self, tally: Tally, turns: Turns, leases: Leases) -> None:
        self._tally, self._turns, self._leases = tally, turns, leases

    def collect(self) -> Iterator[Metric]:
        tally = self._tally
        answered = CounterMetricFamily(
            "penstock_data_requests", "Requests by the status of their answer; 499: left.", labels=["status"]
        )
        for status, count in sorted(tally.answered.items()):
            answered.add_metric([str(status)], count)
        yield answered
        yield GaugeMetricFamily("penstock_data_requests_under_way", "Requests under way.", tally.under_way)
        yield self._seconds()
        yield GaugeMetricFamily("penstock_data_leases", "Transactions that are leased.", len(self._leases))
        stats = self._turns.stats()
        yield GaugeMetricFamily("penstock_data_waiting", "Requests that wait for their turn.", stats.waiting)
        yield GaugeMetricFamily("penstock_data_tenants", "Tenants with a request.", stats.tenants)

    def _seconds(self) -> Metric:
        told, total = [], 0
        for bound, count in zip((*map(str, BUCKETS), "+Inf"), self._tally.buckets, strict=True):
            total += count
            told.append((bound, total))
        return HistogramMetricFamily(
            "penstock_data_request_seconds", "Of requests.", told, sum_value=self._tally.seconds
        )


def registry_of(pools: list[ConnectionPool], collector: DataCollector) -> CollectorRegistry:
    """All that a service shows."""
    registry = CollectorRegistry()
    registry.register(collector)
    for pool in pools:
        registry.register(PoolCollector(pool))
    return registry
