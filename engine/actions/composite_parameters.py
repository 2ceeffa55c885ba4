"""The parameter types that contain others: lists, mappings, records, JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from engine.actions.parameters import (
    Choice,
    Duration,
    ParameterType,
    Secret,
    Text,
    check_label_key,
    check_label_value,
)
from engine.language.findings import nearest
from engine.language.template import Template
from engine.model.calls import SecretName

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from engine.language.findings import Findings
    from engine.language.template import TemplateContext
    from engine.language.yaml_source import Path
    from engine.model.event import Event


class ListOf(msgspec.Struct, frozen=True):
    """A list with at least one item, all of one type."""

    item: ParameterType

    def compile(self, data: Any, path: Path, findings: Findings, steps: tuple[str, ...]) -> Any:
        """Return the compiled items."""
        if not isinstance(data, list) or not data:
            findings.add(path, "bad-parameter", f"`{path[-1]}` takes a list with at least one item")
            return None
        return [self.item.compile(one, (*path, n), findings, steps) for n, one in enumerate(data)]

    def render(self, value: Any, event: Event, context: TemplateContext) -> Any:
        """Return the rendered items."""
        return [self.item.render(one, event, context) for one in value]

    def schema(self) -> dict[str, Any]:
        """Return the schema of an array."""
        return {"type": "array", "minItems": 1, "items": self.item.schema()}


class MapOf(msgspec.Struct, frozen=True):
    """A mapping with at least one key that the author chooses, and values of one type.

    key: returns what is wrong with a key, or None. nullable: whether null is a valid value.
    """

    item: ParameterType
    key: Callable[[str], str | None] | None = None
    nullable: bool = False

    def compile(self, data: Any, path: Path, findings: Findings, steps: tuple[str, ...]) -> Any:
        """Return key -> compiled value."""
        if not isinstance(data, dict) or not data:
            findings.add(
                path, "bad-parameter", f"`{path[-1]}` takes a mapping with at least one key"
            )
            return None
        for key in data:
            fault = self.key and self.key(key)
            if fault:
                findings.add((*path, key), "bad-parameter", f"`{key[:80]}` {fault}", key=True)
        return {
            key: None
            if one is None and self.nullable
            else self.item.compile(one, (*path, key), findings, steps)
            for key, one in data.items()
        }

    def render(self, value: Any, event: Event, context: TemplateContext) -> Any:
        """Return key -> rendered value."""
        return {
            key: None if one is None else self.item.render(one, event, context)
            for key, one in value.items()
        }

    def schema(self) -> dict[str, Any]:
        """Return the schema of an object with any keys."""
        item = self.item.schema()
        if self.nullable:
            item = {"anyOf": [item, {"type": "null"}]}
        return {"type": "object", "minProperties": 1, "additionalProperties": item}


class Record(msgspec.Struct, frozen=True):
    """A mapping with fixed, optional keys. docs: key -> a sentence about it."""

    keys: Mapping[str, ParameterType]
    docs: Mapping[str, str] = msgspec.field(default_factory=dict)

    def compile(self, data: Any, path: Path, findings: Findings, steps: tuple[str, ...]) -> Any:
        """Return key -> compiled value."""
        if not isinstance(data, dict):
            findings.add(path, "bad-parameter", f"`{path[-1]}` takes a mapping")
            return None
        for key in data.keys() - self.keys.keys():
            hint = nearest(key, self.keys) or ", ".join(self.keys)
            findings.add(
                (*path, key), "bad-parameter", f"`{path[-1]}` has no `{key}`", hint, key=True
            )
        return {
            key: self.keys[key].compile(one, (*path, key), findings, steps)
            for key, one in data.items()
            if key in self.keys
        }

    def render(self, value: Any, event: Event, context: TemplateContext) -> Any:
        """Return key -> rendered value."""
        return {key: self.keys[key].render(one, event, context) for key, one in value.items()}

    def schema(self) -> dict[str, Any]:
        """Return the schema of an object with these keys."""
        keys = {
            key: {**kind.schema(), "description": self.docs.get(key, "")}
            for key, kind in self.keys.items()
        }
        return {"type": "object", "properties": keys, "additionalProperties": False}


class Json(msgspec.Struct, frozen=True):
    """Any JSON. Its strings can have templates. A value from an event stays inside its string."""

    escape: Callable[[str], str] | None = None

    def compile(self, data: Any, path: Path, findings: Findings, steps: tuple[str, ...]) -> Any:
        """Return the structure with compiled strings."""
        if isinstance(data, dict):
            return {k: self.compile(v, (*path, k), findings, steps) for k, v in data.items()}
        if isinstance(data, list):
            return [self.compile(v, (*path, n), findings, steps) for n, v in enumerate(data)]
        if isinstance(data, str):
            return Text(escape=self.escape).compile(data, path, findings, steps)
        return data

    def render(self, value: Any, event: Event, context: TemplateContext) -> Any:
        """Return the structure with rendered strings."""
        if isinstance(value, dict):
            return {k: self.render(v, event, context) for k, v in value.items()}
        if isinstance(value, list):
            return [self.render(v, event, context) for v in value]
        if isinstance(value, Template):
            return value.render(event, context, self.escape)
        return value

    def schema(self) -> dict[str, Any]:
        """Return the schema of any value."""
        return {}


class SecretOr(msgspec.Struct, frozen=True):
    """A secret (``{fromSecret: NAME}``), or a value of another type."""

    other: ParameterType

    def compile(self, data: Any, path: Path, findings: Findings, steps: tuple[str, ...]) -> Any:
        """Return a SecretName, or the compiled value of the other type."""
        secret = isinstance(data, dict) and "fromSecret" in data
        return (Secret() if secret else self.other).compile(data, path, findings, steps)

    def render(self, value: Any, event: Event, context: TemplateContext) -> Any:
        """Return the SecretName, or the rendered value of the other type."""
        if isinstance(value, SecretName):
            return value
        return self.other.render(value, event, context)

    def schema(self) -> dict[str, Any]:
        """Return the schema of either type."""
        return {"anyOf": [Secret().schema(), self.other.schema()]}


class ChoiceOr(msgspec.Struct, frozen=True):
    """One of several words, or a mapping of another type."""

    words: tuple[str, ...]
    other: ParameterType

    def compile(self, data: Any, path: Path, findings: Findings, steps: tuple[str, ...]) -> Any:
        """Return the word, or the compiled mapping."""
        kind = self.other if isinstance(data, dict) else Choice(self.words)
        return kind.compile(data, path, findings, steps)

    def render(self, value: Any, event: Event, context: TemplateContext) -> Any:
        """Return the word, or the rendered mapping."""
        return value if isinstance(value, str) else self.other.render(value, event, context)

    def schema(self) -> dict[str, Any]:
        """Return the schema of either type."""
        return {"anyOf": [Choice(self.words).schema(), self.other.schema()]}


Labels = Annotated[
    dict[str, str | None], MapOf(Text(check_label_value), check_label_key, nullable=True)
]
Annotations = Annotated[dict[str, str | None], MapOf(Text(), check_label_key, nullable=True)]
Ttl = Annotated[float | None, Duration()]
