"""Falco's rules files, read as Falco reads them: file after file, each item over what stands already.

A name again is a new definition; ``append`` and ``override`` change the one that is there; an item with
nothing but ``enabled`` switches it. What Falco itself would refuse is told as a warning: Falco is the judge.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from engine.errors import Finding
from engine.event import PRIORITIES, priority_of
from engine.falco.catalogue import OWN_FILE, catalogue
from engine.falco.condition import Conditions
from engine.falco.configuration import Configuration
from engine.falco.rule import FalcoRule, fields_of
from engine.language.folder import FolderError, read_files
from engine.language.source import read

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from engine.errors import Location
    from engine.language.source import Document, Path

_APPENDED = {"condition", "output", "desc", "tags", "exceptions", "items"}
_REPLACED = {
    *_APPENDED, "priority", "enabled", "capture", "capture_duration", "warn_evttypes",
    "skip-if-unknown-filter",
}  # fmt: skip
_NEEDED = ("condition", "output", "desc", "priority")
_ABOUT = {"rule", "macro", "list", "override", "append"}


@dataclass(frozen=True, slots=True)
class FalcoRules:
    """What Falco will have in force. given: whether rules files said so, not the catalogue."""

    rules: Mapping[str, FalcoRule]
    given: bool = False
    findings: tuple[Finding, ...] = ()


@dataclass(slots=True)
class _Items:
    """The items of one kind, by name, each with what its definitions came to."""

    items: dict[str, dict[str, Any]] = field(default_factory=dict)
    where: dict[str, Location] = field(default_factory=dict)


def own_rules() -> FalcoRules:
    """The rules that Falco and its plugins ship."""
    return FalcoRules(catalogue())


def read_rules(paths: Sequence[str]) -> FalcoRules:
    """The rules of folders and files, in the order given and by name within a folder.

    Falco's own falco_rules.yaml is taken from the catalogue where it is not among them, since Falco loads
    it, too. A mapping, like falco.yaml, is taken as Falco's configuration. Raises FolderError.
    """
    folders = [read_files([path]) for path in paths]
    names = {PurePosixPath(name).name for files in folders for name in files.files}
    reader = _Reader(whole=OWN_FILE in names)
    for files in folders:
        reader.findings += files.findings
        if not files.files and not files.findings:
            raise FolderError(f"{files.root} has no rules files (*.yaml, *.yml)")
        for name in sorted(files.files):
            documents, told = read(files.files[name], files.shown(name))
            reader.findings += [f for f in told if f.code in ("yaml-syntax", "yaml-limit")]
            for document in documents:
                reader.document(document)
    return FalcoRules(reader.rules(), given=True, findings=tuple(reader.findings))


class _Reader:
    """whole: whether Falco's own file is among those read, with its macros and lists."""

    def __init__(self, *, whole: bool) -> None:
        self.findings: list[Finding] = []
        self._kinds = {kind: _Items() for kind in ("rule", "macro", "list")}
        self._configuration = Configuration()
        self._whole = whole
        for name, rule in catalogue().items():
            if not whole and rule.where.file == OWN_FILE:
                self._take(name)

    def document(self, document: Document) -> None:
        """Take the items of a document, or the configuration that it is."""
        if isinstance(document.data, dict):
            self._configuration.take(document.data)
            return
        items = document.data if isinstance(document.data, list) else []
        if not isinstance(document.data, list):
            self._tell(document, (), "a rules file is a list of rules, macros and lists")
        for n, item in enumerate(items):
            kind = next((k for k in self._kinds if isinstance(item, dict) and k in item), None)
            if kind:
                self._item(kind, item, document, n)
            elif not isinstance(item, dict) or not any(k.startswith("required_") for k in item):
                self._tell(document, (n,), "an item is a rule, a macro or a list")

    def rules(self) -> dict[str, FalcoRule]:
        """The rules that the items came to."""
        macros = {n: str(i.get("condition", "")) for n, i in self._kinds["macro"].items.items()}
        lists = {n: _words(i.get("items")) for n, i in self._kinds["list"].items.items()}
        conditions = Conditions(macros, lists)
        rules = self._kinds["rule"]
        return {
            name: self._configuration.applied(_rule(name, item, rules.where[name], conditions))
            for name, item in rules.items.items()
        }

    def _item(self, kind: str, item: dict[str, Any], document: Document, n: int) -> None:
        kinds, name = self._kinds[kind], str(item[kind])
        override = item.get("override")
        changes = override is not None or _is(item.get("append"))
        toggles = kind == "rule" and item.keys() <= {"rule", "enabled"}
        if kind == "rule" and (changes or toggles) and name not in kinds.items:
            self._take(name)
        elif changes and not self._whole:
            kinds.items.setdefault(
                name, {}
            )  # one of falco_rules.yaml, of which only rules are known
        if (changes or toggles) and name not in kinds.items:
            self._tell(document, (n, kind), f"there is no {kind} `{name[:80]}` before it to change")
            return
        if isinstance(override, dict):
            self._override(kinds.items[name], item, (document, n))
        elif changes:
            _append(kinds.items[name], item, _APPENDED)
        elif toggles:
            kinds.items[name]["enabled"] = item.get("enabled")
        else:
            missing = [key for key in _NEEDED if kind == "rule" and key not in item]
            if missing:
                self._tell(document, (n,), f"the rule has no {' and no '.join(missing)}")
            kinds.items[name] = {key: value for key, value in item.items() if key not in _ABOUT}
            kinds.where[name] = document.at((n, kind))

    def _override(
        self, before: dict[str, Any], item: dict[str, Any], where: tuple[Document, int]
    ) -> None:
        document, n = where
        if "append" in item:
            self._tell(document, (n,), "`append` and `override` exclude each other")
        for key in item.keys() - _ABOUT:
            how = item["override"].get(key)
            if how == "append" and key in _APPENDED:
                _append(before, item, {key})
            elif how == "replace" and key in _REPLACED:
                before[key] = item[key]
            else:
                self._tell(document, (n, key), f"`override` does not say how `{key[:40]}` changes")

    def _take(self, name: str) -> None:
        """Have a rule of the catalogue as if its file had been read, but for its condition."""
        rule = catalogue().get(name)
        if rule is not None:
            self._kinds["rule"].where[name] = rule.where
            self._kinds["rule"].items[name] = {
                "output": " ".join(f"%{printed}" for printed in rule.printed),
                "tags": list(rule.tags),
                "priority": rule.priority_name,
                "source": rule.source,
                "enabled": rule.enabled,
            }

    def _tell(self, document: Document, path: Path, what: str) -> None:
        where = document.at(path)
        self.findings.append(Finding(where, "bad-rules-file", what, severity="warning"))


