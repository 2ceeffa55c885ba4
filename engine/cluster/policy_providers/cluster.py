"""ClusterNetworkPolicies (policy.networking.k8s.io/v1alpha2) in the tier Admin, above all NetworkPolicies.

Exceptions get the action Pass: NetworkPolicies decide about them, so the policy opens nothing. A rule of ingress
can name only pods. So connections from nodes and from outside the cluster are not cut.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.cluster.policy_providers.cut import (
    DNS_LABELS,
    DNS_NAMESPACE,
    DNS_PORT,
    NODE_LOCAL_DNS,
    named,
)
from engine.model.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from engine.cluster.policy_providers.cut import Destination, Isolation, Pods
    from engine.model.calls import Object

_PRIORITY = 0
"""The highest precedence in the tier."""
_MAX_ITEMS = 25
"""Of rules in a direction, peers and protocols in a rule, and networks in a peer (the schema of the kind)."""
_EVERYTHING: list[Object] = [{"namespaces": {}}, {"networks": ["0.0.0.0/0", "::/0"]}]


def isolation_spec(isolation: Isolation) -> Object:
    """Return the spec of the policy. Raises RefusedError if it has more exceptions than the kind can hold."""
    exceptions, spec = isolation.exceptions, block_subject(isolation.pods)
    ports = exceptions.ports
    spaces = [_namespaces(exceptions.namespaces)] if exceptions.namespaces else []
    if "Ingress" in isolation.directions:
        passed = list(_rules("Pass", "from", spaces, ports))
        spec["ingress"] = [*passed, {"action": "Deny", "from": [{"namespaces": {}}]}]
    if "Egress" in isolation.directions:
        passed = list(_rules("Pass", "to", [*spaces, *_networks(exceptions.cidrs)], ports))
        if exceptions.dns:
            pods = {"namespaceSelector": named(DNS_NAMESPACE), "podSelector": _labels(DNS_LABELS)}
            resolvers: list[Object] = [{"pods": pods}, {"networks": [NODE_LOCAL_DNS]}]
            passed = [*_rules("Pass", "to", resolvers, (DNS_PORT,)), *passed]
        spec["egress"] = [*passed, {"action": "Deny", "to": _EVERYTHING}]
    return _checked(spec)


def block_subject(pods: Pods) -> Object:
    """Return the part of a spec that does not depend on what is cut."""
    subject = {"namespaceSelector": named(pods.namespace), "podSelector": pods.selector}
    return {"tier": "Admin", "priority": _PRIORITY, "subject": {"pods": subject}}


def with_destinations(spec: Mapping[str, Any], destinations: Iterable[Destination]) -> Object:
    """Return the spec with other destinations: it denies only these. Raises RefusedError if it has too many."""
    by_ports: dict[tuple[int, ...], list[str]] = {}
    for one in destinations:
        by_ports.setdefault(one.ports, []).append(one.network)
    rules = [
        rule
        for ports, networks in by_ports.items()
        for rule in _rules("Deny", "to", list(_networks(networks)), ports)
    ]
    return _checked({**spec, "egress": rules})


def _labels(labels: Mapping[str, str]) -> Object:
    return {"matchLabels": labels}


def _namespaces(names: Sequence[str]) -> Object:
    name = {"key": "kubernetes.io/metadata.name", "operator": "In", "values": list(names)}
    return {"namespaces": {"matchExpressions": [name]}}


def _networks(cidrs: Sequence[str]) -> Iterator[Object]:
    for some in _batches(list(dict.fromkeys(cidrs))):
        yield {"networks": some}


def _rules(
    action: str, side: str, peers: Sequence[Object], ports: Sequence[int]
) -> Iterator[Object]:
    """Yield rules for all peers and ports, each with no more items than the schema allows."""
    protocols: list[Object] = [
        {protocol: {"destinationPort": {"number": port}}}
        for port in ports
        for protocol in ("tcp", "udp")
    ]
    for some in _batches(list(peers)):
        if not protocols:
            yield {"action": action, side: some}
        for limit in _batches(protocols):
            yield {"action": action, side: some, "protocols": limit}


def _batches(items: list[Any]) -> Iterator[list[Any]]:
    for start in range(0, len(items), _MAX_ITEMS):
        yield items[start : start + _MAX_ITEMS]


def _checked(spec: Object) -> Object:
    if max(len(spec.get(direction, ())) for direction in ("ingress", "egress")) > _MAX_ITEMS:
        raise RefusedError(f"a ClusterNetworkPolicy cannot hold more than {_MAX_ITEMS} rules")
    return spec
