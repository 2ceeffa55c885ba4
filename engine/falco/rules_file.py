"""Read Falco's rules files as Falco does: file after file, each item on top of the earlier ones.

A second item with the same name is a new definition. ``append`` and ``override`` change the earlier one. An
item without condition, output, desc and priority enables or disables the earlier one. An item that Falco would
refuse is reported as a warning and changes nothing.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import msgspec

from engine.falco.catalogue import OWN_FILE, catalogue
from engine.falco.condition import ConstantEvaluator
from engine.falco.embedded_rules import embedded_rules
from engine.falco.falco_yaml import FalcoSettings
from engine.falco.rule import FalcoRule, fields_in_output
from engine.language.folder import FolderError, read_files
from engine.language.yaml_source import read
from engine.model.errors import Finding, Location
from engine.model.event import PRIORITIES, parse_priority

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from engine.language.yaml_source import Document, Path

MAX_WORK = 8 << 20
"""Characters that one command reads: the rules files, the copies that ``append`` makes, the conditions and the
outputs. All files of Falco and its plugins need 450,000."""

_REQUIRED = {"condition", "output", "desc", "priority"}
_APPENDABLE = {"condition", "output", "desc", "tags", "exceptions", "items"}
_REPLACEABLE = {
    *_APPENDABLE, "priority", "enabled", "capture", "capture_duration", "warn_evttypes",
    "skip-if-unknown-filter",
}  # fmt: skip
_READ_BY_APPEND = {
    "rule": ("condition", "exceptions"), "macro": ("condition",), "list": ("items",),
}  # fmt: skip
"""The keys that the deprecated ``append: true`` reads. Falco ignores all others."""
_CONTROL_KEYS = {"rule", "macro", "list", "override", "append", "source"}
"""The keys that identify an item or say how it changes another one."""


class FalcoRules(msgspec.Struct, frozen=True):
    """The rules that Falco has in force, by name.

    given: whether they come from rules files and not only from the catalogue.
    """

    rules: Mapping[str, FalcoRule]
    given: bool = False
    findings: tuple[Finding, ...] = ()


def shipped_rules() -> FalcoRules:
    """Return the rules that Falco and its plugins ship."""
    return FalcoRules(catalogue())


def read_rules(paths: Sequence[str]) -> FalcoRules:
    """Read the rules of folders and files, in the given order, and by name within a folder.

    If Falco's own falco_rules.yaml is not among the files, its rules come from the catalogue, because Falco
    loads that file too. A mapping is read as Falco's configuration, or for the rules inside it (see
    engine.falco.embedded_rules). Raises FolderError if a path cannot be read or has no YAML files.
    """
    folders = [read_files([path]) for path in paths]
    names = {PurePosixPath(name).name for files in folders for name in files.files}
    reader = _Reader(complete=OWN_FILE in names)
    for files in folders:
        reader.findings += files.findings
        if not files.files and not files.findings:
            raise FolderError(f"{files.root} has no rules files (*.yaml, *.yml)")
        for name in sorted(files.files):
            reader.read_file(files.files[name], files.shown(name))
    return FalcoRules(reader.rules(), given=True, findings=tuple(reader.findings))


class _Item(msgspec.Struct, frozen=True):
    """An item of a rules file. kind: ``rule``, ``macro`` or ``list``. index: its position, from 0."""

    kind: str
    data: dict[str, Any]
    document: Document
    index: int

    @property
    def name(self) -> str:
        return str(self.data[self.kind])

    def at(self, *path: str | int) -> Location:
        """The location of a value inside the item."""
        return self.document.at((self.index, *path))


class _Definitions(msgspec.Struct):
    """The items of one kind. keys: name -> the keys that all items of that name define together."""

    keys: dict[str, dict[str, Any]] = msgspec.field(default_factory=dict)
    where: dict[str, Location] = msgspec.field(default_factory=dict)


class _WorkLimitError(Exception):
    """The rules files need more than MAX_WORK."""


class _WorkLimit:
    """Counts the characters that are read. left: characters that can still be read."""

    def __init__(self) -> None:
        self.left = MAX_WORK

    def spend(self, characters: int) -> None:
        """Count characters. Raises _WorkLimitError if the limit is exceeded."""
        self.left -= characters
        if self.left < 0:
            raise _WorkLimitError


class _Reader:
    """Collects the items of all files.

    complete: whether Falco's own file, with its macros and lists, is among the files. If not, its rules come
    from the catalogue, and its macros and lists are unknown.
    """

    def __init__(self, *, complete: bool) -> None:
        self.findings: list[Finding] = []
        self._definitions = {kind: _Definitions() for kind in ("list", "macro", "rule")}
        self._settings = FalcoSettings()
        self._complete = complete
        self._work = _WorkLimit()
        self._stopped = False
        for name, rule in catalogue().items():
            if not complete and rule.where.file == OWN_FILE:
                self._define_from_catalogue(name)

    def read_file(self, content: bytes, name: str) -> None:
        """Read the documents of a file."""
        if self._can_read(len(content), Location(name, 1, 1)):
            documents, findings = read(content, name)
            self._read_documents(documents, findings, content)

    def _read_documents(
        self, documents: Sequence[Document], findings: Sequence[Finding], content: bytes | None
    ) -> None:
        """content: the bytes of the file, or None for documents that are embedded in another one."""
        self.findings += [f for f in findings if f.code in ("yaml-syntax", "yaml-limit")]
        for document in documents:
            if isinstance(document.data, list):
                self._read_items(document)
            elif isinstance(document.data, dict):
                self._read_mapping(document, content)
            else:
                what = "a rules file is a list of rules, macros and lists"
                self._warn(document.at(()), what)

    def _read_mapping(self, document: Document, content: bytes | None) -> None:
        """Read the rules inside a mapping, or the mapping as a falco.yaml."""
        has_rules = False
        for part in embedded_rules(document, content) if content is not None else ():
            has_rules = True
            if self._can_read(part.cost, document.at(part.path)):
                self._read_documents(*part.documents(), None)
        if not self._settings.add(document.data) and not has_rules:
            what = "the mapping is not used: it has no Falco rules and no settings of falco.yaml"
            self._warn(document.at(()), what, "a rules file is a list: - rule: NAME")

    def _can_read(self, characters: int, where: Location) -> bool:
        """Return whether the characters are within the work limit. If not, report it once."""
        try:
            self._work.spend(characters)
        except _WorkLimitError:
            self._stop(where)
        return not self._stopped

    def _stop(self, where: Location) -> None:
        if not self._stopped:
            what = f"the rules files need more than {MAX_WORK:,} characters of work; the rest is not read"
            self.findings.append(Finding(where, "bad-rules-file", what))
        self._stopped = True

    def _read_items(self, document: Document) -> None:
        for n, data in enumerate(document.data):
            if self._stopped:
                return
            if isinstance(data, dict) and any(key.startswith("required_") for key in data):
                continue
            kind = next((k for k in self._definitions if isinstance(data, dict) and k in data), "")
            if not kind:
                self._warn(document.at((n,)), "an item is a rule, a macro or a list")
                continue
            item = _Item(kind, data, document, n)
            try:
                self._apply(item)
            except _WorkLimitError:
                self._stop(item.at())

    def rules(self) -> dict[str, FalcoRule]:
        """Return the rules that all items define together, with the settings applied."""
        macros = {
            n: str(keys.get("condition", "")) for n, keys in self._definitions["macro"].keys.items()
        }
        lists = {n: _words(keys.get("items")) for n, keys in self._definitions["list"].keys.items()}
        evaluator = ConstantEvaluator(macros, lists, self._work.spend)
        found = {}
        for name, keys in self._definitions["rule"].keys.items():
            where = self._definitions["rule"].where[name]
            try:
                self._work.spend(len(str(keys.get("output", ""))))
                rule = _rule(name, keys, where, evaluator)
            except _WorkLimitError:
                self._stop(where)
                break
            found[name] = self._settings.apply(rule)
        return found

    def _apply(self, item: _Item) -> None:
        change = _change(item)
        if change == "define":
            self._define(item)
            return
        earlier = self._earlier(item, change)
        if earlier is None:
            self._warn(
                item.at(item.kind), f"there is no earlier {item.kind} `{item.name[:80]}` to change"
            )
        elif change == "toggle":
            earlier["enabled"] = item.data["enabled"]
        elif item.kind == "rule" and "source" in item.data and self._has_other_source(item):
            return
        elif change == "override":
            self._override(earlier, item)
        else:
            self._append(earlier, item)

    def _earlier(self, item: _Item, change: str) -> dict[str, Any] | None:
        """Return the keys of the item that this one changes, or None if there is no such item."""
        definitions = self._definitions[item.kind].keys
        if item.kind == "rule" and item.name not in definitions:
            self._define_from_catalogue(item.name)
        elif item.kind != "rule" and (change == "override" or not self._complete):
            # `override` creates a missing macro or list. One that is changed by `append` can be in
            # Falco's own file, which was not read.
            definitions.setdefault(item.name, {})
        return definitions.get(item.name)

    def _has_other_source(self, item: _Item) -> bool:
        """Return whether an earlier rule of the name has another source, and report it.

        Falco refuses such a file.
        """
        earlier = self._definitions["rule"].keys.get(item.name)
        source = str(item.data.get("source") or "syscall")
        if earlier is None or str(earlier.get("source") or "syscall") == source:
            return False
        what = (
            f"the rule `{item.name[:80]}` has another source than before, so Falco refuses the file"
        )
        hint = f"source: {str(earlier.get('source') or 'syscall')[:40]}"
        self._warn(item.at("source" if "source" in item.data else "rule"), what, hint)
        return True

    def _define(self, item: _Item) -> None:
        if item.kind == "rule" and (self._has_other_source(item) or not self._is_defined(item)):
            return
        definitions = self._definitions[item.kind]
        keys = {key: value for key, value in item.data.items() if key not in _CONTROL_KEYS}
        if item.kind == "rule" and "source" in item.data:
            keys["source"] = item.data["source"]
        definitions.keys[item.name] = keys
        definitions.where[item.name] = item.at(item.kind)

    def _is_defined(self, item: _Item) -> bool:
        """Report missing keys and a bad priority; return False if the rule has none of the required keys."""
        missing = sorted(_REQUIRED - item.data.keys())
        if missing:
            self._warn(item.at(), f"the rule has no {' and no '.join(missing)}")
        elif parse_priority(str(item.data["priority"])) is None:
            what = f"`{str(item.data['priority'])[:40]}` is not a priority of Falco"
            self._warn(item.at("priority"), what, ", ".join(PRIORITIES))
        return len(missing) < len(_REQUIRED)

    def _append(self, earlier: dict[str, Any], item: _Item) -> None:
        keys = _READ_BY_APPEND[item.kind]
        if not item.data.keys() & set(keys):
            what = f"`append: true` reads only {' and '.join(keys)}, and the item has none of them"
            self._warn(item.at("append"), what, "override: {KEY: append}")
        self._append_keys(earlier, item.data, keys)

    def _override(self, earlier: dict[str, Any], item: _Item) -> None:
        mistake = _mistake_of_override(item.data)
        if mistake:
            self._warn(item.at(*mistake[0]), mistake[1])
            return
        for key, how in item.data["override"].items():
            if how == "append":
                self._append_keys(earlier, item.data, (key,))
            else:
                earlier[key] = item.data[key]

    def _append_keys(
        self, earlier: dict[str, Any], data: dict[str, Any], keys: Collection[str]
    ) -> None:
        """Append as Falco does: texts with a space between them, lists one after the other."""
        for key in keys:
            if key not in data:
                continue
            if isinstance(data[key], list):
                items = _words(earlier.get(key))
                self._work.spend(len(items) + len(data[key]))
                earlier[key] = [*items, *data[key]]
            else:
                text = f"{earlier.get(key) or ''} {data[key]}".strip()
                self._work.spend(len(text))
                earlier[key] = text

    def _define_from_catalogue(self, name: str) -> None:
        """Define a rule of the catalogue as if its file had been read, but without a condition."""
        rule = catalogue().get(name)
        if rule is not None:
            self._definitions["rule"].where[name] = rule.where
            self._definitions["rule"].keys[name] = {
                "output": " ".join(f"%{field}" for field in rule.output_fields),
                "tags": list(rule.tags),
                "priority": rule.priority_name,
                "source": rule.source,
                "enabled": rule.enabled,
            }

    def _warn(self, where: Location, what: str, hint: str | None = None) -> None:
        self.findings.append(Finding(where, "bad-rules-file", what, hint, severity="warning"))


def _change(item: _Item) -> str:
    """Return what an item does with the earlier one of its name: override, append, toggle, or define."""
    if item.data.get("override") is not None:
        return "override"
    if _is_true(item.data.get("append")):
        return "append"
    toggles = item.kind == "rule" and "enabled" in item.data and not item.data.keys() & _REQUIRED
    return "toggle" if toggles else "define"


def _mistake_of_override(data: dict[str, Any]) -> tuple[Path, str] | None:
    """Return the path and the reason why Falco refuses an item with ``override``; None if it does not."""
    override = data["override"]
    if not isinstance(override, dict) or not override:
        return ("override",), "`override` takes a mapping, such as {condition: append}"
    if "append" in data:
        return ("append",), "use `append` or `override`, not both"
    for key in data.keys() - _CONTROL_KEYS - override.keys():
        return (key,), f"`override` does not say how `{key[:40]}` changes"
    for key, how in override.items():
        allowed = {"append": _APPENDABLE, "replace": _REPLACEABLE}.get(str(how), ())
        if key not in allowed:
            return ("override", key), f"`{key[:40]}: {str(how)[:40]}` is not an override of Falco"
        if key not in data:
            return ("override", key), f"the item does not have the `{key[:40]}` that it overrides"
    return None


def _rule(
    name: str, keys: dict[str, Any], where: Location, evaluator: ConstantEvaluator
) -> FalcoRule:
    priority = parse_priority(str(keys.get("priority", "")))
    return FalcoRule(
        name,
        PRIORITIES.index("Debug") if priority is None else priority,
        source=str(keys.get("source") or "syscall"),
        tags=frozenset(_words(keys.get("tags"))),
        output_fields=frozenset(fields_in_output(str(keys.get("output", "")))),
        enabled=_is_true(keys.get("enabled", True)),
        never_true=not evaluator.can_be_true(str(keys.get("condition", ""))),
        where=where,
    )


def _words(value: Any) -> list[str]:
    """Return the items of a list as texts. Rules files also contain numbers in such lists."""
    return list(map(str, value)) if isinstance(value, list) else []


def _is_true(value: Any) -> bool:
    """Return whether yaml-cpp reads the value as true. Our own reader keeps a plain ``no`` as text."""
    return value is True or str(value).lower() in ("true", "yes", "on", "y")