def _rule(name: str, item: dict[str, Any], where: Location, conditions: Conditions) -> FalcoRule:
    priority = priority_of(str(item.get("priority", "")))
    return FalcoRule(
        name,
        PRIORITIES.index("Debug") if priority is None else priority,
        source=str(item.get("source") or "syscall"),
        tags=frozenset(_words(item.get("tags"))),
        printed=frozenset(fields_of(str(item.get("output", "")))),
        enabled=_is(item.get("enabled", True)),
        never=not conditions.can_hold(str(item.get("condition", ""))),
        where=where,
    )


def _append(before: dict[str, Any], item: dict[str, Any], keys: Collection[str]) -> None:
    """Append to the keys as Falco does: texts with a space between, lists end to end."""
    for key in keys & item.keys():
        if isinstance(item[key], list):
            before[key] = [*_words(before.get(key)), *item[key]]
        else:
            before[key] = f"{before.get(key) or ''} {item[key]}".strip()


def _words(value: Any) -> list[str]:
    """The items of a list of words; rules files have numbers among them."""
    return list(map(str, value)) if isinstance(value, list) else []


def _is(value: Any) -> bool:
    """Whether a value means yes to yaml-cpp; our own reader leaves plain ``no`` a text."""
    return value is True or str(value).lower() in ("true", "yes", "on", "y")
