"""Convert Talon's ``match`` into keys of ``match`` with the same meaning, and into conditions for the rest."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from engine.model.event import PRIORITIES, parse_priority
from engine.model.name_patterns import is_glob
from engine.talon.output_fields import conditions_of, exact_condition, read_comparisons

if TYPE_CHECKING:
    from engine.talon.import_report import ImportReport
    from engine.talon.output_fields import Comparison
    from engine.talon.rules_file import Match, SourceText

_PRIORITY = re.compile(r"(<=|>=|<|>|=)?([A-Za-z]*)")
_TAG = re.compile(r"[A-Za-z0-9_.]*[A-Za-z0-9]")


@dataclass(slots=True)
class ConvertedMatch:
    """The events that a playbook matches. They are a subset of the events that Talon's rule matches.

    match, conditions: for the playbook.
    exact: conditions that are true for the events of Talon's rule, also if fields are absent. They are true for
        more events only if the rule compares with an absent value (see ``exact_condition``).
    rules, source: the names in ``match``, to compare two rules; empty or None if not restricted.
    complete: no part was lost that would exclude events.
    """

    match: dict[str, Any] = field(default_factory=dict)
    conditions: list[dict[str, Any]] = field(default_factory=list)
    exact: list[dict[str, Any]] = field(default_factory=list)
    rules: frozenset[str] = frozenset()
    source: str | None = None
    complete: bool = True


def convert_match(match: Match, report: ImportReport) -> ConvertedMatch:
    """Convert the match of a rule. The result does not match any event that Talon's rule does not match."""
    errors_before = report.errors
    converted = ConvertedMatch()
    _rules(match, converted)
    if match.priority:
        _priority(match.priority, converted, report)
    if match.source:
        _source(match.source, converted, report)
    _tags(match.tags, converted, report)
    _fields(match.output_fields, converted, report)
    converted.complete = not match.incomplete and report.errors == errors_before
    if not converted.match:
        converted.match["everything"] = True
    if not converted.exact:
        report.warning(match.where, "the rule matches every event, in Talon and in Tiercel")
    return converted


def overlap(one: ConvertedMatch, other: ConvertedMatch) -> bool:
    """Return whether an event can match both, as far as rules and sources show."""
    if one.rules and other.rules and one.rules.isdisjoint(other.rules):
        return False
    return one.source is None or other.source is None or one.source == other.source


def negation(converted: ConvertedMatch) -> dict[str, Any]:
    """Return the condition that is true if Talon's rule does not match."""
    if len(converted.exact) == 1:
        return {"not": converted.exact[0]}
    if converted.exact:
        return {"not": {"all": converted.exact}}
    return {"jsonPath": "$.rule", "exists": False}


def _rules(match: Match, converted: ConvertedMatch) -> None:
    names = list(dict.fromkeys(name.text for name in match.rules))
    if not names:
        return
    converted.rules = frozenset(names)
    converted.match["rules"] = names
    converted.exact.append({"jsonPath": "$.rule", "in": names})
    if any(map(is_glob, names)):  # in Talon, a star in a name is a literal character
        converted.conditions.append({"jsonPath": "$.rule", "in": names})


def _priority(priority: SourceText, converted: ConvertedMatch, report: ImportReport) -> None:
    parsed = _PRIORITY.fullmatch(priority.text)
    level = parse_priority(parsed[2]) if parsed else None
    if parsed and not parsed[2]:
        what = f"`{priority.text}` has no priority name: every priority matches"
        report.warning(priority.where, what)
        return
    if parsed is None or level is None or parsed[2].lower() == "info":
        what = f"`{priority.text}` is not a priority in Talon, so Talon refuses the file"
        hint = ">=Warning, <Notice, Critical; " + ", ".join(PRIORITIES)
        report.error(priority.where, what, hint)
        return
    allowed = {
        ">=": PRIORITIES[: level + 1],
        ">": PRIORITIES[:level],
        "<=": PRIORITIES[level:],
        "<": PRIORITIES[level + 1 :],
    }.get(parsed[1] or "=", PRIORITIES[level : level + 1])
    if not allowed:
        report.warning(priority.where, f"no priority is `{priority.text}`: it never matches")
        never = {"jsonPath": "$.rule", "exists": False}
        converted.conditions.append(never)
        converted.exact.append(never)
        return
    converted.match["priority"] = allowed[-1]
    one_of = {"jsonPath": "$.priority", "in": list(allowed)}
    if allowed[0] != PRIORITIES[0]:  # match.priority has no upper limit
        equals = {"jsonPath": "$.priority", "equals": allowed[0]}
        converted.conditions.append(equals if len(allowed) == 1 else one_of)
    present = {"jsonPath": "$.priority", "exists": True}
    if (parsed[1] or "=").startswith("<"):  # for Talon, a missing priority is the lowest one
        converted.exact.append({"any": [present | {"exists": False}, one_of]})
    else:
        converted.exact += [present, one_of]


