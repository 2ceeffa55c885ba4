"""What falco.yaml says about rules and outputs, as far as playbooks can tell: selection, floor, additions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from engine.event import priority_of
from engine.falco.rule import fields_of
from engine.match import named

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from engine.falco.rule import FalcoRule


@dataclass(frozen=True, slots=True)
class _Addition:
    """An entry of ``append_output``: which rules get which output fields."""

    to: Callable[[FalcoRule], bool]
    fields: frozenset[str]


class Configuration:
    """The ``rules``, ``priority`` and ``append_output`` of Falco's configuration; later files add to it."""

    def __init__(self) -> None:
        self._floor: int | None = None
        self._switches: list[tuple[Callable[[FalcoRule], bool], bool]] = []
        self._additions: list[_Addition] = []

    def take(self, data: Mapping[str, Any]) -> None:
        """Take a falco.yaml, or the values of its Helm chart, which have it under ``falco``."""
        inner = data.get("falco")
        if isinstance(inner, dict):
            data = inner
        floor = priority_of(str(data.get("priority", "")))
        self._floor = self._floor if floor is None else floor
        for entry in _maps(data.get("rules")):
            for word, on in (("enable", True), ("disable", False)):
                if isinstance(entry.get(word), dict):
                    self._switches.append((_chosen(entry[word]), on))
        for entry in _maps(data.get("append_output")):
            self._additions.append(_Addition(_chosen(entry.get("match")), frozenset(_added(entry))))

    def applied(self, rule: FalcoRule) -> FalcoRule:
        """The rule as it is in force."""
        enabled = rule.enabled
        for chosen, on in self._switches:
            if chosen(rule):
                enabled = on
        if self._floor is not None and rule.priority > self._floor:
            enabled = False
        added = [a.fields for a in self._additions if a.to(rule)]
        return replace(rule, enabled=enabled, printed=rule.printed.union(*added))


def _chosen(match: Any) -> Callable[[FalcoRule], bool]:
    """Whether a rule is meant by ``{rule, tag | tags, source}``; all that are given must be its own."""
    match = match if isinstance(match, dict) else {}
    name = named([str(match["rule"])]) if match.get("rule") else None
    tags = {str(tag) for tag in [*_list(match.get("tags")), *filter(None, [match.get("tag")])]}
    source = match.get("source")

    def chosen(rule: FalcoRule) -> bool:
        return (
            (name is None or name(rule.name))
            and tags <= rule.tags
            and (source is None or source == rule.source)
        )

    return chosen


def _added(entry: Mapping[str, Any]) -> Iterator[str]:
    """The output fields that an entry adds: fields, names of formats, and what its text prints."""
    yield from fields_of(str(entry.get("extra_output") or ""))
    for extra in _list(entry.get("extra_fields")):
        yield from (extra,) if isinstance(extra, str) else extra if isinstance(extra, dict) else ()


def _maps(value: Any) -> list[dict[str, Any]]:
    return [item for item in _list(value) if isinstance(item, dict)]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
