"""Falco's rules files, read as Falco reads them: file after file, each item on top of the earlier ones.

A second item of the same name is a new definition; ``append`` and ``override`` change the earlier one; an item
without condition, output, desc and priority switches it on or off. An item that Falco would refuse is reported
as a warning and changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from engine.falco.catalogue import OWN_FILE, catalogue
from engine.falco.condition import Conditions
from engine.falco.embedded_rules import carried
from engine.falco.falco_yaml import Configuration
from engine.falco.rule import FalcoRule, fields_in_output
from engine.language.folder import FolderError, read_files
from engine.language.yaml_source import read
from engine.model.errors import Finding, Location
from engine.model.event import PRIORITIES, parse_priority

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from engine.language.yaml_source import Document, Path

MOST_WORK = 8 << 20
"""Characters that the rules files of a command may cost: those read, those copied by ``append``, and those of
the conditions and outputs. All files of Falco and its plugins cost 450,000."""

_MUST = {"condition", "output", "desc", "priority"}
_APPENDED = {"condition", "output", "desc", "tags", "exceptions", "items"}
_REPLACED = {
    *_APPENDED, "priority", "enabled", "capture", "capture_duration", "warn_evttypes",
    "skip-if-unknown-filter",
}  # fmt: skip
_BY_APPEND = {
    "rule": ("condition", "exceptions"), "macro": ("condition",), "list": ("items",),
}  # fmt: skip
"""The keys that the deprecated ``append: true`` reads; Falco ignores all others."""
_ABOUT = {"rule", "macro", "list", "override", "append", "source"}


@dataclass(frozen=True, slots=True)
class FalcoRules:
    """The rules that Falco will have in force. given: whether they come from rules files, not the catalogue."""

    rules: Mapping[str, FalcoRule]
    given: bool = False
    findings: tuple[Finding, ...] = ()


@dataclass(slots=True)
class _Items:
    """The items of one kind, by name, each with its keys as all definitions together give them."""

    items: dict[str, dict[str, Any]] = field(default_factory=dict)
    where: dict[str, Location] = field(default_factory=dict)


class _TooMuchWorkError(Exception):
    """The rules files cost more than MOST_WORK."""


class _Work:
    """Counts characters. left: how many may still be spent."""

    def __init__(self) -> None:
        self.left = MOST_WORK

    def spend(self, characters: int) -> None:
        """Count characters. Raises _TooMuchWorkError."""
        self.left -= characters
        if self.left < 0:
            raise _TooMuchWorkError


def shipped_rules() -> FalcoRules:
    """The rules that Falco and its plugins ship."""
    return FalcoRules(catalogue())


def read_rules(paths: Sequence[str]) -> FalcoRules:
    """The rules of folders and files, in the order given and by name within a folder.

    Falco's own falco_rules.yaml is taken from the catalogue if it is not among the files, because Falco loads it
    too. A mapping is read as Falco's configuration, or for the rules that it carries (see
    engine.falco.embedded_rules). Raises FolderError.
    """
    folders = [read_files([path]) for path in paths]
    names = {PurePosixPath(name).name for files in folders for name in files.files}
    reader = _Reader(whole=OWN_FILE in names)
    for files in folders:
        reader.findings += files.findings
        if not files.files and not files.findings:
            raise FolderError(f"{files.root} has no rules files (*.yaml, *.yml)")
        for name in sorted(files.files):
            reader.file(files.files[name], files.shown(name))
    return FalcoRules(reader.rules(), given=True, findings=tuple(reader.findings))


class _Reader:
    """whole: whether Falco's own file is among those read, with its macros and lists."""

    def __init__(self, *, whole: bool) -> None:
        self.findings: list[Finding] = []
        self._kinds = {kind: _Items() for kind in ("list", "macro", "rule")}
        self._configuration = Configuration()
        self._whole = whole
        self._work = _Work()
        self._ended = False
        for name, rule in catalogue().items():
            if not whole and rule.where.file == OWN_FILE:
                self._take(name)

    def file(self, content: bytes, name: str) -> None:
        """Take the documents of a file."""
        if self._is_affordable(len(content), Location(name, 1, 1)):
            documents, told = read(content, name)
            self._documents(documents, told, content)

    def _documents(
        self, documents: Sequence[Document], told: Sequence[Finding], carrier: bytes | None
    ) -> None:
        """carrier: the file's bytes, or None for documents that a mapping of the file carries."""
        self.findings += [f for f in told if f.code in ("yaml-syntax", "yaml-limit")]
        for document in documents:
            if isinstance(document.data, list):
                self._items(document)
            elif isinstance(document.data, dict):
                self._mapping(document, carrier)
            else:
                self._tell(document, (), "a rules file is a list of rules, macros and lists")

    def _mapping(self, document: Document, carrier: bytes | None) -> None:
        """Take the rules that a mapping carries, or the configuration that it is."""
        carries = False
        for part in carried(document, carrier) if carrier is not None else ():
            carries = True
            if self._is_affordable(part.cost, document.at(part.path)):
                self._documents(*part.documents(), None)
        if not self._configuration.take(document.data) and not carries:
            what = "the mapping has no Falco rules and none of Falco's settings, so it is not used"
            self._tell(document, (), what, "a rules file is a list: - rule: NAME")

    def _is_affordable(self, characters: int, where: Location) -> bool:
        """Whether so many characters may still be read; if not, tell it once."""
        try:
            self._work.spend(characters)
        except _TooMuchWorkError:
            self._end(where)
        return not self._ended

    def _end(self, where: Location) -> None:
        if not self._ended:
            what = f"reading the rules files costs more than {MOST_WORK:,} characters; the rest is left out"
            self.findings.append(Finding(where, "bad-rules-file", what))
        self._ended = True

    def _items(self, document: Document) -> None:
        for n, item in enumerate(document.data):
            if self._ended:
                return
            if isinstance(item, dict) and any(key.startswith("required_") for key in item):
                continue
            kind = next((k for k in self._kinds if isinstance(item, dict) and k in item), None)
            if not kind:
                self._tell(document, (n,), "an item is a rule, a macro or a list")
                continue
            try:
                self._item(kind, item, (document, n))
            except _TooMuchWorkError:
                self._end(document.at((n,)))

    def rules(self) -> dict[str, FalcoRule]:
        """The rules that all items together define."""
        macros = {n: str(i.get("condition", "")) for n, i in self._kinds["macro"].items.items()}
        lists = {n: _words(i.get("items")) for n, i in self._kinds["list"].items.items()}
        conditions = Conditions(macros, lists, self._work.spend)
        found = {}
        for name, item in self._kinds["rule"].items.items():
            where = self._kinds["rule"].where[name]
            try:
                self._work.spend(len(str(item.get("output", ""))))
                rule = _rule(name, item, where, conditions)
            except _TooMuchWorkError:
                self._end(where)
                break
            found[name] = self._configuration.applied(rule)
        return found

    def _item(self, kind: str, item: dict[str, Any], where: tuple[Document, int]) -> None:
        kinds, name, change = self._kinds[kind], str(item[kind]), _change(kind, item)
        document, n = where
        if change == "define":
            self._define(kind, item, where)
            return
        if kind == "rule" and name not in kinds.items:
            self._take(name)
        elif change == "override" or not self._whole:
            # `override` defines a macro or list that is not there; falco_rules.yaml may define it, too
            kinds.items.setdefault(name, {})
        if name not in kinds.items:
            self._tell(document, (n, kind), f"there is no earlier {kind} `{name[:80]}` to change")
            return
        if change == "toggle":
            kinds.items[name]["enabled"] = item["enabled"]
        elif kind == "rule" and "source" in item and self._is_of_other_source(name, item, where):
            return
        elif change == "override":
            self._override(kinds.items[name], item, where)
        else:
            self._append(kind, kinds.items[name], item, where)

    def _is_of_other_source(
        self, name: str, item: dict[str, Any], where: tuple[Document, int]
    ) -> bool:
        """Whether an earlier rule of the name has another source, for which Falco refuses the file; tells it."""
        before = self._kinds["rule"].items.get(name)
        source = str(item.get("source") or "syscall")
        if before is None or str(before.get("source") or "syscall") == source:
            return False
        what = f"the rule `{name[:80]}` has another source than before; Falco refuses the file"
        hint = f"source: {str(before.get('source') or 'syscall')[:40]}"
        document, n = where
        self._tell(document, (n, "source" if "source" in item else "rule"), what, hint)
        return True

    def _define(self, kind: str, item: dict[str, Any], where: tuple[Document, int]) -> None:
        document, n = where
        kinds, name = self._kinds[kind], str(item[kind])
        if kind == "rule" and self._is_of_other_source(name, item, where):
            return
        missing = sorted(_MUST - item.keys()) if kind == "rule" else []
        if missing:
            self._tell(document, (n,), f"the rule has no {' and no '.join(missing)}")
            if len(missing) == len(_MUST):
                return
        elif kind == "rule" and parse_priority(str(item["priority"])) is None:
            what = f"`{str(item['priority'])[:40]}` is not a priority of Falco"
            self._tell(document, (n, "priority"), what, ", ".join(PRIORITIES))
        kinds.items[name] = {key: value for key, value in item.items() if key not in _ABOUT}
        if kind == "rule" and "source" in item:
            kinds.items[name]["source"] = item["source"]
        kinds.where[name] = document.at((n, kind))

    def _append(
        self,
        kind: str,
        before: dict[str, Any],
        item: dict[str, Any],
        where: tuple[Document, int],
    ) -> None:
        reads = _BY_APPEND[kind]
        if not item.keys() & set(reads):
            what = f"`append: true` reads only {' and '.join(reads)}, and the item has none"
            self._tell(where[0], (where[1], "append"), what, "override: {KEY: append}")
        self._join(before, item, reads)

    def _override(
        self, before: dict[str, Any], item: dict[str, Any], where: tuple[Document, int]
    ) -> None:
        fault = _fault_of_override(item)
        if fault:
            self._tell(where[0], (where[1], *fault[0]), fault[1])
            return
        for key, how in item["override"].items():
            if how == "append":
                self._join(before, item, (key,))
            else:
                before[key] = item[key]

    def _join(self, before: dict[str, Any], item: dict[str, Any], keys: Collection[str]) -> None:
        """Append to the keys as Falco does: texts with a space between, lists end to end."""
        for key in keys:
            if key not in item:
                continue
            if isinstance(item[key], list):
                earlier = _words(before.get(key))
                self._work.spend(len(earlier) + len(item[key]))
                before[key] = [*earlier, *item[key]]
            else:
                text = f"{before.get(key) or ''} {item[key]}".strip()
                self._work.spend(len(text))
                before[key] = text

    def _take(self, name: str) -> None:
        """Define a rule of the catalogue, as if its file had been read, but without a condition."""
        rule = catalogue().get(name)
        if rule is not None:
            self._kinds["rule"].where[name] = rule.where
            self._kinds["rule"].items[name] = {
                "output": " ".join(f"%{printed}" for printed in rule.output_fields),
                "tags": list(rule.tags),
                "priority": rule.priority_name,
                "source": rule.source,
                "enabled": rule.enabled,
            }

    def _tell(self, document: Document, path: Path, what: str, hint: str | None = None) -> None:
        where = document.at(path)
        self.findings.append(Finding(where, "bad-rules-file", what, hint, severity="warning"))


