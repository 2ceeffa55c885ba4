"""Rules inside other documents: Helm values, ConfigMaps, and the Rulesfile resource of falco-operator.

``customRules`` maps file names to texts (Falco's Helm chart; also below a parent chart or in a HelmRelease).
A ConfigMap has the same mapping under ``data``. A Rulesfile has one text, or a list of rules, in
``inlineRules``.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from engine.language.yaml_source import Document, read

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.language.yaml_source import Path
    from engine.model.errors import Finding

_SUFFIXES = (".yaml", ".yml")
_PARSER_COST = 1_000
"""Characters. The cost of starting a YAML parser, so that many small texts are limited too."""


class EmbeddedRules(msgspec.Struct, frozen=True):
    """A text with rules, or a list of rules, at ``path`` of a document.

    start: line and column of the first character of the text, from 1.
    block: whether the text is a YAML block scalar. Only then do its lines and columns correspond to those of
        the file. For other texts every location is ``start``.
    """

    document: Document
    path: Path
    value: str | list[Any]
    start: tuple[int, int] = (1, 1)
    block: bool = False

    @property
    def cost(self) -> int:
        """The characters or values to read, plus a constant for each parser."""
        return _PARSER_COST + len(
            self.value if isinstance(self.value, str) else self.document.values
        )

    def documents(self) -> tuple[list[Document], list[Finding]]:
        """Return the YAML documents and the YAML mistakes, with locations in the surrounding file."""
        file = self.document.file
        if not isinstance(self.value, str):
            part = Document(file, self.value)
            part.values = _below(self.document.values, self.path)
            part.keys = _below(self.document.keys, self.path)
            return [part], []
        documents, findings = read(self.value.encode(), file)
        for document in documents:
            document.values = {path: self._in_file(*at) for path, at in document.values.items()}
            document.keys = {path: self._in_file(*at) for path, at in document.keys.items()}
        moved = []
        for finding in findings:
            line, column = self._in_file(finding.where.line, finding.where.column)
            moved.append(replace(finding, where=replace(finding.where, line=line, column=column)))
        return documents, moved

    def _in_file(self, line: int, column: int) -> tuple[int, int]:
        if not self.block:
            return self.start
        return self.start[0] + line - 1, self.start[1] + column - 1


def _below(places: dict[Path, tuple[int, int]], path: Path) -> dict[Path, tuple[int, int]]:
    return {key[len(path) :]: at for key, at in places.items() if key[: len(path)] == path}


def embedded_rules(document: Document, content: bytes) -> Iterator[EmbeddedRules]:
    """Yield the rules inside a mapping. content: the bytes of the file that contains the document."""
    lines = content.decode("utf-8-sig", "replace").splitlines()
    for path, value in _candidates(document.data, ()):
        if isinstance(value, list):
            yield EmbeddedRules(document, path, value)
        elif isinstance(value, str) and value.strip():
            yield _from_text(document, path, value, lines)


def _candidates(data: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    if isinstance(data, list):
        for n, item in enumerate(data):
            yield from _candidates(item, (*path, n))
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
            yield from _candidates(value, (*path, key))


def _from_text(document: Document, path: Path, text: str, lines: list[str]) -> EmbeddedRules:
    where = document.at(path)
    line = lines[where.line - 1] if where.line <= len(lines) else ""
    if not line[where.column - 1 :].startswith(("|", ">")):
        return EmbeddedRules(document, path, text, (where.line, where.column))
    first = next((one for one in islice(lines, where.line, None) if one.strip()), "")
    indent = len(first) - len(first.lstrip(" "))
    return EmbeddedRules(document, path, text, (where.line + 1, indent + 1), block=True)
