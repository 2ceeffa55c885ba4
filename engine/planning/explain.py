"""Why a playbook matches an event or not: every key and condition with the value of the event."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.language.findings import nearest
from engine.language.operators import display_text
from engine.model.event import PRIORITIES, is_present
from engine.model.name_patterns import name_matcher
from engine.planning.matcher import key_tests

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.model.event import Event
    from engine.model.playbook import Condition, Match, Truth
    from engine.planning.matcher import EventSelector

_ALIKE = 0.85
"""Similarity above which one name is probably a typo of the other: one or two letters in twenty."""


@dataclass(frozen=True, slots=True)
class Row:
    """A key of ``match`` or a condition, with its truth.

    Attributes:
        what: the key, or the field of the condition.
        wanted: the value in the playbook, as text.
        actual: the value in the event, as text.
        truth: True, False, or None for unknown.
        depth: number of groups around it.
        near: a hint about a probable mistake, or None.

    """

    what: str
    wanted: str
    actual: str
    truth: Truth
    depth: int = 0
    near: str | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """All rows of a playbook, also those after the first one that fails."""

    name: str
    rows: tuple[Row, ...]

    @property
    def failed(self) -> Row | None:
        """The first row that is not true, or None if the playbook matches."""
        return next((row for row in self.rows if row.depth == 0 and row.truth is not True), None)

    @property
    def names_rule(self) -> bool:
        """Whether the playbook names the event's rule, or any rule."""
        return not any(row.what == "rules" and row.truth is not True for row in self.rows)


def explain(event: Event, item: EventSelector) -> Explanation:
    """Explain whether a playbook or silence matches an event."""
    rows = [*_rules(event, item.match), *_keys(event, item.match)]
    for condition in item.conditions:
        rows += _condition(event, condition, 0)
    return Explanation(item.name, tuple(rows))


def _rules(event: Event, match: Match) -> Iterator[Row]:
    if match.rules is None:
        return
    holds = name_matcher(match.rules)(event.rule)
    near = [] if holds else difflib.get_close_matches(event.rule[:100], match.rules, 1, _ALIKE)
    hint = f"`{near[0]}` differs by a few letters" if near else None
    yield Row("rules", display_text(list(match.rules)), event.rule, holds, near=hint)


def _keys(event: Event, match: Match) -> Iterator[Row]:
    host = event.hostname
    least = "" if match.priority is None else f"{PRIORITIES[match.priority]} or worse"
    is_now = "(none)" if event.priority is None else PRIORITIES[event.priority]
    seen: dict[str, tuple[Any, str]] = {
        "priority": (least, is_now),
        "sources": (match.sources, event.source),
        "tags.none": (match.tags_none, display_text(list(event.tags))),
        "tags.any": (match.tags_any, display_text(list(event.tags))),
        "tags.all": (match.tags_all, display_text(list(event.tags))),
        "hostnames": (match.hostnames, "(absent)" if host is None else host),
    }
    for key, test in key_tests(match):
        wanted, actual = seen[key]
        text = wanted if isinstance(wanted, str) else display_text(sorted(wanted))
        yield Row(key, text, actual, test(event))


def _condition(event: Event, condition: Condition, depth: int) -> Iterator[Row]:
    truth = condition.holds(event)
    if condition.look is None:
        yield Row(condition.group, "", "", truth, depth)
        for part in condition.parts:
            yield from _condition(event, part, depth + 1)
        return
    what, _, wanted = condition.text.partition(" ")
    value = condition.look(event)
    near = None
    if not is_present(value):
        near = _absent(event, what)
    elif truth is None:
        near = f"it is {_type(value)}, which the operator cannot compare with this operand"
    actual = display_text(value) if is_present(value) else "(absent)"
    yield Row(what, wanted, actual, truth, depth, near)


def _absent(event: Event, what: str) -> str | None:
    """Return a hint about a field of the event with a similar name."""
    close = nearest(what, [field for field in event.fields if is_present(event.fields[field])])
    return f"the event has `{close}`" if close and close != what else None


def _type(value: Any) -> str:
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, str):
        return "text"
    return "a list" if isinstance(value, list) else "an object"
