"""workload.scale: change the replicas of the workload that owns the pod."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from engine.actions.composite_parameters import ListOf, Ttl
from engine.actions.metadata import ttl_text
from engine.actions.owners import OWNER_RESOURCES, OWNERS
from engine.actions.parameters import Choice, Integer
from engine.actions.registry import StepContext, action
from engine.actions.workloads import find_workload
from engine.cluster.api import Cluster
from engine.cluster.pods import Pod
from engine.model.calls import Call, ObjectChange

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.actions.registry import Right

SCALABLE = ("Deployment", "StatefulSet", "ReplicaSet")
"""The kinds with a ``scale`` subresource."""


def _needs(parameters: Mapping[str, Any]) -> frozenset[Right]:
    rights = {("get", resource) for resource in ("pods", *OWNER_RESOURCES)}
    for kind in parameters.get("kinds") or SCALABLE:
        rights |= {(verb, f"{OWNERS[kind].resource}/scale.apps") for verb in ("get", "patch")}
    return frozenset(rights)


@action("workload.scale", effect="disrupt", needs=_needs, example={"replicas": 0})
def scale_workload(
    pod: Pod,
    cluster: Cluster,
    context: StepContext,
    *,
    replicas: Annotated[int, Integer()] = 0,
    kinds: Annotated[list[str] | None, ListOf(Choice(SCALABLE))] = None,
    even_if_managed: bool = False,
    ttl: Ttl = None,
) -> str:
    """Scale the workload of the pod: the topmost Deployment, StatefulSet or ReplicaSet that owns it.

    A HorizontalPodAutoscaler does not change a workload with 0 replicas. It can change any other number.

    replicas: the new number of replicas.
    kinds: skip workloads of other kinds. The default is all three.
    even_if_managed: scale the workload even if Argo CD or Flux manages it. They may revert the change.
    ttl: how long the number stays. Then the previous number is restored, unless somebody changed it.
    """
    workload = find_workload(pod, cluster, kinds or SCALABLE, even_if_managed=even_if_managed)
    scale = replace(workload.kind, resource=f"{workload.kind.resource}/scale")
    before = (workload.object.get("spec") or {}).get("replicas", 1)
    name, uid = workload.name, workload.uid
    # A Scale omits 0 replicas, so the absent value stands for 0.
    put, old = replicas or None, before or None
    change = ObjectChange(scale, pod.namespace, name, uid, ("spec", "replicas"), put, old)
    context.add_undo_intent([change], ttl)
    # The pod may be gone at a second attempt, because of our own call.
    context.keep({"uid": pod.uid, "sent": context.step})
    body = {"metadata": {"uid": uid} if uid else {}, "spec": {"replicas": replicas}}
    cluster.send(Call("patch", scale.api_version, scale.resource, pod.namespace, name, body))
    return f"scale {workload} of {pod} from {before} to {replicas}{ttl_text(ttl)}"
