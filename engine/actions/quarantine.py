"""What pod.isolate and pod.block share: the pods to cut off, and the policy for them.

A policy selects the pod by the quarantine label, which is the same for all runs. Several runs may cut off one
pod. Each has its own undo intent. The label and the policy are removed when the last one ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from engine.actions.managed_objects import ownership_metadata, require_managed, short_digest
from engine.cluster.api import NETWORK_POLICY, POD
from engine.cluster.kinds import rbac_resource
from engine.cluster.policy_providers.cut import Pods
from engine.cluster.policy_providers.registry import find_provider, providers_of
from engine.model.calls import Call, ObjectChange
from engine.model.errors import SkippedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.actions.registry import Right, StepContext
    from engine.cluster.api import Cluster
    from engine.cluster.pods import Pod
    from engine.cluster.policy_providers.registry import Provider, ProviderName
    from engine.model.calls import Kind, Object

QUARANTINE = "tiercel.dev/quarantine"
POLICY_POD = "tiercel.dev/pod"
"""Annotation: namespace, name and uid of the pod that a policy without a namespace cuts off."""
LIST_POLICIES: Right = ("list", rbac_resource(NETWORK_POLICY))
_VERBS = ("get", "create", "patch", "delete")


class Subject(msgspec.Struct, frozen=True):
    """The pods that a policy selects, and the changes beside the policy that this needs.

    labels: of the pod after the changes. patch: of the metadata of the pod; empty for none. changes: those of
    the pod and of the policy's annotations, for undo. owner: of the policy, as an ownerReference; None if only
    an undo removes it. annotations: of the policy, for the undo after a lost journal.
    """

    pods: Pods
    labels: Mapping[str, str]
    owner: Object | None
    patch: Mapping[str, Mapping[str, str | None]] = {}
    changes: tuple[ObjectChange, ...] = ()
    annotations: Mapping[str, str] = {}


class PolicyPlace(msgspec.Struct, frozen=True):
    """Where the policy of a step is. found: the policy of an earlier attempt or run, or None."""

    provider: Provider
    kind: Kind
    namespace: str | None
    name: str
    found: Object | None


def policy_rights(provider: str) -> frozenset[Right]:
    """Return the rights to write and to undo a policy, for the parameter ``provider``."""
    kinds = {rbac_resource(kind) for one in providers_of(provider) for kind in one.kinds}
    return frozenset((verb, resource) for verb in _VERBS for resource in kinds)


def check_network(pod: Pod) -> None:
    """Raise SkippedError if policies have no effect on the pod."""
    if pod.spec.get("hostNetwork"):
        raise SkippedError(f"pod {pod} uses the network of its host, where policies have no effect")


def quarantine_label(uid: str) -> str:
    """Return the value of the quarantine label of a pod."""
    return short_digest(16, uid)


def labelled_pod(pod: Pod) -> Subject:
    """Return the pod alone, selected by its quarantine label."""
    label = quarantine_label(pod.uid)
    before = (pod.metadata.get("labels") or {}).get(QUARANTINE)
    path = ("metadata", "labels", QUARANTINE)
    change = ObjectChange(POD, pod.namespace, pod.name, pod.uid, path, label, before)
    labels = {**(pod.metadata.get("labels") or {}), QUARANTINE: label}
    owner = {"apiVersion": "v1", "kind": "Pod", "name": pod.name, "uid": pod.uid}
    selected = Pods(pod.namespace, {"matchLabels": {QUARANTINE: label}})
    return Subject(selected, labels, owner, {"labels": {QUARANTINE: label}}, (change,))


def find_place(
    pod: Pod, cluster: Cluster, context: StepContext, provider: ProviderName
) -> PolicyPlace:
    """Choose the provider, and read the policy of the step if it exists.

    If there is a choice, a further attempt keeps that of the first one. Raises PermanentError if the kind is not
    served, or if the policy exists and was not created by Tiercel.
    """
    choices = [(one, kind) for one in providers_of(provider) for kind in one.kinds]
    if len(choices) == 1:
        ((found, kind),) = choices
    else:
        kept = f"policies of {context.step}"
        version = context.attempt_state.get(kept)
        earlier = [one for one in choices if one[1].api_version == version]
        found, kind = earlier[0] if earlier else find_provider(provider, cluster)
        if not earlier:
            context.keep({kept: kind.api_version})
    name = f"tiercel-{short_digest(10, context.playbook, context.step, pod.uid)}"
    namespace = pod.namespace if kind.namespaced else None
    policy = cluster.get(kind, name, namespace)
    where = f"{namespace}/{name}" if namespace else name
    require_managed(policy, f"{kind.kind.lower()} {where}")
    return PolicyPlace(found, kind, namespace, name, policy)


def write_policy(
    pod: Pod,
    cluster: Cluster,
    context: StepContext,
    place: PolicyPlace,
    subject: Subject,
    spec: Object,
    *,
    ttl: float | None,
) -> Object:
    """Save the undo intent, change the pod if the subject needs it, and apply the policy. Return the policy."""
    kind = place.kind
    made = ObjectChange(kind, place.namespace, place.name)
    until = context.add_undo_intent((made, *subject.changes), ttl)
    marks = ownership_metadata(context, until, place.found)
    metadata: Object = {
        "name": place.name,
        **({"namespace": place.namespace} if place.namespace else {}),
    }
    every = {**subject.annotations, **marks["annotations"]}
    if subject.patch and not kind.namespaced:
        every[POLICY_POD] = f"{pod.namespace}/{pod.name}/{pod.uid}"
    metadata |= {**marks, "annotations": every}
    if subject.owner and kind.namespaced:  # a namespaced object cannot own a cluster-scoped one
        metadata["ownerReferences"] = [subject.owner]
    policy = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata, "spec": spec}
    if subject.patch:
        body: dict[str, Any] = {"metadata": {"uid": pod.uid, **subject.patch}}
        call = Call("patch", POD.api_version, POD.resource, pod.namespace, pod.name, body)
        cluster.send(call)
    cluster.send(
        Call("apply", kind.api_version, kind.resource, place.namespace, place.name, policy)
    )
    return policy


def provider_text(provider: ProviderName, place: PolicyPlace) -> str:
    """Return the part of a step's message that names the provider; empty for the default provider."""
    if provider == "kubernetes":
        return ""
    return f" (provider: {place.provider.name})"
