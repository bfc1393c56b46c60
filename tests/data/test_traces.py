"""A request is one trace: the client's, the service's, and each statement's span in it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from plugins.asked import asking, refused
from plugins.data_service import DataService

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


class Collector:
    """Takes spans by OTLP over HTTP."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        spans = self.spans

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                asked = ExportTraceServiceRequest.FromString(body)
                spans.extend(
                    span for it in asked.resource_spans for scope in it.scope_spans for span in scope.spans
                )
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

            def address_string(self) -> str:
                return "here"

        self.server = HTTPServer(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    thread = threading.Thread(target=collector.server.serve_forever)
    thread.start()
    yield collector
    collector.server.shutdown()
    thread.join()
    collector.server.server_close()


async def test_a_request_and_its_statements_are_one_trace(
    service_of: Callable[..., DataService], collector: Collector, table: str
) -> None:
    service = service_of(otlp_endpoint=collector.url)
    async with asking(service) as ann:
        header = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
        answer = await ann.post(
            "/v1/query", {"sql": f"SELECT name FROM {table} WHERE id = ?", "params": [1]}, **header
        )
        assert answer.json()["rows"] == [["a pipe"]]
        answer = await ann.post("/v1/query", {"sql": "SELECT nothing"}, **header)
        refused(answer, 422, "database-refused")
        assert answer.json()["trace_id"] == TRACE
        path = await ann.begin()
        await ann.post(f"{path}/rollback", **header)
    assert service.stop() == 0
    ours = [span for span in collector.spans if span.trace_id.hex() == TRACE]
    requests = {span.name: span for span in ours if span.name.startswith("POST")}
    assert sorted(requests) == ["POST /v1/query", "POST /v1/transactions/{lease}/rollback"]
    assert all(span.parent_span_id.hex() == "00f067aa0ba902b7" for span in requests.values())
    statements = [span for span in ours if not span.name.startswith("POST")]
    assert {span.parent_span_id for span in statements} <= {span.span_id for span in ours}
    assert [span.name for span in statements if table in span.name]
    assert not [span for span in ours if "a pipe" in str(span)]
