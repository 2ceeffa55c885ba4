"""node.cordon: mark the node of the event as unschedulable."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.actions.composite_parameters import Ttl
from engine.actions.metadata import ttl_text
from engine.actions.registry import StepContext, action
from engine.cluster.api import NODE, Cluster
from engine.model.calls import Call, ObjectChange

if TYPE_CHECKING:
    from engine.model.calls import Object

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
    context.add_undo_intent([cordon_change(node)], ttl)
    cordon(node, cluster)
    return f"cordon node {node['metadata']['name']}{ttl_text(ttl)}"


def cordon_change(node: Object) -> ObjectChange:
    """Return the change that cordons a node."""
    metadata = node["metadata"]
    before = (node.get("spec") or {}).get("unschedulable") or None
    return ObjectChange(
        NODE, None, metadata["name"], metadata.get("uid"), UNSCHEDULABLE, put=True, before=before
    )


def cordon(node: Object, cluster: Cluster) -> None:
    """Mark a node as unschedulable. Raises GoneError, TemporaryError, PermanentError."""
    name, uid = node["metadata"]["name"], node["metadata"].get("uid")
    body = {"metadata": {"uid": uid} if uid else {}, "spec": {"unschedulable": True}}
    cluster.send(Call("patch", NODE.api_version, NODE.resource, None, name, body))
