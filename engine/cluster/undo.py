"""Reverting the changes of a step.

Several runs may change the same value of one object, for example cut off the same pod. Each of them has its own
undo intent in the journal. The original value is restored only when the last of these intents is due.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from engine.cluster.policy_providers.cut import kept_destinations
from engine.cluster.policy_providers.registry import with_only
from engine.model.calls import Call, ObjectChange
from engine.model.errors import GoneError, TemporaryError
from engine.model.event import format_time

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from engine.cluster.api import Cluster
    from engine.model.calls import Object

MANAGED_BY = {"app.kubernetes.io/managed-by": "tiercel"}
"""The label of each object that a step creates."""
EXPIRES_AT = "tiercel.dev/expires-at"
"""The annotation of such an object with the time at which it is deleted, in RFC 3339."""

UndoTimes = Sequence[float | None]
"""When undo intents are due: epoch seconds, or None for an intent that only an operator ends."""


def latest(times: UndoTimes) -> float | None:
    """Return the last of these times; None for never."""
    return None if None in times else max(time for time in times if time is not None)


def expiry_text(time: float) -> str:
    """Return a time as the value of ``EXPIRES_AT``, in whole seconds."""
    return format_time(int(time) * 1_000_000_000)


def revert(change: ObjectChange, cluster: Cluster, others: Callable[[str], UndoTimes]) -> str:
    """Restore the value from before a change, and return a sentence about the result.

    The value stays if another run needs it, or if someone changed it in the meantime.

    others: returns the due times of the other undo intents for a change key. It is called after the object was
    read, and the write requires the version that was read, so that an intent that is added in between is
    respected.

    Raises SkippedError if the object is deleted in between, TemporaryError, PermanentError.
    """
    about = f"{change.kind.kind.lower()} {change.name}"
    found = cluster.get(change.kind, change.name, change.namespace, fresh=True)
    if found is None or (change.uid and found["metadata"].get("uid") != change.uid):
        return f"{about} is gone"
    times = others(change.key)
    if not change.path:
        return _delete_created(change, about, found, cluster, times)
    what = ":".join(change.item.values()) if change.item else change.path[-1]
    value = f"{what} of {about}"
    if times:
        return f"{value} stays, because another run needs it"
    current, before = current_value(found, change), change.before
    if current not in (change.put, before, *change.others):
        return f"{value} stays, because it was changed in the meantime"
    if current != before:
        _patch(change, found, with_value(found, change, before), cluster)
    return f"{value} {'removed' if before is None else 'restored'}"


def current_value(found: Object, change: ObjectChange) -> Any:
    """Return the present value of what a change sets, or None. found: the object as read."""
    value: Any = found
    for key in change.path:
        value = value.get(key) if isinstance(value, dict) else None
    if change.item is None:
        return value
    return next((item for item in value or [] if _is_item(item, change.item)), None)


def with_value(found: Object, change: ObjectChange, value: Any) -> Object:
    """Return the merge patch that gives what a change sets another value. None removes it.

    A merge patch replaces a list as a whole, so the patch of an item contains the other items as read. It must
    require the version of the object that was read.
    """
    if change.item is not None:
        whole = replace(change, item=None)
        items = current_value(found, whole) or []
        there = [n for n, item in enumerate(items) if _is_item(item, change.item)]
        place = there[0] if there else len(items)  # an item keeps its place in the list
        new = [] if value is None else [value]
        kept = [item for n, item in enumerate(items[place:], place) if n not in there]
        value = [*items[:place], *new, *kept] or None
    for key in reversed(change.path):
        value = {key: value}
    return dict(value)


def _is_item(item: Any, identity: Mapping[str, str]) -> bool:
    return isinstance(item, dict) and item.items() >= identity.items()


def _delete_created(
    change: ObjectChange, about: str, found: Object, cluster: Cluster, times: UndoTimes
) -> str:
    """Delete an object that a step created; if other runs need it, only remove what this one needed."""
    metadata = found["metadata"]
    if not (metadata.get("labels") or {}).items() >= MANAGED_BY.items():
        return f"{about} stays, because Tiercel no longer manages it"
    if not times:
        body: Object = {"apiVersion": "v1", "kind": "DeleteOptions"}
        # without a policy, the API server would leave the pods of a Job
        body["propagationPolicy"] = "Background"
        version = _version(found)
        body |= {"preconditions": version} if version else {}
        _send_unless_changed("delete", change, body, found, cluster)
        return f"{about} deleted"
    last = latest(times)
    expiry = None if last is None else expiry_text(last)
    kept = _for_others(found, expiry)
    is_same = all(metadata.get(key) == value for key, value in kept["metadata"].items())
    if not is_same or kept.get("spec") != found.get("spec"):
        _send_unless_changed("apply", change, kept, found, cluster)
    return f"{about} stays{f' until {expiry}' if expiry else ''}, because another run needs it"


def _for_others(found: Object, expiry: str | None) -> Object:
    """Return an object as the runs that still need it would apply it.

    It has the last expiry, and a policy blocks only the destinations that are left in its annotations. It is an
    apply, like the call that created it: a patch would take over the fields, and the next apply would conflict.
    """
    metadata = found["metadata"]
    annotations = {k: v for k, v in (metadata.get("annotations") or {}).items() if k != EXPIRES_AT}
    annotations |= {EXPIRES_AT: expiry} if expiry else {}
    kept = ("name", "namespace", "uid", "resourceVersion", "labels", "ownerReferences")
    body = {key: value for key, value in found.items() if key != "status"}
    body["metadata"] = {key: metadata[key] for key in kept if key in metadata}
    body["metadata"]["annotations"] = annotations
    destinations = kept_destinations(annotations)
    if destinations:
        body["spec"] = with_only(found, destinations.values())
    return body


def _send_unless_changed(
    verb: Any, change: ObjectChange, body: Object, found: Object, cluster: Cluster
) -> None:
    """Send a call that requires the version that was read. Raises TemporaryError if it is another version now.

    The API server answers a 409 for another version and for another object. Raises GoneError for the second.
    """
    try:
        _send(verb, change, body, cluster)
    except GoneError:
        left = cluster.get(change.kind, change.name, change.namespace, fresh=True)
        if left is None or left["metadata"].get("uid") != found["metadata"].get("uid"):
            raise
        what = f"{change.kind.kind.lower()} {change.name} was changed at the same time"
        raise TemporaryError(what, answered=True) from None


def _patch(change: ObjectChange, found: Object, body: Object, cluster: Cluster) -> None:
    """Patch an object, on condition that it is still the version that was read."""
    metadata = {**_version(found), **body.get("metadata", {})}
    _send("patch", change, {**body, "metadata": metadata}, cluster)


def _version(found: Object) -> Object:
    """Return what identifies the version of an object that was read. Some files of objects have none."""
    metadata = found["metadata"]
    return {key: metadata[key] for key in ("uid", "resourceVersion") if metadata.get(key)}


def _send(verb: Any, change: ObjectChange, body: Object, cluster: Cluster) -> None:
    kind = change.kind
    cluster.send(Call(verb, kind.api_version, kind.resource, change.namespace, change.name, body))
