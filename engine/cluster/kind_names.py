"""The kind of an object by the names that kubectl uses: ``netpol``, ``configmaps``, ``widgets.example.com``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.cluster.api import EVENT, NETWORK_POLICY
from engine.cluster.kinds import KINDS
from engine.cluster.policy_providers.registry import POLICY_KINDS, global_kind
from engine.model.calls import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from engine.model.calls import Object

_SHORT = {
    "cm": "configmaps", "ev": "events", "netpol": "networkpolicies",
    "gnp": "globalnetworkpolicies", "po": "pods", "svc": "services", "sa": "serviceaccounts",
}  # fmt: skip
"""Short names, beside the plural and the singular. A short name means the first kind with this resource."""


def known_kind(word: str, group: str) -> Kind | None:
    """Return a kind that actions create, by its plural, its singular or a short name. group: "" for any."""
    word = _SHORT.get(word, word)
    for kind in _kinds():
        if word in (kind.resource, kind.kind.lower()) and group in ("", group_of(kind)):
            return kind
    return None


def find_kind(word: str, group: str, read: Callable[[str], Object | None]) -> Kind | None:
    """Return a kind of a group, as the API server serves it; None if it does not serve such a kind.

    read: returns the JSON at a path of the API server, or None. Raises its errors.
    """
    served = read(f"/apis/{group}") if group else None
    if served is None:
        return None
    preferred: str = served["preferredVersion"]["groupVersion"]
    for one in (read(f"/apis/{preferred}") or {}).get("resources") or []:
        if "/" not in one["name"] and word in _names(one):
            return Kind(preferred, one["name"], one["kind"], namespaced=bool(one["namespaced"]))
    return None


def group_of(kind: Kind) -> str:
    """Return the API group of a kind, "" for the core group."""
    return kind.api_version.rpartition("/")[0]


def _kinds() -> Iterator[Kind]:
    yield from (NETWORK_POLICY, EVENT, *KINDS.values(), *POLICY_KINDS)
    for kind in POLICY_KINDS:
        if group_of(kind).endswith("projectcalico.org"):
            yield global_kind(kind)


def _names(resource: dict[str, Any]) -> set[str]:
    short = resource.get("shortNames") or ()
    return {resource["name"], resource.get("singularName"), resource["kind"].lower(), *short}
