"""The output fields that a playbook or silence reads, and where: conditions, throttle keys, templates."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from engine.falco.fields import is_of_falco, type_of
from engine.language.jsonpath import PathError, field_of, keys_of
from engine.language.operators import OPERATORS, kind_of, text_of
from engine.language.template import TemplateError, compile_template

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from engine.language.yaml_source import Path

Read = tuple["Path", str, str]
"""Where it stands, the output field, and what it means that the field is absent."""

_NUMBER = re.compile(r"[-+]?[0-9]{1,40}(\.[0-9]{1,40})?")
_PHASES = ("actions", "finally")


def all_fields(spec: dict[str, Any]) -> Iterator[tuple[Path, str]]:
    """Every output field that is read, those of ``exists`` included, with the place that names it."""
    for path, items in _condition_lists(spec):
        for where, item in _leaves(items, path):
            field, word = field_read(item)
            if field is not None:
                yield (*where, word), field
    for n, field in enumerate(_throttle_key(spec)):
        yield ("spec", "throttle", "key", n), field
    yield from _template_fields(spec)


def split_paths(spec: dict[str, Any]) -> Iterator[tuple[Path, str]]:
    """JSONPaths such as ``$.output_fields.proc.name``, where the key is ``proc.name``; with that key."""
    for path, items in _condition_lists(spec):
        for where, item in _leaves(items, path):
            try:
                keys = keys_of(str(item.get("jsonPath", ""))) or ()
            except PathError:
                continue
            names = [key for key in keys if isinstance(key, str)]
            is_nested = len(names) == len(keys) > 2 and names[0] == "output_fields"  # noqa: PLR2004
            if is_nested and "." not in names[1] and is_of_falco(f"{names[1]}."):
                yield (*where, "jsonPath"), ".".join(names[1:])


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
    for n, field in enumerate(_throttle_key(spec)):
        if "." in field and field not in printed:
            yield ("spec", "throttle", "key", n), field, "it tells no two events apart"


def templates(spec: dict[str, Any], printed: Collection[str]) -> Iterator[Read]:
    """Fields that texts of ``with:`` name and that are never printed."""
    for path, field in _template_fields(spec):
        if "." in field and field not in printed:
            yield path, field, "it reads <NA>"


def _template_fields(spec: dict[str, Any]) -> Iterator[tuple[Path, str]]:
    steps = {
        str(step.get("name") or step["action"])
        for phase in _PHASES
        for step in spec.get(phase) or ()
    }
    for phase in _PHASES:
        for n, step in enumerate(spec.get(phase) or ()):
            for path, text in _texts(step.get("with"), ("spec", phase, n, "with")):
                for field in dict.fromkeys(_named(text, steps)):
                    yield path, field


def _named(text: str, steps: Collection[str]) -> Iterator[str]:
    """The output fields that a template names."""
    try:
        yield from compile_template(text, steps).fields
    except TemplateError:  # not a template: a text that the action takes as it is
        return


def _throttle_key(spec: dict[str, Any]) -> list[str]:
    return (spec.get("throttle") or {}).get("key") or []


def _texts(value: Any, path: Path) -> Iterator[tuple[Path, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _texts(inner, (*path, key))
    elif isinstance(value, list):
        for n, inner in enumerate(value):
            yield from _texts(inner, (*path, n))


def mistyped_operands(spec: dict[str, Any]) -> Iterator[tuple[Path, str, str | None]]:
    """Operators that can never decide, because Falco gives the field another JSON type: where, what, hint.

    A list with one operand of the right type can decide.
    """
    for path, items in _condition_lists(spec):
        for where, item in _leaves(items, path):
            field, _ = field_read(item)
            operator = next((name for name in item if name in OPERATORS), None)
            kind = type_of(field) if field else None
            if field is None or kind is None or operator is None or operator == "exists":
                continue
            given = item[operator] if isinstance(item[operator], list) else [item[operator]]
            if any(kind_of(operand) == kind for operand in given):
                continue
            found = kind_of(given[0])
            what = (
                f"`{field[:80]}` is a {kind} in Falco's events, and the operand is a {found}, "
                "so the condition never holds"
            )
            yield (*where, operator), what, _as(kind, given[0], operator)


def _as(kind: str, operand: Any, operator: str) -> str | None:
    """How to write an operand as a value of that type, or which operators compare this type."""
    takes = OPERATORS[operator].operand
    if takes not in ("scalar", "scalars"):
        return "equals, notEquals, in or notIn" + (", gt, gte, lt, lte" * (kind == "number"))
    if kind == "text" and not isinstance(operand, str):
        return f'"{text_of(operand)}"'
    words = ("true", "false") if kind == "boolean" else ()
    is_number = kind == "number" and isinstance(operand, str) and _NUMBER.fullmatch(operand)
    return f"{operand}, without quotes" if operand in words or is_number else None


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
