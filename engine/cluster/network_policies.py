"""What a set of NetworkPolicies lets through, and which of them undoes another.

NetworkPolicies only add up: a policy allows, none denies, and a pod that none selects in a
direction is open in it. Source of the semantics: the NetworkPolicy page of the Kubernetes docs and
the field docs of networking.k8s.io/v1. What the API server refuses (an unknown operator, a peer
with nothing in it, port 70000) cannot be in force and allows nothing here; null is what Go makes of
it, the empty value. Nothing raises, whatever is in the objects.

Addresses and ports are places on a line of integers, so that sets of them compare exactly. IPv6
lies behind IPv4. Each protocol has a block of ports, first the numbers, far behind them the names,
so that "all ports of TCP" holds its names too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_network
from itertools import chain
from typing import Any, Literal

from engine.cluster.label_selectors import (
    Object,
    Selector,
    as_list,
    as_object,
    matches,
    parse_selector,
    selects_superset,
)

PolicyType = Literal["Ingress", "Egress"]
Ranges = list[tuple[int, int]]
"""A set of integers: ranges in any order, both ends in."""

NAMESPACE_NAME = "kubernetes.io/metadata.name"  # the API server puts it on every namespace

_V6 = 1 << 32
_EVERYWHERE = [(0, _V6 + (1 << 128) - 1)]
_BLOCK = 1 << 128
_PROTOCOLS = {"TCP": 0, "UDP": _BLOCK, "SCTP": 2 * _BLOCK}
_OTHER = 3 * _BLOCK  # ICMP and the like: only a rule without ports lets them through
_END = 4 * _BLOCK - 1
_ALL_PORTS = [(0, _END)]
_ALL_PODS: Selector = (frozenset(), frozenset())
_NAMES = 1 << 120  # a port's name has at most 15 bytes, so it ends before the next block
_PORT_NAME = re.compile("[a-z0-9-]{1,15}")
_ZEROS = re.compile(r"(?<![0-9])0+(?=[0-9])")
_MAX_PORT = 65535


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end of a connection.

    ip: its address, IPv4 or IPv6; all that an ipBlock looks at, also where the peer is a pod.
    pod: the Pod object, if it is one: selectors look at its namespace and labels, a named port of
    an egress rule at its containers. namespace_labels: the labels of that namespace; its name as
    ``kubernetes.io/metadata.name`` is added.
    """

    ip: str | None = None
    pod: Object | None = None
    namespace_labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Rule:
    """One ingress or egress rule: these peers, on these ports."""

    addresses: Ranges
    selectors: list[Selector]
    ports: Ranges


def applies_to(policy: Object, pod: Object) -> bool:
    """Whether the policy is about the pod: same namespace, and its podSelector holds."""
    needs = parse_selector(_spec(policy).get("podSelector"))
    same = _metadata(policy, "namespace") == _metadata(pod, "namespace")
    return same and matches(needs, as_object(_metadata(pod, "labels")))


def policy_types(policy: Object) -> frozenset[PolicyType]:
    """In which directions the policy shuts what it does not allow; by default as the API server."""
    spec = _spec(policy)
    default = ["Ingress", "Egress"] if as_list(spec.get("egress")) else ["Ingress"]
    types = as_list(spec.get("policyTypes")) or default
    return frozenset(direction for direction in _RULES if direction in types)


def is_allowed(
    policies: Iterable[Object],
    pod: Object,
    direction: PolicyType,
    peer: Peer,
    port: int,
    protocol: str = "TCP",
) -> bool:
    """Whether the pod can be reached by (Ingress) or can reach (Egress) the peer on the port.

    port: of the end that listens, 1 to 65535. protocol: TCP, UDP, SCTP, or one without ports.
    """
    binding = [p for p in policies if applies_to(p, pod) and direction in policy_types(p)]
    places = {_place(port, protocol)}
    if direction == "Egress":
        named = _container_ports(peer.pod or {})
        places |= {_place(name, kind) for name, kind, n in named if (kind, n) == (protocol, port)}
    return not binding or any(
        _admits(rule, peer)
        and any(low <= place <= high for low, high in rule.ports for place in places)
        for policy in binding
        for rule in _rules(policy, direction, pod)
    )


