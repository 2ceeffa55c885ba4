"""Which playbooks and silences match an event: an immutable index by the rule's name.

Within a rule, candidates are looked up by the field that most of them compare for equality. A thousand
playbooks for different namespaces therefore cost as much as the playbooks of one namespace. A test that
several candidates share is evaluated once; if it is false, none of them matches.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from engine.model.name_patterns import glob_matcher, is_glob, name_matcher

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence

    from engine.model.event import Event
    from engine.model.playbook import Condition, Match, Playbook, Silence, Truth

_MAX_RULES = 10_000
"""Rule names whose lookup is cached. An attacker who can send events can invent names."""
_MAX_CACHED_NAME = 1_000
"""Characters of a rule name that the cache keeps. A longer one, up to the size of a body, has a digest."""
_MIN_SHARED = 4
"""Candidates from which a lookup table, or a branch for a shared test, is faster than a list."""
_MAX_DEPTH = 16
"""Nested branches. A crafted set of playbooks could nest them a thousand deep."""


class EventSelector(Protocol):
    """A playbook or a silence: it selects events."""

    @property
    def name(self) -> str:
        """Unique within its kind."""
        ...

    @property
    def match(self) -> Match:
        """Matchers on the keys that every alert has."""
        ...

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """Conditions that must also be true."""
        ...


W = TypeVar("W", bound=EventSelector)


@dataclass(frozen=True, slots=True)
class _Candidate(Generic[W]):
    """An item that can match events of a rule. place: its order. tests: by key; all must be true."""

    place: int
    item: W
    tests: dict[Hashable, Callable[[Event], Truth]]


@dataclass(frozen=True, slots=True)
class _Tree(Generic[W]):
    """Candidates grouped by shared tests.

    branches: a shared test, and the candidates that have it. leaves: place, item and its own test.
    """

    branches: tuple[tuple[Callable[[Event], Truth], _Tree[W]], ...]
    leaves: tuple[tuple[int, W, Callable[[Event], Truth]], ...]


class SelectorIndex(Generic[W]):
    """An index of playbooks or silences by the events that they select. all: the items, by name."""

    def __init__(self, items: Iterable[W]) -> None:
        self.all = tuple(sorted(items, key=lambda item: item.name))
        self._exact: dict[str, list[W]] = {}
        self._globs: list[tuple[Callable[[str], bool], W]] = []
        self._any: list[W] = []
        for item in self.all:
            self._add(item)
        self._finds: dict[str | bytes, Callable[[Event], list[W]]] = {}

    def matching(self, event: Event) -> list[W]:
        """Return the items whose matchers and conditions are true for the event, by name."""
        rule = event.rule
        find = self._finds.get(_cache_key(rule))
        if find is None:
            find = self._find_for_rule(rule)
        return find(event)

    def for_rule(self, rule: str) -> list[W]:
        """Return the items whose ``rules`` match the name, or that have no ``rules``, by name."""
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
                self._globs.append((glob_matcher(rule), item))
            else:
                self._exact.setdefault(rule, []).append(item)

    def _find_for_rule(self, rule: str) -> Callable[[Event], list[W]]:
        find = _finder(self.for_rule(rule))
        if len(self._finds) >= _MAX_RULES:
            self._finds = {}
        self._finds[_cache_key(rule)] = find
        return find


class PlaybookIndex(SelectorIndex["Playbook"]):
    """The index of the active playbooks and silences. revision: of their set, "" if unknown."""

    def __init__(
        self,
        playbooks: Iterable[Playbook],
        silences: Iterable[Silence] = (),
        revision: str = "",
    ) -> None:
        super().__init__(playbooks)
        self.revision = revision
        self._silences = SelectorIndex(silences)

    def silence(self, event: Event, time_ns: int) -> str | None:
        """Return the name of a silence that matches the event and is active at ``time_ns``, or None."""
        if not self._silences.all:
            return None
        active = (s for s in self._silences.matching(event) if time_ns < s.until_ns)
        return next((silence.name for silence in active), None)


def _cache_key(rule: str) -> str | bytes:
    return rule if len(rule) <= _MAX_CACHED_NAME else hashlib.sha256(rule.encode()).digest()


def _finder(items: Sequence[W]) -> Callable[[Event], list[W]]:
    """Return a function from an event of one rule to the items that match it, in their order."""
    candidates = [_Candidate(n, item, dict(_tests(item))) for n, item in enumerate(items)]
    every = _tree(candidates)
    usage = Counter(field for item in items for field in _equalities(item))
    field, times = usage.most_common(1)[0] if usage else ("", 0)
    if times < _MIN_SHARED:
        return _tree_finder(every)
    rows: dict[str, list[_Candidate[W]]] = {}
    rest = []
    for candidate in candidates:
        values = _equalities(candidate.item).get(field)
        if values is None:
            rest.append(candidate)
        for value in values or ():
            rows.setdefault(value, []).append(candidate)
    others = _tree(rest)
    table = {value: _tree_finder(_tree(row), others) for value, row in rows.items()}
    find_any, find_others = _tree_finder(every), _tree_finder(others)

    def find(event: Event) -> list[W]:
        value: Any = event.fields.get(field)
        if type(value) is str:
            return table.get(value, find_others)(event)
        return (
            find_any(event) if type(value) is list else find_others(event)
        )  # any element of a list can match

    return find


def _tree(candidates: Sequence[_Candidate[W]], depth: int = 0) -> _Tree[W]:
    """Group candidates by the tests that most of them share."""
    sharing: dict[Hashable, list[_Candidate[W]]] = {}
    for candidate in candidates:
        for key in candidate.tests:
            sharing.setdefault(key, []).append(candidate)
    left = {candidate.place: candidate for candidate in candidates}
    branches = []
    for key, sharers in sorted(sharing.items(), key=lambda shared: -len(shared[1])):
        group = [candidate for candidate in sharers if candidate.place in left]
        if len(group) < _MIN_SHARED or depth == _MAX_DEPTH:
            continue
        inner = []
        for candidate in group:
            del left[candidate.place]
            others = {k: test for k, test in candidate.tests.items() if k != key}
            inner.append(_Candidate(candidate.place, candidate.item, others))
        branches.append((group[0].tests[key], _tree(inner, depth + 1)))
    leaves = tuple((c.place, c.item, _all(tuple(c.tests.values()))) for c in left.values())
    return _Tree(tuple(branches), leaves)


def _tree_finder(*trees: _Tree[W]) -> Callable[[Event], list[W]]:
    """Return a function from an event to the items of the trees that match it, in their order."""
    filled = [tree for tree in trees if tree.branches or tree.leaves]
    if not any(tree.branches for tree in filled) and len(filled) <= 1:  # already in order
        leaves = tuple((item, test) for tree in filled for _, item, test in tree.leaves)
        return lambda event: [item for item, test in leaves if test(event) is True]

    def find(event: Event) -> list[W]:
        found: list[tuple[int, W]] = []
        pending = filled.copy()
        while pending:
            tree = pending.pop()
            pending += [inner for test, inner in tree.branches if test(event) is True]
            found += [(place, item) for place, item, test in tree.leaves if test(event) is True]
        found.sort(key=itemgetter(0))
        return [item for _, item in found]

    return find


def _equalities(item: EventSelector) -> dict[str, frozenset[str]]:
    """Return field -> the only texts for which the item's conditions can be true."""
    return {c.equality[0]: c.equality[1] for c in item.conditions if c.equality}


