"""The target of a step: find the pod or node of an event, and verify that the pod was not replaced.

The target is read from the API server before each attempt. The checks have the order that docs/actions.md
describes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from engine.cluster.api import NODE, POD
from engine.model.errors import GoneError, SkippedError, TemporaryError
from engine.model.event import parse_time
from engine.model.event_subject import names_pod, subject_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from engine.cluster.api import ClusterReader
    from engine.model.calls import Object
    from engine.model.event import Event
    from engine.model.event_subject import EventSubject

_NAMESPACE = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_NAME = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*"
)
MIRROR = "kubernetes.io/config.mirror"
"""The annotation of a mirror pod. The kubelet of the node owns the pod."""
CLOCK_SKEW = 5.0
"""Seconds by which the clocks of the API server and of the event's node may differ."""
KUBELET_LAG = 10.0
"""Seconds after the receipt of an event in which the pod's status may not contain a new container yet."""


@dataclass(frozen=True, slots=True)
class Pod:
    """The pod of an event, after verification. object: the Pod as it was read."""

    namespace: str
    name: str
    uid: str
    object: Object = field(repr=False)

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The metadata of the Pod."""
        return self.object.get("metadata") or {}

    @property
    def spec(self) -> Mapping[str, Any]:
        """The spec of the Pod."""
        return self.object.get("spec") or {}

    @property
    def controller(self) -> Mapping[str, Any] | None:
        """The owner reference of the controller, or None."""
        owners = self.metadata.get("ownerReferences") or []
        return next((owner for owner in owners if owner.get("controller")), None)


class TargetSearch(msgspec.Struct, frozen=True):
    """The conditions of a search for a target.

    now: epoch seconds. received: when the event was received, in epoch seconds.
    uid: the pod that an earlier attempt of the run found, if any.
    wait_for_status: retry if the pod's status does not contain the event's container yet; previews do not wait.
    allow_terminating: accept a terminating pod if an earlier attempt of the run found it.
    node: name and uid of the node that an earlier attempt of the step found, if any.
    """

    now: float
    received: float
    uid: str | None = None
    wait_for_status: bool = True
    allow_terminating: bool = False
    node: tuple[str, str | None] | None = None


def find_pod(event: Event, reads: ClusterReader, search: TargetSearch) -> Pod:
    """Return the pod of an event. Raises SkippedError with the reason, GoneError, TemporaryError."""
    subject = subject_of(event)
    found = _read(subject, reads, known=search.uid is not None)
    metadata = found.get("metadata") or {}
    pod = Pod(metadata.get("namespace") or "", metadata.get("name") or "", _uid(found), found)
    if search.uid is not None:
        if search.uid != pod.uid:
            raise GoneError(f"pod {pod} was replaced by another pod of the same name")
    else:
        _identify(pod, subject, event, reads, search)
    if metadata.get("deletionTimestamp") and not (
        search.allow_terminating and search.uid == pod.uid
    ):
        raise GoneError(f"pod {pod} is terminating")
    return pod


def _read(subject: EventSubject, reads: ClusterReader, *, known: bool) -> Object:
    """Read the pod of an event by name, or by container id and node.

    known: an earlier attempt found the pod, so a missing pod is gone instead of skipped.
    """
    if subject.pod is not None and subject.namespace is not None:
        if not _NAMESPACE.fullmatch(subject.namespace) or not _NAME.fullmatch(subject.pod):
            raise SkippedError("the event contains an invalid pod name")
        found = reads.get(POD, subject.pod, subject.namespace)
        if found is None:
            raise GoneError(f"pod {subject.namespace}/{subject.pod} does not exist")
        return found
    if subject.container_id and subject.hostname and _NAME.fullmatch(subject.hostname):
        for pod in reads.list(POD, node=subject.hostname):
            if any(same_container(subject.container_id, one) for one in container_ids(pod)):
                return pod
        missing = GoneError if known else SkippedError
        raise missing(f"no pod on {subject.hostname} has the container {subject.container_id}")
    raise SkippedError("the event does not name a pod")


def _identify(
    pod: Pod, subject: EventSubject, event: Event, reads: ClusterReader, search: TargetSearch
) -> None:
    """Verify that a pod is the pod of the event. Raises SkippedError, GoneError, TemporaryError."""
    if subject.uid is not None:
        if subject.uid != pod.uid:
            raise GoneError(f"pod {pod} was replaced: its uid is not the uid in the event")
        return
    if subject.container_id is not None:
        sandbox = event.fields.get("k8s.pod.sandbox_id")
        ids = [*container_ids(pod.object), sandbox if isinstance(sandbox, str) else ""]
        if any(same_container(subject.container_id, one) for one in ids):
            return
        _check_other_pods(pod, subject, reads)
        if search.wait_for_status and search.now < search.received + KUBELET_LAG:
            raise TemporaryError(
                f"the status of pod {pod} does not contain the event's container yet", again=1.0
            )
    if event.source == "syscall" and subject.hostname and _NAME.fullmatch(subject.hostname):
        node = pod.spec.get("nodeName")
        if node and node != subject.hostname and reads.get(NODE, subject.hostname) is not None:
            raise SkippedError(
                f"pod {pod} runs on node {node}, but the event is from {subject.hostname}"
            )
    created = pod.metadata.get("creationTimestamp")
    if event.timed and isinstance(created, str) and epoch_of(created) > event.time + CLOCK_SKEW:
        raise SkippedError(f"pod {pod} was created after the event, so it replaced the event's pod")


def epoch_of(text: str) -> float:
    """Return a time in epoch seconds; 0 if the text is invalid, as it may be in a file of objects."""
    try:
        return parse_time(text) / 1e9
    except ValueError:
        return 0.0


def _check_other_pods(pod: Pod, subject: EventSubject, reads: ClusterReader) -> None:
    """Raise SkippedError if another pod of the namespace has the event's container."""
    for other in reads.list(POD, pod.namespace):
        name = (other.get("metadata") or {}).get("name")
        if name != pod.name and any(
            same_container(subject.container_id or "", one) for one in container_ids(other)
        ):
            raise SkippedError(f"the event's container is in pod {pod.namespace}/{name}, not {pod}")