def find_less_restrictive(
    own: Object, others: Iterable[Object], pod: Object, cut: Iterable[PolicyType]
) -> str | None:
    """Name of the first other policy that keeps open what ``own`` shuts, or None.

    Such a policy selects the pod and allows, in a direction of ``cut``, a peer and port that
    ``own`` does not. ``own`` counts as selecting the pod and shutting those directions, whether the
    pod has the label for it yet or not; another of its name is itself, earlier, and passed
    over. Exact on addresses and port numbers. Of a selector it says "wider" unless a peer of
    ``own`` is provably as broad: CNIs differ in whether an ipBlock reaches pods, so no ipBlock
    stands for a selector, nor the reverse.
    """
    for other in others:
        name, same = _metadata(other, "name"), _metadata(own, "name")
        if (name is not None and name == same) or not applies_to(other, pod):
            continue
        for direction in policy_types(other) & frozenset(cut):
            mine = list(_rules(own, direction, pod))
            if any(_exceeds(rule, mine) for rule in _rules(other, direction, pod)):
                return str(name)
    return None


def _exceeds(rule: _Rule, mine: list[_Rule]) -> bool:
    """Whether the rule allows a peer and port that none of mine does."""
    boxes = [(rule.addresses, rule.ports)]
    for own in mine:  # of each box is left: the ports that own lacks, on the others the addresses
        pieces = [
            piece
            for addresses, ports in boxes
            for piece in (
                (addresses, _minus(ports, own.ports)),
                (_minus(addresses, own.addresses), _minus(ports, _minus(ports, own.ports))),
            )
        ]
        boxes = [(addresses, ports) for addresses, ports in pieces if addresses and ports]
    for selector in rule.selectors:
        broad = [
            own.ports for own in mine if any(selects_superset(s, selector) for s in own.selectors)
        ]
        if _minus(rule.ports, [*chain.from_iterable(broad)]):
            return True
    return any(addresses and ports for addresses, ports in boxes)


def _admits(rule: _Rule, peer: Peer) -> bool:
    """Whether the peer is one of the rule's."""
    if rule.addresses == _EVERYWHERE and _ALL_PODS in rule.selectors:
        return True
    place = _span(peer.ip)
    if place and not _minus(place, rule.addresses):
        return True
    labels = as_object(_metadata(peer.pod, "labels"))
    name = {NAMESPACE_NAME: str(_metadata(peer.pod, "namespace"))}
    around = {**as_object(peer.namespace_labels), **name}
    return peer.pod is not None and any(
        matches(spaces, around) and matches(pods, labels) for spaces, pods in rule.selectors
    )


_RULES: dict[PolicyType, tuple[str, str]] = {
    "Ingress": ("ingress", "from"),
    "Egress": ("egress", "to"),
}


def _rules(policy: Object, direction: PolicyType, pod: Object) -> Iterator[_Rule]:
    """Rules of the policy for that direction; named ports of ingress are the selected pod's."""
    key, side = _RULES[direction]
    names = list(_container_ports(pod)) if direction == "Ingress" else None
    for item in as_list(_spec(policy).get(key)):
        rule = {} if item is None else item
        if isinstance(rule, Mapping):
            spans = [span for entry in as_list(rule.get("ports")) for span in _port(entry, names)]
            addresses, selectors = _peers(rule.get(side), str(_metadata(policy, "namespace")))
            yield _Rule(addresses, selectors, spans if rule.get("ports") else _ALL_PORTS)