def _change(kind: str, item: dict[str, Any]) -> str:
    """How an item changes the earlier one of its name: override, append, toggle, or define it anew."""
    if item.get("override") is not None:
        return "override"
    if _is(item.get("append")):
        return "append"
    toggles = kind == "rule" and "enabled" in item and not item.keys() & _MUST
    return "toggle" if toggles else "define"


def _fault_of_override(item: dict[str, Any]) -> tuple[Path, str] | None:
    """Why Falco refuses an item with ``override``, and where in it; or None."""
    override = item["override"]
    if not isinstance(override, dict) or not override:
        return ("override",), "`override` takes a mapping, such as {condition: append}"
    if "append" in item:
        return ("append",), "`append` and `override` exclude each other"
    for key in item.keys() - _ABOUT - override.keys():
        return (key,), f"`override` does not say how `{key[:40]}` changes"
    for key, how in override.items():
        allowed = {"append": _APPENDED, "replace": _REPLACED}.get(str(how), ())
        if key not in allowed:
            return ("override", key), f"`{key[:40]}: {str(how)[:40]}` is not an override of Falco"
        if key not in item:
            return ("override", key), f"the item has no `{key[:40]}` to override it with"
    return None


def _rule(name: str, item: dict[str, Any], where: Location, conditions: Conditions) -> FalcoRule:
    priority = parse_priority(str(item.get("priority", "")))
    return FalcoRule(
        name,
        PRIORITIES.index("Debug") if priority is None else priority,
        source=str(item.get("source") or "syscall"),
        tags=frozenset(_words(item.get("tags"))),
        output_fields=frozenset(fields_in_output(str(item.get("output", "")))),
        enabled=_is(item.get("enabled", True)),
        never_true=not conditions.can_hold(str(item.get("condition", ""))),
        where=where,
    )


def _words(value: Any) -> list[str]:
    """The items of a list of words; rules files have numbers among them."""
    return list(map(str, value)) if isinstance(value, list) else []


def _is(value: Any) -> bool:
    """Whether yaml-cpp reads a value as true; our own reader leaves plain ``no`` a text."""
    return value is True or str(value).lower() in ("true", "yes", "on", "y")
