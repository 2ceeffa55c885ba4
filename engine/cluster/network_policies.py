"""What NetworkPolicies allow, and which policy of a pod allows more than another.

NetworkPolicies are additive: each policy allows connections, none denies them. A pod is isolated in a direction
if a policy applies to it in this direction; otherwise all connections are allowed. The semantics are those of
the NetworkPolicy page of the Kubernetes documentation and of networking.k8s.io/v1. A policy that the API server
rejects (an unknown operator, an empty peer, port 70000) cannot be in force and allows nothing here. As in Go,
null is the empty value. No function raises, whatever the objects contain.

Addresses and ports are represented as positions on a line of integers, so that sets of them can be compared
exactly. IPv6 follows IPv4. Each protocol has its own section of port positions: first the numbers, then, after
a gap, the names, so that "all ports of TCP" includes its names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv6Address, ip_network
from itertools import chain
from typing import Any, Literal

import msgspec

from engine.cluster.label_selectors import (
    Object,
    PeerSelector,
    as_list,
    as_object,
    matches,
    parse_selector,
    selects_superset,
)

PolicyType = Literal["Ingress", "Egress"]
Ranges = list[tuple[int, int]]
"""A set of integers: inclusive ranges in any order."""

NAMESPACE_NAME = "kubernetes.io/metadata.name"  # the API server sets it on every namespace

_IPV6_OFFSET = 1 << 32
_ALL_ADDRESSES = [(0, _IPV6_OFFSET + (1 << 128) - 1)]
_PROTOCOL_SIZE = 1 << 128
_PROTOCOL_OFFSETS = {"TCP": 0, "UDP": _PROTOCOL_SIZE, "SCTP": 2 * _PROTOCOL_SIZE}
_OTHER_PROTOCOLS = 3 * _PROTOCOL_SIZE  # such as ICMP: allowed only by a rule without ports
_LAST_PORT_POSITION = 4 * _PROTOCOL_SIZE - 1
_ALL_PORTS = [(0, _LAST_PORT_POSITION)]
_ALL_PODS: PeerSelector = (frozenset(), frozenset())
_NAME_OFFSET = 1 << 120  # the name of a port has at most 15 bytes, so it fits into the section
_PORT_NAME = re.compile("[a-z0-9-]{1,15}")
_ZEROS = re.compile(r"(?<![0-9])0+(?=[0-9])")
_MAX_PORT = 65535


class Peer(msgspec.Struct, frozen=True):
    """The other end of a connection.

    ip: its IPv4 or IPv6 address. An ipBlock is compared only with this address, even if the peer is a pod. pod:
    the Pod object if the peer is a pod. Selectors use its namespace and labels; a named port of an egress rule
    uses its containers. namespace_labels: the labels of its namespace; ``kubernetes.io/metadata.name`` is
    added.
    """

    ip: str | None = None
    pod: Object | None = None
    namespace_labels: Mapping[str, str] = msgspec.field(default_factory=dict)


class _Rule(msgspec.Struct, frozen=True):
    """One ingress or egress rule: the peers and ports that it allows."""

    addresses: Ranges
    selectors: list[PeerSelector]
    ports: Ranges


def applies_to(policy: Object, pod: Object) -> bool:
    """Return whether a policy applies to a pod: same namespace, and its podSelector selects the pod."""
    selector, labels = _spec(policy).get("podSelector"), as_object(_metadata(pod, "labels"))
    # first, because a namespace can have thousands of policies that each select another pod
    if any(
        labels.get(key) != value
        for key, value in as_object(as_object(selector).get("matchLabels")).items()
    ):
        return False
    same = _metadata(policy, "namespace") == _metadata(pod, "namespace")
    return same and matches(parse_selector(selector), labels)


def policy_types(policy: Object) -> frozenset[PolicyType]:
    """Return the directions in which a policy isolates its pods; the defaults are those of the API server."""
    spec = _spec(policy)
    default = ["Ingress", "Egress"] if as_list(spec.get("egress")) else ["Ingress"]
    types = as_list(spec.get("policyTypes")) or default
    return frozenset(direction for direction in _RULE_FIELDS if direction in types)


def is_allowed(
    policies: Iterable[Object],
    pod: Object,
    direction: PolicyType,
    peer: Peer,
    port: int,
    protocol: str = "TCP",
) -> bool:
    """Return whether policies allow a connection from (Ingress) or to (Egress) a peer.

    port: the port of the listening end, 1 to 65535. protocol: TCP, UDP, SCTP, or a protocol without ports.
    """
    isolating = [p for p in policies if applies_to(p, pod) and direction in policy_types(p)]
    positions = {_port_position(port, protocol)}
    if direction == "Egress":
        named = _container_ports(peer.pod or {})
        positions |= {
            _port_position(name, kind) for name, kind, n in named if (kind, n) == (protocol, port)
        }
    return not isolating or any(
        _allows_peer(rule, peer)
        and any(low <= position <= high for low, high in rule.ports for position in positions)
        for policy in isolating
        for rule in _rules(policy, direction, pod)
    )


def find_less_restrictive(
    own: Object, others: Iterable[Object], pod: Object, isolated: Iterable[PolicyType]
) -> str | None:
    """Return the name of the first policy that applies to a pod and is less restrictive than ``own``.

    Returns None if there is none. Such a policy allows, in one of the directions ``isolated``, a peer and port
    that ``own`` does not allow. ``own`` is assumed to apply to the pod and to isolate it in these directions,
    even if the pod does not have the label for it yet. A policy with the same name is an earlier version of
    ``own`` and is ignored.

    Addresses and port numbers are compared exactly. A selector counts as less restrictive unless a selector of
    ``own`` provably selects the same pods. An ipBlock is never compared with a selector, because CNIs differ in
    whether an ipBlock applies to pods.
    """
    for other in others:
        name, same = _metadata(other, "name"), _metadata(own, "name")
        if (name is not None and name == same) or not applies_to(other, pod):
            continue
        for direction in policy_types(other) & frozenset(isolated):
            own_rules = list(_rules(own, direction, pod))
            if any(_allows_more(rule, own_rules) for rule in _rules(other, direction, pod)):
                return str(name)
    return None


def _allows_more(rule: _Rule, own_rules: list[_Rule]) -> bool:
    """Return whether a rule allows a peer and port that none of ``own_rules`` allows."""
    remaining = [(rule.addresses, rule.ports)]
    for own in own_rules:
        # on the ports that `own` lacks, all addresses remain; on its ports, the other addresses
        pieces = [
            piece
            for addresses, ports in remaining
            for piece in (
                (addresses, _difference(ports, own.ports)),
                (
                    _difference(addresses, own.addresses),
                    _difference(ports, _difference(ports, own.ports)),
                ),
            )
        ]
        remaining = [(addresses, ports) for addresses, ports in pieces if addresses and ports]
    for selector in rule.selectors:
        covered = [
            own.ports
            for own in own_rules
            if any(selects_superset(s, selector) for s in own.selectors)
        ]
        if _difference(rule.ports, [*chain.from_iterable(covered)]):
            return True
    return any(addresses and ports for addresses, ports in remaining)


def _allows_peer(rule: _Rule, peer: Peer) -> bool:
    """Return whether a rule allows a peer, on the ports of the rule."""
    if rule.addresses == _ALL_ADDRESSES and _ALL_PODS in rule.selectors:
        return True
    address = _address_ranges(peer.ip)
    if address and not _difference(address, rule.addresses):
        return True
    labels = as_object(_metadata(peer.pod, "labels"))
    name = {NAMESPACE_NAME: str(_metadata(peer.pod, "namespace"))}
    namespace_labels = {**as_object(peer.namespace_labels), **name}
    return peer.pod is not None and any(
        matches(namespaces, namespace_labels) and matches(pods, labels)
        for namespaces, pods in rule.selectors
    )


_RULE_FIELDS: dict[PolicyType, tuple[str, str]] = {
    "Ingress": ("ingress", "from"),
    "Egress": ("egress", "to"),
}


def _rules(policy: Object, direction: PolicyType, pod: Object) -> Iterator[_Rule]:
    """Yield the rules of a policy in a direction. Named ports of ingress rules are those of ``pod``."""
    key, side = _RULE_FIELDS[direction]
    names = list(_container_ports(pod)) if direction == "Ingress" else None
    for item in as_list(_spec(policy).get(key)):
        rule = {} if item is None else item
        if isinstance(rule, Mapping):
            ports = [
                one for entry in as_list(rule.get("ports")) for one in _port_ranges(entry, names)
            ]
            addresses, selectors = _peers(rule.get(side), str(_metadata(policy, "namespace")))
            yield _Rule(addresses, selectors, ports if rule.get("ports") else _ALL_PORTS)


def _peers(peers: Any, namespace: str) -> tuple[Ranges, list[PeerSelector]]:
    """Return the addresses and selectors of ``from`` or ``to``; an empty list of peers allows everything."""
    if not peers:
        return _ALL_ADDRESSES, [_ALL_PODS]
    addresses: Ranges = []
    selectors: list[PeerSelector] = []
    for peer in map(as_object, as_list(peers)):
        block, pods, namespaces = (
            peer.get(k) for k in ("ipBlock", "podSelector", "namespaceSelector")
        )
        if block is not None:
            addresses += (
                _ip_block_ranges(as_object(block)) if pods is None and namespaces is None else []
            )
        elif pods is not None or namespaces is not None:
            own_namespace = {"matchLabels": {NAMESPACE_NAME: namespace}}
            namespace_part = parse_selector(own_namespace if namespaces is None else namespaces)
            pod_part = parse_selector(pods)
            if namespace_part is not None and pod_part is not None:
                selectors.append((namespace_part, pod_part))
    return addresses, selectors


def _ip_block_ranges(block: Object) -> Ranges:
    """Return the addresses of an ipBlock without its exceptions."""
    block_ranges, exceptions = (
        _address_ranges(block.get("cidr")),
        [_address_ranges(c) for c in as_list(block.get("except"))],
    )
    return _difference(block_ranges, [*chain.from_iterable(exceptions)]) if all(exceptions) else []


def _address_ranges(cidr: Any) -> Ranges:
    """Return the positions of a network or an address; none if the text is neither.

    Leading zeros are decimal, as in the API server (netutils.ParseCIDRSloppy). ``::ffff:10.0.0.0/104`` is
    10.0.0.0/8.
    """
    text = cidr if isinstance(cidr, str) else ""
    try:
        network = ip_network(text if ":" in text else _ZEROS.sub("", text), strict=False)
    except ValueError:
        return []
    address = network.network_address
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else address
    first = _IPV6_OFFSET + int(address) if mapped is None else int(mapped)
    return [(first, first + network.num_addresses - 1)]


def _port_ranges(entry: Any, names: Sequence[tuple[str, str, int | str]] | None) -> Ranges:
    """Return the positions of a NetworkPolicyPort.

    names: name, protocol and number of the named ports; None if each peer has its own.
    """
    port, end, protocol = (as_object(entry).get(key) for key in ("port", "endPort", "protocol"))
    kind = "TCP" if protocol is None else protocol
    if not isinstance(kind, str) or kind not in _PROTOCOL_OFFSETS:
        return []
    if isinstance(port, str) and end is None and _PORT_NAME.fullmatch(port):
        known = [(port, kind, port)] if names is None else names
        found = [
            _port_position(number, k) for name, k, number in known if (name, k) == (port, kind)
        ]
        return [(position, position) for position in found]
    last = port if end is None else end
    if last is None or (port, last) == (1, _MAX_PORT):
        return [(_port_position(0, kind), _port_position(0, kind) + _PROTOCOL_SIZE - 1)]
    if type(port) is int and type(last) is int and 1 <= port <= last <= _MAX_PORT:
        return [(_port_position(port, kind), _port_position(last, kind))]
    return []


def _port_position(port: int | str, protocol: str) -> int:
    """Return the position of a port number or name."""
    offset = port if isinstance(port, int) else _NAME_OFFSET + int.from_bytes(port.encode())
    return _PROTOCOL_OFFSETS.get(protocol, _OTHER_PROTOCOLS) + offset


def _container_ports(pod: Object) -> Iterator[tuple[str, str, int]]:
    """Yield name, protocol and number of each named port of a pod's containers and init containers."""
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


def _difference(ranges: Ranges, others: Ranges) -> Ranges:
    """Return the positions of ``ranges`` that are not in ``others``."""
    return _complement([*_complement(ranges), *others])


def _complement(ranges: Ranges) -> Ranges:
    """Return the positions that are in none of the ranges, in n log n: a policy may have many ranges."""
    gaps: Ranges = []
    start = 0
    for low, high in sorted(ranges):
        if low > start:
            gaps.append((start, low - 1))
        start = max(start, high + 1)
    return [*gaps, (start, _LAST_PORT_POSITION)] if start <= _LAST_PORT_POSITION else gaps
