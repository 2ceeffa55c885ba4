"""Checks the structure of a document against ``schema``: its keys, the types of its values, and fixed words."""

from __future__ import annotations

import functools
from itertools import islice
from typing import TYPE_CHECKING, Any

from engine.language.duration import HINT
from engine.language.findings import MAX_ERRORS, nearest
from engine.language.schema import Key, document
from engine.language.value_checks import duration_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.language.findings import Findings
    from engine.language.value_checks import Fault
    from engine.language.yaml_source import Path

_PYTHON_TYPES: dict[str, tuple[type, ...]] = {
    "text": (str,),
    "bool": (bool,),
    "integer": (int,),
    "list": (list,),
    "map": (dict,),
    "tags": (list, dict),
}
_TYPE_NAMES = {
    "text": "text",
    "bool": "true or false",
    "integer": "a whole number",
    "list": "a list",
    "map": "a mapping",
}
_TAG = Key("text", "")


def check_structure(data: dict[str, Any], kind: str, findings: Findings) -> None:
    """Report wrong keys, types and values of a document of that kind."""
    _check_keys(data, _document(kind), (), findings)


_document = functools.cache(document)


def _check(value: Any, key: Key, path: Path, findings: Findings) -> set[str]:
    """Report what is wrong with a value. Return the known keys that its unknown keys probably mean."""
    if key.type == "any" and value is None:
        return set()
    if not _has_type(value, key):
        _report_type(key, path, findings)
        return set()
    if key.words and value not in key.words:
        _report_word(value, key, path, findings)
    misspelt: set[str] = set()
    if key.type == "tags":
        _check_tags(value, key, path, findings)
    elif key.type == "list" and key.item:
        _check_items(value, key.item, path, findings)
    elif key.type == "map" and key.free:
        for name, inner in value.items() if key.item else ():
            _check(inner, key.item, (*path, name), findings)  # type: ignore[arg-type]
    elif key.type == "map":
        misspelt = _check_keys(value, key.keys, path, findings)
    fault = _fault(value, key)
    # The finding at a misspelt key is enough: the check would report the same key as missing.
    if fault and not (fault[0] == "missing-key" and any(f"`{m}`" in fault[1] for m in misspelt)):
        findings.add(path, *fault)
    return misspelt


def _check_keys(
    data: Mapping[Any, Any], keys: Mapping[str, Key], path: Path, findings: Findings
) -> set[str]:
    """Check a mapping with fixed keys. Return the known keys that its unknown keys probably mean."""
    # The search for a similar key is slow, and only MAX_ERRORS findings are reported.
    unknown = islice((name for name in data if name not in keys), MAX_ERRORS + 1)
    intended = {name: nearest(str(name), keys) for name in unknown}
    for name, near in intended.items():
        what = f"there is no key `{name}` here"
        findings.add((*path, name), "unknown-key", what, near or ", ".join(keys), key=True)
    misspelt = {near for near in intended.values() if near}
    for name, key in keys.items():
        if name in data:
            _check(data[name], key, (*path, name), findings)
        elif key.required and name not in misspelt:
            findings.add(path, "missing-key", f"`{name}` is missing", key.doc or None)
    return misspelt


def _check_items(value: list[Any], item: Key, path: Path, findings: Findings) -> None:
    for index, inner in enumerate(value):
        _check(inner, item, (*path, index), findings)


def _check_tags(value: Any, key: Key, path: Path, findings: Findings) -> None:
    """Check tags: a list of texts, or a mapping of such lists."""
    if not value:
        what = f"`{path[-1]}` is empty"
        findings.add(path, "bad-value", what, "leave the key out, or add items")
    elif isinstance(value, list):
        _check_items(value, _TAG, path, findings)
    else:
        _check_keys(value, key.keys, path, findings)


def _fault(value: Any, key: Key) -> Fault | None:
    try:
        return key.check(value) if key.check else None
    except (TypeError, AttributeError):
        return None  # a value inside has the wrong type, which is reported


def _has_type(value: Any, key: Key) -> bool:
    """Whether a value has the type of the key. True is not an integer."""
    if key.type == "any":
        return True
    if isinstance(value, bool):
        return key.type == "bool"
    return isinstance(value, _PYTHON_TYPES[key.type])


def _report_type(key: Key, path: Path, findings: Findings) -> None:
    name = path[-1]
    if key.check is duration_text:
        findings.add(path, "bad-duration", f"`{name}` takes a duration", HINT)
        return
    subject = "an item" if isinstance(name, int) else f"`{name}`"
    wanted = _TYPE_NAMES.get(key.type, "another type")
    findings.add(path, "wrong-type", f"{subject} takes {wanted}", key.doc or None)


def _report_word(value: str, key: Key, path: Path, findings: Findings) -> None:
    hint = nearest(value, key.words) or ", ".join(key.words)
    what = f"`{value[:80]}` is not one of {', '.join(key.words)}"
    findings.add(path, "unknown-kind" if path == ("kind",) else "bad-value", what, hint)
