"""Talon's ``match`` as ours: the keys of ``match`` where one says the same, conditions for the rest."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from engine.model.event import PRIORITIES, parse_priority
from engine.model.name_patterns import is_glob
from engine.talon.output_fields import all_of, decided, read_comparisons

if TYPE_CHECKING:
    from engine.talon.import_report import ImportReport
    from engine.talon.output_fields import Comparison
    from engine.talon.rules_file import Match, SourceText

_PRIORITY = re.compile(r"(<=|>=|<|>|=)?([A-Za-z]*)")
_TAG = re.compile(r"[A-Za-z0-9_.]*[A-Za-z0-9]")


@dataclass(slots=True)
class Wanted:
    """Which events a playbook wants. whole: nothing was lost that would make it want less.

    exact: the conditions that hold on just the events that Talon's rule wants, absent fields and all.
    """

    match: dict[str, Any] = field(default_factory=dict)
    conditions: list[dict[str, Any]] = field(default_factory=list)
    exact: list[dict[str, Any]] = field(default_factory=list)
    rules: frozenset[str] = frozenset()
    source: str | None = None
    whole: bool = True

    def both(self, conditions: list[dict[str, Any]]) -> None:
        """Add conditions on what every event has, so that they say the same in both senses."""
        self.conditions += conditions
        self.exact += conditions


def translate(match: Match, notes: ImportReport) -> Wanted:
    """What a playbook must ask for to want no event that Talon's rule does not want."""
    before = notes.losses
    wanted = Wanted()
    _rules(match, wanted)
    if match.priority:
        _priority(match.priority, wanted, notes)
    if match.source:
        _source(match.source, wanted, notes)
    _tags(match.tags, wanted, notes)
    _fields(match.output_fields, wanted, notes)
    wanted.whole = not match.lost and notes.losses == before
    if not wanted.match:
        wanted.match["everything"] = True
    if not wanted.exact:
        notes.differs(match.where, "it matches every event, in Talon and here")
    return wanted


def overlap(one: Wanted, other: Wanted) -> bool:
    """Whether an event may be wanted by both, as far as rules and sources tell."""
    if one.rules and other.rules and one.rules.isdisjoint(other.rules):
        return False
    return one.source is None or other.source is None or one.source == other.source


def outside(wanted: Wanted) -> dict[str, Any]:
    """The condition that holds where Talon's rule does not match."""
    if len(wanted.exact) == 1:
        return {"not": wanted.exact[0]}
    return (
        {"not": {"all": wanted.exact}} if wanted.exact else {"jsonPath": "$.rule", "exists": False}
    )


def _rules(match: Match, wanted: Wanted) -> None:
    names = list(dict.fromkeys(said.text for said in match.rules))
    if not names:
        return
    wanted.rules = frozenset(names)
    wanted.match["rules"] = names
    wanted.exact.append({"jsonPath": "$.rule", "in": names})
    if any(map(is_glob, names)):  # a star is a letter to Talon
        wanted.conditions.append({"jsonPath": "$.rule", "in": names})


def _priority(said: SourceText, wanted: Wanted, notes: ImportReport) -> None:
    parsed = _PRIORITY.fullmatch(said.text)
    least = parse_priority(parsed[2]) if parsed else None
    if parsed and not parsed[2]:
        notes.differs(said.where, f"`{said.text}` names no priority: every one matches")
        return
    if parsed is None or least is None or parsed[2].lower() == "info":
        what = f"`{said.text}` is no priority of Talon's, which refuses the file"
        notes.lost(said.where, what, ">=Warning, <Notice, Critical; " + ", ".join(PRIORITIES))
        return
    allowed = {
        ">=": PRIORITIES[: least + 1],
        ">": PRIORITIES[:least],
        "<=": PRIORITIES[least:],
        "<": PRIORITIES[least + 1 :],
    }.get(parsed[1] or "=", PRIORITIES[least : least + 1])
    if not allowed:
        notes.differs(said.where, f"no priority is `{said.text}`: it never matches")
        wanted.both([{"jsonPath": "$.rule", "exists": False}])
        return
    wanted.match["priority"] = allowed[-1]
    among = {"jsonPath": "$.priority", "in": list(allowed)}
    if allowed[0] != PRIORITIES[0]:  # ours has no upper bound
        one = {"jsonPath": "$.priority", "equals": allowed[0]}
        wanted.conditions.append(one if len(allowed) == 1 else among)
    there = {"jsonPath": "$.priority", "exists": True}
    if (parsed[1] or "=").startswith("<"):  # Talon counts an event without a priority as the lowest
        wanted.exact.append({"any": [there | {"exists": False}, among]})
    else:
        wanted.exact += [there, among]


