"""Label selectors: parse them, match them against labels, and compare them.

The semantics are those of ``LabelSelector`` in meta/v1. No function raises, whatever the objects contain.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Object = Mapping[str, Any]
"""A Kubernetes object or a part of one, as its JSON."""

Requirement = tuple[str, str, frozenset[str]]
"""Key, operator and values of one requirement. An entry of ``matchLabels`` is ``In`` with one value."""

Requirements = frozenset[Requirement]
PeerSelector = tuple[Requirements, Requirements]
"""The namespaceSelector and the podSelector of a NetworkPolicyPeer."""

_OPERATORS: dict[str, Callable[[str | None, frozenset[str]], bool]] = {
    "In": lambda value, values: value in values,
    "NotIn": lambda value, values: value not in values,  # also matches if the label is absent
    "Exists": lambda value, _: value is not None,
    "DoesNotExist": lambda value, _: value is None,
}


def parse_selector(selector: Any) -> Requirements | None:
    """Return the requirements of a LabelSelector; an empty set selects everything. None if it is invalid."""
    if selector is not None and not isinstance(selector, Mapping):
        return None
    labels, expressions = (as_object(selector).get(k) for k in ("matchLabels", "matchExpressions"))
    parsed: list[Any] = [(key, "In", [value]) for key, value in as_object(labels).items()]
    for item in map(as_object, as_list(expressions)):
        parsed += [(item.get("key"), item.get("operator"), as_list(item.get("values")))]
    for key, operator, values in parsed:
        all_text = all(isinstance(part, str) for part in (key, operator, *values))
        if not all_text or operator not in _OPERATORS or bool(values) != operator.endswith("In"):
            return None
    return frozenset((key, operator, frozenset(values)) for key, operator, values in parsed)


def matches(requirements: Requirements | None, labels: Object) -> bool:
    """Return whether labels meet every requirement. An invalid selector (None) matches nothing."""
    valid = {key: value for key, value in labels.items() if isinstance(value, str)}
    return requirements is not None and all(
        _OPERATORS[operator](valid.get(key), values) for key, operator, values in requirements
    )


def selects_superset(wide: PeerSelector, narrow: PeerSelector) -> bool:
    """Return whether ``wide`` provably selects every pod that ``narrow`` selects."""
    return all(
        any(given == wanted or _implies(given, wanted) for given in narrow_part)
        for wide_part, narrow_part in zip(wide, narrow, strict=True)
        for wanted in wide_part
    )


def _implies(given: Requirement, wanted: Requirement) -> bool:
    """Return whether each label that meets ``given``, an ``In`` requirement, also meets ``wanted``."""
    (given_key, given_operator, given_values), (key, operator, values) = given, wanted
    return (given_key, given_operator) == (key, "In") and all(
        _OPERATORS[operator](value, values) for value in given_values
    )


def as_object(value: Any) -> Object:
    """Return the value if it is a JSON object, otherwise an empty object."""
    # the first test is ten times as fast, and nearly all objects are dictionaries
    return value if type(value) is dict or isinstance(value, Mapping) else {}


def as_list(value: Any) -> list[Any]:
    """Return the value if it is a list, otherwise an empty list."""
    return value if isinstance(value, list) else []
