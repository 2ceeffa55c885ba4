"""A Talon rules file as records with their places.

Shapes as Falco Talon 0.3 reads them (internal/rules/rules.go, docs.falco-talon.org): one document, a list of
``- action:`` blocks and ``- rule:`` blocks. Talon ignores keys that it does not know and every document but
the first, so both are told here.
"""

from __future__ import annotations

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


@dataclass(frozen=True, slots=True)
class SourceText:
    """A text of the file, and where it stands."""

    text: str
    where: Location


@dataclass(frozen=True, slots=True)
class Action:
    """An action of a rule, or a block that rules refer to by its name.

    continues, ignores_errors: None where it does not say. places: where each parameter stands.
    """

    name: str
    where: Location
    actionner: SourceText | None = None
    description: str = ""
    continues: bool | None = None
    ignores_errors: bool | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    places: Mapping[str, Location] = field(default_factory=dict)
    output: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Match:
    """Which events; all that is said must hold. lost: something that would narrow could not be read."""

    where: Location
    rules: tuple[SourceText, ...] = ()
    priority: SourceText | None = None
    source: SourceText | None = None
    tags: tuple[SourceText, ...] = ()
    output_fields: tuple[SourceText, ...] = ()
    lost: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule. continues: None where it does not say, which means yes."""

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
    """The blocks of a file, in its order."""

    actions: tuple[Action, ...]
    rules: tuple[Rule, ...]


def read_rules(content: bytes, file: str, notes: ImportReport) -> tuple[RulesFile, list[Finding]]:
    """The file's blocks, and what is wrong with it as YAML, for which Talon refuses it, too.

    Plain words and numbers of YAML 1.1, such as ``yes`` and ``010``, are text to Talon's YAML reader.
    """
    documents, told = read(content, file)
    findings = [finding for finding in told if finding.code != "yaml-trap"]
    if not documents:
        return RulesFile((), ()), findings
    for other in documents[1:]:
        notes.differs(other.at(()), "Talon reads only the first document of a file; left out")
    return _Reader(documents[0], notes).file(), findings


class _Reader:
    def __init__(self, document: Document, notes: ImportReport) -> None:
        self._document = document
        self._notes = notes
        self._at = document.at

    def file(self) -> RulesFile:
        """The blocks."""
        data = self._document.data
        if not isinstance(data, list):
            what = "a Talon rules file is a list of actions and rules"
            self._notes.lost(self._at(()), what, "- rule: NAME")
            return RulesFile((), ())
        actions, rules = [], []
        for n, item in enumerate(data):
            if not isinstance(item, dict):
                self._notes.lost(self._at((n,)), "an item is an action or a rule", "- rule: NAME")
            elif "rule" in item:
                rules.append(self._rule(item, (n,)))
            elif "action" in item:
                actions.append(self._action(item, (n,)))
            else:
                hint = next((w for key in item if (w := nearest(key, ("rule", "action")))), None)
                what = "neither an action nor a rule, so Talon ignores it; left out"
                self._notes.differs(self._at((n,)), what, hint)
        return RulesFile(
            tuple(action for action in actions if action), tuple(rule for rule in rules if rule)
        )

    def _rule(self, item: dict[str, Any], path: Path) -> Rule | None:
        name = self._text(item["rule"], (*path, "rule"))
        if not name:
            return None
        self._unknown(item, _RULE_KEYS, path)
        actions = []
        for where, one in self._items(item, "actions", path):
            if isinstance(one, dict):
                actions.append(self._action(one, where))
            else:
                self._wrong(where, "a mapping")
        return Rule(
            name.text,
            name.where,
            self._match(item.get("match"), (*path, "match"), name.where),
            tuple(action for action in actions if action),
            self._plain(item, "description", path),
            self._flag(item, "continue", path),
            self._flag(item, "dry_run", path, wary=True),
            self._texts(item, "notifiers", path),
        )

    def _action(self, item: dict[str, Any], path: Path) -> Action | None:
        name = self._text(item.get("action"), (*path, "action"))
        if not name:
            return None
        self._unknown(item, _ACTION_KEYS, path)
        parameters = item.get("parameters") or {}
        if not isinstance(parameters, dict):
            self._wrong((*path, "parameters"), "a mapping")
            parameters = {}
        output = item.get("output")
        if "additional_contexts" in item:
            where = self._at((*path, "additional_contexts"), key=True)
            self._notes.differs(where, "additional_contexts have no counterpart; left out")
        at = (*path, "actionner")
        return Action(
            name.text,
            name.where,
            self._text(item["actionner"], at) if item.get("actionner") else None,
            self._plain(item, "description", path),
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
            self._wrong(path, "a mapping")
            return Match(self._at(path), lost=True)
        before = self._notes.losses
        for key in item.keys() - set(_MATCH_KEYS):
            what = f"Talon knows no `{key}` in `match` and ignores it, so the rule matches more"
            self._notes.lost(self._at((*path, key), key=True), what, nearest(key, _MATCH_KEYS))
        priority, source = (
            self._text(item[key], (*path, key)) if item.get(key) else None
            for key in ("priority", "source")
        )
        lists = {
            key: self._texts(item, key, path, empty=True)
            for key in ("rules", "tags", "output_fields")
        }
        lost = self._notes.losses > before
        return Match(self._at(path, key=True), **lists, priority=priority, source=source, lost=lost)

    def _unknown(self, item: dict[str, Any], known: tuple[str, ...], path: Path) -> None:
        for key in item.keys() - set(known):
            where = self._at((*path, key), key=True)
            self._notes.differs(
                where, f"Talon knows no `{key}` and ignores it", nearest(key, known)
            )

    def _items(self, item: dict[str, Any], key: str, path: Path) -> list[tuple[Path, Any]]:
        data = item.get(key)
        if data is None:
            return []
        if not isinstance(data, list):
            self._wrong((*path, key), "a list")
            return []
        return [((*path, key, n), one) for n, one in enumerate(data)]

    def _texts(
        self, item: dict[str, Any], key: str, path: Path, *, empty: bool = False
    ) -> tuple[SourceText, ...]:
        """The texts of a list; empty: an empty one is told, for Talon takes it for no condition."""
        found = (self._text(one, where) for where, one in self._items(item, key, path))
        texts = tuple(text for text in found if text)
        if empty and key in item and not item[key]:
            what = f"an empty `{key}` narrows nothing"
            self._notes.differs(self._at((*path, key), key=True), what)
        return texts

    def _text(self, value: Any, path: Path) -> SourceText | None:
        """A scalar as Go's YAML reads it into a string."""
        if isinstance(value, bool):
            value = str(value).lower()
        elif isinstance(value, (int, float)):
            value = str(value)
        if isinstance(value, str) and value:
            return SourceText(value, self._at(path))
        self._wrong(path, "text")
        return None

    def _plain(self, item: dict[str, Any], key: str, path: Path) -> str:
        said = self._text(item[key], (*path, key)) if item.get(key) else None
        return said.text if said else ""

    def _flag(
        self, item: dict[str, Any], key: str, path: Path, *, wary: bool = False
    ) -> bool | None:
        """wary: what is taken where it can be read for neither, so that less happens and not more."""
        value = item.get(key)
        if value is None or isinstance(value, bool):
            return value
        if value in ("true", "false"):
            return bool(value == "true")
        self._wrong((*path, key), "true or false")
        return wary

    def _wrong(self, path: Path, takes: str) -> None:
        name = next((part for part in reversed(path) if isinstance(part, str)), "item")
        self._notes.lost(self._at(path), f"`{name}` takes {takes}; Talon refuses the file")
