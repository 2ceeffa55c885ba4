"""What a step changes, so that it can be undone: what was there before, and how it is put back.

Several runs may want the same thing of one object; each holds it, and only the last one to let go
changes it back (who else holds it is the journal's to know).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from engine.model.calls import Call, ObjectChange
from engine.model.event import format_time

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.cluster.api import Cluster
    from engine.model.calls import Object

MANAGED_BY = {"app.kubernetes.io/managed-by": "tiercel"}
"""The label of every object that a step makes."""
EXPIRES_AT = "tiercel.dev/expires-at"
"""The annotation that tells when such an object goes, RFC 3339."""

DueTimes = Sequence[float | None]
"""When each of the other holds ends: epoch seconds, None for one that only a person ends."""


def latest(ends: DueTimes) -> float | None:
    """When the last of these holds ends; None for never."""
    return None if None in ends else max(end for end in ends if end is not None)


def expiry_text(until: float) -> str:
    """The end of a hold as ``EXPIRES_AT`` has it: whole seconds."""
    return format_time(int(until) * 1_000_000_000)


def revert(change: ObjectChange, cluster: Cluster, others: Callable[[str], DueTimes]) -> str:
    """Put back what was there before, unless others hold it or somebody changed it since; the sentence.

    others: the ends of the other holds on a key; asked after the object was read, and the write is bound to
    what was read, so that a hold that comes in between is not overrun. Raises SkippedError where the object
    goes meanwhile, TemporaryError, PermanentError.
    """
    about = f"{change.kind.kind.lower()} {change.name}"
    found = cluster.get(change.kind, change.name, change.namespace)
    if found is None or (change.uid and found["metadata"].get("uid") != change.uid):
        return f"{about} is gone"
    ends = others(change.key)
    if not change.path:
        return _remove(change, about, found, cluster, ends)
    what = f"{change.path[-1]} of {about}"
    if ends:
        return f"{what} stays for another run"
    if _dig(found, change.path) != change.put:
        return f"{what} was changed since, so it stays"
    if change.put != change.before:
        _patch(change, found, _nested(change.path, change.before), cluster)
    return f"{what} {'removed' if change.before is None else 'restored'}"


def _remove(
    change: ObjectChange, about: str, found: Object, cluster: Cluster, ends: DueTimes
) -> str:
    """Delete what was made; where others hold it, say when it goes now."""
    metadata = found["metadata"]
    if not (metadata.get("labels") or {}).items() >= MANAGED_BY.items():
        return f"{about} is not Tiercel's any more, so it stays"
    if not ends:
        body: Object = {"apiVersion": "v1", "kind": "DeleteOptions"}
        body |= {"preconditions": {"uid": metadata["uid"]}} if metadata.get("uid") else {}
        _send("delete", change, body, cluster)
        return f"{about} deleted"
    end = latest(ends)
    until = None if end is None else expiry_text(end)
    if (metadata.get("annotations") or {}).get(EXPIRES_AT) != until:
        _patch(change, found, {"metadata": {"annotations": {EXPIRES_AT: until}}}, cluster)
    return f"{about} stays for another run{f', until {until}' if until else ''}"


def _patch(change: ObjectChange, found: Object, body: Object, cluster: Cluster) -> None:
    bound = {key: found["metadata"].get(key) for key in ("uid", "resourceVersion")}
    metadata = {**{k: v for k, v in bound.items() if v}, **body.get("metadata", {})}
    _send("patch", change, {**body, "metadata": metadata}, cluster)


def _send(verb: Any, change: ObjectChange, body: Object, cluster: Cluster) -> None:
    kind = change.kind
    cluster.send(Call(verb, kind.api_version, kind.resource, change.namespace, change.name, body))


def _dig(found: Object, path: tuple[str, ...]) -> Any:
    value: Any = found
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _nested(path: tuple[str, ...], value: Any) -> Object:
    for key in reversed(path):
        value = {key: value}
    return dict(value)
