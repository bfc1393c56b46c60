"""Spans and instruments: by the conventions, without values, as children of the caller's span."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from asyncmy.errors import ProgrammingError
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.metrics import db_metrics
from opentelemetry.trace import SpanKind, StatusCode
from plugins.house import eventually

from penstock_pool import ConnectionPool, Limit
from penstock_pool.tracing import summary, trace

PoolOf = Callable[..., Awaitable[ConnectionPool]]


class Telemetry:
    def __init__(self) -> None:
        self.exporter, self.reader = InMemorySpanExporter(), InMemoryMetricReader()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.meters = MeterProvider([self.reader])

    def traces(self, pool: ConnectionPool) -> None:
        trace(pool, tracer_provider=self.tracers, meter_provider=self.meters)

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        return self.exporter.get_finished_spans()

    def measured(self) -> dict[str, list[Any]]:
        """Points by the instrument's name."""
        data = self.reader.get_metrics_data()
        found = data.resource_metrics if data else ()
        return {
            metric.name: list(metric.data.data_points)
            for resource in found
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry()


async def test_a_statement_has_a_span_within_the_callers(pool_of: PoolOf, telemetry: Telemetry) -> None:
    pool = await pool_of()
    telemetry.traces(pool)
    with telemetry.tracers.get_tracer("app").start_as_current_span("order") as order:
        await pool.fetch("SELECT 'secret' FROM seq_1_to_3 WHERE seq = %s", (2,))
    span = telemetry.spans[-2]
    assert (span.name, span.kind) == ("SELECT seq_1_to_3", SpanKind.CLIENT)
    assert span.parent is not None
    assert span.parent.span_id == order.get_span_context().span_id
    assert dict(span.attributes or {}) == {
        "db.system.name": "mariadb",
        "db.namespace": "shop",
        "server.address": "127.0.0.1",
        "server.port": pool.server.port,
        "db.query.summary": "SELECT seq_1_to_3",
        "db.query.text": "SELECT ? FROM seq_1_to_3 WHERE seq = %s",
    }
    assert span.end_time is not None
    assert span.start_time is not None
    assert span.end_time >= span.start_time


async def test_an_error_is_told_by_its_number_or_its_class(pool_of: PoolOf, telemetry: Telemetry) -> None:
    pool = await pool_of()
    telemetry.traces(pool)
    with pytest.raises(ProgrammingError):
        await pool.fetch("SELECT * FROM nowhere")
    await eventually(lambda: pool.stats().idle)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await pool.fetch("SELECT SLEEP(60)")
    failed, given_up = (span for span in telemetry.spans if span.kind is SpanKind.CLIENT)
    assert failed.status.status_code is given_up.status.status_code is StatusCode.ERROR
    assert (
        (failed.attributes or {})["error.type"]
        == (failed.attributes or {})["db.response.status_code"]
        == "1146"
    )
    assert (given_up.attributes or {})["error.type"] == "asyncio.exceptions.CancelledError"


async def test_a_checkout_that_waits_has_a_span_and_one_that_does_not_has_none(
    pool_of: PoolOf, telemetry: Telemetry
) -> None:
    pool = await pool_of(max=1)
    await pool.fetch("SELECT 1")
    telemetry.traces(pool)
    async with pool.connection():
        waits = asyncio.create_task(pool.fetch("SELECT 2"))
        await eventually(lambda: pool.stats().waiting == 1)
    await waits
    assert [span.name for span in telemetry.spans] == ["checkout", "SELECT"]
    assert dict(telemetry.spans[0].attributes or {}) == {"db.client.connection.pool.name": "shop"}


async def test_a_wait_for_a_class_of_query_has_a_span_too(pool_of: PoolOf, telemetry: Telemetry) -> None:
    pool = await pool_of(limits={"reports": Limit(1)})
    await pool.fetch("SELECT 1")
    telemetry.traces(pool)
    async with pool.connection(limit="reports"):
        waits = asyncio.create_task(pool.fetch("SELECT 2", limit="reports"))
        await eventually(lambda: pool.stats().limits["reports"].waiting == 1)
    await waits
    assert [span.name for span in telemetry.spans] == ["checkout", "SELECT"]


async def test_instruments_are_those_of_the_conventions(pool_of: PoolOf, telemetry: Telemetry) -> None:
    pool = await pool_of(min=2, max=3)
    telemetry.traces(pool)
    async with pool.connection() as connection:
        await connection.fetch("SELECT 1")
        await eventually(lambda: pool.stats().idle == 1)
        measured = telemetry.measured()
    known = {value for name, value in vars(db_metrics).items() if name.startswith("DB_CLIENT_")}
    assert measured.keys() <= known
    points = measured["db.client.connection.count"]
    assert {point.attributes["db.client.connection.state"]: point.value for point in points} == {
        "idle": 1,
        "used": 1,
    }
    for name, value in {"idle.min": 2, "idle.max": 3, "max": 3, "pending_requests": 0, "timeouts": 0}.items():
        (point,) = measured[f"db.client.connection.{name}"]
        assert (point.value, dict(point.attributes)) == (value, {"db.client.connection.pool.name": "shop"})
    assert measured["db.client.connection.create_time"][0].count >= 1
    assert measured["db.client.operation.duration"][0].count == 1
    await pool.close()
    assert "db.client.connection.max" not in telemetry.measured()


@pytest.mark.parametrize(
    ("sql", "told"),
    [
        ("select a from `b` where c = 'd'", "SELECT b"),
        ("INSERT INTO shop.wares VALUES (1)", "INSERT shop.wares"),
        ("(SELECT 1)", "SELECT"),
        ("COMMIT", "COMMIT"),
        ("/* x */", "SQL"),
    ],
)
def test_a_summary_says_what_is_done_to_which_table(sql: str, told: str) -> None:
    assert summary(sql) == told
