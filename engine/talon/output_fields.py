"""Talon's ``output_fields``: lists of ``field=value, field!=value``, compared as texts.

A list entry is an AND, the entries are an OR. Talon prints the event's value with Go's ``%v`` and compares the
texts: a list is ``[a b]``, null is ``<nil>``, a number is a float64, from 1e6 on with an exponent
(falco-talon 0.3, actionners.go and rules.go). So ``fd.rport=443`` holds on the number and on the text. It splits
by commas first and by ``=`` and ``!`` then, and silently leaves out what does not come apart in two.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from engine.falco.fields import field_named
from engine.model.event import ABSENT

if TYPE_CHECKING:
    from engine.talon.import_report import ImportReport
    from engine.talon.rules_file import SourceText

_COMPARISON = re.compile(r"([A-Za-z0-9_.\[\]]+)(!?=)(.*)", re.DOTALL)
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,24})(?:\.[0-9]{1,24})?(?:e[+-][0-9]{2,3})?")
_CONSTANTS: dict[str, Any] = {"true": True, "false": False}
_NULL = "<nil>"
_EXPONENT = 6
"""The decimal exponent from which on Go's ``%v`` prints a float64 with an exponent."""
_EXACT = 1 << 53
"""Beyond it several integers of an event are the same float64."""


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

    @property
    def is_absence(self) -> bool:
        """Whether it compares with a text that Tiercel takes for an absent value."""
        return self.text in ABSENT or self.text == _NULL


def read_comparisons(entry: SourceText, notes: ImportReport) -> list[Comparison]:
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
        _tell_printed(comparison, entry, notes)
        found.append(comparison)
    return found


def _comparison(name: str, negative: bool, text: str) -> Comparison:  # noqa: FBT001 - of one place
    if text in _CONSTANTS:
        return Comparison(name, negative, (_CONSTANTS[text], text))
    number = _number(text)
    return Comparison(name, negative, (text,) if number is None else (number, text))


def _number(text: str) -> int | float | None:
    """The number that a text means, where it means one exactly: Go's own form, or a large integer in full."""
    if not _NUMBER.fullmatch(text):
        return None
    number = float(text)
    if number.is_integer() and abs(number) < _EXACT:
        whole = int(number)
        return whole if text in (str(whole), _printed_by_go(number)) else None
    return number if abs(number) < _EXACT and text == _printed_by_go(number) else None


def _printed_by_go(number: float) -> str:
    """A float64 as Go's ``%v`` prints it: shortest digits, ``1e+06`` from a million on."""
    if not math.isfinite(number):
        return "+Inf" if number > 0 else "-Inf"
    sign, digits, shift = Decimal(repr(number)).normalize().as_tuple()
    assert isinstance(shift, int)  # noqa: S101 - it is a text for infinity only
    exponent = len(digits) + shift - 1
    if -4 <= exponent < _EXPONENT:  # noqa: PLR2004 - the lower bound of Go's %g
        return format(Decimal(repr(number)).normalize(), "f")
    rest = "".join(map(str, digits[1:]))
    mantissa = f"{digits[0]}.{rest}" if rest else str(digits[0])
    return f"{'-' * sign}{mantissa}e{exponent:+03d}"


def _tell_printed(comparison: Comparison, entry: SourceText, notes: ImportReport) -> None:
    """Tell of a comparison that Talon decides otherwise, because it compares with Go's text of the value."""
    field, text = comparison.field, comparison.text
    known = field_named(field)
    hint = None
    if text.startswith("[") and text.endswith("]"):
        what = f"Talon compares `{text}` with a whole list, which has no counterpart; it never holds here"
        lost, hint = True, f"{{field: {field}, intersects: [...]}}"
    elif known and known.many and not comparison.is_absence:
        what = (
            f"Falco gives `{field}` as a list, and Talon compares the text `[a b]` of it: there "
            + ("every list passes" if comparison.negative else "no list passes")
            + ", here the elements are compared"
        )
        lost = not comparison.negative
    elif _NUMBER.fullmatch(text) and (printed := _printed_by_go(float(text))) != text:
        same = len(comparison.values) > 1
        what = f"Talon prints such a number as {printed}, so it compares `{text}` with no number"
        what += "; here it does" if same else ""
        lost = same and not comparison.negative
    else:
        return
    if lost:
        notes.lost(entry.where, what, hint)
    else:
        notes.differs(entry.where, what, hint)


def _tell_absent(comparison: Comparison, entry: SourceText, notes: ImportReport) -> None:
    if not comparison.is_absence:
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
    if comparison.is_absence:
        return {"field": comparison.field, "exists": comparison.negative}
    if len(comparison.values) > 1:
        name, value = "notIn" if comparison.negative else "in", list(comparison.values)
        return {"field": comparison.field, name: value}
    name = "notEquals" if comparison.negative else "equals"
    return {"field": comparison.field, name: comparison.text}


def decided(comparison: Comparison) -> dict[str, Any]:
    """The condition for it in Talon's sense: never unknown because the field is absent."""
    there = {"field": comparison.field, "exists": True}
    if comparison.is_absence:
        return condition(comparison)
    if comparison.negative:
        return {"any": [there | {"exists": False}, condition(comparison)]}
    return {"all": [there, condition(comparison)]}


def all_of(comparisons: list[Comparison]) -> list[dict[str, Any]]:
    """The conditions of an entry; several ``!=`` on one field become one ``notIn``."""
    conditions: list[dict[str, Any]] = []
    refused: dict[str, list[Any]] = {}
    for comparison in comparisons:
        if not comparison.negative or comparison.is_absence:
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
