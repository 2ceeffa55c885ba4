"""Talon's ``output_fields``: entries such as ``field=value, field!=value``, compared as texts.

All comparisons of an entry must be true; one entry is enough. Talon prints the value of the event with Go's
``%v`` and compares the texts: a list is ``[a b]``, null is ``<nil>``, and a number is a float64, with an
exponent from 1e6 on (falco-talon 0.3, actionners.go and rules.go). So ``fd.rport=443`` is true for the number
and for the text. Talon first splits at commas, then at ``=`` and ``!``, and ignores parts that do not give
exactly two halves.
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
"""Go's ``%v`` prints a float64 with an exponent from this decimal exponent on."""
_EXACT = 1 << 53
"""Above this number, several integers have the same float64."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One comparison. values: the values of an event that equal the text; the text itself is the last."""

    field: str
    negative: bool
    values: tuple[Any, ...]

    @property
    def text(self) -> str:
        """The value as written in the rule."""
        return str(self.values[-1])

    @property
    def is_absence(self) -> bool:
        """Whether the value is a text that Tiercel treats as an absent value."""
        return self.text in ABSENT or self.text == _NULL


def read_comparisons(entry: SourceText, report: ImportReport) -> list[Comparison]:
    """Return the comparisons of an entry. Report those that Talon reads in another way."""
    found = []
    for part in entry.text.replace(", ", ",").split(","):
        parsed = _COMPARISON.fullmatch(part)
        if not parsed:
            what = f"`{part}` is not a comparison, so Talon refuses the file"
            hint = "field=value or field!=value; a value cannot contain a comma"
            report.error(entry.where, what, hint)
            continue
        name, operator, rest = parsed.groups()
        comparison = _comparison(name, operator == "!=", rest.replace('"', ""))
        if "!=" in rest or (comparison.negative and "=" in rest):
            what = f"Talon does not read `{part}` as one comparison: it is never true as written"
            report.error(entry.where, what)
        elif "=" in rest or (comparison.negative and "!" in rest):
            what = f"Talon ignores `{part}` because of the second sign; Tiercel does not ignore it"
            report.warning(entry.where, what)
        elif rest != rest.strip():
            what = f"the space in `{part}` is a part of the value, in Talon and in Tiercel"
            report.warning(entry.where, what, "a comma, one space, the next comparison")
        _report_absence(comparison, entry, report)
        _report_printing(comparison, entry, report)
        found.append(comparison)
    return found


def _comparison(name: str, negative: bool, text: str) -> Comparison:  # noqa: FBT001 - one caller
    if text in _CONSTANTS:
        return Comparison(name, negative, (_CONSTANTS[text], text))
    number = _number(text)
    return Comparison(name, negative, (text,) if number is None else (number, text))


def _number(text: str) -> int | float | None:
    """Return the number that the text denotes exactly: in Go's format, or a large integer in full."""
    if not _NUMBER.fullmatch(text):
        return None
    number = float(text)
    if number.is_integer() and abs(number) < _EXACT:
        integer = int(number)
        return integer if text in (str(integer), _printed_by_go(number)) else None
    return number if abs(number) < _EXACT and text == _printed_by_go(number) else None


def _printed_by_go(number: float) -> str:
    """Return a float64 as Go's ``%v`` prints it: the shortest digits, and ``1e+06`` from a million on."""
    if not math.isfinite(number):
        return "+Inf" if number > 0 else "-Inf"
    sign, digits, shift = Decimal(repr(number)).normalize().as_tuple()
    assert isinstance(shift, int)  # noqa: S101 - it is text only for infinity
    exponent = len(digits) + shift - 1
    if -4 <= exponent < _EXPONENT:  # noqa: PLR2004 - the lower limit of Go's %g
        return format(Decimal(repr(number)).normalize(), "f")
    rest = "".join(map(str, digits[1:]))
    mantissa = f"{digits[0]}.{rest}" if rest else str(digits[0])
    return f"{'-' * sign}{mantissa}e{exponent:+03d}"


