"""Values per environment: ``${name}`` and ``${name.sub}``, put in at load."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.language.findings import Findings, TooManyFindingsError
from engine.language.operators import display_text
from engine.language.yaml_source import MAX_BYTES, MAX_NODES
from engine.model.errors import Finding

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.language.yaml_source import Document, Path

_REFERENCE = re.compile(r"\$\$\{|\$\{([^{}]*)\}|\$\{")
_MISSING = object()


def read_values(document: Document) -> tuple[dict[str, Any], list[Finding]]:
    """The values of a ``values.yaml``, and what is wrong with them.

    Values do not refer to other values. ``$${`` is a literal ``${``, as in a playbook.
    """
    if not isinstance(document.data, dict):
        wrong = Finding(document.at(()), "wrong-type", "values are one mapping")
        return {}, [wrong]
    findings = Findings(document)
    try:
        return _literal(document.data, (), findings), findings.entries
    except TooManyFindingsError as error:
        return {}, error.entries


def _literal(data: Any, path: Path, findings: Findings) -> Any:
    """The data with every ``$${`` made ``${``; a ``${`` is reported."""
    if isinstance(data, dict):
        return {key: _literal(item, (*path, key), findings) for key, item in data.items()}
    if isinstance(data, list):
        return [_literal(item, (*path, n), findings) for n, item in enumerate(data)]
    if not isinstance(data, str) or "${" not in data:
        return data
    if any(found[0] != "$${" for found in _REFERENCE.finditer(data)):
        what = "a value does not refer to other values"
        findings.add(
            path, "bad-value", what, "write $${ for a literal ${, or an anchor and an alias"
        )
    return data.replace("$${", "${")


def substitute(data: Any, values: Mapping[str, Any], path: Path, findings: Findings) -> Any:
    """The data with every ``${name}`` in a string replaced, and ``$${`` made ``${``.

    A string that is only ``${name}`` takes the value's type. A value that is missing, null or has null in it
    is reported at its string.
    None where the values that are put in would come to more than a file may hold.
    """
    try:
        return _Filling(values, findings).fill(data, path)
    except _TooMuchError as error:
        what = "the values that are put in come to more than a file may hold"
        findings.add(error.path, "yaml-limit", what)
        return None


class _TooMuchError(Exception):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path


@dataclass(slots=True)
class _Filling:
    """One document being filled. letters, nodes: what there is still room for."""

    values: Mapping[str, Any]
    findings: Findings
    letters: int = MAX_BYTES
    nodes: int = MAX_NODES

    def fill(self, data: Any, path: Path) -> Any:
        """The data, filled. Raises _TooMuchError."""
        if isinstance(data, dict):
            return {key: self.fill(item, (*path, key)) for key, item in data.items()}
        if isinstance(data, list):
            return [self.fill(item, (*path, n)) for n, item in enumerate(data)]
        if not isinstance(data, str) or "${" not in data:
            return data
        whole = _REFERENCE.fullmatch(data)
        if whole and whole[1] is not None:
            value = self._value(whole[1], path)
            self._take(value, path)
            return value
        return _REFERENCE.sub(lambda found: self._text(found, path), data)

    def _text(self, found: re.Match[str], path: Path) -> str:
        if found[0] == "$${":
            return "${"
        if found[1] is None:
            self._take("", path)
            self.findings.add(
                path, "missing-value", "a `${` without its `}`", "write $${ for a literal ${"
            )
            return ""
        value = self._value(found[1], path)
        self._take(value, path)
        if isinstance(value, (dict, list)):
            what = f"`${{{found[1]}}}` is no text, so it must stand alone"
            self.findings.add(path, "wrong-type", what)
            return ""
        return display_text(value) if isinstance(value, bool) else str(value)

    def _value(self, name: str, path: Path) -> Any:
        value: Any = self.values
        for part in name.split("."):
            value = value.get(part, _MISSING) if isinstance(value, dict) else _MISSING
        if value is _MISSING or _has_null(value):
            null = value is not _MISSING
            what = f"`{name[:80]}` {'is null or contains null' if null else 'has no value'}"
            hint = 'write "" for an empty text' if null else "add it to values.yaml"
            self.findings.add(path, "missing-value", what, hint)
            return ""
        return value

    def _take(self, value: Any, path: Path) -> None:
        """Count what a value holds. Raises _TooMuchError."""
        waiting = [value]
        while waiting:
            one = waiting.pop()
            self.nodes -= 1
            if isinstance(one, str):
                self.letters -= len(one)
            elif isinstance(one, (dict, list)):
                waiting += one.values() if isinstance(one, dict) else one
            if self.nodes < 0 or self.letters < 0:
                raise _TooMuchError(path)


def _has_null(value: Any) -> bool:
    if isinstance(value, (dict, list)):
        return any(map(_has_null, value.values() if isinstance(value, dict) else value))
    return value is None
