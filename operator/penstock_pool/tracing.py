"""OpenTelemetry: a span for each statement and for each checkout that waits, and the instruments of its
conventions for database clients.

    trace(pool)

Spans are made when what they tell of has ended, as children of whatever span is current then. Names and
attributes: https://opentelemetry.io/docs/specs/semconv/db/database-spans/ and …/database-metrics/. The counts
are observed by callbacks; `wait_time` is of checkouts that had to wait, and `use_time` is not given, because
noting it for every checkout would cost more than a checkout does (`penstock_pool.metrics` has its sum)."""

from __future__ import annotations

import re
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache, partial

from penstock_pool.pool import ConnectionPool
from penstock_pool.statements import normalized
from penstock_pool.stats import BUCKETS, PoolStats
from penstock_pool.watch import Statement

try:
    from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation, get_meter
    from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer, TracerProvider, get_tracer
except ImportError as error:  # pragma: no cover - with the extra it is there
    raise ImportError("penstock_pool.tracing needs OpenTelemetry: install penstock[tracing]") from error

Attributes = dict[str, str | int]
Values = Callable[[PoolStats], Iterable[tuple[int, Attributes]]]

SCOPE = "penstock_pool"
_STATE = "db.client.connection.state"
_TABLE = re.compile(r"\b(?:from|into|update|join|table)\s+([\w$.`]+)", re.IGNORECASE)
_VERB = re.compile(r"[\s(]*([a-z]+)", re.IGNORECASE)


def trace(
    pool: ConnectionPool,
    *,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
) -> None:
    """From now on, for the pool and its replicas; once for each pool. Without providers the global ones."""
    tracer = get_tracer(SCOPE, tracer_provider=tracer_provider)
    meter = get_meter(SCOPE, meter_provider=meter_provider)
    pools = (pool, *pool.replicas)
    for each in pools:
        each.listen(_Tracing(each, tracer, meter))
    _observe(meter, pools)


class _Tracing:
    """Tells of one pool."""

    def __init__(self, pool: ConnectionPool, tracer: Tracer, meter: Meter) -> None:
        server = pool.server
        self._tracer = tracer
        self._pool: Attributes = {"db.client.connection.pool.name": pool.settings.name}
        self._server: Attributes = {"server.address": server.unix_socket or server.host}
        if not server.unix_socket:
            self._server["server.port"] = server.port
        if server.database:
            self._server["db.namespace"] = server.database
        self._duration = _histogram(meter, "db.client.operation.duration", "How long statements took")
        self._waits = _histogram(meter, "db.client.connection.wait_time", "How long checkouts waited")
        self._creations = _histogram(meter, "db.client.connection.create_time", "How long connects took")

    def statement(self, ended: Statement) -> None:
        name = summary(ended.sql)
        about = {**self._server, "db.system.name": ended.system, "db.query.summary": name}
        about |= _failure(ended.error)
        self._duration(ended.seconds, about)
        text = partial(_text, ended.sql)
        self._span(name, ended.seconds, about, ended.error, SpanKind.CLIENT, text)

    def waited(self, seconds: float, error: BaseException | None) -> None:
        if error is None:
            self._waits(seconds, self._pool)
        self._span("checkout", seconds, {**self._pool, **_failure(error)}, error, SpanKind.INTERNAL)

    def connected(self, seconds: float) -> None:
        self._creations(seconds, self._pool)

    def _span(
        self,
        name: str,
        seconds: float,
        about: Attributes,
        error: BaseException | None,
        kind: SpanKind,
        text: Callable[[], str] | None = None,
    ) -> None:
        now = time.time_ns()
        span = self._tracer.start_span(name, kind=kind, attributes=about, start_time=now - int(seconds * 1e9))
        if text and span.is_recording():
            span.set_attribute("db.query.text", text())
        if error is not None:
            span.set_status(Status(StatusCode.ERROR))  # an error's text may have values in it
        span.end(now)


_text = lru_cache(128)(normalized)


@lru_cache(128)
def summary(sql: str) -> str:
    """What is done to which table, without anything else: `SELECT wares`."""
    verb, table = _VERB.match(sql), _TABLE.search(sql)
    named = (verb[1].upper() if verb else "SQL", table[1].replace("`", "") if table else "")
    return " ".join(filter(None, named))


def _failure(error: BaseException | None) -> Attributes:
    if error is None:
        return {}
    number = error.args[0] if error.args else None
    if isinstance(number, int):
        return {"db.response.status_code": str(number), "error.type": str(number)}
    return {"error.type": f"{type(error).__module__}.{type(error).__qualname__}"}


def _histogram(meter: Meter, name: str, told: str) -> Callable[[float, Attributes], None]:
    return meter.create_histogram(
        name, unit="s", description=told, explicit_bucket_boundaries_advisory=BUCKETS
    ).record


def _observe(meter: Meter, pools: Iterable[ConnectionPool]) -> None:
    def seen(values: Values) -> list[Callable[[CallbackOptions], Iterable[Observation]]]:
        return [_seen(weakref.ref(pool), values) for pool in pools]

    up_down = meter.create_observable_up_down_counter
    count = "db.client.connection.count"
    up_down(count, seen(_by_state), "{connection}", "Connections by state")
    for name, value in _LIMITS.items():
        up_down(f"db.client.connection.{name}", seen(value), "{connection}", "As the pool is set")
    pending = "db.client.connection.pending_requests"
    up_down(pending, seen(lambda stats: [(stats.waiting, {})]), "{request}", "Checkouts that wait")
    meter.create_observable_counter(
        "db.client.connection.timeouts",
        seen(lambda stats: [(stats.timeouts, {})]),
        "{timeout}",
        "Checkouts that were not served in time",
    )


def _by_state(stats: PoolStats) -> Iterable[tuple[int, Attributes]]:
    """The conventions know two; what is pinged or reset is in use by the pool."""
    idle = stats.idle + stats.parked
    return [(idle, {_STATE: "idle"}), (stats.busy + stats.tending, {_STATE: "used"})]


_LIMITS: dict[str, Values] = {
    "idle.min": lambda stats: [(stats.min, {})],
    "idle.max": lambda stats: [(stats.max, {})],
    "max": lambda stats: [(stats.max, {})],
}


def _seen(
    pool_of: weakref.ref[ConnectionPool], values: Values
) -> Callable[[CallbackOptions], Iterable[Observation]]:
    """Of a pool as long as it is open."""

    def observe(options: CallbackOptions) -> Iterator[Observation]:
        pool = pool_of()
        if pool is not None and not pool._closed:
            about: Attributes = {"db.client.connection.pool.name": pool.settings.name}
            for value, more in values(pool.stats()):
                yield Observation(value, {**about, **more})

    return observe
