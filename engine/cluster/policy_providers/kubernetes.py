"""NetworkPolicies of Kubernetes. They only allow traffic. Traffic that no policy of a pod allows is cut."""

from __future__ import annotations

from ipaddress import ip_network
from typing import TYPE_CHECKING

from engine.cluster.policy_providers.cut import (
    DNS_LABELS,
    DNS_NAMESPACE,
    DNS_PORT,
    NODE_LOCAL_DNS,
    by_family,
    named,
    other_ports,
)

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping
    from ipaddress import IPv4Network, IPv6Network

    from engine.cluster.policy_providers.cut import Destination, Isolation, Pods
    from engine.model.calls import Object

    _Network = IPv4Network | IPv6Network

EVERYWHERE = ("0.0.0.0/0", "::/0")


def isolation_spec(isolation: Isolation) -> Object:
    """Return the spec of the policy: the directions that are cut, with their exceptions."""
    exceptions, directions = isolation.exceptions, isolation.directions
    peers: list[Object] = [{"ipBlock": {"cidr": cidr}} for cidr in exceptions.cidrs]
    peers += [{"namespaceSelector": named(name)} for name in exceptions.namespaces]
    ports = [
        {"protocol": protocol, "port": port}
        for port in exceptions.ports
        for protocol in ("TCP", "UDP")
    ]
    limited = {"ports": ports} if ports else {}
    spec: Object = {"podSelector": isolation.pods.selector, "policyTypes": list(directions)}
    if "Ingress" in directions:
        spec["ingress"] = [{"from": peers, **limited}] if peers else []
    if "Egress" in directions:
        rules: list[Object] = [{"to": peers, **limited}] if peers else []
        spec["egress"] = [_dns(), *rules] if exceptions.dns else rules
    return spec


def _dns() -> Object:
    resolver = {
        "namespaceSelector": named(DNS_NAMESPACE),
        "podSelector": {"matchLabels": DNS_LABELS},
    }
    return {
        "to": [resolver, {"ipBlock": {"cidr": NODE_LOCAL_DNS}}],
        "ports": [{"protocol": protocol, "port": DNS_PORT} for protocol in ("UDP", "TCP")],
    }


def block_subject(pods: Pods) -> Object:
    """Return the part of the spec of a block that does not depend on its destinations."""
    return {"podSelector": pods.selector, "policyTypes": ["Egress"]}


def with_destinations(spec: Mapping[str, object], destinations: Iterable[Destination]) -> Object:
    """Return the spec with other destinations: it allows everything except these.

    The first rule allows all addresses outside the destinations, and all pods, because some CNIs do not apply an
    ipBlock to pods. A further rule per destination allows the ports that are not blocked.
    """
    blocked: dict[_Network, set[int] | None] = {}  # None: all ports
    for one in destinations:
        network = ip_network(one.network)
        others = blocked.get(network, set())
        blocked[network] = None if others is None or not one.ports else others | set(one.ports)
    v4, v6 = by_family(map(str, blocked))
    everywhere = [
        _ip_block(cidr, within) for cidr, within in zip(EVERYWHERE, (v4, v6), strict=True)
    ]
    rules: list[Object] = [{"to": [*everywhere, {"namespaceSelector": {}}]}]
    containing = {network: _containing(network, blocked) for network in blocked}
    for network, around in containing.items():
        ports = [blocked[network], *(blocked[other] for other in around)]
        if None in ports:
            continue
        # an address belongs to the smallest destination that contains it
        inside = [str(other) for other, outer in containing.items() if network in outer]
        ranges = other_ports({port for some in ports for port in some or ()})
        rules.append({"to": [_ip_block(str(network), inside)], "ports": _ports(ranges)})
    return {**spec, "egress": rules}


def _containing(network: _Network, networks: Container[_Network]) -> list[_Network]:
    """Return the larger ones of the networks that contain a network."""
    supernets = (network.supernet(new_prefix=length) for length in range(network.prefixlen))
    return [one for one in supernets if one in networks]


def _ip_block(cidr: str, exceptions: list[str]) -> Object:
    return {"ipBlock": {"cidr": cidr, "except": exceptions} if exceptions else {"cidr": cidr}}


def _ports(ranges: Iterable[tuple[int, int]]) -> list[Object]:
    """Return the ports of TCP and UDP in these ranges, and all ports of SCTP."""
    inclusive = list(ranges)
    found: list[Object] = [
        {"protocol": protocol, "port": first, **({"endPort": last} if last > first else {})}
        for protocol in ("TCP", "UDP")
        for first, last in inclusive
    ]
    return [*found, {"protocol": "SCTP"}]
