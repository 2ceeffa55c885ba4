"""What a policy cuts: all traffic of pods, or single destinations. Each provider writes it in its own kind."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from engine.cluster.network_policies import PolicyType
    from engine.model.calls import Object

NODE_LOCAL_DNS = "169.254.20.10/32"
"""The address of NodeLocal DNSCache on every node (the default of the addon)."""
DNS_PORT = 53
DNS_NAMESPACE = "kube-system"
DNS_LABELS = {"k8s-app": "kube-dns"}
MAX_PORT = 65535
MAX_DESTINATIONS = 100
"""Destinations in one policy. Their number depends on events, so it must have a limit."""
_DESTINATION = "block.tiercel.dev/"
_VALUE = re.compile(r"[0-9a-f.:]{2,39}/[0-9]{1,3}(?: [0-9]{1,5}(?:,[0-9]{1,5}){0,99})?")


class Exceptions(msgspec.Struct, frozen=True):
    """The traffic that an isolation leaves open.

    dns: port 53 of the cluster's resolvers, egress only. cidrs, namespaces: peers in each direction that is cut.
    ports: limits cidrs and namespaces; empty for all ports.
    """

    dns: bool = True
    cidrs: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()


class Pods(msgspec.Struct, frozen=True):
    """The pods that a policy selects. selector: a LabelSelector (meta/v1) that is never empty."""

    namespace: str
    selector: Mapping[str, Any]


class Isolation(msgspec.Struct, frozen=True):
    """Pods whose traffic is cut in these directions, with exceptions."""

    pods: Pods
    directions: tuple[PolicyType, ...]
    exceptions: Exceptions


class Destination(msgspec.Struct, frozen=True, order=True):
    """A destination that pods cannot reach.

    network: a network in CIDR notation; an address is a network of one. ports: of TCP and UDP, sorted; empty for
    all ports and protocols.
    """

    network: str
    ports: tuple[int, ...] = ()

    def __str__(self) -> str:
        address = self.network.removesuffix("/128" if ":" in self.network else "/32")
        ports = ", ".join(map(str, self.ports))
        return f"{address} port{'s' if len(self.ports) > 1 else ''} {ports}" if ports else address

    @property
    def annotation(self) -> str:
        """The value of the annotation that keeps the destination: ``192.0.2.7/32 80,443``."""
        ports = ",".join(map(str, self.ports))
        return f"{self.network} {ports}" if ports else self.network


def destination_key(digest: str) -> str:
    """Return the key of the annotation that keeps a destination. digest: of the destination, hex."""
    return _DESTINATION + digest


def kept_destinations(annotations: Mapping[str, Any]) -> dict[str, Destination]:
    """Return the destinations that the annotations of a policy keep, by key. Invalid ones are ignored."""
    found: dict[str, Destination] = {}
    for key, value in sorted(annotations.items()):
        if key.startswith(_DESTINATION) and isinstance(value, str) and _VALUE.fullmatch(value):
            network, _, ports = value.partition(" ")
            found[key] = Destination(network, tuple(map(int, ports.split(","))) if ports else ())
    return found


def other_ports(ports: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Yield the inclusive ranges of all port numbers that are not in ``ports``."""
    first = 1
    for port in sorted(set(ports)):
        if port > first:
            yield first, port - 1
        first = port + 1
    if first <= MAX_PORT:
        yield first, MAX_PORT


def by_family(cidrs: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the IPv4 networks and the IPv6 networks."""
    every = list(cidrs)
    return [c for c in every if ":" not in c], [c for c in every if ":" in c]


def named(namespace: str) -> Object:
    """Return the LabelSelector of a namespace."""
    return {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
