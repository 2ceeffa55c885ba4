"""pod.annotate: annotations on the pod, or on what it belongs to."""

from __future__ import annotations

from engine.actions.composite_parameters import Annotations, Ttl
from engine.actions.metadata import On, change_metadata, find_subject, needs
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
    """Put annotations on the pod (or on its owner, node or namespace). Any text will do in them.

    annotations: name -> value; null removes the annotation.
    on: whose annotations: the pod's, its controller's own (not its template's), its node's, its namespace's.
    even_if_managed: with on owner, change it even where Argo CD or Flux manages it.
    ttl: how long the annotations stay; then what was there before is, unless it was changed since.
    """
    subject = find_subject(pod, cluster, on, even_if_managed=even_if_managed)
    return change_metadata(subject, cluster, context, ("annotations", annotations), ttl)
