"""The description is complete, and what it describes is what is done."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from plugins.asked import Asker
from plugins.data_service import DataService
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = [
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
]


async def test_every_path_is_described(ann: Asker) -> None:
    document = (await ann.http.get("/openapi.json")).json()
    assert sorted(document["paths"]) == [
        "/livez",
        "/metrics",
        "/readyz",
        "/startupz",
        "/v1/batch",
        "/v1/pool",
        "/v1/queries",
        "/v1/query",
        "/v1/transactions",
        "/v1/transactions/{lease}/commit",
        "/v1/transactions/{lease}/query",
        "/v1/transactions/{lease}/renew",
        "/v1/transactions/{lease}/rollback",
    ]
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert ("security" in operation) == path.startswith("/v1/")


@pytest.fixture(scope="module")
def described(data_service: DataService) -> Any:
    return schemathesis.openapi.from_url(f"{data_service.url}/openapi.json")


def test_whatever_is_asked_the_answer_is_as_described(described: Any, data_service: DataService) -> None:
    """Of each operation, whatever its description allows and what it does not."""
    headers = data_service.bearer("data:read", subject="fuzz")
    asked = 0
    for found in described.get_all_operations():
        operation = found.ok()
        for mode in schemathesis.GenerationMode:

            @given(case=operation.as_strategy(generation_mode=mode))
            @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck), database=None)
            def ask(case: Any) -> None:
                nonlocal asked
                asked += 1
                answer = case.call(headers=headers)
                assert answer.status_code < 500 or answer.status_code in (503, 504), answer.text
                case.validate_response(answer, checks=CHECKS)

            with suppress(Unsatisfiable):  # where nothing is asked for, nothing can be wrong
                ask()
    assert asked > 100
