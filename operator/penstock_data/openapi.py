"""The description of the routes that are not FastAPI's, in OpenAPI's words."""

from __future__ import annotations

from typing import Any

from penstock_data import errors
from penstock_data.settings import Settings

Node = dict[str, Any]


def complete(document: Node, settings: Settings) -> Node:
    """FastAPI's document with everything in it."""
    components = document.setdefault("components", {})
    components.setdefault("schemas", {}).update(_schemas(settings))
    components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}}
    for path, operation in _operations().items():
        document["paths"][path] = {"post": operation}
    for path, methods in document["paths"].items():
        for operation in methods.values():
            if path.startswith("/v1/"):
                _secure(operation)
    return document


def _secure(operation: Node) -> None:
    """What every operation below /v1 has."""
    operation["security"] = [{"token": []}]
    if _only_authorization(operation):
        del operation["parameters"]
    operation["responses"].pop("422", None)  # FastAPI's own; ours is a problem like any other
    operation["responses"]["default"] = _problem("what went wrong")


def _only_authorization(operation: Node) -> bool:
    return [it["name"] for it in operation.get("parameters", [])] == ["authorization"]


def _problem(told: str) -> Node:
    return {
        "description": told,
        "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }


def _ref(name: str) -> Node:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(schema: Node) -> Node:
    return {"application/json": {"schema": schema}}


def _answer(told: str, schema: Node, **more: Any) -> Node:
    return {"description": told, "content": {**_json(schema), **more.pop("content", {})}, **more}


_LEASE = {"name": "lease", "in": "path", "required": True, "schema": {"type": "string"}}
_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "maxLength": 128, "pattern": "^[!-~]([ -~]*[!-~])?$"},
    "description": "What is sent under a key is done once.",
}
_REPLAYED = {"Idempotency-Replayed": {"schema": {"type": "string", "enum": ["true"]}}}


def _operation(
    name: str, told: str, tag: str, body: Node, answers: Node, *parameters: Node, needed: bool = True
) -> Node:
    return {
        "operationId": name,
        "summary": told,
        "tags": [tag],
        "parameters": list(parameters),
        "requestBody": {"required": needed, "content": _json(body)},
        "responses": answers,
    }


def _operations() -> dict[str, Node]:
    lines = {"application/x-ndjson": {"schema": {"type": "string"}}}
    result = _answer("the result", _ref("Result"), content=lines, headers=_REPLAYED)
    elsewhere = {
        "description": "another process has the lease",
        "headers": {"Location": {"schema": {"type": "string"}}},
    }
    of_lease = {"307": elsewhere}
    ended = {"200": _answer("it is over", _ref("Ended"), headers=_REPLAYED), **of_lease}
    lease = "/v1/transactions/{lease}"
    return {
        "/v1/query": _operation("query", "One statement", "query", _ref("Query"), {"200": result}, _KEY),
        "/v1/batch": _operation(
            "batch",
            "Several statements in one transaction",
            "query",
            _ref("Batch"),
            {"200": _answer("the results", _ref("Results"), headers=_REPLAYED)},
            _KEY,
        ),
        "/v1/transactions": _operation(
            "begin",
            "Begins a transaction and leases it",
            "transactions",
            _ref("Begin"),
            {
                "201": _answer(
                    "the lease", _ref("Lease"), headers={"Location": {"schema": {"type": "string"}}}
                )
            },
            needed=False,
        ),
        f"{lease}/query": _operation(
            "query_in_transaction",
            "One statement in it",
            "transactions",
            _ref("QueryInTransaction"),
            {"200": _answer("the result", _ref("Result")), **of_lease},
            _LEASE,
        ),
        f"{lease}/commit": _operation(
            "commit", "Commits it", "transactions", _ref("Fence"), ended, _LEASE, _KEY, needed=False
        ),
        f"{lease}/rollback": _operation(
            "rollback", "Rolls it back", "transactions", _ref("Fence"), ended, _LEASE, needed=False
        ),
        f"{lease}/renew": _operation(
            "renew",
            "Moves its deadline",
            "transactions",
            _ref("Renew"),
            {"200": _answer("the lease", _ref("Lease")), **of_lease},
            _LEASE,
            needed=False,
        ),
    }