def _report_printing(comparison: Comparison, entry: SourceText, report: ImportReport) -> None:
    """Report a comparison with another result in Talon, which compares with the text that Go prints."""
    field, text = comparison.field, comparison.text
    known = field_named(field)
    hint = None
    if text.startswith("[") and text.endswith("]"):
        what = (
            f"Talon compares `{text}` with the text of a whole list; in Tiercel this is never true"
        )
        is_error, hint = True, f"{{field: {field}, intersects: [...]}}"
    elif known and known.many and not comparison.is_absence:
        what = (
            f"`{field}` is a list in Falco's events. Talon compares its text `[a b]`, so "
            + ("every list passes" if comparison.negative else "no list passes")
            + "; Tiercel compares the elements"
        )
        is_error = not comparison.negative
    elif _NUMBER.fullmatch(text) and (printed := _printed_by_go(float(text))) != text:
        matches_number = len(comparison.values) > 1
        what = f"Talon prints such a number as {printed}, so `{text}` does not equal any number"
        what += "; in Tiercel it does" if matches_number else ""
        is_error = matches_number and not comparison.negative
    else:
        return
    if is_error:
        report.error(entry.where, what, hint)
    else:
        report.warning(entry.where, what, hint)


def _report_absence(comparison: Comparison, entry: SourceText, report: ImportReport) -> None:
    if not comparison.is_absence:
        return
    shown = comparison.text or "an empty text"
    if comparison.negative:
        written = "notEquals: <nil>" if comparison.text == _NULL else "exists: true"
        what = (
            f"`{comparison.field}!={comparison.text}` becomes `{written}`, because {shown} counts "
            "as absent in Tiercel"
        )
        report.warning(entry.where, what)
    else:
        what = (
            f"`{comparison.field}={comparison.text}` becomes `exists: false`, which is also true for "
            f"an event without the field, because {shown} counts as absent in Tiercel"
        )
        report.error(entry.where, what)


def condition(comparison: Comparison) -> dict[str, Any]:
    """Return the condition with Tiercel's semantics: unknown if the field is absent."""
    if comparison.negative and comparison.text == _NULL:
        # Absent in Tiercel, and therefore unknown. An event can also have the text.
        return {"field": comparison.field, "notEquals": _NULL}
    if comparison.is_absence:
        return {"field": comparison.field, "exists": comparison.negative}
    if len(comparison.values) > 1:
        name, value = "notIn" if comparison.negative else "in", list(comparison.values)
        return {"field": comparison.field, name: value}
    name = "notEquals" if comparison.negative else "equals"
    return {"field": comparison.field, name: comparison.text}


def exact_condition(comparison: Comparison) -> dict[str, Any]:
    """Return the condition with Talon's semantics: never unknown if the field is absent.

    For a comparison with an absent value, the condition is true for more events than in Talon. Its negation
    excludes these events too, so a later playbook does less, not more.
    """
    present = {"field": comparison.field, "exists": True}
    absent = {"field": comparison.field, "exists": False}
    if comparison.is_absence:
        # Talon distinguishes null, an empty text and a missing field; each of them can pass `!=`
        return {"any": [present, absent]} if comparison.negative else absent
    if comparison.negative:
        return {"any": [absent, condition(comparison)]}
    return {"all": [present, condition(comparison)]}


def conditions_of(comparisons: list[Comparison]) -> list[dict[str, Any]]:
    """Return the conditions of an entry. Several ``!=`` on one field become one ``notIn``."""
    conditions: list[dict[str, Any]] = []
    excluded: dict[str, list[Any]] = {}
    for comparison in comparisons:
        if not comparison.negative or comparison.is_absence:
            conditions.append(condition(comparison))
        elif comparison.field in excluded:
            excluded[comparison.field] += comparison.values
        else:
            excluded[comparison.field] = list(comparison.values)
    for field, values in excluded.items():
        operator = (
            {"notEquals": values[0]} if len(values) == 1 else {"notIn": list(dict.fromkeys(values))}
        )
        conditions.append({"field": field, **operator})
    return conditions
