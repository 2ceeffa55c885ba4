"""Which pod an event means, and whether the pod of that name is still that one.

Read again through the API before every attempt; the order of the tests is the contract's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

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
CLOCKS = 5.0
"""Seconds that the clocks of the API server and of the event's node may differ."""
KUBELET_LAG = 10.0
"""Seconds after receipt in which a container may still be missing from its pod's status."""


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod that was found to be the event's: its names, its uid, the object as read."""

    namespace: str
    name: str
    uid: str
    object: Object = field(repr=False)

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Its metadata."""
        return self.object.get("metadata") or {}

    @property
    def spec(self) -> Mapping[str, Any]:
        """Its spec."""
        return self.object.get("spec") or {}

    @property
    def controller(self) -> Mapping[str, Any] | None:
        """The owner reference of its controller."""
        owners = self.metadata.get("ownerReferences") or []
        return next((owner for owner in owners if owner.get("controller")), None)


@dataclass(frozen=True, slots=True)
class TargetSearch:
    """How a pod is looked for.

    now: epoch seconds. received: of the event. uid: found by an earlier attempt of the run. wait_for_status:
    whether a container that is missing from the status is waited for (previews don't wait). allow_terminating:
    whether a pod that terminates will do, where this run has found it before.
    """

    now: float
    received: float
    uid: str | None = None
    wait_for_status: bool = True
    allow_terminating: bool = False


def find_pod(event: Event, reads: ClusterReader, search: TargetSearch) -> Pod:
    """The pod that the event means. Raises SkippedError with the reason, TemporaryError."""
    who = subject_of(event)
    found = _read(who, reads, known=search.uid is not None)
    metadata = found.get("metadata") or {}
    pod = Pod(metadata.get("namespace") or "", metadata.get("name") or "", _uid(found), found)
    if search.uid is not None:
        if search.uid != pod.uid:
            raise GoneError(f"pod {pod} was replaced by another of the same name")
    else:
        _identify(pod, who, event, reads, search)
    if metadata.get("deletionTimestamp") and not (
        search.allow_terminating and search.uid == pod.uid
    ):
        raise GoneError(f"pod {pod} is terminating")
    return pod


def _read(who: EventSubject, reads: ClusterReader, *, known: bool) -> Object:
    """The pod; where the run has found it before, one that is missing is gone."""
    if who.pod is not None and who.namespace is not None:
        if not _NAMESPACE.fullmatch(who.namespace) or not _NAME.fullmatch(who.pod):
            raise SkippedError("no pod can have the name that the event gives")
        found = reads.get(POD, who.pod, who.namespace)
        if found is None:
            raise GoneError(f"pod {who.namespace}/{who.pod} does not exist")
        return found
    if who.container_id and who.hostname and _NAME.fullmatch(who.hostname):
        for pod in reads.list(POD, node=who.hostname):
            if any(same_container(who.container_id, one) for one in container_ids(pod)):
                return pod
        missing = GoneError if known else SkippedError
        raise missing(f"no pod on {who.hostname} has the container {who.container_id}")
    raise SkippedError("the event names no pod")


def _identify(
    pod: Pod, who: EventSubject, event: Event, reads: ClusterReader, search: TargetSearch
) -> None:
    """Raises SkippedError where the pod is not the event's."""
    if who.uid is not None:
        if who.uid != pod.uid:
            raise GoneError(f"pod {pod} is another one: its uid is not the event's")
        return
    if who.container_id is not None:
        sandbox = event.fields.get("k8s.pod.sandbox_id")
        ours = [*container_ids(pod.object), sandbox if isinstance(sandbox, str) else ""]
        if any(same_container(who.container_id, one) for one in ours):
            return
        _elsewhere(pod, who, reads)
        if search.wait_for_status and search.now < search.received + KUBELET_LAG:
            raise TemporaryError(f"pod {pod} does not show the event's container yet", again=1.0)
    if event.source == "syscall" and who.hostname and _NAME.fullmatch(who.hostname):
        node = pod.spec.get("nodeName")
        if node and node != who.hostname and reads.get(NODE, who.hostname) is not None:
            raise SkippedError(f"pod {pod} runs on {node}, the event is of {who.hostname}")
    created = pod.metadata.get("creationTimestamp")
    if event.timed and isinstance(created, str) and _epoch(created) > event.time + CLOCKS:
        raise SkippedError(f"pod {pod} is younger than the event: it took its place")


def _epoch(text: str) -> float:
    """Seconds since the epoch; 0 for a time that a given object has got wrong."""
    try:
        return parse_time(text) / 1e9
    except ValueError:
        return 0.0


def _elsewhere(pod: Pod, who: EventSubject, reads: ClusterReader) -> None:
    """Raises SkippedError where another pod of the namespace has the event's container."""
    for other in reads.list(POD, pod.namespace):
        name = (other.get("metadata") or {}).get("name")
        if name != pod.name and any(
            same_container(who.container_id or "", one) for one in container_ids(other)
        ):
            raise SkippedError(f"the event's container is in pod {pod.namespace}/{name}, not {pod}")


def container_ids(pod: Object) -> Iterator[str]:
    """The ids of its containers (init, ephemeral and last state too), without the runtime's prefix."""
    status = pod.get("status") or {}
    for key in ("containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"):
        for container in status.get(key) or []:
            last = container.get("lastState") or {}
            state = container.get("state") or {}
            ids = [container.get("containerID")]
            ids += [(part.get("terminated") or {}).get("containerID") for part in (last, state)]
            yield from (one.rpartition("//")[2] for one in ids if isinstance(one, str) and one)


def same_container(short: str, full: str) -> bool:
    """Whether an id of 12 or 64 hex digits, as Falco gives it, is that of the container."""
    return bool(full) and len(short) <= len(full) and full.startswith(short)


def _uid(pod: Object) -> str:
    metadata = pod.get("metadata") or {}
    return metadata.get("uid") or f"{metadata.get('namespace')}/{metadata.get('name')}"


def find_node(event: Event, reads: ClusterReader, search: TargetSearch) -> Object:
    """The node of the event's pod, else the one that its hostname names. Raises SkippedError."""
    name = event.hostname
    if names_pod(event):
        name = find_pod(event, reads, search).spec.get("nodeName") or name
    node = reads.get(NODE, name) if name and _NAME.fullmatch(name) else None
    if node is None:
        raise SkippedError("the event names no node")
    return node
