"""Checks a document's frame with cerberus, made from the one description in ``schema``.

Cerberus' public errors lose paths, so its private tree (``_errors``) is walked; the version is pinned, and
a test holds the shape of that tree.
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
    from engine.language.yaml_source import Path

_TYPES = {"text": "string", "bool": "boolean", "integer": "integer", "list": "list", "map": "dict"}
_WORDS = {
    "text": "text",
    "bool": "true or false",
    "integer": "a whole number",
    "list": "a list",
    "map": "a mapping",
}
_SEPARATOR = "\0"
_MOST = 200
"""Mistakes told of one mapping or list: cerberus sorts them all anew for each, minutes for 50,000."""


class _Validator(cerberus.Validator):  # type: ignore[misc]  # cerberus ships no types
    """Cerberus' own, but true is no integer, and it stops counting at a number of mistakes."""

    types_mapping = {  # noqa: RUF012 - cerberus' own way
        **cerberus.Validator.types_mapping,
        "integer": cerberus.TypeDefinition("integer", (int,), (bool,)),
    }

    def _error(self, *args: Any) -> None:
        if len(self._errors) < _MOST:
            super()._error(*args)


def check_structure(data: dict[str, Any], kind: str, findings: Findings) -> None:
    """Report what is wrong with the frame of a document of that kind."""
    validator = _validator(kind)
    validator.validate(data, normalize=False)  # no rule changes the data
    keys = Key("map", "", keys=document(kind))
    errors = list(_leaves(validator._errors))  # noqa: SLF001 - see above
    misspelt = {_meant(error, keys) for error in errors if error.code == codes.UNKNOWN_FIELD.code}
    for error in errors:
        if not _is_told_as(misspelt, error):
            _tell(error, keys, findings)


def _meant(error: Any, keys: Key) -> Path:
    """The path that an unknown key was probably meant to have."""
    path: Path = tuple(error.document_path)
    return (*path[:-1], nearest(str(path[-1]), _at(keys, path[:-1])) or "")


def _is_told_as(misspelt: set[Path], error: Any) -> bool:
    """Whether what is missing is there, misspelt: one mistake, which is told at the key."""
    path: Path = tuple(error.document_path)
    if error.code == codes.CUSTOM.code and str(error.info[0]).startswith("missing-key"):
        return any(m[:-1] == path and f"`{m[-1]}`" in error.info[0] for m in misspelt)
    return error.code == codes.REQUIRED_FIELD.code and path in misspelt


@functools.cache
def _validator(kind: str) -> _Validator:
    # cerberus would validate the rules themselves at each start, which takes longer than all else in
    # `tiercel check`; they never change, so a test does it
    return _Validator(UnvalidatedSchema(rules(kind)))


def rules(kind: str) -> dict[str, Any]:
    """Cerberus' rules for a document of that kind."""
    return {name: _rule(key) for name, key in document(kind).items()}


def _rule(key: Key) -> dict[str, Any]:
    """Cerberus' rule for a key."""
    rule: dict[str, Any] = {"required": key.required}
    if key.type in _TYPES:
        rule["type"] = _TYPES[key.type]
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
        rule["check_with"] = _check(key.check)
    return rule


def _check(check: Callable[[Any], tuple[str, str, str | None] | None]) -> Callable[..., None]:
    def run(field: str, value: Any, error: Callable[[str, str], None]) -> None:
        if value is None:
            return  # the wrong type, which is told already
        try:
            wrong = check(value)
        except (TypeError, AttributeError):
            return  # the wrong type, which is told already
        if wrong:
            error(field, _SEPARATOR.join(part or "" for part in wrong))

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
    """Of ``anyof`` (tags as a list or a mapping) the mistakes of the branch of the right type."""
    branches = list(error.definitions_errors.values())
    wrong_type = [b for b in branches if any(e.code == codes.BAD_TYPE.code for e in b)]
    right = [branch for branch in branches if branch not in wrong_type]
    return _leaves(right[0] if right else branches[0][:1])


def _tell(error: Any, keys: Key, findings: Findings) -> None:
    path: Path = tuple(error.document_path)
    code, name = error.code, path[-1]
    if code == codes.UNKNOWN_FIELD.code:
        known = _at(keys, path[:-1])
        findings.add(
            path,
            "unknown-key",
            f"`{name}` is not known here",
            nearest(str(name), known) or ", ".join(known),
            key=True,
        )
    elif code == codes.REQUIRED_FIELD.code:
        findings.add(path[:-1], "missing-key", f"`{name}` is missing", _doc(keys, path))
    elif code == codes.UNALLOWED_VALUE.code:
        words = error.constraint
        hint = nearest(str(error.value), words) or ", ".join(words)
        which = "unknown-kind" if path == ("kind",) else "bad-value"
        findings.add(path, which, f"`{str(error.value)[:80]}` is none of {', '.join(words)}", hint)
    elif code == codes.CUSTOM.code:
        which, what, hint = str(error.info[0]).split(_SEPARATOR)
        findings.add(path, which, what, hint or None)
    elif code == codes.MIN_LENGTH.code:
        findings.add(path, "bad-value", f"`{name}` is empty", "leave the key out, or name some")
    elif _key(keys, path).check is duration_text:
        findings.add(path, "bad-duration", f"`{name}` takes a duration", HINT)
    else:
        wanted = _WORDS.get(_key(keys, path).type, "another type")
        about = "an item" if isinstance(name, int) else f"`{name}`"
        findings.add(path, "wrong-type", f"{about} takes {wanted}", _doc(keys, path))


def _key(keys: Key, path: Path) -> Key:
    for part in path:
        inner = keys.item if isinstance(part, int) or keys.free else keys.keys.get(part)
        if inner is None:
            return Key("text", "") if keys.type == "tags" else Key("any", "")
        keys = inner
    return keys


def _at(keys: Key, path: Path) -> Mapping[str, Key]:
    return _key(keys, path).keys


def _doc(keys: Key, path: Path) -> str | None:
    return _key(keys, path).doc or None
