"""The JSON Schema of `penstock.yaml`, for editors: made of the very classes that read it.

It takes whatever `config.load` takes. What a schema cannot know (whether a folder is there) it lets pass.
"""

from __future__ import annotations

import ast
import inspect
from itertools import pairwise
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from . import AppConfig, Build, Health, Section, Static

DIALECT = "https://json-schema.org/draft/2020-12/schema"
ID = "https://penstock.dev/schemas/penstock.yaml.json"

_Json = dict[str, Any]


def schema() -> _Json:
    """The schema as a JSON document, draft 2020-12."""
    made = AppConfig.model_json_schema(schema_generator=_Written)
    for model in (AppConfig, Build, Static, Health):
        whole = made if model is AppConfig else made["$defs"][model.__name__]
        _describe(whole, model)
        if model.short is not None:
            short = {key: whole["properties"][model.short][key] for key in ("type", "pattern")}
            made["$defs"][model.__name__] = {"anyOf": [short, whole]}
    return {"$schema": DIALECT, "$id": ID, **made, "title": "penstock.yaml"} | _web(made["properties"])


class _Written(GenerateJsonSchema):
    """As people write it: what is not said is left out, never null."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        made = super().default_schema(schema)
        return made if isinstance(made.get("default"), bool | float) else _without(made, "default")


def _describe(made: _Json, model: type[Section]) -> None:
    for name, text in _docstrings(model).items():
        if name in made["properties"]:
            made["properties"][name]["description"] = text


def _docstrings(model: type[Section]) -> dict[str, str]:
    """What stands under each field of the class."""
    (tree,) = ast.parse(inspect.getsource(model)).body
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for field, said in pairwise(tree.body):
        match field, said:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = " ".join(text.split())
    return found


def _web(properties: _Json) -> _Json:
    """`web: …` at the top level, short for `processes: {web: …}`; not both."""
    processes = properties["processes"] | {"additionalProperties": False}
    (command,) = processes["patternProperties"].values()
    web = command | {"title": "Web", "description": "The process that serves; it listens on $PORT."}
    twice = {"properties": {"processes": {"required": ["web"]}}, "required": ["web", "processes"]}
    return {"properties": {"web": web, **properties, "processes": processes}, "not": twice}


def _without(made: _Json, key: str) -> _Json:
    return {name: value for name, value in made.items() if name != key}