def _source(source: SourceText, converted: ConvertedMatch, report: ImportReport) -> None:
    name = source.text
    if name == "syscalls":
        what = "`syscalls` becomes `syscall`, which is the name that Falco sends"
        report.warning(
            source.where, what, "Talon compares the exact text, so its rule never matches"
        )
        name = "syscall"
    converted.source = name
    converted.match["sources"] = [name]
    converted.exact.append({"jsonPath": "$.source", "equals": name})


def _tags(entries: tuple[SourceText, ...], converted: ConvertedMatch, report: ImportReport) -> None:
    lists: list[list[str]] = []
    for entry in entries:
        tags = list(dict.fromkeys(entry.text.replace(" ", "").split(",")))
        for tag in tags:
            if not _TAG.fullmatch(tag):
                what = f"`{tag}` is not a tag in Talon, so Talon refuses the file"
                report.error(entry.where, what)
        lists.append([tag for tag in tags if tag])
    lists = [tags for tags in lists if tags]
    if not lists:
        return
    if all(len(tags) == 1 for tags in lists):
        converted.match["tags"] = {"any": list(dict.fromkeys(tags[0] for tags in lists))}
    elif len(lists) == 1:
        converted.match["tags"] = {"all": lists[0]}
    else:
        converted.conditions.append(_any_group([_has_tags(tags) for tags in lists]))
    present = {"jsonPath": "$.tags", "exists": True}
    converted.exact += [present, _any_group([_has_tags(tags) for tags in lists])]


def _has_tags(tags: list[str]) -> list[dict[str, Any]]:
    return [{"jsonPath": "$.tags", "intersects": [tag]} for tag in tags]


def _fields(
    entries: tuple[SourceText, ...], converted: ConvertedMatch, report: ImportReport
) -> None:
    read = [(entry, read_comparisons(entry, report)) for entry in entries]
    lists = [(entry, comparisons) for entry, comparisons in read if comparisons]
    for entry, comparisons in lists:
        negative = list(dict.fromkeys(c.field for c in comparisons if c.negative))
        if negative:
            names = ", ".join(f"`{name}`" for name in negative)
            what = f"in Talon, `!=` is true for an event without {names}; in Tiercel it is not"
            hint = "to match such events too, use any: with {field: NAME, exists: false}"
            report.warning(entry.where, what, hint)
    if len(lists) > 1:
        _report_tautology(lists, report)
    alternatives = [comparisons for _, comparisons in lists]
    if not alternatives:
        return
    same = _same_field(alternatives)
    if len(alternatives) == 1:
        converted.conditions += conditions_of(alternatives[0])
    elif same:
        converted.conditions.append(same)
    else:
        converted.conditions.append(_any_group(list(map(conditions_of, alternatives))))
    converted.exact.append(_any_group([list(map(exact_condition, one)) for one in alternatives]))


def _same_field(alternatives: list[list[Comparison]]) -> dict[str, Any] | None:
    """Return one ``in`` for alternatives that compare the same field with one value each, else None."""
    single = [comparisons[0] for comparisons in alternatives if len(comparisons) == 1]
    fields = {c.field for c in single if not c.negative and not c.is_absence}
    if len(single) != len(alternatives) or len(fields) != 1 or any(c.negative for c in single):
        return None
    if any(c.is_absence for c in single):
        return None
    values = list(dict.fromkeys(value for c in single for value in c.values))
    return {"field": single[0].field, "in": values}


def _report_tautology(
    lists: list[tuple[SourceText, list[Comparison]]], report: ImportReport
) -> None:
    """Report ``a!=x`` or ``a!=y``, which is always true. The author probably means `and`."""
    first: dict[str, str] = {}
    for entry, comparisons in lists:
        if len(comparisons) != 1 or not comparisons[0].negative:
            continue
        (one,) = comparisons
        if first.setdefault(one.field, one.text) != one.text:
            what = f"entries of `output_fields` are alternatives, so these `{one.field}!=` exclude nothing"
            hint = f"{one.field}!={first[one.field]}, {one.field}!={one.text}"
            report.warning(entry.where, what, hint)


def _any_group(groups: list[list[dict[str, Any]]]) -> dict[str, Any]:
    """Return a condition that is true if all conditions of one of the groups are true."""
    each = [group[0] if len(group) == 1 else {"all": group} for group in groups]
    return each[0] if len(each) == 1 else {"any": each}
