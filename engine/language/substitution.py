"""Substitutes values per environment: ``${name}`` and ``${name.sub}``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

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
    """Return the values of a ``values.yaml``, and the findings about them.

    Values cannot refer to other values. ``$${`` is a literal ``${``, as in a playbook.
    """
    if not isinstance(document.data, dict):
        return {}, [Finding(document.at(()), "wrong-type", "values are a mapping")]
    findings = Findings(document)
    try:
        return _unescape(document.data, (), findings), findings.entries
    except TooManyFindingsError as error:
        return {}, error.entries


def _unescape(data: Any, path: Path, findings: Findings) -> Any:
    """Replace every ``$${`` with ``${``. Report every other ``${``."""
    if isinstance(data, dict):
        return {key: _unescape(item, (*path, key), findings) for key, item in data.items()}
    if isinstance(data, list):
        return [_unescape(item, (*path, n), findings) for n, item in enumerate(data)]
    if not isinstance(data, str) or "${" not in data:
        return data
    if any(match[0] != "$${" for match in _REFERENCE.finditer(data)):
        what = "a value cannot refer to other values"
        findings.add(
            path, "bad-value", what, "write $${ for a literal ${, or use an anchor and an alias"
        )
    return data.replace("$${", "${")


def substitute(data: Any, values: Mapping[str, Any], path: Path, findings: Findings) -> Any:
    """Replace every ``${name}`` in strings, and ``$${`` with ``${``.

    A string that consists only of ``${name}`` becomes the value with its type. A value that is missing, is
    null or contains null is reported at the string. Returns None if the substituted values together exceed
    the limits of a file.
    """
    try:
        return _Substitution(values, findings).apply(data, path)
    except _TooLargeError as error:
        what = "the substituted values are larger than a file may be"
        findings.add(error.path, "yaml-limit", what)
        return None


class _TooLargeError(Exception):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.path = path


class _Substitution(msgspec.Struct):
    """Substitution in one document. characters, nodes: how much can still be substituted."""

    values: Mapping[str, Any]
    findings: Findings
    characters: int = MAX_BYTES
    nodes: int = MAX_NODES

    def apply(self, data: Any, path: Path) -> Any:
        """Return the data with values. Raises _TooLargeError."""
        if isinstance(data, dict):
            return {key: self.apply(item, (*path, key)) for key, item in data.items()}
        if isinstance(data, list):
            return [self.apply(item, (*path, n)) for n, item in enumerate(data)]
        if not isinstance(data, str) or "${" not in data:
            return data
        only = _REFERENCE.fullmatch(data)
        if only and only[1] is not None:
            value = self._value(only[1], path)
            self._count(value, path)
            return value
        return _REFERENCE.sub(lambda match: self._text(match, path), data)

    def _text(self, match: re.Match[str], path: Path) -> str:
        if match[0] == "$${":
            return "${"
        if match[1] is None:
            self._count("", path)
            what, hint = "the closing `}` of `${` is missing", "write $${ for a literal ${"
            self.findings.add(path, "missing-value", what, hint)
            return ""
        value = self._value(match[1], path)
        self._count(value, path)
        if isinstance(value, (dict, list)):
            what = f"`${{{match[1]}}}` is not text, so the string cannot contain anything else"
            self.findings.add(path, "wrong-type", what)
            return ""
        return display_text(value) if isinstance(value, bool) else str(value)

    def _value(self, name: str, path: Path) -> Any:
        value: Any = self.values
        for part in name.split("."):
            value = value.get(part, _MISSING) if isinstance(value, dict) else _MISSING
        if value is _MISSING:
            what, hint = f"`{name[:80]}` has no value", "add it to values.yaml"
        elif _has_null(value):
            what, hint = f"`{name[:80]}` is null or contains null", 'write "" for an empty text'
        else:
            return value
        self.findings.add(path, "missing-value", what, hint)
        return ""

    def _count(self, value: Any, path: Path) -> None:
        """Count the size of a value. Raises _TooLargeError."""
        waiting = [value]
        while waiting:
            one = waiting.pop()
            self.nodes -= 1
            if isinstance(one, str):
                self.characters -= len(one)
            elif isinstance(one, (dict, list)):
                waiting += one.values() if isinstance(one, dict) else one
            if self.nodes < 0 or self.characters < 0:
                raise _TooLargeError(path)


def _has_null(value: Any) -> bool:
    if isinstance(value, (dict, list)):
        return any(map(_has_null, value.values() if isinstance(value, dict) else value))
    return value is None
