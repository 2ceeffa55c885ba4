"""CiliumNetworkPolicies (cilium.io/v2). A deny has precedence over every allow, so it has no exceptions.

Each rule therefore denies only what no exception covers. ``enableDefaultDeny: false`` (Cilium 1.16 or newer)
keeps the policy from cutting anything else. Cilium applies CIDRs only to addresses outside the cluster.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.cluster.policy_providers.cut import (
    DNS_LABELS,
    DNS_NAMESPACE,
    DNS_PORT,
    MAX_PORT,
    NODE_LOCAL_DNS,
    by_family,
    other_ports,
)
from engine.model.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from engine.cluster.policy_providers.cut import Destination, Exceptions, Isolation, Pods
    from engine.model.calls import Object

_NAMESPACE = "k8s:io.kubernetes.pod.namespace"
_NO_IDENTITY = frozenset(
    {
        "pod-template-hash",
        "pod-template-generation",
        "controller-revision-hash",
        "controller-uid",
        "batch.kubernetes.io/controller-uid",
    }
)
"""Labels that Cilium ignores by default (pkg/labelsfilter), so that a selector with them would select no pod."""
_ENTITIES = ["remote-node", "kube-apiserver", "init", "unmanaged", "health", "ingress"]
"""Peers that are neither pods nor addresses outside the cluster. The own node is ``host``."""
_MAX_PORTS = 40
"""Of ports in one item of ``toPorts`` (pkg/policy/api)."""


def isolation_spec(isolation: Isolation) -> Object:
    """Return the spec of the policy. Raises RefusedError if Cilium ignores all labels of the selector."""
    spec, exceptions = block_subject(isolation.pods), isolation.exceptions
    if "Ingress" in isolation.directions:
        # a node reaches its own pods, as with NetworkPolicies: otherwise probes would fail
        spec["ingressDeny"] = list(_denied("from", exceptions, dns=False))
    if "Egress" in isolation.directions:
        spec["egressDeny"] = list(_denied("to", exceptions, dns=exceptions.dns))
    return spec


def block_subject(pods: Pods) -> Object:
    """Return the part of a spec that does not depend on what is cut. Raises RefusedError."""
    selector = pods.selector
    labels = {k: v for k, v in (selector.get("matchLabels") or {}).items() if k not in _NO_IDENTITY}
    expressions = [
        item for item in selector.get("matchExpressions") or [] if item["key"] not in _NO_IDENTITY
    ]
    kept: Object = {}
    if labels:
        kept["matchLabels"] = {f"k8s:{key}": value for key, value in labels.items()}
    if expressions:
        kept["matchExpressions"] = [{**item, "key": f"k8s:{item['key']}"} for item in expressions]
    if not kept:
        raise RefusedError("Cilium ignores all labels of the controller's selector")
    return {"endpointSelector": kept, "enableDefaultDeny": {"ingress": False, "egress": False}}


def with_destinations(spec: Mapping[str, Any], destinations: Iterable[Destination]) -> Object:
    """Return the spec with other destinations: it denies only these."""
    by_ports: dict[tuple[int, ...], list[str]] = {}
    for one in destinations:
        by_ports.setdefault(one.ports, []).append(one.network)
    rules = [
        {"toCIDR": networks, **_to_ports((port, port) for port in ports)}
        for ports, networks in by_ports.items()
    ]
    return {**spec, "egressDeny": rules}


def _denied(side: str, exceptions: Exceptions, *, dns: bool) -> Iterator[Object]:
    """Yield rules that deny everything in a direction except for the exceptions. side: ``from`` or ``to``."""
    yield from _denied_pods(f"{side}Endpoints", exceptions, dns=dns)
    node_dns = [NODE_LOCAL_DNS] if dns else []
    v4, v6 = by_family([*node_dns, *exceptions.cidrs])
    networks = [{"cidr": "0.0.0.0/0", "except": v4}, {"cidr": "::/0", "except": v6}]
    yield {f"{side}CIDRSet": [{k: v for k, v in one.items() if v} for one in networks]}
    if exceptions.cidrs and exceptions.ports:
        yield {f"{side}CIDR": list(exceptions.cidrs), **_to_other_ports(exceptions.ports)}
    yield {f"{side}Entities": _ENTITIES}
    if side == "to" and dns:  # NodeLocal DNSCache listens on the node
        yield {"toEntities": ["host"], **_to_other_ports((DNS_PORT,))}
        yield {"toCIDR": [NODE_LOCAL_DNS], **_to_other_ports((DNS_PORT,))}
    elif side == "to":
        yield {"toEntities": ["host"]}


def _denied_pods(key: str, exceptions: Exceptions, *, dns: bool) -> Iterator[Object]:
    ports = _to_other_ports(exceptions.ports) if exceptions.ports else {}
    open_ = list(dict.fromkeys(exceptions.namespaces))
    spared = list(dict.fromkeys([*open_, *([DNS_NAMESPACE] if dns else [])]))
    others = [{"key": _NAMESPACE, "operator": "NotIn", "values": spared}] if spared else []
    any_pod = {"key": _NAMESPACE, "operator": "Exists"}
    yield {key: [{"matchExpressions": [any_pod, *others]}]}
    rest = [name for name in open_ if not (dns and name == DNS_NAMESPACE)]
    if rest and ports:
        yield {key: [{"matchExpressions": [_in(rest)]}], **ports}
    if not dns or (DNS_NAMESPACE in open_ and not ports):
        return
    ((label, value),) = DNS_LABELS.items()
    no_resolver = {"key": f"k8s:{label}", "operator": "NotIn", "values": [value]}
    limit = ports if DNS_NAMESPACE in open_ else {}
    yield {key: [{"matchExpressions": [_in([DNS_NAMESPACE]), no_resolver]}], **limit}
    resolver = {"matchLabels": {_NAMESPACE: DNS_NAMESPACE, f"k8s:{label}": value}}
    open_ports = {DNS_PORT, *(exceptions.ports if DNS_NAMESPACE in open_ else ())}
    yield {key: [resolver], **_to_other_ports(open_ports)}


def _in(names: Sequence[str]) -> Object:
    return {"key": _NAMESPACE, "operator": "In", "values": list(names)}


def _to_other_ports(ports: Iterable[int]) -> Object:
    """Return ``toPorts`` for everything but these ports of TCP and UDP."""
    return _to_ports(other_ports(ports), [{"port": "1", "endPort": MAX_PORT, "protocol": "SCTP"}])


def _to_ports(ranges: Iterable[tuple[int, int]], more: Sequence[Object] = ()) -> Object:
    """Return ``toPorts`` for inclusive ranges of TCP and UDP, and for more ports; nothing for none."""
    ports: list[Object] = [
        {"port": str(first), **({"endPort": last} if last > first else {}), "protocol": protocol}
        for first, last in ranges
        for protocol in ("TCP", "UDP")
    ]
    ports += more
    items = [ports[n : n + _MAX_PORTS] for n in range(0, len(ports), _MAX_PORTS)]
    return {"toPorts": [{"ports": item} for item in items]} if items else {}
