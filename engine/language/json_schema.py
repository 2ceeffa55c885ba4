"""The JSON Schema (2020-12) of a document, from the same description that checks it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.actions.action import load
from engine.language import checks
from engine.language.conditions import STEP_ENDS
from engine.language.operators import OPERATORS
from engine.language.schema import CONDITIONS, KINDS, STEP, Key, document

if TYPE_CHECKING:
    from collections.abc import Mapping

_DRAFT = "https://json-schema.org/draft/2020-12/schema"
_CONDITION = {"$ref": "#/$defs/condition"}
_STEP = {"$ref": "#/$defs/step"}
_OPERANDS: dict[str, dict[str, Any]] = {
    "scalar": {"type": ["string", "number", "boolean"]},
    "scalars": {"type": "array", "minItems": 1},
    "text": {"type": "string"},
    "networks": {"type": "array", "minItems": 1, "items": {"type": "string"}},
    "number": {"type": "number"},
    "bool": {"type": "boolean"},
}


def schema() -> dict[str, Any]:
    """The schema of one document of a playbook file, whichever its kind."""
    return {
        "$schema": _DRAFT,
        "title": "Tiercel playbook file",
        "oneOf": [{"$ref": f"#/$defs/{kind}"} for kind in KINDS],
        "$defs": {
            **{kind: _document(kind) for kind in KINDS},
            "condition": _condition(),
            "step": _step(),
        },
    }


def _document(kind: str) -> dict[str, Any]:
    keys = document(kind)
    properties = {name: _key_schema(key, _CONDITION, _STEP) for name, key in keys.items()}
    properties["kind"] = {"const": kind}
    return {
        "type": "object",
        "description": KINDS[kind].doc,
        "properties": properties,
        "required": [name for name, key in keys.items() if key.required],
        "additionalProperties": False,
    }


def _condition() -> dict[str, Any]:
    operators = {
        name: {**_OPERANDS[operator.operand], "description": f"holds when the value {operator.doc}"}
        for name, operator in OPERATORS.items()
    }
    value = {"string": {"type": "string"}}["string"]
    compare = {
        "field": {**value, "description": "an output field of Falco's, taken verbatim"},
        "jsonPath": {**value, "pattern": "^\\$", "description": "a JSONPath over the whole alert"},
        "step": {**value, "description": "in `when`: the name of an earlier step"},
        "is": {"type": "array", "items": {"enum": list(STEP_ENDS)}, "description": "how it ended"},
    }
    groups = {
        "all": {"type": "array", "minItems": 1, "items": _CONDITION, "description": "all hold"},
        "any": {"type": "array", "minItems": 1, "items": _CONDITION, "description": "one holds"},
        "not": {**_CONDITION, "description": "it is false; of unknown it is unknown"},
    }
    return {
        "type": "object",
        "properties": {**compare, **operators, **groups},
        "additionalProperties": False,
        "minProperties": 1,
    }


def _step() -> dict[str, Any]:
    keys = {name: _key_schema(key, _CONDITION, _STEP) for name, key in STEP.keys.items()}
    keys["when"] = {**keys["when"], "items": _CONDITION}
    actions = load()
    keys["action"] = {"enum": sorted(actions), "description": STEP.keys["action"].doc}
    return {
        "type": "object",
        "properties": keys,
        "required": ["action"],
        "additionalProperties": False,
        "allOf": [
            {
                "if": {"properties": {"action": {"const": name}}},
                "then": {
                    "properties": {"with": action.schema(), "action": {"description": action.doc}}
                },
            }
            for name, action in sorted(actions.items())
        ],
    }


def _key_schema(
    key: Key, conditions: Mapping[str, Any], steps: Mapping[str, Any]
) -> dict[str, Any]:
    """The JSON Schema (2020-12) of a key; conditions and steps are given by reference."""
    if key is CONDITIONS:
        return {"description": key.doc, "type": "array", "items": conditions}
    if key is STEP:
        return dict(steps)
    schema: dict[str, Any] = {"description": key.doc} if key.doc else {}
    plain = {
        "text": "string",
        "bool": "boolean",
        "integer": "integer",
        "list": "array",
        "map": "object",
    }
    if key.shape in plain:
        schema["type"] = plain[key.shape]
    if key.words:
        schema["enum"] = list(key.words)
    if key.shape == "list" and key.item:
        schema["items"] = _key_schema(key.item, conditions, steps)
    if key.shape == "map" and not key.free:
        schema |= _object(key.keys, conditions, steps)
    if key.free and key.item:
        schema["additionalProperties"] = _key_schema(key.item, conditions, steps)
    if key.shape == "tags":
        tags = {"type": "object", **_object(key.keys, conditions, steps)}
        schema["anyOf"] = [{"type": "array", "items": {"type": "string"}}, tags]
    if key.check is checks.match:
        schema["minProperties"] = 1
    return schema


def _object(
    keys: Mapping[str, Key], conditions: Mapping[str, Any], steps: Mapping[str, Any]
) -> dict[str, Any]:
    schema: dict[str, Any] = {
        "properties": {name: _key_schema(key, conditions, steps) for name, key in keys.items()},
        "additionalProperties": False,
    }
    required = [name for name, key in keys.items() if key.required]
    return {**schema, "required": required} if required else schema