def _peers(peers: Any, namespace: str) -> tuple[Ranges, list[Selector]]:
    """Addresses and selectors that ``from`` or ``to`` name; without any, everybody."""
    if not peers:
        return _EVERYWHERE, [_ALL_PODS]
    addresses: Ranges = []
    selectors: list[Selector] = []
    for peer in map(as_object, as_list(peers)):
        block, pods, spaces = (peer.get(k) for k in ("ipBlock", "podSelector", "namespaceSelector"))
        if block is not None:
            addresses += _block(as_object(block)) if pods is None and spaces is None else []
        elif pods is not None or spaces is not None:
            here = {"matchLabels": {NAMESPACE_NAME: namespace}}
            around, inside = (
                parse_selector(here if spaces is None else spaces),
                parse_selector(pods),
            )
            if around is not None and inside is not None:
                selectors.append((around, inside))
    return addresses, selectors


def _block(block: Object) -> Ranges:
    """Addresses of an ipBlock, less its exceptions."""
    whole, holes = _span(block.get("cidr")), [_span(c) for c in as_list(block.get("except"))]
    return _minus(whole, [*chain.from_iterable(holes)]) if all(holes) else []


def _span(cidr: Any) -> Ranges:
    """Places of a network or of one address, none if it is neither.

    Leading zeros are decimal, as the API server reads them (netutils.ParseCIDRSloppy),
    and ``::ffff:10.0.0.0/104`` is 10.0.0.0/8.
    """
    text = cidr if isinstance(cidr, str) else ""
    try:
        network = ip_network(text if ":" in text else _ZEROS.sub("", text), strict=False)
    except ValueError:
        return []
    address = network.network_address
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else address
    first = _V6 + int(address) if mapped is None else int(mapped)
    return [(first, first + network.num_addresses - 1)]


def _port(entry: Any, names: Sequence[tuple[str, str, int | str]] | None) -> Ranges:
    """Places of one NetworkPolicyPort. names: what names mean; None if each peer has its own."""
    port, end, protocol = (as_object(entry).get(key) for key in ("port", "endPort", "protocol"))
    kind = "TCP" if protocol is None else protocol
    if not isinstance(kind, str) or kind not in _PROTOCOLS:
        return []
    if isinstance(port, str) and end is None and _PORT_NAME.fullmatch(port):
        known = [(port, kind, port)] if names is None else names
        found = [_place(number, k) for name, k, number in known if (name, k) == (port, kind)]
        return [(place, place) for place in found]
    last = port if end is None else end
    if last is None or (port, last) == (1, _MAX_PORT):
        return [(_place(0, kind), _place(0, kind) + _BLOCK - 1)]
    if type(port) is int and type(last) is int and 1 <= port <= last <= _MAX_PORT:
        return [(_place(port, kind), _place(last, kind))]
    return []


def _place(port: int | str, protocol: str) -> int:
    """Place of a port's number or name."""
    behind = port if isinstance(port, int) else _NAMES + int.from_bytes(port.encode())
    return _PROTOCOLS.get(protocol, _OTHER) + behind


def _container_ports(pod: Object) -> Iterator[tuple[str, str, int]]:
    """Name, protocol and number of each named port of a pod's containers and sidecars."""
    spec = _spec(pod)
    containers = [*as_list(spec.get("containers")), *as_list(spec.get("initContainers"))]
    for container in containers:
        for port in map(as_object, as_list(as_object(container).get("ports"))):
            name, number = port.get("name"), port.get("containerPort")
            if isinstance(name, str) and _PORT_NAME.fullmatch(name) and type(number) is int:
                yield name, str(port.get("protocol") or "TCP"), number


def _metadata(item: Any, key: str) -> Any:
    return as_object(as_object(item).get("metadata")).get(key)


def _spec(item: Any) -> Object:
    return as_object(as_object(item).get("spec"))


def _minus(ranges: Ranges, others: Ranges) -> Ranges:
    """Places that are in the one set and not in the other."""
    return _rest([*_rest(ranges), *others])


def _rest(ranges: Ranges) -> Ranges:
    """Places that are in none of the ranges; n log n, for a policy may hold very many."""
    rest: Ranges = []
    start = 0
    for low, high in sorted(ranges):
        if low > start:
            rest.append((start, low - 1))
        start = max(start, high + 1)
    return [*rest, (start, _END)] if start <= _END else rest
