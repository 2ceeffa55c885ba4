"""pod.annotate: change annotations of the pod, its owner, its node or its namespace."""

from __future__ import annotations

from engine.actions.composite_parameters import Annotations, Ttl
from engine.actions.metadata import On, change_metadata, find_metadata_target, needs
from engine.actions.registry import StepContext, action
from engine.cluster.api import Cluster
from engine.cluster.pods import Pod


@action(
    "pod.annotate",
    effect="mark",
    needs=needs,
    example={"annotations": {"example.com/why": "%rule: %proc.cmdline"}},
)
def annotate_pod(
    pod: Pod,
    cluster: Cluster,
    context: StepContext,
    *,
    annotations: Annotations,
    on: On = "pod",
    even_if_managed: bool = False,
    ttl: Ttl = None,
) -> str:
    """Set annotations on the pod, or on its owner, node or namespace. Existing values are replaced.

    annotations: name -> value (any text). null removes the annotation.
    on: the object that gets the annotations: the pod, its controller (not the pod template), its node or its
      namespace.
    even_if_managed: with `on: owner`, change the owner even if Argo CD or Flux manages it.
    ttl: how long the annotations stay. Then the previous value is restored, unless somebody changed it.
    """
    target = find_metadata_target(pod, cluster, on, even_if_managed=even_if_managed)
    return change_metadata(target, cluster, context, ("annotations", annotations), ttl)
