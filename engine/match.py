"""Which playbooks and silences want an event: an immutable index from the rule's name.

Within one rule the candidates are looked up by the equality that most of them ask for, so that a thousand
playbooks that differ by namespace cost what those of one namespace cost.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import re2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from engine.event import Event
    from engine.playbook import Condition, Match, Playbook, Silence

_REMEMBERED = 10_000
"""Rule names whose candidates are remembered; an attacker who can write events can invent names."""
_WORTH = 4
"""Candidates from which on a table of values is worth its look-up."""


class Wanting(Protocol):
    """What wants events: a playbook or a silence."""

    @property
    def name(self) -> str:
        """Unique among its kind."""
        ...

    @property
    def match(self) -> Match:
        """Which events, by what every alert has."""
        ...

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """What must hold besides."""
        ...


W = TypeVar("W", bound=Wanting)
_Candidate = tuple[W, "Callable[[Event], bool]"]
_Select = "Callable[[Event], Sequence[_Candidate[W]]]"


class Index(Generic[W]):
    """A set of things that want events, ready to be asked."""

    def __init__(self, items: Iterable[W]) -> None:
        self.all = tuple(sorted(items, key=lambda item: item.name))
        self._exact: dict[str, list[W]] = {}
        self._globs: list[tuple[Callable[[str], bool], W]] = []
        self._any: list[W] = []
        for item in self.all:
            self._add(item)
        self._selects: dict[str, Callable[[Event], Sequence[_Candidate[W]]]] = {}

    def wanting(self, event: Event) -> list[W]:
        """Those that match the event and whose conditions hold, by name."""
        select = self._selects.get(event.rule)
        if select is None:
            select = self._find(event.rule)
        return [item for item, want in select(event) if want(event)]

    def naming(self, rule: str) -> list[W]:
        """Those whose ``rules`` have the name, or that ask for none, by name."""
        found = [*self._any, *self._exact.get(rule, ())]
        found += [item for matches, item in self._globs if matches(rule)]
        unique = {item.name: item for item in found}
        return [unique[name] for name in sorted(unique)]

    def _add(self, item: W) -> None:
        rules = item.match.rules
        if rules is None:
            self._any.append(item)
            return
        for rule in rules:
            if is_glob(rule):
                self._globs.append((glob(rule), item))
            else:
                self._exact.setdefault(rule, []).append(item)

    def _find(self, rule: str) -> Callable[[Event], Sequence[_Candidate[W]]]:
        select = _table(self.naming(rule))
        if len(self._selects) >= _REMEMBERED:
            self._selects = {}
        self._selects[rule] = select
        return select


class Playbooks(Index["Playbook"]):
    """The playbooks in force, and the silences over them."""

    def __init__(self, playbooks: Iterable[Playbook], silences: Iterable[Silence] = ()) -> None:
        super().__init__(playbooks)
        self._silences = Index(silences)

    def silence(self, event: Event, time_ns: int) -> str | None:
        """The name of a silence that covers the event at that time, or None."""
        if not self._silences.all:
            return None
        lasting = (s for s in self._silences.wanting(event) if time_ns < s.until_ns)
        return next((silence.name for silence in lasting), None)


def _table(items: Sequence[W]) -> Callable[[Event], Sequence[_Candidate[W]]]:
    """From an event of one rule to the candidates among them, in their order."""
    every = tuple((item, wants(item)) for item in items)
    asked = Counter(field for item in items for field in _equalities(item))
    field, times = asked.most_common(1)[0] if asked else ("", 0)
    if times < _WORTH:
        return lambda _: every
    keyed = [(candidate, _equalities(candidate[0]).get(field)) for candidate in every]
    rest = tuple(candidate for candidate, values in keyed if values is None)
    wanted = {value for _, values in keyed for value in values or ()}
    rows: dict[str, list[_Candidate[W]]] = {value: [] for value in wanted}
    for candidate, values in keyed:
        for value in wanted if values is None else values:
            rows[value].append(candidate)
    table = {value: tuple(row) for value, row in rows.items()}

    def select(event: Event) -> Sequence[_Candidate[W]]:
        value: Any = event.fields.get(field)
        # of a list any element may pass, so all are asked
        return every if type(value) is list else _row(table, value, rest)

    return select


def _row(table: dict[str, Any], value: Any, rest: Any) -> Any:
    return table.get(value, rest) if type(value) is str else rest


def _equalities(item: Wanting) -> dict[str, frozenset[str]]:
    """Field -> the only texts with which the item's conditions can hold; one condition a field."""
    return {c.equality[0]: c.equality[1] for c in item.conditions if c.equality}


def is_glob(text: str) -> bool:
    """Whether a rule's or host's name is a glob; they know only the star and the question mark."""
    return "*" in text or "?" in text


def glob(text: str) -> Callable[[str], bool]:
    """Whether a name matches the glob as a whole, in linear time."""
    parts = {"*": ".*", "?": "."}
    expression = "".join(parts.get(letter) or re2.escape(letter) for letter in text)
    matches = re2.compile(f"(?s){expression}").fullmatch
    return lambda name: matches(name) is not None


def named(names: Iterable[str]) -> Callable[[str], bool]:
    """Whether a name is one of these, which are exact or globs."""
    exact = frozenset(name for name in names if not is_glob(name))
    globs = tuple(glob(name) for name in names if is_glob(name))
    return lambda name: name in exact or any(matches(name) for matches in globs)


def wants(item: Wanting) -> Callable[[Event], bool]:
    """Whether it wants an event of a rule that it names: the cheap tests first."""
    tests = tuple(test for _, test in key_tests(item.match))
    conditions = tuple(condition.holds for condition in item.conditions)

    # most have one test and two conditions or fewer; loops over them cost as much as they do
    if len(tests) <= 1 and len(conditions) in (1, 2):
        test = tests[0] if tests else None
        first, last = conditions[0], conditions[-1]
        if test is None:
            return lambda event: first(event) is True and last(event) is True
        return lambda event: test(event) and first(event) is True and last(event) is True

    def want(event: Event) -> bool:
        for test in tests:
            if not test(event):
                return False
        for holds in conditions:  # noqa: SIM110 - a generator costs a third of the match
            if holds(event) is not True:
                return False
        return True

    return want


def key_tests(match: Match) -> list[tuple[str, Callable[[Event], bool]]]:
    """The keys of ``match`` but ``rules``, each with its test."""
    tests: list[tuple[str, Callable[[Event], bool]]] = []
    if match.priority is not None:
        least = match.priority
        tests.append(("priority", lambda e: e.priority is not None and e.priority <= least))
    if match.sources is not None:
        sources = match.sources
        tests.append(("sources", lambda event: event.source in sources))
    if match.tags_none is not None:
        none = match.tags_none
        tests.append(("tags.none", lambda event: none.isdisjoint(event.tags)))
    if match.tags_any is not None:
        any_of = match.tags_any
        tests.append(("tags.any", lambda event: not any_of.isdisjoint(event.tags)))
    if match.tags_all is not None:
        all_of = match.tags_all
        tests.append(("tags.all", lambda event: all_of.issubset(event.tags)))
    if match.hostnames is not None:
        host = named(match.hostnames)
        tests.append(("hostnames", lambda e: e.hostname is not None and host(e.hostname)))
    return tests
