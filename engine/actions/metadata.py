"""Change the labels or annotations of the pod, its owner, its node or its namespace with one merge patch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec

from engine.actions.gitops import refuse_managed
from engine.actions.owners import OWNER_RESOURCES, OWNERS
from engine.cluster.api import NAMESPACE, NODE, POD
from engine.language import duration
from engine.model.calls import Call, ObjectChange
from engine.model.errors import SkippedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.actions.registry import Right, StepContext
    from engine.cluster.api import Cluster
    from engine.cluster.pods import Pod
    from engine.model.calls import Kind, Object

On = Literal["pod", "owner", "node", "namespace"]


def needs(parameters: Mapping[str, Any]) -> frozenset[Right]:
    """Return the RBAC rights of a step that changes metadata, from its parameter ``on``."""
    resources = {
        "owner": OWNER_RESOURCES,
        "node": ("nodes",),
        "namespace": ("namespaces",),
    }.get(parameters.get("on", "pod"), ())
    rights = {("get", "pods")} | {(v, r) for v in ("get", "patch") for r in resources}
    return frozenset(rights if resources else rights | {("patch", "pods")})


class MetadataTarget(msgspec.Struct, frozen=True):
    """The object that a step changes: its kind, the object as read, and its name in messages."""

    kind: Kind
    found: Object
    about: str


def find_metadata_target(
    pod: Pod, cluster: Cluster, on: On, *, even_if_managed: bool
) -> MetadataTarget:
    """Find the object that the parameter ``on`` names.

    Raises SkippedError if it does not exist, RefusedError if it is an owner that Argo CD or Flux manages.
    """
    if on == "pod":
        return MetadataTarget(POD, {"metadata": {**pod.metadata, "uid": pod.uid}}, str(pod))
    if on == "node":
        kind, name = NODE, pod.spec.get("nodeName") or ""
    elif on == "namespace":
        kind, name = NAMESPACE, pod.namespace
    else:
        owner = pod.controller
        if owner is None or owner.get("kind") not in OWNERS:
            raise SkippedError(f"pod {pod} has no controller of a known kind")
        kind, name = OWNERS[owner["kind"]], owner["name"]
    where = pod.namespace if kind.namespaced else None
    found = cluster.get(kind, name, where, fresh=True) if name else None
    if found is None:
        raise SkippedError(f"pod {pod}: its {on} does not exist")
    if on == "owner":
        refuse_managed(found["metadata"], f"{kind.kind} {name}", even_if_managed=even_if_managed)
    return MetadataTarget(kind, found, f"{kind.kind.lower()} {name}")


def change_metadata(
    target: MetadataTarget,
    cluster: Cluster,
    context: StepContext,
    wanted: tuple[Literal["labels", "annotations"], Mapping[str, str | None]],
    ttl: float | None,
) -> str:
    """Patch labels or annotations, and save an undo intent for them. Return one sentence.

    wanted: which of the two, and name -> value (None removes it). ttl: seconds until they are undone (None: on
    request). The patch has the uid that was found, so it fails on a replaced object. Raises SkippedError (the
    object was replaced), PermanentError.
    """
    part, values = wanted
    kind, metadata = target.kind, target.found["metadata"]
    name, uid = metadata["name"], metadata.get("uid")
    namespace = metadata.get("namespace") if kind.namespaced else None
    existing = metadata.get(part) or {}
    context.add_undo_intent(
        [
            ObjectChange(
                kind, namespace, name, uid, ("metadata", part, key), value, existing.get(key)
            )
            for key, value in values.items()
        ],
        ttl,
    )
    body: Object = {"metadata": {part: values} | ({"uid": uid} if uid else {})}
    cluster.send(Call("patch", kind.api_version, kind.resource, namespace, name, body))
    changed = ", ".join(k if v is None else f"{k}={v[:60]}" for k, v in values.items())
    return f"{part.removesuffix('s')} {changed} on {target.about}{ttl_text(ttl)}"


def ttl_text(ttl: float | None) -> str:
    """Return the duration for the sentence of a step, for example `` for 1h``. Empty without a ttl."""
    return f" for {duration.text(ttl)}" if ttl else ""