def container_ids(pod: Object) -> Iterator[str]:
    """Yield the ids of a pod's containers without the prefix of the runtime.

    Includes init and ephemeral containers, and the last state of each.
    """
    status = pod.get("status") or {}
    for key in ("containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"):
        for container in status.get(key) or []:
            last = container.get("lastState") or {}
            state = container.get("state") or {}
            ids = [container.get("containerID")]
            ids += [(part.get("terminated") or {}).get("containerID") for part in (last, state)]
            yield from (one.rpartition("//")[2] for one in ids if isinstance(one, str) and one)


def same_container(short: str, full: str) -> bool:
    """Return whether an id from Falco (12 or 64 hexadecimal digits) is the id of a container."""
    return bool(full) and len(short) <= len(full) and full.startswith(short)


def _uid(pod: Object) -> str:
    metadata = pod.get("metadata") or {}
    return metadata.get("uid") or f"{metadata.get('namespace')}/{metadata.get('name')}"


def find_node(event: Event, reads: ClusterReader, search: TargetSearch) -> Object:
    """Return the node of the event's pod, otherwise the node that its hostname names.

    Raises SkippedError, GoneError if the node of an earlier attempt does not exist any more.
    """
    name = event.hostname
    if search.node is not None:
        name, uid = search.node
        node = reads.get(NODE, name, fresh=True)
        if node is None or node["metadata"].get("uid") != uid:
            raise GoneError(f"node {name} does not exist any more")
        return node
    if names_pod(event):
        name = find_pod(event, reads, search).spec.get("nodeName") or name
    node = reads.get(NODE, name, fresh=True) if name and _NAME.fullmatch(name) else None
    if node is None:
        raise SkippedError("the event does not name a node")
    return node
