"""Values per environment: ``${name}`` and ``${name.sub}``, put in at load."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from engine.language.operators import text_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.language.report import Report
    from engine.language.source import Path

_REFERENCE = re.compile(r"\$\$\{|\$\{([^}]*)\}|\$\{")
_MISSING = object()


def put_in(data: Any, values: Mapping[str, Any], path: Path, report: Report) -> Any:
    """The data with every ``${name}`` in a string replaced, and ``$${`` made ``${``.

    A string that is only ``${name}`` takes the value's type. What is missing is reported at its string.
    """
    if isinstance(data, dict):
        return {key: put_in(item, values, (*path, key), report) for key, item in data.items()}
    if isinstance(data, list):
        return [put_in(item, values, (*path, n), report) for n, item in enumerate(data)]
    if not isinstance(data, str) or "${" not in data:
        return data
    whole = _REFERENCE.fullmatch(data)
    if whole and whole[1] is not None:
        return _value(whole[1], values, path, report)
    return _REFERENCE.sub(lambda found: _text(found, values, path, report), data)


def _text(found: re.Match[str], values: Mapping[str, Any], path: Path, report: Report) -> str:
    if found[0] == "$${":
        return "${"
    if found[1] is None:
        report(path, "missing-value", "a `${` without its `}`", "write $${ for a literal ${")
        return ""
    value = _value(found[1], values, path, report)
    if isinstance(value, (dict, list)):
        report(path, "wrong-type", f"`${{{found[1]}}}` is no text, so it must stand alone")
        return ""
    return text_of(value) if isinstance(value, bool) else str(value)


def _value(name: str, values: Mapping[str, Any], path: Path, report: Report) -> Any:
    value: Any = values
    for part in name.split("."):
        value = value.get(part, _MISSING) if isinstance(value, dict) else _MISSING
    if value is _MISSING:
        report(path, "missing-value", f"`{name}` has no value", "add it to values.yaml")
        return ""
    return value
