"""YAML text -> plain data, with the place of every key and value.

Two passes. The first walks libyaml's event stream, which is iterative, and refuses what could hurt: depth,
number of nodes, aliases that grow. Only then the second composes nodes (which recurses in C: 200 kB of ``[``
would be a segmentation fault) and turns them into data by YAML 1.2's core schema, told as errors where
YAML 1.1 readers disagree.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from engine.errors import Finding, Location

if TYPE_CHECKING:
    from collections.abc import Iterator

Path = tuple[str | int, ...]

MAX_BYTES = 1 << 20
MAX_DEPTH = 64
MAX_NODES = 100_000
MAX_DIGITS = 1_000
MAX_DOCUMENTS = 1_000
MAX_MISTAKES = 1_000
"""Mistakes of a file's YAML that are told; nobody reads so many, and to tell them takes time."""

_TRAP_WORD = re.compile(r"(?i:y|n|yes|no|on|off)")
_TRAP_NUMBER = re.compile(r"[-+]?0[0-9_]+|[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?")
_INTEGER = re.compile(r"[-+]?[0-9]+")
_HEXADECIMAL = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_CONSTANTS = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
}  # fmt: skip
_OWN = "tag:yaml.org,2002:"
_TEXT = _OWN + "str"
_SCALARS = {_OWN + name for name in ("str", "int", "float", "bool", "null", "timestamp", "value")}
_MERGE = _OWN + "merge"


@dataclass(slots=True)
class Document:
    """One YAML document: its data, and where each key and value stands (line, column from 1)."""

    file: str
    data: Any
    values: dict[Path, tuple[int, int]] = field(default_factory=dict)
    keys: dict[Path, tuple[int, int]] = field(default_factory=dict)

    def at(self, path: Path, *, key: bool = False) -> Location:
        """The place of the value at ``path`` (or of its key), or of the nearest thing around it."""
        if key and path in self.keys:
            return Location(self.file, *self.keys[path])
        while path and path not in self.values:
            path = path[:-1]
        return Location(self.file, *self.values.get(path, (1, 1)))


def read(content: bytes, file: str) -> tuple[list[Document], list[Finding]]:
    """The documents of a file, and what is wrong with it as YAML. Empty documents are left out.

    Of a file with a syntax error the documents before it are given, too, so that their mistakes are told
    at the same time.
    """
    try:
        text = _text(content)
        safe, fault = _survey(text)
    except yaml.YAMLError as error:  # the reader itself: a character that YAML does not allow
        return [], [_syntax(error, file)]
    except _LimitError as error:
        return [], [Finding(Location(file, *error.place), error.code, str(error))]
    documents: list[Document] = []
    findings: list[Finding] = [_syntax(fault, file)] if fault else []
    try:
        for node in _compose(text, safe):
            document = Document(file, None)
            document.data = _Walk(document, findings).value(node, ())
            if document.data is not None:
                documents.append(document)
    except yaml.YAMLError as error:
        findings.append(_syntax(error, file))
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
        before = content[: error.start]
        place = before.count(b"\n") + 1, error.start - before.rfind(b"\n")
        raise _LimitError("the file is not UTF-8", place, "yaml-syntax") from None


def _survey(text: str) -> tuple[int, yaml.YAMLError | None]:
    """How many documents are well formed, and the syntax error that ends them. Raises _LimitError."""
    census = _Census()
    try:
        for event in yaml.parse(text, yaml.CSafeLoader):
            census.count(event)
    except yaml.YAMLError as error:
        return census.documents, error
    return census.documents, None


class _Census:
    """Counts the values of a stream, those behind aliases as often as they stand written out."""

    def __init__(self) -> None:
        self.documents = 0
        self._total = 0
        self._sizes: dict[str, int] = {}  # anchor -> values below it, once it is closed
        self._open: list[tuple[str | None, int]] = []

    def count(self, event: Any) -> None:
        """Count one event. Raises _LimitError."""
        if isinstance(event, yaml.DocumentEndEvent):
            self.documents += 1
            if self.documents > MAX_DOCUMENTS:
                raise _LimitError(f"more than {MAX_DOCUMENTS:,} documents", _place(event))
            self._sizes = {}
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._sizes:
                what = f"alias *{event.anchor} stands within its own anchor"
                raise _LimitError(what, _place(event))
            self._total += self._sizes[event.anchor]
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

    def _check(self, event: Any) -> None:
        if len(self._open) > MAX_DEPTH:
            raise _LimitError(f"nested deeper than {MAX_DEPTH} levels", _place(event))
        if self._total > MAX_NODES:
            raise _LimitError(f"more than {MAX_NODES:,} values, aliases written out", _place(event))


