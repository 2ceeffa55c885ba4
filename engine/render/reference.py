"""The reference, generated from the code: actions as text, tables of the language as Markdown."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import yaml

from engine.actions.composite_parameters import ChoiceOr, Record
from engine.actions.parameters import Duration
from engine.language import duration
from engine.language.findings import Findings
from engine.language.operators import OPERATORS
from engine.language.schema import MATCH, STEP
from engine.language.value_checks import duration_text
from engine.language.yaml_source import Document

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any

    from engine.actions.registry import Action, Parameter
    from engine.language.schema import Key

_OPERANDS = {
    "scalar": "one text, number or boolean",
    "scalars": "a list of texts, numbers, booleans",
    "text": "text",
    "networks": "a list of networks or addresses",
    "number": "a number",
    "bool": "`true` or `false`",
}
_TYPES = {
    "bool": "`true` or `false`",
    "integer": "a whole number",
    "any": "a mapping",
    "map": "a mapping",
    "tags": "a list of texts, or a mapping",
    "text": "text",
}


def action_lines(action: Action) -> Iterator[str]:
    """Yield the documentation of an action as text."""
    yield f"{action.name}  ({action.effect}{'' if action.repeatable else ', not repeatable'})"
    yield ""
    yield from action.doc.splitlines()
    if action.parameters:
        yield ""
        yield "with:"
    for parameter in action.parameters.values():
        default = "required" if parameter.required else _default(parameter)
        suffix = f" ({default})" if default else ""
        yield f"  {parameter.name}: {parameter.doc}{suffix}"
        kind = parameter.type.other if isinstance(parameter.type, ChoiceOr) else parameter.type
        if isinstance(kind, Record):
            yield from (f"    {key}: {doc}" for key, doc in kind.docs.items())
    rights = rights_of(action, action.example)
    if rights:
        yield ""
        yield "rights (for the example):"
        yield from (f"  {right}" for right in rights)
    yield ""
    yield "example:"
    example = {"action": action.name, "with": dict(action.example)}
    text = yaml.safe_dump([example], sort_keys=False, allow_unicode=True)
    yield from (f"  {line}" for line in text.splitlines())


def rights_of(action: Action, given: Mapping[str, Any]) -> list[str] | None:
    """Return the rights of a step with these parameters (``patch pods``); None if a parameter is not valid."""
    findings = Findings(Document("example", None))
    compiled = action.compile(dict(given), ("with",), findings, ())
    return (
        None if findings.entries else [" ".join(right) for right in sorted(action.needs(compiled))]
    )


def _default(parameter: Parameter) -> str:
    value = parameter.default
    if isinstance(parameter.type, Duration) and value is not None:
        return f"default: {duration.text(value)}"
    return "" if value is None else f"default: {json.dumps(value)}"


def key_rows(keys: Mapping[str, Key]) -> Iterator[str]:
    """Yield a table of the keys, with nested keys. ``match`` and steps have their own tables."""
    yield "| key | takes | |"
    yield "|---|---|---|"
    yield from _key_rows(keys, "")


def _key_rows(keys: Mapping[str, Key], before: str) -> Iterator[str]:
    for name, key in keys.items():
        needed = "**required**; " if key.required else ""
        yield f"| `{before}{name}` | {_takes(key)} | {needed}{key.doc} |"
        item = key.item if key.type == "list" else None
        if key is not MATCH and item is not STEP:
            inner, mark = (item, "[]") if item else (key, "")
            yield from _key_rows(inner.keys, f"{before}{name}{mark}.")


def _takes(key: Key) -> str:
    """Return which value a key takes, in a few words."""
    if key.words:
        return ", ".join(f"`{word}`" for word in key.words)
    if key.check is duration_text:
        return "a duration"
    if key.type == "list" and key.item:
        return {"text": "a list of texts", "map": "a list of mappings"}.get(key.item.type, "a list")
    return "a mapping of your own" if key.free else _TYPES[key.type]


def operator_rows() -> Iterator[str]:
    """Yield a table of the operators of conditions."""
    yield "| operator | takes | holds when the value |"
    yield "|---|---|---|"
    for name, operator in OPERATORS.items():
        yield f"| `{name}` | {_OPERANDS[operator.operand]} | {operator.doc} |"


def action_rows(actions: Iterable[Action]) -> Iterator[str]:
    """Yield a table of the actions by name, with links to their pages."""
    yield "| action | effect | |"
    yield "|---|---|---|"
    for action in sorted(actions, key=lambda action: action.name):
        summary = action.doc.splitlines()[0].replace("``", "`")
        yield f"| [`{action.name}`](actions/{action.name}.md) | {action.effect} | {summary} |"
