"""The output fields that a playbook or silence refers to: in conditions, throttle keys and templates."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from engine.falco.fields import has_falco_prefix, type_of
from engine.language.jsonpath import PathError, field_of, keys_of
from engine.language.operators import OPERATORS, display_text, value_type
from engine.language.template import TemplateError, compile_template

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from engine.language.yaml_source import Path

MissingField = tuple["Path", str, str]
"""The path of the reference, the output field, and the effect if events do not have the field."""

_NUMBER = re.compile(r"[-+]?[0-9]{1,40}(\.[0-9]{1,40})?")
_PHASES = ("actions", "finally")


def field_references(spec: dict[str, Any]) -> Iterator[tuple[Path, str]]:
    """Yield the path and the name of every output field that the spec refers to, including ``exists``."""
    for path, items in _condition_lists(spec):
        for where, item in _leaves(items, path):
            field, key = _field_of_condition(item)
            if field is not None:
                yield (*where, key), field
    for n, field in enumerate(_throttle_key(spec)):
        yield ("spec", "throttle", "key", n), field
    yield from _template_fields(spec)


def split_field_names(spec: dict[str, Any]) -> Iterator[tuple[Path, str]]:
    """Yield JSONPaths that split a field name, such as ``$.output_fields.proc.name``, with the name.

    The key of ``output_fields`` is ``proc.name``, so such a path never finds anything.
    """
    for path, items in _condition_lists(spec):
        for where, item in _leaves(items, path):
            try:
                keys = keys_of(str(item.get("jsonPath", ""))) or ()
            except PathError:
                continue
            names = [key for key in keys if isinstance(key, str)]
            is_nested = len(names) == len(keys) > 2 and names[0] == "output_fields"  # noqa: PLR2004
            if is_nested and "." not in names[1] and has_falco_prefix(f"{names[1]}."):
                yield (*where, "jsonPath"), ".".join(names[1:])


def conditions_never_true(spec: dict[str, Any], fields: Collection[str]) -> Iterator[MissingField]:
    """Yield the fields that make a condition of the spec false for every event.

    fields: the output fields that the events have.
    """
    for path, items in _condition_lists(spec):
        for n, item in enumerate(items):
            for where, field in _missing_fields(item, (*path, n), fields):
                yield where, field, "the condition is never true"


def _missing_fields(item: Any, path: Path, fields: Collection[str]) -> list[tuple[Path, str]]:
    """Return the references that keep a condition from being true; empty if it can be true."""
    if not isinstance(item, dict):
        return []
    if "all" in item:
        parts = _missing_in_each(item["all"], (*path, "all"), fields)
        return [reference for part in parts for reference in part]
    if "any" in item:
        parts = _missing_in_each(item["any"], (*path, "any"), fields)
        return [reference for part in parts for reference in part] if all(parts) else []
    if "not" in item:
        return _missing_fields(item["not"], (*path, "not"), fields)
    field, key = _field_of_condition(item)
    # Falco has no names without a dot. A component between Falco and Tiercel adds such fields.
    if field is None or "exists" in item or "." not in field or field in fields:
        return []
    return [((*path, key), field)]


def _missing_in_each(
    items: Any, path: Path, fields: Collection[str]
) -> list[list[tuple[Path, str]]]:
    given = items if isinstance(items, list) else []
    return [_missing_fields(item, (*path, n), fields) for n, item in enumerate(given)]


def missing_throttle_keys(spec: dict[str, Any], fields: Collection[str]) -> Iterator[MissingField]:
    """Yield the fields of the throttle key that events do not have."""
    for n, field in enumerate(_throttle_key(spec)):
        if "." in field and field not in fields:
            yield ("spec", "throttle", "key", n), field, "it does not separate events"


def missing_template_fields(
    spec: dict[str, Any], fields: Collection[str]
) -> Iterator[MissingField]:
    """Yield the fields that templates in ``with:`` refer to and events do not have."""
    for path, field in _template_fields(spec):
        if "." in field and field not in fields:
            yield path, field, "the template prints <NA>"


def _template_fields(spec: dict[str, Any]) -> Iterator[tuple[Path, str]]:
    steps = {
        str(step.get("name") or step["action"])
        for phase in _PHASES
        for step in spec.get(phase) or ()
    }
    for phase in _PHASES:
        for n, step in enumerate(spec.get(phase) or ()):
            for path, text in _texts(step.get("with"), ("spec", phase, n, "with")):
                for field in dict.fromkeys(_fields_of_template(text, steps)):
                    yield path, field


def _fields_of_template(text: str, steps: Collection[str]) -> Iterator[str]:
    try:
        yield from compile_template(text, steps).fields
    except TemplateError:  # the parameter is not a template; the action uses the text as it is
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
    """Yield (path, message, hint) for operands whose JSON type the field never has in Falco's events.

    A list is accepted if one of its operands has the right type.
    """
    for path, items in _condition_lists(spec):
        for where, item in _leaves(items, path):
            field, _ = _field_of_condition(item)
            operator = next((name for name in item if name in OPERATORS), None)
            kind = type_of(field) if field else None
            if field is None or kind is None or operator is None or operator == "exists":
                continue
            given = item[operator] if isinstance(item[operator], list) else [item[operator]]
            if any(value_type(operand) == kind for operand in given):
                continue
            found = value_type(given[0])
            what = (
                f"`{field[:80]}` is a {kind} in Falco's events, and the operand is a {found}, "
                "so the condition is never true"
            )
            yield (*where, operator), what, _correction(kind, given[0], operator)


def _correction(kind: str, operand: Any, operator: str) -> str | None:
    """Return how to write the operand as a value of that type, or the operators that accept the type."""
    takes = OPERATORS[operator].operand
    if takes not in ("scalar", "scalars"):
        return "equals, notEquals, in or notIn" + (", gt, gte, lt, lte" * (kind == "number"))
    if kind == "text" and not isinstance(operand, str):
        return f'"{display_text(operand)}"'
    words = ("true", "false") if kind == "boolean" else ()
    is_number = kind == "number" and isinstance(operand, str) and _NUMBER.fullmatch(operand)
    return f"{operand}, without quotes" if operand in words or is_number else None


def _field_of_condition(item: dict[str, Any]) -> tuple[str | None, str]:
    """Return the output field that a condition reads, and the key of the condition that names it."""
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
    """Yield the conditions with an operator, including those inside groups."""
    if isinstance(item, list):
        for n, inner in enumerate(item):
            yield from _leaves(inner, (*path, n))
    elif isinstance(item, dict):
        groups = [word for word in ("all", "any", "not") if word in item]
        for word in groups:
            yield from _leaves(item[word], (*path, word))
        if not groups:
            yield path, item
