"""The object that an event of the Kubernetes audit log refers to (``ka.target.*``)."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from engine.cluster.pods import CLOCK_SKEW, epoch_of
from engine.model.errors import GoneError, SkippedError
from engine.model.event_subject import first_field

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.cluster.api import ClusterReader
    from engine.cluster.pods import TargetSearch
    from engine.model.calls import Kind, Object
    from engine.model.event import Event

_NAMESPACE = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_NAME = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9][A-Za-z0-9._:-]{0,252}")
"""A name that is one segment of a path. RBAC names can contain a colon and upper-case letters."""
_GROUP = re.compile(r"/apis/([a-z0-9.-]+)/")


def kind_of_event(event: Event, kinds: Sequence[Kind]) -> Kind:
    """Return which of the kinds the object of an audit event has.

    A kind outside the table has a namespace if the event gives one. Raises SkippedError if it is none of them.
    """
    resource = first_field(event, "ka.target.resource")
    if resource is None:
        raise SkippedError("the event does not name an object (ka.target.resource)")
    group = _GROUP.match(first_field(event, "ka.uri") or "")
    for kind in kinds:
        of_group = group is None or kind.api_version.startswith(f"{group[1]}/")
        if kind.resource == resource and of_group:
            is_listed_by_resource = kind.kind == kind.resource
            namespaced = first_field(event, "ka.target.namespace") is not None
            return replace(kind, namespaced=namespaced) if is_listed_by_resource else kind
    names = ", ".join(kind.kind for kind in kinds)
    raise SkippedError(f"the event is about {resource[:80]}, which is none of {names}")


def find_object(
    event: Event, reads: ClusterReader, kinds: Sequence[Kind], search: TargetSearch
) -> tuple[Kind, Object]:
    """Return the object of an audit event, with its kind.

    Raises SkippedError if the event names none, if it is of another kind, or if it is younger than the event;
    GoneError if it does not exist, is terminating or was replaced; TemporaryError.
    """
    kind = kind_of_event(event, kinds)
    name = first_field(event, "ka.target.name") or ""
    namespace = first_field(event, "ka.target.namespace") if kind.namespaced else None
    if kind.namespaced and not _NAMESPACE.fullmatch(namespace or ""):
        raise SkippedError("the event does not name a valid namespace (ka.target.namespace)")
    if not _NAME.fullmatch(name):
        raise SkippedError("the event does not name a valid object (ka.target.name)")
    about = f"{kind.kind} {f'{namespace}/' if namespace else ''}{name}"
    found = reads.get(kind, name, namespace)
    if found is None:
        raise GoneError(f"{about} does not exist")
    metadata = found["metadata"]
    if search.uid is not None and metadata.get("uid") != search.uid:
        raise GoneError(f"{about} was replaced by another object of the same name")
    if metadata.get("deletionTimestamp"):
        raise GoneError(f"{about} is terminating")
    created = metadata.get("creationTimestamp")
    is_new = isinstance(created, str) and epoch_of(created) > event.time + CLOCK_SKEW
    if search.uid is None and event.timed and is_new:
        raise SkippedError(
            f"{about} was created after the event, so it replaced the event's object"
        )
    return kind, found
