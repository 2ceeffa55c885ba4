"""Read a Talon rules file into records with locations.

The format follows Falco Talon 0.3 (internal/rules/rules.go, docs.falco-talon.org): one YAML document, a list of
``- action:`` blocks and ``- rule:`` blocks. Talon ignores unknown keys and every document except the first.
Both are reported.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from engine.language.findings import nearest
from engine.language.yaml_source import read

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.language.yaml_source import Document, Path
    from engine.model.errors import Finding, Location
    from engine.talon.import_report import ImportReport

_RULE_KEYS = ("rule", "description", "match", "actions", "continue", "dry_run", "notifiers")
_ACTION_KEYS = (
    "action", "description", "actionner", "parameters", "continue", "ignore_errors", "output",
    "additional_contexts",
)  # fmt: skip
_MATCH_KEYS = ("rules", "priority", "tags", "output_fields", "source")
_SCALAR = re.compile(r"(?:[&!]\S*[ \t]+)*([-+.\w]+)")
"""A plain number or boolean after its anchor and tag."""


@dataclass(frozen=True, slots=True)
class SourceText:
    """A text of the file with its location."""

    text: str
    where: Location


@dataclass(frozen=True, slots=True)
class Action:
    """An action of a rule, or an action block that rules refer to by name.

    continues, ignores_errors: None if not set. locations: the location of each parameter.
    """

    name: str
    where: Location
    actionner: SourceText | None = None
    description: str = ""
    continues: bool | None = None
    ignores_errors: bool | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    locations: Mapping[str, Location] = field(default_factory=dict)
    output: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Match:
    """The events of a rule. An event must pass every key that is set.

    incomplete: a part that would exclude events could not be read.
    """

    where: Location
    rules: tuple[SourceText, ...] = ()
    priority: SourceText | None = None
    source: SourceText | None = None
    tags: tuple[SourceText, ...] = ()
    output_fields: tuple[SourceText, ...] = ()
    incomplete: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """A Talon rule. continues: whether Talon evaluates the next rules; None if not set, which means yes."""

    name: str
    where: Location
    match: Match
    actions: tuple[Action, ...] = ()
    description: str = ""
    continues: bool | None = None
    dry_run: bool | None = None
    notifiers: tuple[SourceText, ...] = ()


@dataclass(frozen=True, slots=True)
class RulesFile:
    """The blocks of a file, in the order of the file."""

    actions: tuple[Action, ...]
    rules: tuple[Rule, ...]


def read_rules(content: bytes, file: str, report: ImportReport) -> tuple[RulesFile, list[Finding]]:
    """Return the blocks of a file, and its YAML errors. Talon refuses a file with YAML errors.

    Plain words and numbers of YAML 1.1, such as ``yes`` and ``010``, are text, as in Talon's YAML reader.
    """
    documents, found = read(content, file)
    yaml_errors = [finding for finding in found if finding.code != "yaml-trap"]
    if not documents:
        return RulesFile((), ()), yaml_errors
    for other in documents[1:]:
        report.warning(other.at(()), "Talon reads only the first document of a file; not converted")
    return _Reader(documents[0], content, report).file(), yaml_errors


class _Reader:
    def __init__(self, document: Document, content: bytes, report: ImportReport) -> None:
        self._document = document
        self._lines = content.decode("utf-8-sig", "replace").splitlines()
        self._report = report
        self._at = document.at

    def file(self) -> RulesFile:
        """Read the blocks."""
        data = self._document.data
        if not isinstance(data, list):
            what = "a Talon rules file is a list of actions and rules"
            self._report.error(self._at(()), what, "- rule: NAME")
            return RulesFile((), ())
        actions, rules = [], []
        for n, item in enumerate(data):
            if not isinstance(item, dict):
                what = "an item must be an action or a rule"
                self._report.error(self._at((n,)), what, "- rule: NAME")
            elif "rule" in item:
                rules.append(self._rule(item, (n,)))
            elif "action" in item:
                actions.append(self._action(item, (n,)))
            else:
                hint = next((w for key in item if (w := nearest(key, ("rule", "action")))), None)
                what = "the item is not an action or a rule, so Talon ignores it; not converted"
                self._report.warning(self._at((n,)), what, hint)
        return RulesFile(
            tuple(action for action in actions if action), tuple(rule for rule in rules if rule)
        )

    def _rule(self, item: dict[str, Any], path: Path) -> Rule | None:
        name = self._text(item["rule"], (*path, "rule"))
        if not name:
            return None
        self._check_keys(item, _RULE_KEYS, path)
        actions = []
        for where, value in self._items(item, "actions", path):
            if isinstance(value, dict):
                actions.append(self._action(value, where))
            else:
                self._wrong_type(where, "a mapping")
        return Rule(
            name.text,
            name.where,
            self._match(item.get("match"), (*path, "match"), name.where),
            tuple(action for action in actions if action),
            self._optional_text(item, "description", path),
            self._flag(item, "continue", path),
            # a dry_run that cannot be read counts as true, because then the playbook does less
            self._flag(item, "dry_run", path, invalid=True),
            self._texts(item, "notifiers", path),
        )

    def _action(self, item: dict[str, Any], path: Path) -> Action | None:
        name = self._text(item.get("action"), (*path, "action"))
        if not name:
            return None
        self._check_keys(item, _ACTION_KEYS, path)
        parameters = item.get("parameters") or {}
        if not isinstance(parameters, dict):
            self._wrong_type((*path, "parameters"), "a mapping")
            parameters = {}
        output = item.get("output")
        if "additional_contexts" in item:
            where = self._at((*path, "additional_contexts"), key=True)
            self._report.warning(where, "additional_contexts has no equivalent; not converted")
        at = (*path, "actionner")
        return Action(
            name.text,
            name.where,
            self._text(item["actionner"], at) if item.get("actionner") else None,
            self._optional_text(item, "description", path),
            self._flag(item, "continue", path),
            self._flag(item, "ignore_errors", path),
            parameters,
            {key: self._at((*path, "parameters", key), key=True) for key in parameters},
            output if isinstance(output, dict) else None,
        )

    def _match(self, item: Any, path: Path, rule: Location) -> Match:
        if item is None:
            return Match(rule)
        if not isinstance(item, dict):
            self._wrong_type(path, "a mapping")
            return Match(self._at(path), incomplete=True)
        errors_before = self._report.errors
        for key in item.keys() - set(_MATCH_KEYS):
            what = (
                f"Talon ignores the unknown key `{key}` in `match`, so the rule matches more events"
            )
            self._report.error(self._at((*path, key), key=True), what, nearest(key, _MATCH_KEYS))
        priority, source = (
            self._text(item[key], (*path, key)) if item.get(key) else None
            for key in ("priority", "source")
        )
        lists = {}
        for key in ("rules", "tags", "output_fields"):
            lists[key] = self._texts(item, key, path)
            if key in item and not item[key]:
                what = f"an empty `{key}` does not exclude any event"
                self._report.warning(self._at((*path, key), key=True), what)
        return Match(
            self._at(path, key=True),
            **lists,
            priority=priority,
            source=source,
            incomplete=self._report.errors > errors_before,
        )

    def _check_keys(self, item: dict[str, Any], known: tuple[str, ...], path: Path) -> None:
        for key in item.keys() - set(known):
            what = f"Talon ignores the unknown key `{key}`"
            self._report.warning(self._at((*path, key), key=True), what, nearest(key, known))

    def _items(self, item: dict[str, Any], key: str, path: Path) -> list[tuple[Path, Any]]:
        data = item.get(key)
        if data is None:
            return []
        if not isinstance(data, list):
            self._wrong_type((*path, key), "a list")
            return []
        return [((*path, key, n), value) for n, value in enumerate(data)]

    def _texts(self, item: dict[str, Any], key: str, path: Path) -> tuple[SourceText, ...]:
        found = (self._text(value, where) for where, value in self._items(item, key, path))
        return tuple(text for text in found if text)

    def _text(self, value: Any, path: Path) -> SourceText | None:
        """Read a scalar as text. A number or boolean is kept as written, as Go's YAML reader does."""
        if isinstance(value, (bool, int, float)):
            value = self._as_written(value, self._at(path))
        if isinstance(value, str) and value:
            return SourceText(value, self._at(path))
        self._wrong_type(path, "text")
        return None

    def _as_written(self, value: float, where: Location) -> str:
        """Return the text of a plain number or boolean in the file."""
        line = self._lines[where.line - 1] if where.line <= len(self._lines) else ""
        found = _SCALAR.match(line, where.column - 1)
        return found[1] if found else str(value).lower()

    def _optional_text(self, item: dict[str, Any], key: str, path: Path) -> str:
        found = self._text(item[key], (*path, key)) if item.get(key) else None
        return found.text if found else ""

    def _flag(
        self, item: dict[str, Any], key: str, path: Path, *, invalid: bool = False
    ) -> bool | None:
        """Read a boolean. invalid: the result if the value is not a boolean."""
        value = item.get(key)
        if value is None or isinstance(value, bool):
            return value
        if value in ("true", "false"):
            return bool(value == "true")
        self._wrong_type((*path, key), "true or false")
        return invalid

    def _wrong_type(self, path: Path, takes: str) -> None:
        name = next((part for part in reversed(path) if isinstance(part, str)), "item")
        self._report.error(self._at(path), f"`{name}` takes {takes}; Talon refuses the file")
