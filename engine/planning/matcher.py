"""Which playbooks and silences want an event: an immutable index from the rule's name.

Within one rule the candidates are looked up by the equality that most of them ask for, so that a thousand
playbooks that differ by namespace cost what those of one namespace cost. A test that several of them share
is asked once, and where it does not hold they all fall.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from engine.model.name_patterns import glob_matcher, is_glob, name_matcher

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence

    from engine.model.event import Event
    from engine.model.playbook import Condition, Match, Playbook, Silence, Truth

_REMEMBERED = 10_000
"""Rule names whose candidates are remembered; an attacker who can write events can invent names."""
_WORTH = 4
"""Candidates from which on a table of values is worth its look-up, and a shared test its branch."""
_DEEPEST = 16
"""Branches within one another; a set made for it could nest them by the thousand."""


class EventSelector(Protocol):
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


W = TypeVar("W", bound=EventSelector)


@dataclass(frozen=True, slots=True)
class _Candidate(Generic[W]):
    """What may want events of a rule. place: among the others. tests: by key; all must be true."""

    place: int
    item: W
    tests: dict[Hashable, Callable[[Event], Truth]]


@dataclass(frozen=True, slots=True)
class _Tree(Generic[W]):
    """Candidates ready to be asked: those that share a test behind it, the others one by one."""

    branches: tuple[tuple[Callable[[Event], Truth], _Tree[W]], ...]
    leaves: tuple[tuple[int, W, Callable[[Event], Truth]], ...]


class SelectorIndex(Generic[W]):
    """A set of things that want events, ready to be asked."""

    def __init__(self, items: Iterable[W]) -> None:
        self.all = tuple(sorted(items, key=lambda item: item.name))
        self._exact: dict[str, list[W]] = {}
        self._globs: list[tuple[Callable[[str], bool], W]] = []
        self._any: list[W] = []
        for item in self.all:
            self._add(item)
        self._finds: dict[str, Callable[[Event], list[W]]] = {}

    def matching(self, event: Event) -> list[W]:
        """Those that match the event and whose conditions hold, by name."""
        find = self._finds.get(event.rule)
        if find is None:
            find = self._of_rule(event.rule)
        return find(event)

    def for_rule(self, rule: str) -> list[W]:
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
                self._globs.append((glob_matcher(rule), item))
            else:
                self._exact.setdefault(rule, []).append(item)

    def _of_rule(self, rule: str) -> Callable[[Event], list[W]]:
        find = _finder(self.for_rule(rule))
        if len(self._finds) >= _REMEMBERED:
            self._finds = {}
        self._finds[rule] = find
        return find


class PlaybookIndex(SelectorIndex["Playbook"]):
    """The playbooks in force, and the silences over them."""

    def __init__(self, playbooks: Iterable[Playbook], silences: Iterable[Silence] = ()) -> None:
        super().__init__(playbooks)
        self._silences = SelectorIndex(silences)

    def silence(self, event: Event, time_ns: int) -> str | None:
        """The name of a silence that covers the event at that time, or None."""
        if not self._silences.all:
            return None
        lasting = (s for s in self._silences.matching(event) if time_ns < s.until_ns)
        return next((silence.name for silence in lasting), None)


def _finder(items: Sequence[W]) -> Callable[[Event], list[W]]:
    """From an event of one rule to those of the items that want it, in their order."""
    candidates = [_Candidate(n, item, dict(_tests(item))) for n, item in enumerate(items)]
    every = _tree(candidates)
    asked = Counter(field for item in items for field in _equalities(item))
    field, times = asked.most_common(1)[0] if asked else ("", 0)
    if times < _WORTH:
        return _asking(every)
    rows: dict[str, list[_Candidate[W]]] = {}
    rest = []
    for candidate in candidates:
        values = _equalities(candidate.item).get(field)
        if values is None:
            rest.append(candidate)
        for value in values or ():
            rows.setdefault(value, []).append(candidate)
    others = _tree(rest)
    table = {value: _asking(_tree(row), others) for value, row in rows.items()}
    of_any, of_others = _asking(every), _asking(others)

    def find(event: Event) -> list[W]:
        value: Any = event.fields.get(field)
        if type(value) is str:
            return table.get(value, of_others)(event)
        return of_any(event) if type(value) is list else of_others(event)  # any element may pass

    return find


def _tree(candidates: Sequence[_Candidate[W]], depth: int = 0) -> _Tree[W]:
    """The candidates, grouped by the tests that most of them share."""
    sharing: dict[Hashable, list[_Candidate[W]]] = {}
    for candidate in candidates:
        for key in candidate.tests:
            sharing.setdefault(key, []).append(candidate)
    left = {candidate.place: candidate for candidate in candidates}
    branches = []
    for key, sharers in sorted(sharing.items(), key=lambda shared: -len(shared[1])):
        group = [candidate for candidate in sharers if candidate.place in left]
        if len(group) < _WORTH or depth == _DEEPEST:
            continue
        inner = []
        for candidate in group:
            del left[candidate.place]
            others = {k: test for k, test in candidate.tests.items() if k != key}
            inner.append(_Candidate(candidate.place, candidate.item, others))
        branches.append((group[0].tests[key], _tree(inner, depth + 1)))
    leaves = tuple((c.place, c.item, _all(tuple(c.tests.values()))) for c in left.values())
    return _Tree(tuple(branches), leaves)


def _asking(*trees: _Tree[W]) -> Callable[[Event], list[W]]:
    """From an event to those in the trees that want it, by their places."""
    filled = [tree for tree in trees if tree.branches or tree.leaves]
    if not any(tree.branches for tree in filled) and len(filled) <= 1:  # in order, as they are
        leaves = tuple((item, want) for tree in filled for _, item, want in tree.leaves)
        return lambda event: [item for item, want in leaves if want(event) is True]

    def find(event: Event) -> list[W]:
        found: list[tuple[int, W]] = []
        asked = filled.copy()
        while asked:
            tree = asked.pop()
            asked += [inner for test, inner in tree.branches if test(event) is True]
            found += [(place, item) for place, item, want in tree.leaves if want(event) is True]
        found.sort(key=itemgetter(0))
        return [item for _, item in found]

    return find


def _equalities(item: EventSelector) -> dict[str, frozenset[str]]:
    """Field -> the only texts with which the item's conditions can hold; one condition a field."""
    return {c.equality[0]: c.equality[1] for c in item.conditions if c.equality}


def _tests(item: EventSelector) -> Iterator[tuple[Hashable, Callable[[Event], Truth]]]:
    """What must be true for the item to want an event of a rule that it names: the cheap tests first.

    Tests of one key are the same.
    """
    for name, test in key_tests(item.match):
        yield (name, getattr(item.match, name.replace(".", "_"))), test
    for condition in item.conditions:
        yield condition.key or condition.holds, condition.holds


def _all(tests: tuple[Callable[[Event], Truth], ...]) -> Callable[[Event], Truth]:
    """Whether all tests are true."""
    if len(tests) == 1:
        return tests[0]
    if len(tests) in (2, 3):  # most have; loops over them cost as much as they do
        first, *middle, last = tests
        if not middle:
            return lambda event: first(event) is True and last(event) is True
        second = middle[0]
        return lambda event: first(event) is True and second(event) is True and last(event) is True

    def hold(event: Event) -> Truth:
        for test in tests:  # noqa: SIM110 - a generator costs a third of the match
            if test(event) is not True:
                return False
        return True

    return hold


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
        host = name_matcher(match.hostnames)
        tests.append(("hostnames", lambda e: e.hostname is not None and host(e.hostname)))
    return tests
