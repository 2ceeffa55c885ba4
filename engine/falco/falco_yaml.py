"""The parts of falco.yaml that change rules or their output: ``rules``, ``priority`` and ``append_output``."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec

from engine.falco.rule import fields_in_output
from engine.model.event import parse_priority
from engine.model.name_patterns import name_matcher

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from engine.falco.rule import FalcoRule

_CHART_LEVELS = 2
"""Levels of ``falco`` above the settings: in the values of Falco's chart, and of a chart that depends on it."""
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
"""The keys of falco.yaml (Falco 0.44). A mapping with one of them is treated as a falco.yaml."""


class _AppendedOutput(msgspec.Struct, frozen=True):
    """An entry of ``append_output``: the rules that it applies to, and the output fields that it adds."""

    applies_to: Callable[[FalcoRule], bool]
    fields: frozenset[str]


class FalcoSettings:
    """The settings of all falco.yaml files that were added. Later files extend earlier ones."""

    def __init__(self) -> None:
        self._minimum_priority: int | None = None
        self._switches: list[tuple[Callable[[FalcoRule], bool], bool]] = []
        self._appended: list[_AppendedOutput] = []

    def add(self, data: Mapping[str, Any]) -> bool:
        """Add a falco.yaml, or the values of Falco's Helm chart, which contain it under ``falco``.

        Returns False if the mapping is neither of these.
        """
        for _ in range(_CHART_LEVELS):
            inner = data.get("falco")
            data = inner if isinstance(inner, dict) else data
        if not data.keys() & _SETTINGS:
            return False
        minimum = parse_priority(str(data.get("priority", "")))
        self._minimum_priority = self._minimum_priority if minimum is None else minimum
        for entry in _mappings(data.get("rules")):
            for word, enabled in (("enable", True), ("disable", False)):
                if isinstance(entry.get(word), dict):
                    self._switches.append((_selector(entry[word]), enabled))
        for entry in _mappings(data.get("append_output")):
            fields = frozenset(_added_fields(entry))
            self._appended.append(_AppendedOutput(_selector(entry.get("match")), fields))
        return True

    def apply(self, rule: FalcoRule) -> FalcoRule:
        """Return the rule with these settings applied."""
        enabled = rule.enabled
        for selects, value in self._switches:
            if selects(rule):
                enabled = value
        if self._minimum_priority is not None and rule.priority > self._minimum_priority:
            enabled = False
        added = [one.fields for one in self._appended if one.applies_to(rule)]
        return replace(rule, enabled=enabled, output_fields=rule.output_fields.union(*added))


def _selector(match: Any) -> Callable[[FalcoRule], bool]:
    """Return a test for ``{rule, tag | tags, source}``. A rule must have everything that is given."""
    match = match if isinstance(match, dict) else {}
    name = name_matcher([str(match["rule"])]) if match.get("rule") else None
    tags = {str(tag) for tag in [*_list(match.get("tags")), *filter(None, [match.get("tag")])]}
    source = match.get("source")

    def selects(rule: FalcoRule) -> bool:
        return (
            (name is None or name(rule.name))
            and tags <= rule.tags
            and (source is None or source == rule.source)
        )

    return selects


def _added_fields(entry: Mapping[str, Any]) -> Iterator[str]:
    """Yield the output fields of an ``append_output`` entry: extra fields, named formats, printed fields."""
    yield from fields_in_output(str(entry.get("extra_output") or ""))
    for extra in _list(entry.get("extra_fields")):
        yield from (extra,) if isinstance(extra, str) else extra if isinstance(extra, dict) else ()


def _mappings(value: Any) -> list[dict[str, Any]]:
    return [item for item in _list(value) if isinstance(item, dict)]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