def _source(said: SourceText, wanted: Wanted, notes: ImportReport) -> None:
    source = said.text
    if source == "syscalls":
        what = "`syscalls` is `syscall` here, which matches Falco's own spelling, too"
        notes.differs(said.where, what, "Talon compares the letters; Falco sends syscall")
        source = "syscall"
    wanted.source = source
    wanted.match["sources"] = [source]
    wanted.exact.append({"jsonPath": "$.source", "equals": source})


def _tags(entries: tuple[SourceText, ...], wanted: Wanted, notes: ImportReport) -> None:
    lists: list[list[str]] = []
    for entry in entries:
        tags = list(dict.fromkeys(entry.text.replace(" ", "").split(",")))
        for tag in tags:
            if not _TAG.fullmatch(tag):
                notes.lost(entry.where, f"`{tag}` is no tag of Talon's, which refuses the file")
        lists.append([tag for tag in tags if tag])
    lists = [tags for tags in lists if tags]
    if not lists:
        return
    if all(len(tags) == 1 for tags in lists):
        wanted.match["tags"] = {"any": list(dict.fromkeys(tags[0] for tags in lists))}
    elif len(lists) == 1:
        wanted.match["tags"] = {"all": lists[0]}
    else:
        wanted.conditions.append(_any([_tagged(tags) for tags in lists]))
    there = {"jsonPath": "$.tags", "exists": True}
    wanted.exact += [there, _any([_tagged(tags) for tags in lists])]


def _tagged(tags: list[str]) -> list[dict[str, Any]]:
    return [{"jsonPath": "$.tags", "intersects": [tag]} for tag in tags]


def _fields(entries: tuple[SourceText, ...], wanted: Wanted, notes: ImportReport) -> None:
    read = [(entry, read_comparisons(entry, notes)) for entry in entries]
    lists = [(entry, comparisons) for entry, comparisons in read if comparisons]
    for entry, comparisons in lists:
        negative = list(dict.fromkeys(c.field for c in comparisons if c.negative))
        if negative:
            names = ", ".join(f"`{name}`" for name in negative)
            what = f"`!=` holds in Talon on an event without {names}; here it does not"
            hint = "to want such events, too: any of it and {field: NAME, exists: false}"
            notes.differs(entry.where, what, hint)
    if len(lists) > 1:
        _tell_tautology(lists, notes)
    several = [comparisons for _, comparisons in lists]
    if not several:
        return
    same = _same_field(several)
    if len(several) == 1:
        wanted.conditions += all_of(several[0])
    elif same:
        wanted.conditions.append(same)
    else:
        wanted.conditions.append(_any([all_of(comparisons) for comparisons in several]))
    wanted.exact.append(_any([[decided(c) for c in comparisons] for comparisons in several]))


def _same_field(lists: list[list[Comparison]]) -> dict[str, Any] | None:
    """One ``in`` for alternatives that each ask the same field for one value."""
    alone = [comparisons[0] for comparisons in lists if len(comparisons) == 1]
    fields = {c.field for c in alone if not c.negative and not c.is_absence}
    if len(alone) != len(lists) or len(fields) != 1 or any(c.negative for c in alone):
        return None
    if any(c.is_absence for c in alone):
        return None
    values = list(dict.fromkeys(value for c in alone for value in c.values))
    return {"field": alone[0].field, "in": values}


def _tell_tautology(lists: list[tuple[SourceText, list[Comparison]]], notes: ImportReport) -> None:
    """``a!=x`` or ``a!=y`` holds always; whoever writes it means both."""
    first: dict[str, str] = {}
    for entry, comparisons in lists:
        if len(comparisons) != 1 or not comparisons[0].negative:
            continue
        (one,) = comparisons
        if first.setdefault(one.field, one.text) != one.text:
            what = f"entries of `output_fields` are alternatives, so these `{one.field}!=` exclude nothing"
            notes.differs(
                entry.where, what, f"{one.field}!={first[one.field]}, {one.field}!={one.text}"
            )


def _any(groups: list[list[dict[str, Any]]]) -> dict[str, Any]:
    """Any of the groups, of each of which all must hold."""
    each = [group[0] if len(group) == 1 else {"all": group} for group in groups]
    return each[0] if len(each) == 1 else {"any": each}
