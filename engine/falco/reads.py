"""What a playbook reads of an event, and where: conditions, throttle keys, templates."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from engine.falco.types import type_of
from engine.language.jsonpath import PathError, field_of
from engine.language.operators import OPERATORS
from engine.language.template import TemplateError, compile_template

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from engine.language.source import Path

Read = tuple["Path", str, str]
"""Where it stands, the output field, and what it means that the field is absent."""

_NUMBER = re.compile(r"[-+]?\d+(\.\d+)?")
_PHASES = ("actions", "finally")


def dead(spec: dict[str, Any], printed: Collection[str]) -> Iterator[Read]:
    """Conditions that can never hold, for their field is never printed."""
    for path, items in _condition_lists(spec):
        for n, item in enumerate(items):
            for where, field in _dead(item, (*path, n), printed):
                yield where, field, "the condition never holds"


def _dead(item: Any, path: Path, printed: Collection[str]) -> list[tuple[Path, str]]:
    """The leaves that keep a condition from ever holding; none where it may hold."""
    if not isinstance(item, dict):
        return []
    if "all" in item:
        parts = _parts(item["all"], (*path, "all"), printed)
        return [leaf for part in parts for leaf in part]
    if "any" in item:
        parts = _parts(item["any"], (*path, "any"), printed)
        return [leaf for part in parts for leaf in part] if all(parts) else []
    if "not" in item:
        return _dead(item["not"], (*path, "not"), printed)
    field, word = field_read(item)
    # a name without a dot is none of Falco's: somebody adds it to his events on the way
    if field is None or "exists" in item or "." not in field or field in printed:
        return []
    return [((*path, word), field)]


def _parts(items: Any, path: Path, printed: Collection[str]) -> list[list[tuple[Path, str]]]:
    given = items if isinstance(items, list) else []
    return [_dead(item, (*path, n), printed) for n, item in enumerate(given)]


def keys_of_throttle(spec: dict[str, Any], printed: Collection[str]) -> Iterator[Read]:
    """Fields of the throttle's key that are never printed."""
    for n, field in enumerate((spec.get("throttle") or {}).get("key") or ()):
        if "." in field and field not in printed:
            yield ("spec", "throttle", "key", n), field, "it tells no two events apart"


def templates(spec: dict[str, Any], printed: Collection[str]) -> Iterator[Read]:
    """Fields that texts of ``with:`` name and that are never printed."""
    for phase in _PHASES:
        for n, step in enumerate(spec.get(phase) or ()):
            for path, text in _texts(step.get("with"), ("spec", phase, n, "with")):
                for field in dict.fromkeys(_named(text)):
                    if field not in printed:
                        yield path, field, "it reads <NA>"


def _named(text: str) -> Iterator[str]:
    """The output fields that a template names."""
    try:
        yield from compile_template(text).fields
    except TemplateError:  # it speaks of steps, of which it knows nothing here
        return


def _texts(value: Any, path: Path) -> Iterator[tuple[Path, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _texts(inner, (*path, key))
    elif isinstance(value, list):
        for n, inner in enumerate(value):
            yield from _texts(inner, (*path, n))


def quoted(spec: dict[str, Any]) -> Iterator[tuple[Path, str, str]]:
    """Operands of another type than Falco gives the field, which can never decide: where, what, hint."""
    for path, items in _condition_lists(spec):
        for where, item in _leaves(items, path):
            field, _ = field_read(item)
            operator = next((name for name in item if name in OPERATORS), None)
            kind = type_of(field) if field else None
            if kind is None or operator is None or operator == "exists":
                continue
            given = item[operator] if isinstance(item[operator], list) else [item[operator]]
            wrong = [operand for operand in given if _is_other(kind, operand)]
            if wrong:
                what = f"`{field}` is a {kind} in Falco's events, and `{wrong[0]}` here is none"
                hint = f'"{wrong[0]}"' if kind == "text" else f"{wrong[0]}, without quotes"
                yield (*where, operator), what, hint


def _is_other(kind: str, operand: Any) -> bool:
    """Whether an operand looks like a value of that kind written as another one."""
    if kind == "number":
        return isinstance(operand, str) and _NUMBER.fullmatch(operand) is not None
    if kind == "boolean":
        return isinstance(operand, str) and operand in ("true", "false")
    return isinstance(operand, (int, float)) and not isinstance(operand, bool)


def field_read(item: dict[str, Any]) -> tuple[str | None, str]:
    """The output field that a condition looks at, and the word that names it."""
    if isinstance(item.get("field"), str):
        return item["field"], "field"
    try:
        return field_of(str(item.get("jsonPath", ""))), "jsonPath"
    except PathError:
        return None, "jsonPath"


def _condition_lists(spec: dict[str, Any]) -> Iterator[tuple[Path, list[Any]]]:
    yield ("spec", "conditions"), spec.get("conditions") or []
    for phase in _PHASES:
        for n, step in enumerate(spec.get(phase) or ()):
            given = [c if "step" not in c else None for c in step.get("when") or ()]
            yield ("spec", phase, n, "when"), given


def _leaves(item: Any, path: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The conditions with an operator, those within groups too."""
    if isinstance(item, list):
        for n, inner in enumerate(item):
            yield from _leaves(inner, (*path, n))
    elif isinstance(item, dict):
        groups = [word for word in ("all", "any", "not") if word in item]
        for word in groups:
            yield from _leaves(item[word], (*path, word))
        if not groups:
            yield path, item
