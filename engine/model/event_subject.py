"""Whom an event is about, as the event itself tells it; nothing is looked up here.

The order of the fields is that of Falco Talon, with those of the k8smeta plugin after Falco's own.
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
    """What an event says of its pod; None is what it does not say. Nothing here is checked yet."""

    namespace: str | None
    pod: str | None
    uid: str | None
    container_id: str | None
    hostname: str | None


def subject_of(event: Event) -> EventSubject:
    """What the event says of its pod."""
    pod = first_field(event, "k8s.pod.name", "k8smeta.pod.name", "ka.target.pod.name")
    if pod is None and event.fields.get("ka.target.resource") == "pods":
        pod = first_field(event, "ka.target.name")
    container = first_field(event, "container.id")
    if container is not None and not _CONTAINER_ID.fullmatch(container):
        container = None  # `host`, or nothing that a container runtime gives out
    return EventSubject(
        namespace=namespace_of(event),
        pod=pod,
        uid=first_field(event, "k8s.pod.uid"),
        container_id=container,
        hostname=event.hostname,
    )


def namespace_of(event: Event) -> str | None:
    """The namespace that the event says its pod is in."""
    return first_field(event, "k8s.ns.name", "k8smeta.ns.name", "ka.target.namespace")


def names_pod(event: Event) -> bool:
    """Whether the event speaks of a pod or of a container in one, and not of its host alone."""
    who = subject_of(event)
    return who.pod is not None or who.container_id is not None


def first_field(event: Event, *fields: str) -> str | None:
    """The first of the fields that holds a non-empty string other than ``<NA>``."""
    for field in fields:
        value = event.fields.get(field)
        if isinstance(value, str) and value not in ABSENT:
            return value
    return None


def target_queue(event: Event, run: str) -> str:
    """What no two attempts may touch at once: the pod, else the container, else the run itself."""
    names = subject_names(event)
    return "/".join(names) if names else run


def subject_names(event: Event) -> list[str] | None:
    """The names that tell the event's pod from others: namespace and pod, else host and container."""
    who = subject_of(event)
    if who.pod and who.namespace:
        return [who.namespace, who.pod]
    if who.container_id and who.hostname:
        return [who.hostname, who.container_id]
    return None
