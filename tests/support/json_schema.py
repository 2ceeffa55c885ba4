"""A validator of JSON Schema, to check the schemas that the engine publishes."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from engine.actions.registry import load_actions
from engine.language.json_schema import schema

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator


def validator_of(document: dict[str, Any]) -> Draft202012Validator:
    """Return the validator of a schema."""
    from jsonschema import Draft202012Validator  # noqa: PLC0415 - takes as long as 20 test files

    return Draft202012Validator(document)


@functools.cache
def language_validator() -> Draft202012Validator:
    """Return the validator of the schema of playbooks."""
    return validator_of(schema(load_actions()))
