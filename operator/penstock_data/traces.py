"""A span for each request, with those of its statements and waits in it, sent by OTLP over HTTP.

Only imported when `otlp_endpoint` is set; needs `penstock[data,otlp]`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.types import Scope

from penstock_data.errors import InvalidSettings
from penstock_pool import ConnectionPool

try:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.metrics import NoOpMeterProvider
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.trace import Span, SpanKind, StatusCode, format_span_id, format_trace_id
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    from penstock_pool.tracing import trace
except ImportError as error:
    raise InvalidSettings(f"otlp_endpoint needs penstock[data,otlp]: {error}") from error

_context = TraceContextTextMapPropagator()


class Traces:
    """Where the spans of one service go."""

    def __init__(self, endpoint: str, pool: ConnectionPool) -> None:
        """`endpoint`: the collector's base, such as http://collector:4318."""
        told = Resource.create({"service.name": "penstock-data", "service.instance.id": pool.settings.name})
        self._provider = TracerProvider(resource=told)
        exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=5)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("penstock_data")
        trace(pool, tracer_provider=self._provider, meter_provider=NoOpMeterProvider())

    async def around(self, scope: Scope, route: str, handle: Callable[[Scope], Awaitable[int]]) -> None:
        """`handle` is given a scope whose trace is this span's, and returns the status of its answer."""
        headers = [(name, value) for name, value in scope["headers"] if name != b"traceparent"]
        given = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        with self._tracer.start_as_current_span(
            f"{scope['method']} {route}",
            context=_context.extract(given),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": scope["method"], "http.route": route},
        ) as span:
            status = await handle({**scope, "headers": [*headers, (b"traceparent", _parent(span))]})
            span.set_attribute("http.response.status_code", status)
            if status >= 500:
                span.set_status(StatusCode.ERROR)

    def close(self) -> None:
        """Sends what was not sent yet; takes some seconds when nobody takes it."""
        self._provider.shutdown()


def _parent(span: Span) -> bytes:
    told = span.get_span_context()
    flags = f"{told.trace_flags:02x}"
    return f"00-{format_trace_id(told.trace_id)}-{format_span_id(told.span_id)}-{flags}".encode()
