"""pod.label: labels on the pod, or on what it belongs to."""

from __future__ import annotations

from engine.actions.composite_parameters import Labels, Ttl
from engine.actions.metadata import On, change_metadata, find_subject, needs
from engine.actions.registry import StepContext, action
from engine.cluster.api import Cluster
from engine.cluster.pods import Pod


@action(
    "pod.label",
    effect="mark",
    needs=needs,
    example={"labels": {"quarantine": "true", "team": None}},
)
def label_pod(
    pod: Pod,
    cluster: Cluster,
    context: StepContext,
    *,
    labels: Labels,
    on: On = "pod",
    even_if_managed: bool = False,
    ttl: Ttl = None,
) -> str:
    """Put labels on the pod (or on its owner, node or namespace), over the ones it has.

    labels: name -> value; null removes the label.
    on: whose labels: the pod's, its controller's own (not its template's), its node's, its namespace's.
    even_if_managed: with on owner, change it even where Argo CD or Flux manages it.
    ttl: how long the labels stay; then what was there before is, unless it was changed since.
    """
    subject = find_subject(pod, cluster, on, even_if_managed=even_if_managed)
    return change_metadata(subject, cluster, context, ("labels", labels), ttl)
