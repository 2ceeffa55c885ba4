"""The JSON Schema (2020-12) of a document, from the same description that checks it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.actions.registry import load_actions
from engine.language import duration, value_checks
from engine.language.conditions import STEP_ENDS
from engine.language.operators import OPERATORS
from engine.language.schema import CONDITIONS, KINDS, STEP, Key, document

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.actions.registry import Action

_DRAFT = "https://json-schema.org/draft/2020-12/schema"
_CONDITION = {"$ref": "#/$defs/condition"}
_STEP = {"$ref": "#/$defs/step"}
_CHECKED: dict[Any, dict[str, Any]] = {
    value_checks.match: {"minProperties": 1},
    value_checks.duration_text: {"pattern": duration.PATTERN},
    value_checks.attempts: {"minimum": 1, "maximum": 100},
    value_checks.count: {"minimum": 1, "maximum": 10_000},
    value_checks.names: {"minItems": 1, "maxItems": value_checks.MAX_NAMES},
    value_checks.not_empty: {"minItems": 1},
    value_checks.some: {"minItems": 1, "maxItems": value_checks.MAX_STEPS},
    value_checks.few: {"maxItems": value_checks.MAX_STEPS},
}
"""What a check of a key means in a JSON Schema, where it has words for it."""
_OPERANDS: dict[str, dict[str, Any]] = {
    "scalar": {"type": ["string", "number", "boolean"]},
    "scalars": {"type": "array", "minItems": 1},
    "text": {"type": "string"},
    "networks": {"type": "array", "minItems": 1, "items": {"type": "string"}},
    "number": {"type": "number"},
    "bool": {"type": "boolean"},
}


def schema() -> dict[str, Any]:
    """The schema of one document of a playbook file, whichever its kind.

    A text with ``${name}`` fits in place of any value, except in a PlaybookTest, which takes no values.
    """
    definitions = {"condition": _condition(), "step": _step()}
    definitions |= {kind: _document(kind) for kind in KINDS if kind != "PlaybookTest"}
    return {
        "$schema": _DRAFT,
        "title": "Tiercel playbook file",
        # editors apply the schema to a whole folder, which may have a kustomization.yaml
        "if": _is("kind", "Kustomization"),
        "else": {
            "type": "object",
            "properties": {"kind": {"enum": list(KINDS)}},
            "required": ["kind"],
            # not `oneOf`: of an alternative that almost fits, editors only report that it does not fit
            "allOf": [
                {"if": _is("kind", kind), "then": {"$ref": f"#/$defs/{kind}"}} for kind in KINDS
            ],
        },
        "$defs": {
            **{name: _filled(one) for name, one in definitions.items()},
            "PlaybookTest": _document("PlaybookTest"),
            "placeholder": {"type": "string", "pattern": r"(^|[^$])\$\{"},
        },
    }


def _is(key: str, value: str) -> dict[str, Any]:
    return {"properties": {key: {"const": value}}, "required": [key]}


def _filled(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema, with a placeholder allowed in place of each value within."""
    filled = dict(schema)
    if "properties" in schema:
        filled["properties"] = {
            name: _or_placeholder(inner) for name, inner in schema["properties"].items()
        }
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            filled[key] = _or_placeholder(schema[key])
    if "anyOf" in schema:
        filled["anyOf"] = [_filled(inner) for inner in schema["anyOf"]]
    if "allOf" in schema:
        filled["allOf"] = [{**part, "then": _filled(part["then"])} for part in schema["allOf"]]
    return filled


def _or_placeholder(schema: dict[str, Any]) -> dict[str, Any]:
    notes: dict[str, Any] = {
        key: schema[key] for key in ("description", "default") if key in schema
    }
    rest = {key: value for key, value in schema.items() if key not in notes}
    if "const" in rest or rest in ({}, {"type": "string"}):
        return schema
    return {**notes, "if": {"$ref": "#/$defs/placeholder"}, "else": _filled(rest)}


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
    actions = load_actions()
    keys["action"] = {
        "description": STEP.keys["action"].doc,
        "anyOf": [{"const": name, "description": one.doc} for name, one in sorted(actions.items())],
    }
    return {
        "type": "object",
        "properties": keys,
        "required": ["action"],
        "additionalProperties": False,
        "allOf": [
            {
                "if": _is("action", name),
                "then": {"properties": {"with": action.schema()}, **_needs_with(action)},
            }
            for name, action in sorted(actions.items())
        ],
    }


def _needs_with(action: Action) -> dict[str, Any]:
    required = any(parameter.required for parameter in action.parameters.values())
    return {"required": ["with"]} if required else {}


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
    default = {} if key.default is None else {"default": key.default}
    return {**schema, **_CHECKED.get(key.check, {}), **default}


def _object(
    keys: Mapping[str, Key], conditions: Mapping[str, Any], steps: Mapping[str, Any]
) -> dict[str, Any]:
    schema: dict[str, Any] = {
        "properties": {name: _key_schema(key, conditions, steps) for name, key in keys.items()},
        "additionalProperties": False,
    }
    required = [name for name, key in keys.items() if key.required]
    return {**schema, "required": required} if required else schema