def _compose(text: str, documents: int) -> Iterator[Any]:
    """The root nodes of the first so many documents."""
    loader = yaml.CSafeLoader(text)
    try:
        for _ in range(documents):
            if not loader.check_node():
                return
            yield loader.get_node()
    finally:
        loader.dispose()


def _syntax(error: yaml.YAMLError, file: str) -> Finding:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    what = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    place = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    hint = "YAML is indented with spaces" if "start any token" in what else None
    return Finding(Location(file, *place), "yaml-syntax", what, hint)


class _Walk:
    """Turns the nodes of one document into data, noting places."""

    def __init__(self, document: Document, findings: list[Finding]) -> None:
        self.document = document
        self.findings = findings

    def value(self, node: Any, path: Path) -> Any:
        """The node's data."""
        self.document.values[path] = _place(node)
        if isinstance(node, yaml.MappingNode):
            self._core(node, "map")
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            self._core(node, "seq")
            return [self.value(item, (*path, n)) for n, item in enumerate(node.value)]
        return self._scalar(node)

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        data: dict[str, Any] = {}
        # first, so that the places of the mapping's own keys are noted over theirs
        merged = [
            other
            for key_node, value_node in node.value
            if key_node.tag == _MERGE
            for other in self._merged(value_node, path)
        ]
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE:
                continue
            key = self._key(key_node, path)
            if key is None:
                continue
            if key in data:
                self._tell(key_node, "duplicate-key", f"`{key}` is written twice")
            self.document.keys[*path, key] = _place(key_node)
            data[key] = self.value(value_node, (*path, key))
        for other in reversed(merged):
            data = {**other, **data}
        return data

    def _merged(self, node: Any, path: Path) -> list[dict[str, Any]]:
        nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
        if not all(isinstance(one, yaml.MappingNode) for one in nodes):
            self._tell(node, "wrong-type", "`<<` takes a mapping, or a list of them")
            return []
        return [self._mapping(one, path) for one in reversed(nodes)]

    def _key(self, node: yaml.Node, path: Path) -> str | None:
        if not isinstance(node, yaml.ScalarNode):
            self._tell(node, "wrong-type", "a key is text")
            return None
        self._core(node)
        key = str(node.value)
        # `on:` is a parameter of actions; elsewhere the schema knows none of these words
        known = key == "on" and len(path) > 1 and path[-1] == "with"
        if not node.style and not known:
            self._trap(node, key)
        return key

    def _scalar(self, node: Any) -> Any:
        text = node.value
        self._core(node)
        if node.style:  # quoted, or a block
            return text
        # PyYAML itself takes y and n for text; where YAML 1.1 sees text, 1.2 knows a number like 1e3
        number = _FLOAT.fullmatch(text) and "e" in text.lower()
        if node.tag == _TEXT and text not in "yYnN" and not number:
            return text
        if self._trap(node, text):
            return text
        if len(text) > MAX_DIGITS and (_INTEGER.fullmatch(text) or _HEXADECIMAL.fullmatch(text)):
            self._tell(node, "bad-value", f"a number of more than {MAX_DIGITS:,} digits")
            return 0
        value = _plain(text)
        if value in (math.inf, -math.inf):
            self._tell(node, "bad-value", "a number that is too large")
            return 0
        return value

    def _trap(self, node: yaml.Node, text: str) -> bool:
        if _TRAP_WORD.fullmatch(text):
            hint = f'write true or false, or quote it: "{text}"'
        elif len(text) < MAX_DIGITS and _TRAP_NUMBER.fullmatch(text):
            hint = f'quote it: "{text}"'
        else:
            return False
        self._tell(
            node, "yaml-trap", f"plain `{text}` means different things to YAML readers", hint
        )
        return True

    def _core(self, node: yaml.Node, kind: str = "") -> None:
        """Tell of a tag that is none of YAML's own; such tags make objects in other readers."""
        own = node.tag == _OWN + kind if kind else node.tag in _SCALARS
        if not own:
            self._tell(node, "yaml-syntax", f"the tag {node.tag[:80]} is not allowed")

    def _tell(self, node: yaml.Node, code: str, what: str, hint: str | None = None) -> None:
        """Note a mistake. Raises _LimitError."""
        if len(self.findings) >= MAX_MISTAKES:
            what = f"more than {MAX_MISTAKES:,} mistakes: the rest of the file is not told"
            raise _LimitError(what, _place(node))
        self.findings.append(Finding(Location(self.document.file, *_place(node)), code, what, hint))


def _plain(text: str) -> Any:
    """The value of a plain scalar by YAML 1.2's core schema."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _HEXADECIMAL.fullmatch(text):
        return int(text, 16)
    return float(text) if _FLOAT.fullmatch(text) else text


def _place(item: Any) -> tuple[int, int]:
    """Where a node or an event of libyaml begins."""
    return item.start_mark.line + 1, item.start_mark.column + 1
