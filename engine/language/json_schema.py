"""Generates the JSON Schema (2020-12) of playbook files from ``schema``, which also drives the checks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.language import duration, value_checks
from engine.language.conditions import STEP_STATES
from engine.language.operators import OPERATORS
from engine.language.schema import CONDITIONS, KINDS, STEP, Key, document

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.language.compile import Action

_DRAFT = "https://json-schema.org/draft/2020-12/schema"
_CONDITION = {"$ref": "#/$defs/condition"}
_STEP = {"$ref": "#/$defs/step"}
_TYPES = {
    "text": "string",
    "bool": "boolean",
    "integer": "integer",
    "list": "array",
    "map": "object",
}
_CHECKS: dict[Any, dict[str, Any]] = {
    value_checks.match: {"minProperties": 1},
    value_checks.duration_text: {"pattern": duration.PATTERN},
    value_checks.service_account: {
        "pattern": f"^{value_checks.SUBDOMAIN}$",
        "maxLength": value_checks.MAX_SUBDOMAIN,
    },
    value_checks.attempts: {"minimum": 1, "maximum": 100},
    value_checks.count: {"minimum": 1, "maximum": 10_000},
    value_checks.limit: {"minimum": 1, "maximum": 10_000},
    value_checks.not_blank: {"pattern": r"\S"},
    value_checks.first: {"minimum": 1, "maximum": 1_000},
    value_checks.names: {"minItems": 1, "maxItems": value_checks.MAX_NAMES},
    value_checks.not_empty: {"minItems": 1},
    value_checks.required_steps: {"minItems": 1, "maxItems": value_checks.MAX_STEPS},
    value_checks.optional_steps: {"maxItems": value_checks.MAX_STEPS},
    value_checks.throttle: {
        "oneOf": [{"required": ["once"]}, {"required": ["first"]}, {"required": ["count"]}],
        "dependentRequired": {"first": ["within"], "count": ["within"]},
        "dependentSchemas": {"once": {"properties": {"within": False}}},
    },
}
"""Check of a key -> the JSON Schema that expresses it. Checks that JSON Schema cannot express are not here."""
_OPERANDS: dict[str, dict[str, Any]] = {
    "scalar": {"type": ["string", "number", "boolean"]},
    "scalars": {"type": "array", "minItems": 1},
    "text": {"type": "string"},
    "networks": {"type": "array", "minItems": 1, "items": {"type": "string"}},
    "number": {"type": "number"},
    "bool": {"type": "boolean"},
}


def schema(actions: Mapping[str, Action]) -> dict[str, Any]:
    """Return the schema of one document of a playbook file, of any kind.

    A string with ``${name}`` is valid in place of any value, except in a PlaybookTest, where nothing is
    substituted.
    """
    definitions = {"condition": _condition(), "step": _step(actions)}
    definitions |= {kind: _document(kind) for kind in KINDS if kind != "PlaybookTest"}
    return {
        "$schema": _DRAFT,
        "title": "Tiercel playbook file",
        # editors apply the schema to a whole folder, which can contain a kustomization.yaml
        "if": _has("kind", "Kustomization"),
        "else": {
            "type": "object",
            "properties": {"kind": {"enum": list(KINDS)}},
            "required": ["kind"],
            # with `oneOf`, editors would only report that no alternative fits
            "allOf": [
                {"if": _has("kind", kind), "then": {"$ref": f"#/$defs/{kind}"}} for kind in KINDS
            ],
        },
        "$defs": {
            **{name: _with_placeholders(one) for name, one in definitions.items()},
            "PlaybookTest": _document("PlaybookTest"),
            "placeholder": {"type": "string", "pattern": r"(^|[^$])\$\{"},
        },
    }


def _has(key: str, value: str) -> dict[str, Any]:
    return {"properties": {key: {"const": value}}, "required": [key]}


def _with_placeholders(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema with a placeholder allowed in place of each inner value."""
    result = dict(schema)
    if "properties" in schema:
        result["properties"] = {
            name: _or_placeholder(inner) for name, inner in schema["properties"].items()
        }
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            result[key] = _or_placeholder(schema[key])
    if "anyOf" in schema:
        result["anyOf"] = [_with_placeholders(inner) for inner in schema["anyOf"]]
    if "allOf" in schema:
        result["allOf"] = [
            {**part, "then": _with_placeholders(part["then"])} for part in schema["allOf"]
        ]
    return result


