"""The providers of policies, and the kind of each. One list, so that a provider is one file and one row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec

from engine.cluster.api import NETWORK_POLICY
from engine.cluster.policy_providers import calico, cilium, cluster, kubernetes
from engine.model.calls import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from engine.cluster.api import ClusterReader
    from engine.cluster.policy_providers.cut import Destination, Isolation, Pods
    from engine.model.calls import Object

ProviderName = Literal["kubernetes", "cluster", "cilium", "calico", "auto"]
CLUSTER_NETWORK_POLICY = Kind(
    "policy.networking.k8s.io/v1alpha2", "clusternetworkpolicies", "ClusterNetworkPolicy",
    namespaced=False,
)  # fmt: skip
CILIUM_NETWORK_POLICY = Kind("cilium.io/v2", "ciliumnetworkpolicies", "CiliumNetworkPolicy")
CALICO_NETWORK_POLICY = Kind("projectcalico.org/v3", "networkpolicies", "NetworkPolicy")
"""The kind of the Calico API server."""
CALICO_STORED_POLICY = Kind("crd.projectcalico.org/v1", "networkpolicies", "NetworkPolicy")
"""The kind in which Calico stores its policies. It is used if there is no Calico API server."""


def global_kind(kind: Kind) -> Kind:
    """Return the kind of Calico's policies without a namespace, for the kind of those with one."""
    return Kind(kind.api_version, "globalnetworkpolicies", "GlobalNetworkPolicy", namespaced=False)


class Provider(msgspec.Struct, frozen=True):
    """A provider: its kinds, the preferred one first, and how it writes what is cut.

    isolation: returns the spec of an isolation. block_subject: returns the spec of a block without destinations.
    with_destinations: returns such a spec with other destinations. denies: whether no other policy opens what it
    cuts. pods_by_address: whether it can block the address of a pod.
    """

    name: ProviderName
    kinds: tuple[Kind, ...]
    isolation: Callable[[Isolation], Object]
    block_subject: Callable[[Pods], Object]
    with_destinations: Callable[[Mapping[str, Any], Iterable[Destination]], Object]
    denies: bool = True
    pods_by_address: bool = True


def _provider(name: ProviderName, module: Any, *kinds: Kind, **more: bool) -> Provider:
    subject, destinations = module.block_subject, module.with_destinations
    return Provider(name, kinds, module.isolation_spec, subject, destinations, **more)


PROVIDERS: dict[str, Provider] = {
    one.name: one
    for one in (
        _provider("cluster", cluster, CLUSTER_NETWORK_POLICY),
        _provider("cilium", cilium, CILIUM_NETWORK_POLICY, pods_by_address=False),
        _provider("calico", calico, CALICO_NETWORK_POLICY, CALICO_STORED_POLICY),
        _provider("kubernetes", kubernetes, NETWORK_POLICY, denies=False, pods_by_address=False),
    )
}
"""By name, in the order in which ``auto`` tries them."""


POLICY_KINDS = tuple(kind for one in PROVIDERS.values() for kind in one.kinds)
"""The kinds of all providers."""


def providers_of(name: str) -> tuple[Provider, ...]:
    """Return the providers that a step with this ``provider`` may use."""
    return tuple(PROVIDERS.values()) if name == "auto" else (PROVIDERS[name],)


def find_provider(name: str, reads: ClusterReader) -> tuple[Provider, Kind]:
    """Return the provider with a name, or the first one for ``auto``, whose kind the API server serves.

    If none is served, it is the last provider and its preferred kind.
    """
    providers = providers_of(name)
    served = (
        (one, kind)
        for one in providers
        for kind in one.kinds
        if kind == NETWORK_POLICY or reads.serves(kind)
    )
    return next(served, (providers[-1], providers[-1].kinds[0]))


def with_only(found: Object, destinations: Iterable[Destination]) -> Object:
    """Return the spec of a policy as read, so that it blocks only these destinations.

    The spec of an object that is not a policy stays as it is.
    """
    where = (found.get("kind"), _group(str(found.get("apiVersion"))))
    spec: Object = found["spec"]
    for one in PROVIDERS.values():
        if where in {(kind.kind, _group(kind.api_version)) for kind in one.kinds}:
            return one.with_destinations(spec, destinations)
    return spec


def _group(api_version: str) -> str:
    return api_version.partition("/")[0]
