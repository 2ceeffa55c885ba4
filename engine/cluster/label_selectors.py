"""Label selectors, read and compared; nothing raises, whatever is in the objects.

Source of the semantics: the field docs of ``LabelSelector`` in meta/v1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Object = Mapping[str, Any]
"""A Kubernetes object, or a part of one, as JSON gives it."""

Requirement = tuple[str, str, frozenset[str]]
"""Key, operator and values; ``matchLabels`` is ``In`` with one value."""

Requirements = frozenset[Requirement]
Selector = tuple[Requirements, Requirements]
"""What the namespace's labels and what the pod's labels must meet."""

_OPERATORS: dict[str, Callable[[str | None, frozenset[str]], bool]] = {
    "In": lambda value, values: value in values,
    "NotIn": lambda value, values: value not in values,  # what is absent is not in it
    "Exists": lambda value, _: value is not None,
    "DoesNotExist": lambda value, _: value is None,
}


def parse_selector(selector: Any) -> Requirements | None:
    """Label selector, read: no requirements if empty or missing, None if broken."""
    if selector is not None and not isinstance(selector, Mapping):
        return None
    labels, expressions = (as_object(selector).get(k) for k in ("matchLabels", "matchExpressions"))
    wanted: list[Any] = [(key, "In", [value]) for key, value in as_object(labels).items()]
    for item in map(as_object, as_list(expressions)):
        wanted += [(item.get("key"), item.get("operator"), as_list(item.get("values")))]
    for key, operator, values in wanted:
        words = all(isinstance(word, str) for word in (key, operator, *values))
        if not words or operator not in _OPERATORS or bool(values) != operator.endswith("In"):
            return None
    return frozenset((key, operator, frozenset(values)) for key, operator, values in wanted)


def matches(needs: Requirements | None, labels: Object) -> bool:
    """Whether labels meet every requirement; those of a broken selector they never do."""
    words = {key: value for key, value in labels.items() if isinstance(value, str)}
    return needs is not None and all(_OPERATORS[o](words.get(k), v) for k, o, v in needs)


def selects_superset(wide: Selector, narrow: Selector) -> bool:
    """Whether every pod that ``narrow`` means is surely meant by ``wide``."""
    return all(
        any(fact == need or _follows(need, fact) for fact in facts)
        for needs, facts in zip(wide, narrow, strict=True)
        for need in needs
    )


def _follows(need: Requirement, fact: Requirement) -> bool:
    """Whether a label that has one of the values of ``fact`` always meets ``need``."""
    (key, operator, values), (name, given, known) = need, fact
    return (name, given) == (key, "In") and all(_OPERATORS[operator](v, values) for v in known)


def as_object(value: Any) -> Object:
    """The value where it is an object, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def as_list(value: Any) -> list[Any]:
    """The value where it is a list, else an empty one."""
    return value if isinstance(value, list) else []
