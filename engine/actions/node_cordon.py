"""node.cordon: mark the node of the event as unschedulable."""

from __future__ import annotations

from typing import Any

from engine.actions.composite_parameters import Ttl
from engine.actions.metadata import ttl_text
from engine.actions.registry import StepContext, action
from engine.cluster.api import NODE, Cluster
from engine.model.calls import Call, ObjectChange

UNSCHEDULABLE = ("spec", "unschedulable")


@action(
    "node.cordon",
    effect="disrupt",
    needs={("get", "pods"), ("get", "nodes"), ("patch", "nodes")},
)
def cordon_node(
    node: dict[str, Any], cluster: Cluster, context: StepContext, *, ttl: Ttl = None
) -> str:
    """Cordon the node of the pod, or the node that the event names. New pods are not scheduled on it.

    Pods on the node keep running. The undo uncordons the node, unless it was cordoned before.

    ttl: how long the node stays cordoned. Without it, until `tiercel undo`.
    """
    metadata = node["metadata"]
    name, uid = metadata["name"], metadata.get("uid")
    before = (node.get("spec") or {}).get("unschedulable") or None
    context.add_undo_intent(
        [ObjectChange(NODE, None, name, uid, UNSCHEDULABLE, put=True, before=before)], ttl
    )
    body = {"metadata": {"uid": uid} if uid else {}, "spec": {"unschedulable": True}}
    cluster.send(Call("patch", NODE.api_version, NODE.resource, None, name, body))
    return f"cordon node {name}{ttl_text(ttl)}"
