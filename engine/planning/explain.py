"""Why a playbook wants an event or does not: every matcher and condition with what the event has there."""

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
"""How like two names are of which one is probably a slip of the other: a letter or two in twenty."""


@dataclass(frozen=True, slots=True)
class Row:
    """One matcher or condition. what: the key, or the condition's text. wanted, actual: as text.

    truth: whether it holds; None is unknown. depth: how many groups it stands in. near: what was perhaps
    meant, a sentence.
    """

    what: str
    wanted: str
    actual: str
    truth: Truth
    depth: int = 0
    near: str | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """All rows of a playbook; those after the first that fails are told all the same."""

    name: str
    rows: tuple[Row, ...]

    @property
    def failed(self) -> Row | None:
        """The first row that keeps the playbook from wanting the event."""
        return next((row for row in self.rows if row.depth == 0 and row.truth is not True), None)

    @property
    def names_rule(self) -> bool:
        """Whether it asks for this event's rule, or for none."""
        return not any(row.what == "rules" and row.truth is not True for row in self.rows)


def explain(event: Event, item: EventSelector) -> Explanation:
    """Why the playbook (or silence) wants the event, or does not."""
    rows = [*_rules(event, item.match), *_keys(event, item.match)]
    for condition in item.conditions:
        rows += _condition(event, condition, 0)
    return Explanation(item.name, tuple(rows))


def _rules(event: Event, match: Match) -> Iterator[Row]:
    if match.rules is None:
        return
    holds = name_matcher(match.rules)(event.rule)
    near = [] if holds else difflib.get_close_matches(event.rule[:100], match.rules, 1, _ALIKE)
    told = f"`{near[0]}` differs by a few letters" if near else None
    yield Row("rules", display_text(list(match.rules)), event.rule, holds, near=told)


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
        near = f"it is {_type(value)}, which the operator cannot compare with that"
    actual = display_text(value) if is_present(value) else "(absent)"
    yield Row(what, wanted, actual, truth, depth, near)


def _absent(event: Event, what: str) -> str | None:
    """A field of the event that was perhaps meant."""
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
