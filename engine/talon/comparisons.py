"""Talon's ``output_fields``: lists of ``field=value, field!=value``, compared as texts.

A list entry is an AND, the entries are an OR. Talon prints the event's value (Go's ``%v``) and compares the
texts, so ``fd.rport=443`` holds on the number and on the text. It splits by commas first and by ``=`` and
``!`` then, and silently leaves out what does not come apart in two.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.event import ABSENT

if TYPE_CHECKING:
    from engine.talon.notes import Notes
    from engine.talon.rules import Said

_COMPARISON = re.compile(r"([A-Za-z0-9_.\[\]]+)(!?=)(.*)", re.DOTALL)
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,19})(?:\.[0-9]{1,15})?")
_CONSTANTS: dict[str, Any] = {"true": True, "false": False}


@dataclass(frozen=True, slots=True)
class Comparison:
    """One comparison. values: what equals its text in an event, the text itself last."""

    field: str
    negative: bool
    values: tuple[Any, ...]

    @property
    def text(self) -> str:
        """The value as it was written."""
        return str(self.values[-1])


def read_comparisons(entry: Said, notes: Notes) -> list[Comparison]:
    """The comparisons of an entry, all of which must hold; what Talon reads otherwise is told."""
    found = []
    for part in entry.text.replace(", ", ",").split(","):
        parsed = _COMPARISON.fullmatch(part)
        if not parsed:
            what = f"`{part}` is no comparison, and Talon refuses the file"
            notes.lost(entry.where, what, "field=value or field!=value; a value has no comma")
            continue
        name, operator, rest = parsed.groups()
        comparison = _comparison(name, operator == "!=", rest.replace('"', ""))
        if "!=" in rest or (comparison.negative and "=" in rest):
            what = f"Talon does not read `{part}` as one comparison: it never matches as written"
            notes.lost(entry.where, what)
        elif "=" in rest or (comparison.negative and "!" in rest):
            what = f"Talon ignores `{part}`, for it takes no second sign; here it narrows"
            notes.differs(entry.where, what)
        elif rest != rest.strip():
            what = f"Talon takes the space in `{part}` for a part of the value; so it does here"
            notes.differs(entry.where, what, "a comma, one space, the next comparison")
        _tell_absent(comparison, entry, notes)
        found.append(comparison)
    return found


def _comparison(name: str, negative: bool, text: str) -> Comparison:  # noqa: FBT001 - of one place
    typed: tuple[Any, ...] = ()
    if text in _CONSTANTS:
        typed = (_CONSTANTS[text],)
    elif _NUMBER.fullmatch(text):
        number: int | float = float(text) if "." in text else int(text)
        # as Go's %v prints it: shortest form, no exponent below 1e21
        typed = (number,) if str(number) == text else ()
    return Comparison(name, negative, (*typed, text))


def _tell_absent(comparison: Comparison, entry: Said, notes: Notes) -> None:
    if comparison.text not in ABSENT:
        return
    shown = comparison.text or "an empty text"
    if comparison.negative:
        what = (
            f"`{comparison.field}!={comparison.text}` became `exists: true`: {shown} is absent here"
        )
        notes.differs(entry.where, what)
    else:
        what = (
            f"`{comparison.field}={comparison.text}` became `exists: false`, which holds on an "
            f"event without the field, too: {shown} is absent here"
        )
        notes.lost(entry.where, what)


def condition(comparison: Comparison) -> dict[str, Any]:
    """The condition for it in Tiercel's sense: unknown where the field is absent."""
    if comparison.text in ABSENT:
        return {"field": comparison.field, "exists": comparison.negative}
    if len(comparison.values) > 1:
        name, value = "notIn" if comparison.negative else "in", list(comparison.values)
        return {"field": comparison.field, name: value}
    name = "notEquals" if comparison.negative else "equals"
    return {"field": comparison.field, name: comparison.text}


def decided(comparison: Comparison) -> dict[str, Any]:
    """The condition for it in Talon's sense: never unknown because the field is absent."""
    there = {"field": comparison.field, "exists": True}
    if comparison.text in ABSENT:
        return condition(comparison)
    if comparison.negative:
        return {"any": [there | {"exists": False}, condition(comparison)]}
    return {"all": [there, condition(comparison)]}


def all_of(comparisons: list[Comparison]) -> list[dict[str, Any]]:
    """The conditions of an entry; several ``!=`` on one field become one ``notIn``."""
    conditions: list[dict[str, Any]] = []
    refused: dict[str, list[Any]] = {}
    for comparison in comparisons:
        if not comparison.negative or comparison.text in ABSENT:
            conditions.append(condition(comparison))
        elif comparison.field in refused:
            refused[comparison.field] += comparison.values
        else:
            refused[comparison.field] = list(comparison.values)
    for field, values in refused.items():
        one = (
            {"notEquals": values[0]} if len(values) == 1 else {"notIn": list(dict.fromkeys(values))}
        )
        conditions.append({"field": field, **one})
    return conditions