def _object(required: tuple[str, ...] = (), **properties: Any) -> Node:
    told = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**told, "required": list(required)} if required else told


def _schemas(settings: Settings) -> dict[str, Node]:
    text: Node = {"type": "string"}
    flag: Node = {"type": "boolean", "default": False}
    query: Node = {
        "sql": {"type": "string", "description": "One statement; ? stands for a parameter."},
        "params": {"type": "array", "items": _ref("Parameter"), "maxItems": settings.max_params},
    }
    named: Node = {
        "name": {"type": "string", "description": "Of a named query."},
        "params": {"anyOf": [query["params"], {"type": "object", "additionalProperties": _ref("Parameter")}]},
    }
    more: Node = {"timeout": _seconds(settings.timeout_limit), "read": flag}
    fence: Node = {"fence": {"type": "string"}}
    asked = {"oneOf": [_object(("sql",), **query), _object(("name",), **named)]}
    results = {"type": "array", "items": _ref("Result")}
    return {
        "Parameter": _parameter(),
        "Query": {"oneOf": [_object(("sql",), **query, **more), _object(("name",), **named, **more)]},
        "QueryInTransaction": {
            "oneOf": [
                _object(("sql",), **query, **more, **fence),
                _object(("name",), **named, **more, **fence),
            ]
        },
        "Batch": _object(
            ("statements",),
            statements={"type": "array", "items": asked, "minItems": 1, "maxItems": settings.max_batch},
            **more,
        ),
        "Begin": _object(
            seconds=_seconds(settings.lease_limit),
            isolation={
                "type": "string",
                "enum": ["read uncommitted", "read committed", "repeatable read", "serializable"],
            },
            **more,
        ),
        "Renew": _object(seconds=_seconds(settings.lease_limit), **fence),
        "Fence": _object(**fence),
        "Lease": _object(("lease", "fence", "seconds"), lease=text, fence=text, seconds={"type": "number"}),
        "Ended": _object(("committed",), committed={"type": "boolean"}),
        "Column": _object(("name", "type"), name=text, type=text),
        "Result": {"oneOf": [_rows(), _done()]},
        "Results": _object(("results",), results=results),
        "Problem": _problem_schema(),
    }


def _seconds(most: float) -> Node:
    return {"type": "number", "exclusiveMinimum": 0, "maximum": most}


def _parameter() -> Node:
    kinds = ("int", "decimal", "binary", "date", "datetime", "time")
    text: Node = {"type": "string"}
    typed = [_object((kind,), **{kind: text}) for kind in kinds]
    plain = {"type": ["null", "boolean", "number", "string"]}
    return {"anyOf": [plain, *typed, _object(("json",), json={})]}


def _rows() -> Node:
    rows = {"type": "array", "items": {"type": "array", "items": {"type": ["null", "number", "string"]}}}
    return _object(("columns", "rows"), columns={"type": "array", "items": _ref("Column")}, rows=rows)


def _done() -> Node:
    number = {"type": "integer"}
    return _object(("affected_rows", "insert_id"), affected_rows=number, insert_id=number)


def _problem_schema() -> Node:
    kinds = sorted({f"urn:penstock:{kind.slug}" for kind in _below(errors.Problem)})
    return {
        "type": "object",
        "properties": {
            "type": {"type": "string", "enum": kinds},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
            "trace_id": {"type": "string"},
            "errno": {"type": "integer"},
            "sqlstate": {"type": ["string", "null"]},
            "position": {"type": "integer"},
            "expected_wait": {"type": "number"},
        },
        "required": ["type", "title", "status", "detail"],
    }


def _below(kind: type[errors.Problem]) -> list[type[errors.Problem]]:
    return [kind, *(each for below in kind.__subclasses__() for each in _below(below))]
