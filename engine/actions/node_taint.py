"""node.taint: add a taint to the node of the event."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

from engine.actions.composite_parameters import Ttl
from engine.actions.metadata import ttl_text
from engine.actions.parameters import Text, check_label_key, check_label_value
from engine.actions.registry import StepContext, action
from engine.cluster.api import NODE, Cluster
from engine.cluster.undo import current_value, with_value
from engine.model.calls import Call, ObjectChange


@action(
    "node.taint",
    effect="disrupt",
    needs={("get", "pods"), ("get", "nodes"), ("patch", "nodes")},
    example={"key": "tiercel.dev/quarantine", "value": "incident", "effect": "NoSchedule"},
)
def taint_node(
    node: dict[str, Any],
    cluster: Cluster,
    context: StepContext,
    *,
    key: Annotated[str, Text(check_label_key)],
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"],
    value: Annotated[str | None, Text(check_label_value)] = None,
    ttl: Ttl = None,
) -> str:
    """Add a taint to the node of the pod, or to the node that the event names.

    A taint with the same key and effect gets the new value. The undo restores it.

    key: the key of the taint.
    effect: what the taint does. `NoExecute` also evicts the pods that do not tolerate it, without regard to
      PodDisruptionBudgets.
    value: the value of the taint. The default is no value.
    ttl: how long the taint stays. Without it, until `tiercel undo`.
    """
    metadata = node["metadata"]
    name, uid = metadata["name"], metadata.get("uid")
    item = {"key": key, "effect": effect}
    taint = {"key": key, **({"value": value} if value else {}), "effect": effect}
    change = ObjectChange(NODE, None, name, uid, ("spec", "taints"), taint, item=item)
    change = replace(change, before=current_value(node, change))
    context.add_undo_intent([change], ttl)
    # The patch contains the other taints as read, so it requires the version that was read.
    version = {field: metadata[field] for field in ("uid", "resourceVersion") if field in metadata}
    body = {"metadata": version, **with_value(node, change, taint)}
    cluster.send(Call("patch", NODE.api_version, NODE.resource, None, name, body))
    shown = f"{key}{f'={value}' if value else ''}:{effect}"
    return f"taint node {name} with {shown}{ttl_text(ttl)}"
