"""The pod, node or container that an event refers to. Only the event is read; the cluster is not asked.

The fields have the order of Falco Talon. Fields of the k8smeta plugin come after Falco's own fields.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from engine.model.event import ABSENT

if TYPE_CHECKING:
    from engine.model.event import Event

_CONTAINER_ID = re.compile(r"(?:[0-9a-f]{12}|[0-9a-f]{64})")


class EventSubject(msgspec.Struct, frozen=True):
    """What an event says about its pod. None is an absent value. The values are not verified."""

    namespace: str | None
    pod: str | None
    uid: str | None
    container_id: str | None
    hostname: str | None


def subject_of(event: Event) -> EventSubject:
    """Return what the event says about its pod."""
    pod = first_field(event, "k8s.pod.name", "k8smeta.pod.name", "ka.target.pod.name")
    if pod is None and event.fields.get("ka.target.resource") == "pods":
        pod = first_field(event, "ka.target.name")
    container = first_field(event, "container.id")
    if container is not None and not _CONTAINER_ID.fullmatch(container):
        container = None  # `host`, or not an id of a container runtime
    return EventSubject(
        namespace=namespace_of(event),
        pod=pod,
        uid=first_field(event, "k8s.pod.uid"),
        container_id=container,
        hostname=event.hostname,
    )


def namespace_of(event: Event) -> str | None:
    """Return the namespace of the pod, as the event gives it."""
    return first_field(event, "k8s.ns.name", "k8smeta.ns.name", "ka.target.namespace")


def names_pod(event: Event) -> bool:
    """Return whether the event names a pod or a container, not only a host."""
    subject = subject_of(event)
    return subject.pod is not None or subject.container_id is not None


def first_field(event: Event, *fields: str) -> str | None:
    """Return the first field that is a non-empty string other than ``<NA>``, or None."""
    for field in fields:
        value = event.fields.get(field)
        if isinstance(value, str) and value not in ABSENT:
            return value
    return None


def target_queue(event: Event, run: str) -> str:
    """Return the key under which attempts run one at a time: the pod, or the container, or the run itself."""
    names = subject_names(event)
    return "/".join(names) if names else run


def subject_names(event: Event) -> list[str] | None:
    """Return namespace and pod, or host and container, or None if the event gives neither."""
    subject = subject_of(event)
    if subject.pod and subject.namespace:
        return [subject.namespace, subject.pod]
    if subject.container_id and subject.hostname:
        return [subject.hostname, subject.container_id]
    return None
