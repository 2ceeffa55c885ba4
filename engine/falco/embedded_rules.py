"""Rules inside other documents: Helm values, ConfigMaps, and the Rulesfile of falco-operator.

``customRules`` (of Falco's Helm chart, also below a parent chart or in a HelmRelease) maps file names to texts.
A ConfigMap has them under ``data``. A Rulesfile has one text, or the list itself, in ``inlineRules``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from engine.language.yaml_source import Document, read

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.language.yaml_source import Path
    from engine.model.errors import Finding

_SUFFIXES = (".yaml", ".yml")
_READER = 1_000


@dataclass(frozen=True, slots=True)
class Part:
    """A text with rules, or a list of them, at ``path`` of a document.

    place: line and column of the text's first character, from 1. block: whether the text is a YAML block, whose
    lines and columns follow those of the document; otherwise all is at ``place``.
    """

    within: Document
    path: Path
    value: str | list[Any]
    place: tuple[int, int] = (1, 1)
    block: bool = False

    @property
    def cost(self) -> int:
        """Characters, or values, that have to be read for its documents, with those for starting a reader."""
        return _READER + len(self.value if isinstance(self.value, str) else self.within.values)

    def documents(self) -> tuple[list[Document], list[Finding]]:
        """Its documents and its YAML mistakes, at their places in the file around it."""
        file = self.within.file
        if not isinstance(self.value, str):
            own = Document(file, self.value)
            own.values = _below(self.within.values, self.path)
            own.keys = _below(self.within.keys, self.path)
            return [own], []
        documents, findings = read(self.value.encode(), file)
        for document in documents:
            document.values = {path: self._moved(*at) for path, at in document.values.items()}
            document.keys = {path: self._moved(*at) for path, at in document.keys.items()}
        moved = []
        for finding in findings:
            line, column = self._moved(finding.where.line, finding.where.column)
            moved.append(replace(finding, where=replace(finding.where, line=line, column=column)))
        return documents, moved

    def _moved(self, line: int, column: int) -> tuple[int, int]:
        if not self.block:
            return self.place
        return self.place[0] + line - 1, self.place[1] + column - 1


def _below(places: dict[Path, tuple[int, int]], path: Path) -> dict[Path, tuple[int, int]]:
    return {key[len(path) :]: at for key, at in places.items() if key[: len(path)] == path}


def carried(document: Document, content: bytes) -> Iterator[Part]:
    """The parts of a mapping that have rules. content: the bytes of the file that has the document."""
    lines = content.decode("utf-8-sig", "replace").splitlines()
    for path, value in _values(document.data, ()):
        if isinstance(value, list):
            yield Part(document, path, value)
        elif isinstance(value, str) and value.strip():
            yield _text(document, path, value, lines)


def _values(data: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    if isinstance(data, list):
        for n, item in enumerate(data):
            yield from _values(item, (*path, n))
    if not isinstance(data, dict):
        return
    for key, value in data.items():
        if key == "inlineRules":
            yield (*path, key), value
        elif key == "customRules" or (key == "data" and data.get("kind") == "ConfigMap"):
            files = value.items() if isinstance(value, dict) else ()
            for name, text in files:
                if key == "customRules" or name.endswith(_SUFFIXES):
                    yield (*path, key, name), text
        else:
            yield from _values(value, (*path, key))


def _text(document: Document, path: Path, text: str, lines: list[str]) -> Part:
    where = document.at(path)
    line = lines[where.line - 1] if where.line <= len(lines) else ""
    if not line[where.column - 1 :].startswith(("|", ">")):
        return Part(document, path, text, (where.line, where.column))
    below = next((one for one in islice(lines, where.line, None) if one.strip()), "")
    indent = len(below) - len(below.lstrip(" "))
    return Part(document, path, text, (where.line + 1, indent + 1), block=True)