def _or_placeholder(schema: dict[str, Any]) -> dict[str, Any]:
    notes: dict[str, Any] = {
        key: schema[key] for key in ("description", "default") if key in schema
    }
    rest = {key: value for key, value in schema.items() if key not in notes}
    if "const" in rest or rest in ({}, {"type": "string"}):
        return schema
    return {**notes, "if": {"$ref": "#/$defs/placeholder"}, "else": _with_placeholders(rest)}


def _document(kind: str) -> dict[str, Any]:
    keys = document(kind)
    properties = {name: _key_schema(key) for name, key in keys.items()}
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
        name: {**_OPERANDS[operator.operand], "description": f"holds if the value {operator.doc}"}
        for name, operator in OPERATORS.items()
    }
    text = {"type": "string"}
    states = {"type": "array", "items": {"enum": list(STEP_STATES)}}
    subjects = {
        "field": {**text, "description": "an output field of Falco; the name is taken literally"},
        "jsonPath": {**text, "pattern": "^\\$", "description": "a JSONPath over the whole alert"},
        "step": {**text, "description": "in `when`: the name of an earlier step"},
        "is": {**states, "description": "in `when`: the accepted states of the step"},
    }
    conditions = {"type": "array", "minItems": 1, "items": _CONDITION}
    groups = {
        "all": {**conditions, "description": "every condition holds"},
        "any": {**conditions, "description": "at least one condition holds"},
        "not": {**_CONDITION, "description": "the condition is false; not of unknown is unknown"},
    }
    return {
        "type": "object",
        "properties": {**subjects, **operators, **groups},
        "additionalProperties": False,
        "minProperties": 1,
    }


def _step(actions: Mapping[str, Action]) -> dict[str, Any]:
    keys = {name: _key_schema(key) for name, key in STEP.keys.items()}
    keys["when"] = {**keys["when"], "items": _CONDITION}
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
            {"if": _has("action", name), "then": _with(action)}
            for name, action in sorted(actions.items())
        ],
    }


def _with(action: Action) -> dict[str, Any]:
    parameters = action.schema()
    required = {"required": ["with"]} if parameters.get("required") else {}
    return {"properties": {"with": parameters}, **required}


def _key_schema(key: Key) -> dict[str, Any]:
    """Return the JSON Schema of a key. Conditions and steps are references to ``$defs``."""
    if key is CONDITIONS:
        return {"description": key.doc, "type": "array", "items": _CONDITION}
    if key is STEP:
        return dict(_STEP)
    schema: dict[str, Any] = {"description": key.doc} if key.doc else {}
    if key.type in _TYPES:
        schema["type"] = _TYPES[key.type]
    if key.words:
        schema["enum"] = list(key.words)
    if key.type == "list" and key.item:
        schema["items"] = _key_schema(key.item)
    if key.type == "map" and not key.free:
        schema |= _object(key.keys)
    if key.free and key.item:
        schema["additionalProperties"] = _key_schema(key.item)
    if key.type == "tags":
        tags = {"type": "object", **_object(key.keys)}
        schema["anyOf"] = [{"type": "array", "items": {"type": "string"}}, tags]
    default = {} if key.default is None else {"default": key.default}
    return {**schema, **_CHECKS.get(key.check, {}), **default}


def _object(keys: Mapping[str, Key]) -> dict[str, Any]:
    schema: dict[str, Any] = {
        "properties": {name: _key_schema(key) for name, key in keys.items()},
        "additionalProperties": False,
    }
    required = [name for name, key in keys.items() if key.required]
    return {**schema, "required": required} if required else schema
