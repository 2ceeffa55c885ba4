"""pod.block: cut one destination off from the pod, and leave everything else open."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from engine.actions.composite_parameters import ListOf, Ttl
from engine.actions.destination import check_destination, remote_network
from engine.actions.managed_objects import is_managed, short_digest
from engine.actions.metadata import ttl_text
from engine.actions.parameters import Integer, Text
from engine.actions.quarantine import (
    LIST_POLICIES,
    PolicyPlace,
    check_network,
    find_place,
    labelled_pod,
    policy_rights,
    provider_text,
    write_policy,
)
from engine.actions.registry import ActionResult, StepContext, action
from engine.cluster.api import NAMESPACE, NETWORK_POLICY, POD, Cluster
from engine.cluster.calico_policies import selects_for_egress
from engine.cluster.kinds import rbac_resource
from engine.cluster.network_policies import applies_to, policy_types
from engine.cluster.pods import Pod
from engine.cluster.policy_providers import calico
from engine.cluster.policy_providers.cut import (
    MAX_DESTINATIONS,
    Destination,
    destination_key,
    kept_destinations,
)
from engine.cluster.policy_providers.registry import global_kind, providers_of
from engine.language.operators import network_of
from engine.model.calls import ObjectChange
from engine.model.errors import PermanentError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.actions.quarantine import Subject
    from engine.actions.registry import Right
    from engine.model.calls import Object

_MAX_PORTS = 20


def _check(given: Mapping[str, Any]) -> str | None:
    ports = given.get("ports")
    if isinstance(ports, list) and len(ports) > _MAX_PORTS:
        return f"`ports` takes up to {_MAX_PORTS} ports; without it, all ports are blocked"
    return None


def _needs(parameters: Mapping[str, Any]) -> frozenset[Right]:
    provider = parameters.get("provider", "kubernetes")
    used = providers_of(provider)
    needed = policy_rights(provider) | {("get", "pods"), ("patch", "pods")}
    if not all(one.pods_by_address for one in used):
        needed |= {("list", "pods")}
    calicos = [kind for one in used if one.name == "calico" for kind in one.kinds]
    needed |= {("list", rbac_resource(kind)) for one in calicos for kind in (one, global_kind(one))}
    if calicos or any(not one.denies for one in used):
        needed |= {LIST_POLICIES}
    return needed


@action(
    "pod.block",
    effect="disrupt",
    needs=_needs,
    example={"destination": "192.0.2.7", "ports": [443]},
    check=_check,
)
def block_destination(
    pod: Pod,
    cluster: Cluster,
    context: StepContext,
    *,
    destination: Annotated[str | None, Text(check_destination)] = None,
    ports: Annotated[list[int] | None, ListOf(Integer(1, 65535))] = None,
    provider: Literal["kubernetes", "cluster", "cilium", "calico", "auto"] = "kubernetes",
    ttl: Ttl = None,
) -> ActionResult:
    """Block connections from the pod to one destination, and leave all others as they are.

    With `provider: kubernetes`, the policy allows everything except the destination. So the step is refused if
    another policy selects the pod for egress: the new policy would open what the other one keeps closed. The
    other providers deny the destination. The destinations of several runs of a step are in one policy, and each
    of them ends on its own.

    Open connections may continue. Without a CNI that enforces policies, a policy has no effect, and Tiercel
    cannot detect this. A Service is a destination only by the addresses of its pods. kubernetes and cilium
    cannot block the address of a pod: the step is refused. A pod that uses the network of its host is skipped.

    destination: an address or a network. By default, the remote address of the event: `fd.rip`, `fd.sip` or the
        remote side of `fd.name`.
    ports: block only these ports, of TCP and UDP.
    provider: the kind of the policy. `auto` takes the first of cluster, cilium and calico that the API server
        serves, otherwise kubernetes. A kind that is served is not necessarily enforced.
    ttl: when the block ends. Without it, the block lasts until `tiercel undo`.
    """
    check_network(pod)
    network = str(network_of(destination)) if destination else remote_network(context.event, pod)
    blocked = Destination(network, tuple(sorted(set(ports or ()))))
    place = find_place(pod, cluster, context, provider)
    subject = labelled_pod(pod)
    _check_pods(cluster, pod.namespace, blocked, place)
    if not place.provider.denies:
        _check_other_policies(pod, cluster, subject, place)
    key = destination_key(short_digest(16, blocked.annotation))
    every = {**_kept(place), key: blocked}
    if len(every) > MAX_DESTINATIONS:
        raise RefusedError(
            f"{place.name} blocks {MAX_DESTINATIONS} destinations already; pod.isolate cuts the pod off"
        )
    annotations = {name: one.annotation for name, one in every.items()}
    frame = place.provider.block_subject(subject.pods)
    if place.provider.name == "calico" and not _others_decide(pod, cluster, subject, place):
        frame["egress"] = [calico.ALLOW_OTHERS]
    spec = place.provider.with_destinations(frame, every.values())
    path = ("metadata", "annotations", key)
    change = ObjectChange(place.kind, place.namespace, place.name, None, path, blocked.annotation)
    subject = msgspec.structs.replace(
        subject, changes=(change, *subject.changes), annotations=annotations
    )
    write_policy(pod, cluster, context, place, subject, spec, ttl=ttl)
    text = f"cut {pod} off from {blocked}{ttl_text(ttl)}{provider_text(provider, place)}"
    return ActionResult(text, {"provider": place.provider.name, "policy": place.name})


def _kept(place: PolicyPlace) -> dict[str, Destination]:
    """Return the destinations that the policy blocks for other runs."""
    return kept_destinations(((place.found or {}).get("metadata") or {}).get("annotations") or {})


def _check_pods(cluster: Cluster, namespace: str, blocked: Destination, place: PolicyPlace) -> None:
    """Raise RefusedError if the destination is a pod and the provider cannot block the address of a pod."""
    network = network_of(blocked.network)
    if place.provider.pods_by_address or network.num_addresses > 1:
        return
    address = str(network.network_address)
    try:
        found = cluster.list(POD, address=address)
    except PermanentError:  # a Role gives the right in its own namespace only
        found = cluster.list(POD, namespace, address=address)
    for pod in found:
        over = ((pod.get("status") or {}).get("phase")) in ("Succeeded", "Failed")
        if not over and not (pod.get("spec") or {}).get("hostNetwork"):
            about = f"{pod['metadata'].get('namespace')}/{pod['metadata']['name']}"
            raise RefusedError(
                f"{blocked} is pod {about}, which provider: {place.provider.name} cannot block by its "
                "address; provider: cluster or calico can"
            )


def _others_decide(pod: Pod, cluster: Cluster, subject: Subject, place: PolicyPlace) -> bool:
    """Return whether other policies decide about the pod's egress. Otherwise a block must allow the rest.

    Calico denies what no rule of the policies of a pod matches. Raises RefusedError if that is not known, or if
    another block allows the rest: its rule may come before ours.
    """
    labelled: Object = {**pod.object, "metadata": {**pod.metadata, "labels": subject.labels}}
    namespace = (cluster.get(NAMESPACE, pod.namespace) or {}).get("metadata") or {}
    decides = any(
        applies_to(other, labelled) and "Egress" in policy_types(other)
        for other in cluster.list(NETWORK_POLICY, pod.namespace)
    )
    others = cluster.list(place.kind, pod.namespace) + cluster.list(global_kind(place.kind))
    for other in others:
        name = other["metadata"]["name"]
        if name == place.name:
            continue
        selects = selects_for_egress(other, labelled, namespace.get("labels") or {})
        if selects is None:
            raise RefusedError(
                f"Calico policy {name}: it is not known whether it selects pod {pod}"
            )
        is_block = selects and is_managed(other) and calico.ALLOW_OTHERS in other["spec"]["egress"]
        if is_block:
            raise RefusedError(
                f"Calico policy {name} of another step blocks destinations of the pod"
            )
        decides = decides or selects
    return decides


def _check_other_policies(pod: Pod, cluster: Cluster, subject: Subject, place: PolicyPlace) -> None:
    """Raise RefusedError if another policy selects the pod for egress."""
    labelled: Object = {**pod.object, "metadata": {**pod.metadata, "labels": subject.labels}}
    for other in cluster.list(NETWORK_POLICY, pod.namespace):
        name = other["metadata"]["name"]
        selects = applies_to(other, labelled) and "Egress" in policy_types(other)
        if selects and name != place.name:
            raise RefusedError(
                f"networkpolicy {name} selects pod {pod} for egress, and a further policy would open what it "
                "keeps closed; provider: cluster, cilium or calico can block the destination"
            )
