"""workload.restart: replace all pods of the workload that owns the pod."""

from __future__ import annotations

from engine.actions.owners import OWNER_RESOURCES, OWNERS
from engine.actions.registry import StepContext, action
from engine.actions.workloads import find_workload
from engine.cluster.api import Cluster
from engine.cluster.pods import Pod
from engine.model.calls import Call
from engine.model.event import format_time

RESTARTABLE = ("Deployment", "StatefulSet", "DaemonSet")
"""The kinds that roll out a changed pod template."""
RESTARTED_AT = "kubectl.kubernetes.io/restartedAt"
"""The annotation of the pod template that ``kubectl rollout restart`` sets."""


@action(
    "workload.restart",
    effect="disrupt",
    needs={("get", resource) for resource in ("pods", *OWNER_RESOURCES)}
    | {("patch", f"{OWNERS[kind].resource}.apps") for kind in RESTARTABLE},
)
def restart_workload(
    pod: Pod, cluster: Cluster, context: StepContext, *, even_if_managed: bool = False
) -> str:
    """Restart the workload of the pod, as `kubectl rollout restart` does. All its pods are replaced in turn.

    The workload is the topmost Deployment, StatefulSet or DaemonSet that owns the pod. The restart has the time
    at which the event was received, so that a second attempt does not restart the workload again.

    even_if_managed: restart the workload even if Argo CD or Flux manages it.
    """
    workload = find_workload(pod, cluster, RESTARTABLE, even_if_managed=even_if_managed)
    stamp = format_time(int(context.received) * 1_000_000_000)
    template = {"metadata": {"annotations": {RESTARTED_AT: stamp}}}
    uid = {"uid": workload.uid} if workload.uid else {}
    kind, body = workload.kind, {"metadata": uid, "spec": {"template": template}}
    # The pod may be gone at a second attempt, because of our own call.
    context.keep({"uid": pod.uid, "sent": context.step})
    call = Call("patch", kind.api_version, kind.resource, pod.namespace, workload.name, body)
    cluster.send(call)
    return f"restart {workload} of {pod}"
