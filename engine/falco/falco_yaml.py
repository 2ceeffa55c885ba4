"""What falco.yaml says about rules and outputs, as far as playbooks can tell: selection, floor, additions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from engine.falco.rule import fields_in_output
from engine.model.event import parse_priority
from engine.model.name_patterns import name_matcher

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from engine.falco.rule import FalcoRule

_CHARTS = 2
"""Levels of ``falco`` above the settings: those of Falco's chart, and of a chart that has it as a dependency."""
_SETTINGS = frozenset((
    "append_output", "base_syscalls", "buffered_outputs", "config_files", "engine", "file_output",
    "falco_libs", "grpc", "grpc_output", "http_output", "json_include_message_property",
    "json_include_output_fields_property", "json_include_output_property", "json_include_tags_property",
    "json_output", "libs_logger", "load_plugins", "log_level", "log_stderr", "log_syslog", "metrics",
    "output_timeout", "outputs_queue", "plugins", "plugins_hostinfo", "priority", "program_output",
    "rule_matching", "rules", "rules_file", "rules_files", "static_fields", "stdout_output",
    "syscall_event_drops", "syscall_event_timeouts", "syslog_output", "time_format_iso_8601",
    "watch_config_files", "webserver",
))  # fmt: skip
"""Keys of falco.yaml (Falco 0.44), by which one is recognised."""


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

    def take(self, data: Mapping[str, Any]) -> bool:
        """Take a falco.yaml, or the values of its Helm chart, which have it under ``falco``.

        The result says whether the mapping is either of these.
        """
        for _ in range(_CHARTS):
            inner = data.get("falco")
            data = inner if isinstance(inner, dict) else data
        if not data.keys() & _SETTINGS:
            return False
        floor = parse_priority(str(data.get("priority", "")))
        self._floor = self._floor if floor is None else floor
        for entry in _maps(data.get("rules")):
            for word, on in (("enable", True), ("disable", False)):
                if isinstance(entry.get(word), dict):
                    self._switches.append((_chosen(entry[word]), on))
        for entry in _maps(data.get("append_output")):
            self._additions.append(_Addition(_chosen(entry.get("match")), frozenset(_added(entry))))
        return True

    def applied(self, rule: FalcoRule) -> FalcoRule:
        """The rule as it is in force."""
        enabled = rule.enabled
        for chosen, on in self._switches:
            if chosen(rule):
                enabled = on
        if self._floor is not None and rule.priority > self._floor:
            enabled = False
        added = [a.fields for a in self._additions if a.to(rule)]
        return replace(rule, enabled=enabled, output_fields=rule.output_fields.union(*added))


def _chosen(match: Any) -> Callable[[FalcoRule], bool]:
    """Whether a rule is meant by ``{rule, tag | tags, source}``; all that are given must be its own."""
    match = match if isinstance(match, dict) else {}
    name = name_matcher([str(match["rule"])]) if match.get("rule") else None
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
    yield from fields_in_output(str(entry.get("extra_output") or ""))
    for extra in _list(entry.get("extra_fields")):
        yield from (extra,) if isinstance(extra, str) else extra if isinstance(extra, dict) else ()


def _maps(value: Any) -> list[dict[str, Any]]:
    return [item for item in _list(value) if isinstance(item, dict)]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
