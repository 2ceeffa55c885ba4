"""Reads YAML text as plain data, with the place of every key and value.

The text is read twice. The first pass reads the event stream of libyaml, which does not recurse, and refuses
deep nesting, too many nodes and aliases that grow. Only then the second pass composes nodes, which recurses in C
(200 kB of ``[`` would be a segmentation fault), and turns them into data by the core schema of YAML 1.2. Plain
values that YAML 1.1 readers understand differently are errors.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

import msgspec
import yaml

from engine.language.yaml_characters import check_characters, explain_syntax_error, find_space
from engine.model.errors import Finding, Location

if TYPE_CHECKING:
    from collections.abc import Iterator

Path = tuple[str | int, ...]
Tagged = dict[tuple[tuple[int, int], str], str | None]

MAX_BYTES = 1 << 20
MAX_DEPTH = 64
MAX_NODES = 100_000
MAX_DIGITS = 1_000
MAX_DOCUMENTS = 1_000
MAX_FINDINGS = 1_000
"""YAML findings reported per file. Nobody reads more, and each takes time."""

_TRAP_WORD = re.compile(r"(?i:y|n|yes|no|on|off)")
_TRAP_NUMBER = re.compile(
    r"[-+]?0[0-9_]+|[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?"
    r"|[-+]?0b[01_]+|[-+]?0o[0-7_]+|[-+]0x[0-9a-fA-F_]+|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)
_TRAP_UNDERSCORE = re.compile(
    r"[-+]?(0x[0-9a-fA-F_]+|[0-9][0-9_]*(\.[0-9_]*)?([eE][-+]?[0-9]+)?|\.[0-9][0-9_]*)"
)
_NUMERIC = frozenset("+-.0123456789")
_INTEGER = re.compile(r"[-+]?[0-9]+")
_HEXADECIMAL = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_CONSTANTS = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
}  # fmt: skip
_OWN = "tag:yaml.org,2002:"
_TEXT = _OWN + "str"
_TAGS: dict[type, str] = {
    yaml.ScalarEvent: "str", yaml.MappingStartEvent: "map", yaml.SequenceStartEvent: "seq",
    yaml.ScalarNode: "str", yaml.MappingNode: "map", yaml.SequenceNode: "seq",
}  # fmt: skip
"""The allowed tags. Other tags create objects, or change a value in some readers only."""
_MERGE = _OWN + "merge"


class Document(msgspec.Struct):
    """One YAML document. values, keys: path -> (line, column) of the value or key, from 1."""

    file: str
    data: Any
    values: dict[Path, tuple[int, int]] = msgspec.field(default_factory=dict)
    keys: dict[Path, tuple[int, int]] = msgspec.field(default_factory=dict)

    def at(self, path: Path, *, key: bool = False) -> Location:
        """Return the place of the value at ``path`` (or of its key), or of the nearest value around it."""
        if key and path in self.keys:
            return Location(self.file, *self.keys[path])
        while path and path not in self.values:
            path = path[:-1]
        return Location(self.file, *self.values.get(path, (1, 1)))


def read(content: bytes, file: str) -> tuple[list[Document], list[Finding]]:
    """Return the documents of a file, and the findings about it as YAML. Empty documents are left out.

    The documents before a syntax error are included, so that their mistakes are reported at the same time.
    """
    findings: list[Finding] = []
    try:
        text, findings = check_characters(_text(content), file, MAX_FINDINGS)
        statistics, fault = _scan(text)
    except _LimitError as error:
        return [], [*findings, Finding(Location(file, *error.place), error.code, str(error))]
    documents: list[Document] = []
    findings += [_syntax(fault, text, file)] if fault else []
    try:
        for node in _compose(text, statistics.documents):
            document = Document(file, None)
            document.data = _Converter(document, findings, statistics.tagged).value(node, ())
            if document.data is not None:
                documents.append(document)
    except yaml.YAMLError as error:
        findings.append(_syntax(error, text, file))
    except _LimitError as error:
        findings.append(Finding(Location(file, *error.place), error.code, str(error)))
    return documents, findings


class _LimitError(Exception):
    def __init__(self, what: str, place: tuple[int, int], code: str = "yaml-limit") -> None:
        super().__init__(what)
        self.place = place
        self.code = code


def _text(content: bytes) -> str:
    if len(content) > MAX_BYTES:
        raise _LimitError(f"the file is larger than {MAX_BYTES >> 20} MiB", (1, 1))
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8-sig")
        place = before.count("\n") + 1, len(before) - before.rfind("\n")
        raise _LimitError("the file is not UTF-8", place, "yaml-syntax") from None


def _scan(text: str) -> tuple[_Statistics, yaml.YAMLError | None]:
    """Return the statistics up to the end or the syntax error, and the error. Raises _LimitError."""
    statistics = _Statistics()
    try:
        for event in yaml.parse(text, yaml.CSafeLoader):
            statistics.count(event)
    except yaml.YAMLError as error:
        return statistics, error
    return statistics, None


class _Statistics:
    """Counts the values of a stream. Values behind an alias count for each use of the alias.

    documents: the number of well-formed documents. tagged: the values with a tag: (place, tag of _TAGS) -> the
    tag in the text, or None if it is the same.
    """

    def __init__(self) -> None:
        self.documents = 0
        self.tagged: Tagged = {}
        self._total = 0
        self._sizes: dict[str, int] = {}  # anchor -> number of its values, once it is closed
        self._open: list[tuple[str | None, int]] = []

    def count(self, event: Any) -> None:
        """Count one event. Raises _LimitError, and YAMLError for an alias without an anchor."""
        if type(event) in _TAGS and event.tag is not None:
            own = _TAGS[type(event)]
            self.tagged[_place_of(event), own] = None if event.tag == _OWN + own else event.tag
        if isinstance(event, yaml.DocumentEndEvent):
            self.documents += 1
            if self.documents > MAX_DOCUMENTS:
                raise _LimitError(f"more than {MAX_DOCUMENTS:,} documents", _place_of(event))
            self._sizes = {}
        elif isinstance(event, yaml.AliasEvent):
            self._total += self._size(event)
        elif isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            self._total += 1
            self._open.append((event.anchor, self._total))
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            anchor, before = self._open.pop()
            if anchor:
                self._sizes[anchor] = self._total - before + 1
        elif isinstance(event, yaml.ScalarEvent):
            self._total += 1
            if event.anchor:
                self._sizes[event.anchor] = 1
        self._check(event)

    def _size(self, alias: Any) -> int:
        """Return the number of values behind an alias."""
        if alias.anchor in self._sizes:
            return self._sizes[alias.anchor]
        name = alias.anchor[:80]
        if any(anchor == alias.anchor for anchor, _ in self._open):
            raise _LimitError(f"the alias *{name} is inside its own anchor", _place_of(alias))
        what = f"there is no anchor &{name} before the alias *{name}"
        raise yaml.composer.ComposerError(None, None, what, alias.start_mark)

    def _check(self, event: Any) -> None:
        if len(self._open) > MAX_DEPTH:
            raise _LimitError(f"nested deeper than {MAX_DEPTH} levels", _place_of(event))
        if self._total > MAX_NODES:
            raise _LimitError(f"more than {MAX_NODES:,} values, aliases expanded", _place_of(event))


def _compose(text: str, documents: int) -> Iterator[Any]:
    """Yield the root nodes of the first documents."""
    loader = yaml.CSafeLoader(text)
    try:
        for _ in range(documents):
            if not loader.check_node():
                return
            yield loader.get_node()
    finally:
        loader.dispose()


def _syntax(error: yaml.YAMLError, text: str, file: str) -> Finding:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    what = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    place = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    return Finding(Location(file, *place), "yaml-syntax", *explain_syntax_error(what, text, place))


class _Converter:
    """Converts the nodes of one document to data, and records their places. tagged: as in _Statistics."""

    def __init__(self, document: Document, findings: list[Finding], tagged: Tagged) -> None:
        self.document = document
        self.findings = findings
        self.tagged = tagged

    def value(self, node: Any, path: Path) -> Any:
        """Return the data of a node."""
        self.document.values[path] = _place_of(node)
        tagged = self._tagged(node)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*path, n)) for n, item in enumerate(node.value)]
        return node.value if tagged or node.style else self._plain(node, path)

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        data: dict[str, Any] = {}
        merges = [item for item in node.value if item[0].tag == _MERGE]
        for key_node, _ in merges[1:]:
            self._report(key_node, "duplicate-key", "there are two `<<` keys", "<<: [*a, *b]")
        # first, so that the places of the own keys of the mapping replace those of the merged keys
        merged = [other for _, value in merges[:1] for other in self._merged(value, path)]
        for key_node, value_node in node.value:
            key = None if key_node.tag == _MERGE else self._key(key_node, path)
            if key is None:
                continue
            if key in data:
                self._report(key_node, "duplicate-key", f"there are two keys `{key}`")
            self.document.keys[*path, key] = _place_of(key_node)
            data[key] = self.value(value_node, (*path, key))
        for other in reversed(merged):
            for key, value in other.items():
                data.setdefault(key, value)
        return data

    def _merged(self, node: Any, path: Path) -> list[dict[str, Any]]:
        nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
        if not all(isinstance(one, yaml.MappingNode) for one in nodes):
            self._report(node, "wrong-type", "`<<` takes a mapping, or a list of mappings")
            return []
        return [self._mapping(one, path) for one in reversed(nodes)]

    def _key(self, node: yaml.Node, path: Path) -> str | None:
        if not isinstance(node, yaml.ScalarNode):
            self._report(node, "wrong-type", "a key is text")
            return None
        key = str(node.value)
        # `on:` is a parameter of actions; no other key of the schema is a trap
        known = key == "on" and len(path) > 1 and path[-1] == "with"
        if (
            not self._tagged(node)
            and not node.style
            and not known
            and not self._report_trap(node, key)
        ):
            self._report_spaces(node, find_space(key, within=True))
        return key

    def _plain(self, node: Any, path: Path) -> Any:
        """Return the data of a plain scalar. A value that readers understand differently stays text."""
        text = node.value
        if not text:
            if "with" in path[:-1]:
                hint = 'write null, or "" for an empty text'
                self._report(node, "yaml-trap", "an empty value is null", hint)
            return None
        # PyYAML treats y and n as text. Texts of YAML 1.1 such as 1e3 and 0o17 are numbers in YAML 1.2
        if node.tag == _TEXT and text not in "yYnN" and text[0] not in _NUMERIC:
            self._report_spaces(node, find_space(text))
            return text
        if self._report_trap(node, text):
            return text
        if len(text) > MAX_DIGITS and (_INTEGER.fullmatch(text) or _HEXADECIMAL.fullmatch(text)):
            self._report(node, "bad-value", f"a number of more than {MAX_DIGITS:,} digits")
            return 0
        value = _plain(text)
        if value in (math.inf, -math.inf):
            self._report(node, "bad-value", "a number that is too large")
            return 0
        return value

    def _report_spaces(self, node: yaml.Node, odd: str | None) -> None:
        if odd:
            what = f"{odd} looks like a space, but is part of the text"
            self._report(node, "yaml-trap", what, "replace it with a space, or quote the text")

    def _report_trap(self, node: yaml.Node, text: str) -> bool:
        if _TRAP_WORD.fullmatch(text):
            hint = f'write true or false, or quote it: "{text}"'
        elif len(text) < MAX_DIGITS and (
            _TRAP_NUMBER.fullmatch(text) or ("_" in text and _TRAP_UNDERSCORE.fullmatch(text))
        ):
            hint = f'for text, write "{text}"; for a number, use decimal digits only'
        else:
            return False
        self._report(
            node, "yaml-trap", f"YAML readers understand `{text}` without quotes differently", hint
        )
        return True

    def _tagged(self, node: yaml.Node) -> bool:
        """Whether the node has a tag. Report a tag that is not allowed."""
        key = _place_of(node), _TAGS[type(node)]
        if key not in self.tagged:
            return False
        tag = self.tagged[key]
        if tag is not None:
            what = f"the tag {tag.replace(_OWN, '!!')[:80]} is not allowed"
            self._report(node, "yaml-syntax", what, "write the value without a tag")
        return True

    def _report(self, node: yaml.Node, code: str, what: str, hint: str | None = None) -> None:
        """Add a finding. Raises _LimitError."""
        if len(self.findings) >= MAX_FINDINGS:
            what = f"more than {MAX_FINDINGS:,} YAML findings; the rest of the file is not checked"
            raise _LimitError(what, _place_of(node))
        self.findings.append(
            Finding(Location(self.document.file, *_place_of(node)), code, what, hint)
        )


def _plain(text: str) -> Any:
    """Return the value of a plain scalar by the core schema of YAML 1.2."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _HEXADECIMAL.fullmatch(text):
        return int(text, 16)
    return float(text) if _FLOAT.fullmatch(text) else text


def _place_of(item: Any) -> tuple[int, int]:
    """Return the line and column, from 1, at which a node or event of libyaml begins."""
    return item.start_mark.line + 1, item.start_mark.column + 1