def _tests(item: EventSelector) -> Iterator[tuple[Hashable, Callable[[Event], Truth]]]:
    """Yield the tests of an item, except its ``rules``, with their keys. Cheap tests are first.

    Tests with the same key are equal.
    """
    for name, test in key_tests(item.match):
        yield (name, getattr(item.match, name.replace(".", "_"))), test
    for condition in item.conditions:
        yield condition.key or condition.holds, condition.holds


def _all(tests: tuple[Callable[[Event], Truth], ...]) -> Callable[[Event], Truth]:
    """Return a test: whether all tests are true."""
    if len(tests) == 1:
        return tests[0]
    if len(tests) in (2, 3):  # the usual number; a loop would double the cost
        first, *middle, last = tests
        if not middle:
            return lambda event: first(event) is True and last(event) is True
        second = middle[0]
        return lambda event: first(event) is True and second(event) is True and last(event) is True

    def hold(event: Event) -> Truth:
        for test in tests:  # noqa: SIM110 - a generator adds a third to the cost
            if test(event) is not True:
                return False
        return True

    return hold


def key_tests(match: Match) -> list[tuple[str, Callable[[Event], bool]]]:
    """Return the keys of ``match``, except ``rules``, with their tests."""
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
        host = name_matcher(match.hostnames)
        tests.append(("hostnames", lambda e: e.hostname is not None and host(e.hostname)))
    return tests
