"""kubernetes.event: an Event on the pod or node, which ``kubectl describe`` shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from engine.actions.managed_objects import ownership_metadata, require_managed, short_digest
from engine.actions.registry import StepContext, action
from engine.cluster.api import EVENT, AlreadyExistsError, Cluster
from engine.cluster.pods import Pod
from engine.model.calls import Call
from engine.model.errors import PermanentError
from engine.model.event import format_time

if TYPE_CHECKING:
    from engine.model.calls import Object

MAX_MESSAGE = 1024
"""Characters of a message that the API server accepts (events.k8s.io/v1, ``note``)."""


@action(
    "kubernetes.event",
    effect="mark",
    needs={("get", "pods"), ("get", "nodes"), ("get", "events"), ("create", "events")},
    example={"message": "playbook %playbook %run.outcome: %rule", "type": "Warning"},
)
def write_event(
    subject: Pod | dict[str, Any],
    cluster: Cluster,
    context: StepContext,
    *,
    message: str,
    type: Literal["Normal", "Warning"] = "Normal",  # noqa: A002 - the name that Kubernetes uses
) -> str:
    """Write a Kubernetes Event on the pod, or on the node if the event names no pod.

    `kubectl describe` shows the Event.

    message: the text. It is cut to 1,024 characters.
    type: the type of the Event.
    """
    if isinstance(subject, Pod):
        about, namespace = _reference("Pod", subject.metadata, subject.namespace), subject.namespace
        about["uid"] = subject.uid
    else:
        about, namespace = _reference("Node", subject["metadata"], None), "default"
    name = f"tiercel-{short_digest(16, context.run, context.step)}"
    now = format_time(int(context.now) * 1_000_000_000)
    body: Object = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": namespace, **ownership_metadata(context)},
        "involvedObject": about,
        "reason": "Tiercel",
        "message": message if len(message) <= MAX_MESSAGE else message[: MAX_MESSAGE - 1] + "…",
        "type": type,
        "source": {"component": "tiercel"},
        "reportingComponent": "tiercel",
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }
    try:
        cluster.send(Call("create", EVENT.api_version, EVENT.resource, namespace, name, body))
    except AlreadyExistsError:
        found = cluster.get(EVENT, name, namespace)
        if found is None:
            raise PermanentError(f"event {namespace}/{name} was deleted in the meantime") from None
        require_managed(found, f"event {namespace}/{name}")
    return f"event on {about['kind'].lower()} {about['name']}"


def _reference(kind: str, metadata: Any, namespace: str | None) -> dict[str, Any]:
    reference = {"apiVersion": "v1", "kind": kind, "name": metadata["name"]}
    if metadata.get("uid"):
        reference["uid"] = metadata["uid"]
    if namespace:
        reference["namespace"] = namespace
    return reference
