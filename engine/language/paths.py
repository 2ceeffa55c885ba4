"""JSONPaths that find the same in every alert, so that their condition never holds or always holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.language.findings import nearest
from engine.model.event import PRIORITIES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_TEXTS = ("rule", "priority", "time", "source", "hostname", "output")
_KNOWN = (*_TEXTS, "tags", "output_fields")
_ALWAYS = ("rule", "time", "source", "output_fields")
"""Keys that every alert has after normalization."""


def lint(keys: Sequence[str | int], condition: Mapping[str, Any]) -> tuple[str, str | None] | None:
    """What is wrong with a condition on the place that the keys name in an alert, and a hint; or None."""
    top, *rest = keys or [""]
    if top not in _KNOWN:
        near = nearest(str(top), _KNOWN)
        return (f"an alert has no key `{top}`", near) if near else None
    if rest and (top in _TEXTS or (top == "tags" and isinstance(rest[0], str))):
        kind = "a list" if top == "tags" else "text"
        return _never(f"`{top}` is {kind} and has no `{rest[0]}`", condition), None
    if not rest and top in _ALWAYS and "exists" in condition:
        holds = "always" if condition["exists"] else "never"
        return f"every alert has `{top}`, so the condition {holds} holds", None
    return _priority(condition) if keys == ("priority",) else None


def _never(what: str, condition: Mapping[str, Any]) -> str:
    holds = "always" if condition.get("exists") is False else "never"
    return f"{what}, so the condition {holds} holds"


def _priority(condition: Mapping[str, Any]) -> tuple[str, str | None] | None:
    given = condition.get("equals", condition.get("in", ()))
    words = [given] if isinstance(given, str) else given if isinstance(given, list) else []
    if not words or any(word in PRIORITIES for word in words):
        return None
    what = f"`priority` is never `{str(words[0])[:80]}`, so the condition never holds"
    return what, nearest(str(words[0]), PRIORITIES) or ", ".join(PRIORITIES)
