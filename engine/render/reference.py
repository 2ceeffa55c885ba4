"""An action's documentation, made from its signature and docstring."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from engine.actions.action import Action


def action_lines(action: Action) -> Iterator[str]:
    """The documentation of an action as text."""
    yield f"{action.name}  ({action.effect}{'' if action.repeatable else ', not repeatable'})"
    yield ""
    yield from action.doc.splitlines()
    if action.parameters:
        yield ""
        yield "with:"
    for parameter in action.parameters.values():
        default = "required" if parameter.required else _default(parameter.default)
        told = f" ({default})" if default else ""
        yield f"  {parameter.name}: {parameter.doc}{told}"
    compiled: Mapping[str, Any] = action.example
    rights = sorted(action.needs(compiled))
    if rights:
        yield ""
        yield "needs (as in the example):"
        yield from (f"  {verb} {resource}" for verb, resource in rights)
    yield ""
    yield "example:"
    example = {"action": action.name, "with": dict(action.example)}
    text = yaml.safe_dump([example], sort_keys=False, allow_unicode=True)
    yield from (f"  {line}" for line in text.splitlines())


def _default(value: Any) -> str:
    return "" if value is None else f"default: {json.dumps(value)}"
