"""The JSON Schema (2020-12) of a document, from the same description that checks it."""

from __future__ import annotations

from typing import Any

from engine.actions.action import load
from engine.language.conditions import OPERATORS, STEP_ENDS
from engine.language.schema import KINDS, STEP, document, json_schema

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
    properties = {name: json_schema(key, _CONDITION, _STEP) for name, key in keys.items()}
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
    keys = {name: json_schema(key, _CONDITION, _STEP) for name, key in STEP.keys.items()}
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
