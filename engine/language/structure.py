"""Checks the structure of a document against ``schema``, with cerberus.

The public errors of cerberus lose the paths, so this module reads its private tree (``_errors``). The version
is pinned, and a test checks the form of the tree.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import cerberus
from cerberus import errors as codes
from cerberus.schema import UnvalidatedSchema

from engine.language.duration import HINT
from engine.language.findings import nearest
from engine.language.schema import Key, document
from engine.language.value_checks import duration_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from engine.language.findings import Findings
    from engine.language.value_checks import Fault
    from engine.language.yaml_source import Path

_CERBERUS_TYPES = {
    "text": "string",
    "bool": "boolean",
    "integer": "integer",
    "list": "list",
    "map": "dict",
}
_TYPE_NAMES = {
    "text": "text",
    "bool": "true or false",
    "integer": "a whole number",
    "list": "a list",
    "map": "a mapping",
}
_SEPARATOR = "\0"
_MAX_ERRORS = 200
"""Errors kept per mapping or list. Cerberus sorts them for each new one: minutes for 50,000."""


class _Validator(cerberus.Validator):  # type: ignore[misc]  # cerberus ships no types
    """The validator of cerberus, except that true is not an integer and the number of errors is limited."""

    types_mapping = {  # noqa: RUF012 - the interface of cerberus
        **cerberus.Validator.types_mapping,
        "integer": cerberus.TypeDefinition("integer", (int,), (bool,)),
    }

    def _error(self, *args: Any) -> None:
        if len(self._errors) < _MAX_ERRORS:
            super()._error(*args)


def check_structure(data: dict[str, Any], kind: str, findings: Findings) -> None:
    """Report wrong keys, types and values of a document of that kind."""
    validator = _validator(kind)
    validator.validate(data, normalize=False)  # no rule changes the data
    keys = Key("map", "", keys=document(kind))
    errors = list(_leaves(validator._errors))  # noqa: SLF001 - see the module docstring
    misspelt = {
        _intended_path(error, keys) for error in errors if error.code == codes.UNKNOWN_FIELD.code
    }
    for error in errors:
        if not _is_misspelt(misspelt, error):
            _report(error, keys, findings)


def _intended_path(error: Any, keys: Key) -> Path:
    """Return the path that the author of an unknown key probably meant."""
    path: Path = tuple(error.document_path)
    return (*path[:-1], nearest(str(path[-1]), _keys_at(keys, path[:-1])) or "")


def _is_misspelt(misspelt: set[Path], error: Any) -> bool:
    """Whether the missing key is present but misspelt. The finding at the misspelt key is enough."""
    path: Path = tuple(error.document_path)
    if error.code == codes.CUSTOM.code and str(error.info[0]).startswith("missing-key"):
        return any(m[:-1] == path and f"`{m[-1]}`" in error.info[0] for m in misspelt)
    return error.code == codes.REQUIRED_FIELD.code and path in misspelt


@functools.cache
def _validator(kind: str) -> _Validator:
    # Cerberus would validate the rules themselves at each start, which takes longer than everything else in
    # `tiercel check`. The rules are constant, so a test validates them.
    return _Validator(UnvalidatedSchema(rules(kind)))


def rules(kind: str) -> dict[str, Any]:
    """Return the cerberus rules for a document of that kind."""
    return {name: _rule(key) for name, key in document(kind).items()}


def _rule(key: Key) -> dict[str, Any]:
    rule: dict[str, Any] = {"required": key.required}
    if key.type in _CERBERUS_TYPES:
        rule["type"] = _CERBERUS_TYPES[key.type]
    if key.words:
        rule["allowed"] = list(key.words)
    if key.type == "list" and key.item and key.item.type != "any":
        rule["schema"] = _rule(key.item)
        rule["schema"].pop("required")
    if key.type == "map" and key.free and key.item:
        rule["valuesrules"] = {k: v for k, v in _rule(key.item).items() if k != "required"}
    elif key.type == "map" and not key.free:
        rule["schema"] = {name: _rule(inner) for name, inner in key.keys.items()}
    if key.type == "any":
        rule["nullable"] = True
    if key.type == "tags":
        rule["anyof"] = [
            {"type": "list", "schema": {"type": "string"}, "minlength": 1},
            {"type": "dict", "minlength": 1, "schema": {n: _rule(k) for n, k in key.keys.items()}},
        ]
    if key.check:
        rule["check_with"] = _cerberus_check(key.check)
    return rule


def _cerberus_check(check: Callable[[Any], Fault | None]) -> Callable[..., None]:
    def run(field: str, value: Any, error: Callable[[str, str], None]) -> None:
        if value is None:
            return  # cerberus reports the wrong type
        try:
            fault = check(value)
        except (TypeError, AttributeError):
            return  # cerberus reports the wrong type
        if fault:
            error(field, _SEPARATOR.join(part or "" for part in fault))

    return run


def _leaves(errors: Iterable[Any]) -> Iterable[Any]:
    for error in errors:
        if error.is_group_error and error.code != codes.ANYOF.code:
            yield from _leaves(error.child_errors)
        elif error.is_logic_error:
            yield from _nearest_branch(error)
        else:
            yield error


def _nearest_branch(error: Any) -> Iterable[Any]:
    """Return the errors of the ``anyof`` branch (tags: a list or a mapping) that has the right type."""
    branches = list(error.definitions_errors.values())
    wrong_type = [b for b in branches if any(e.code == codes.BAD_TYPE.code for e in b)]
    right_type = [branch for branch in branches if branch not in wrong_type]
    return _leaves(right_type[0] if right_type else branches[0][:1])


def _report(error: Any, keys: Key, findings: Findings) -> None:
    path: Path = tuple(error.document_path)
    code, name = error.code, path[-1]
    if code == codes.UNKNOWN_FIELD.code:
        known = _keys_at(keys, path[:-1])
        hint = nearest(str(name), known) or ", ".join(known)
        findings.add(path, "unknown-key", f"there is no key `{name}` here", hint, key=True)
    elif code == codes.REQUIRED_FIELD.code:
        findings.add(path[:-1], "missing-key", f"`{name}` is missing", _doc(keys, path))
    elif code == codes.UNALLOWED_VALUE.code:
        words = error.constraint
        hint = nearest(str(error.value), words) or ", ".join(words)
        what = f"`{str(error.value)[:80]}` is not one of {', '.join(words)}"
        findings.add(path, "unknown-kind" if path == ("kind",) else "bad-value", what, hint)
    elif code == codes.CUSTOM.code:
        finding_code, what, hint = str(error.info[0]).split(_SEPARATOR)
        findings.add(path, finding_code, what, hint or None)
    elif code == codes.MIN_LENGTH.code:
        findings.add(path, "bad-value", f"`{name}` is empty", "leave the key out, or add items")
    elif _key_at(keys, path).check is duration_text:
        findings.add(path, "bad-duration", f"`{name}` takes a duration", HINT)
    else:
        wanted = _TYPE_NAMES.get(_key_at(keys, path).type, "another type")
        subject = "an item" if isinstance(name, int) else f"`{name}`"
        findings.add(path, "wrong-type", f"{subject} takes {wanted}", _doc(keys, path))


def _key_at(keys: Key, path: Path) -> Key:
    for part in path:
        inner = keys.item if isinstance(part, int) or keys.free else keys.keys.get(part)
        if inner is None:
            return Key("text", "") if keys.type == "tags" else Key("any", "")
        keys = inner
    return keys


def _keys_at(keys: Key, path: Path) -> Mapping[str, Key]:
    return _key_at(keys, path).keys


def _doc(keys: Key, path: Path) -> str | None:
    return _key_at(keys, path).doc or None
