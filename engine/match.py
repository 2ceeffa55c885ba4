"""Which playbooks want an event: an immutable index from the rule's name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import re2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from engine.event import Event
    from engine.playbook import Match, Playbook

_REMEMBERED = 10_000
"""Rule names whose globs are remembered; an attacker who can write events can invent names."""


class Playbooks:
    """A set of playbooks, ready to be asked."""

    def __init__(self, playbooks: Iterable[Playbook]) -> None:
        self.all = tuple(sorted(playbooks, key=lambda playbook: playbook.name))
        self._wants = {playbook.name: wants(playbook) for playbook in self.all}
        self._exact: dict[str, list[Playbook]] = {}
        self._globs: list[tuple[Callable[[str], bool], Playbook]] = []
        self._any: list[Playbook] = []
        for playbook in self.all:
            self._add(playbook)
        self._candidates: dict[str, tuple[tuple[Playbook, Callable[[Event], bool]], ...]] = {}

    def wanting(self, event: Event) -> list[Playbook]:
        """The playbooks that match the event and whose conditions hold, by name."""
        candidates = self._candidates.get(event.rule)
        if candidates is None:
            candidates = self._find(event.rule)
        return [playbook for playbook, want in candidates if want(event)]

    def _add(self, playbook: Playbook) -> None:
        rules = playbook.match.rules
        if rules is None:
            self._any.append(playbook)
            return
        for rule in rules:
            if is_glob(rule):
                self._globs.append((glob(rule), playbook))
            else:
                self._exact.setdefault(rule, []).append(playbook)

    def _find(self, rule: str) -> tuple[tuple[Playbook, Callable[[Event], bool]], ...]:
        found = [*self._any, *self._exact.get(rule, ())]
        found += [playbook for matches, playbook in self._globs if matches(rule)]
        unique = {playbook.name: playbook for playbook in found}
        candidates = tuple((unique[name], self._wants[name]) for name in sorted(unique))
        if len(self._candidates) >= _REMEMBERED:
            self._candidates = {}
        self._candidates[rule] = candidates
        return candidates


def is_glob(text: str) -> bool:
    """Whether a rule's or host's name is a glob; they know only the star and the question mark."""
    return "*" in text or "?" in text


def glob(text: str) -> Callable[[str], bool]:
    """Whether a name matches the glob as a whole, in linear time."""
    parts = {"*": ".*", "?": "."}
    expression = "".join(parts.get(letter) or re2.escape(letter) for letter in text)
    matches = re2.compile(f"(?s){expression}").fullmatch
    return lambda name: matches(name) is not None


def wants(playbook: Playbook) -> Callable[[Event], bool]:
    """Whether the playbook wants an event of a rule that it names: the cheap tests first."""
    tests = _tests(playbook.match)
    conditions = tuple(condition.holds for condition in playbook.conditions)

    def want(event: Event) -> bool:
        for test in tests:
            if not test(event):
                return False
        for holds in conditions:  # noqa: SIM110 - a generator costs a third of the match
            if holds(event) is not True:
                return False
        return True

    return want


def _tests(match: Match) -> tuple[Callable[[Event], bool], ...]:
    tests: list[Callable[[Event], bool]] = []
    if match.priority is not None:
        least = match.priority
        tests.append(lambda event: event.priority is not None and event.priority <= least)
    if match.sources is not None:
        sources = match.sources
        tests.append(lambda event: event.source in sources)
    if match.tags_none is not None:
        none = match.tags_none
        tests.append(lambda event: none.isdisjoint(event.tags))
    if match.tags_any is not None:
        any_of = match.tags_any
        tests.append(lambda event: not any_of.isdisjoint(event.tags))
    if match.tags_all is not None:
        all_of = match.tags_all
        tests.append(lambda event: all_of.issubset(event.tags))
    if match.hostnames is not None:
        tests.append(_hostname(match.hostnames))
    return tuple(tests)


def _hostname(names: tuple[str, ...]) -> Callable[[Event], bool]:
    exact = frozenset(name for name in names if not is_glob(name))
    globs = tuple(glob(name) for name in names if is_glob(name))

    def holds(event: Event) -> bool:
        host = event.hostname
        return host is not None and (host in exact or any(matches(host) for matches in globs))

    return holds
