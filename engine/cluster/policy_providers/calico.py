"""NetworkPolicies of Calico, with the lowest ``order``, so that their rules are applied before all others.

Calico applies rules in order until one matches. A connection that no rule matches is denied if a policy selects
the pod. Exceptions of an isolation are therefore allowed, whatever other policies say, as in Kubernetes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.cluster.policy_providers.cut import (
    DNS_LABELS,
    DNS_NAMESPACE,
    DNS_PORT,
    NODE_LOCAL_DNS,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from engine.cluster.network_policies import PolicyType
    from engine.cluster.policy_providers.cut import Destination, Exceptions, Isolation, Pods
    from engine.model.calls import Object

_ISOLATION_ORDER, _BLOCK_ORDER = -1_000_001, -1_000_000
"""Policies usually have orders from 0 upwards. An isolation comes before a block, which may allow the rest."""
ALLOW_OTHERS: Object = {"action": "Allow"}
"""The last rule of a block if no other policy decides about the pod's egress."""
_NAME = "kubernetes.io/metadata.name"


def isolation_spec(isolation: Isolation) -> Object:
    """Return the spec of the policy: the directions that are cut, with their exceptions."""
    spec = _subject(isolation.pods, isolation.directions, _ISOLATION_ORDER)
    if "Ingress" in isolation.directions:
        allowed = _allowed(isolation.exceptions, "source")
        spec["ingress"] = [*allowed, {"action": "Deny"}]
    if "Egress" in isolation.directions:
        dns = _dns() if isolation.exceptions.dns else []
        allowed = _allowed(isolation.exceptions, "destination")
        spec["egress"] = [*dns, *allowed, {"action": "Deny"}]
    return spec


def block_subject(pods: Pods) -> Object:
    """Return the part of the spec of a block that does not depend on its destinations."""
    return _subject(pods, ("Egress",), _BLOCK_ORDER)


def with_destinations(spec: Mapping[str, Any], destinations: Iterable[Destination]) -> Object:
    """Return the spec with other destinations: it denies only these. The rules that allow stay."""
    by_ports: dict[tuple[int, ...], list[str]] = {}
    for one in destinations:
        by_ports.setdefault(one.ports, []).append(one.network)
    rules: list[Object] = []
    for ports, networks in by_ports.items():
        rules += _rules("Deny", {"nets": networks}, "destination", ports)
    kept = [rule for rule in spec.get("egress") or [] if rule.get("action") != "Deny"]
    return {**spec, "egress": [*rules, *kept]}


def _subject(pods: Pods, directions: Iterable[PolicyType], order: int) -> Object:
    return {"order": order, "selector": selector_text(pods.selector), "types": list(directions)}


def selector_text(selector: Mapping[str, Any]) -> str:
    """Return a LabelSelector (meta/v1) in the language of Calico. Keys and values of labels need no escapes."""
    parts = [f"{key} == '{value}'" for key, value in (selector.get("matchLabels") or {}).items()]
    for item in selector.get("matchExpressions") or []:
        key, values = item["key"], ", ".join(f"'{value}'" for value in item.get("values") or [])
        parts.append(
            {
                "In": f"{key} in {{{values}}}",
                "NotIn": f"{key} not in {{{values}}}",
                "Exists": f"has({key})",
                "DoesNotExist": f"!has({key})",
            }[item["operator"]]
        )
    return " && ".join(parts)


def _allowed(exceptions: Exceptions, side: str) -> Iterator[Object]:
    if exceptions.cidrs:
        peer: Object = {"nets": list(exceptions.cidrs)}
        yield from _rules("Allow", peer, side, exceptions.ports)
    if exceptions.namespaces:
        names = ", ".join(f"'{name}'" for name in exceptions.namespaces)
        peer = {"namespaceSelector": f"{_NAME} in {{{names}}}"}
        yield from _rules("Allow", peer, side, exceptions.ports)


def _dns() -> list[Object]:
    resolver = {
        "selector": selector_text({"matchLabels": DNS_LABELS}),
        "namespaceSelector": f"{_NAME} == '{DNS_NAMESPACE}'",
    }
    peers: tuple[Object, ...] = (resolver, {"nets": [NODE_LOCAL_DNS]})
    return [rule for peer in peers for rule in _rules("Allow", peer, "destination", (DNS_PORT,))]


def _rules(action: str, peer: Object, side: str, ports: Iterable[int]) -> Iterator[Object]:
    """Yield rules for a peer. The ports are always those of the destination."""
    numbers = list(ports)
    if not numbers:
        yield {"action": action, side: peer}
        return
    for protocol in ("TCP", "UDP"):
        rule: Object = {"action": action, "protocol": protocol, side: peer}
        rule["destination"] = {**rule.get("destination", {}), "ports": numbers}
        yield rule
