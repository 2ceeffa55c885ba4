"""One merge patch on an object's labels or annotations, bound to the uid that was found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from engine.errors import RefusedError, SkippedError
from engine.ports.cluster import (
    CRON_JOB,
    DAEMON_SET,
    DEPLOYMENT,
    JOB,
    NAMESPACE,
    NODE,
    POD,
    REPLICA_SET,
    STATEFUL_SET,
    Call,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.actions.action import Right
    from engine.pod import Pod
    from engine.ports.cluster import Cluster, Kind, Object

On = Literal["pod", "owner", "node", "namespace"]

OWNERS = {k.kind: k for k in (REPLICA_SET, DEPLOYMENT, STATEFUL_SET, DAEMON_SET, JOB, CRON_JOB)}
"""Kinds of controllers that can be read; others are left alone."""

_OWNER_RESOURCES = (
    "replicasets.apps", "statefulsets.apps", "daemonsets.apps", "deployments.apps",
    "jobs.batch", "cronjobs.batch",
)  # fmt: skip
_MANAGED_BY_GIT = {
    "annotations": ("argocd.argoproj.io/tracking-id",),
    "labels": (
        "app.kubernetes.io/instance",
        "argocd.argoproj.io/instance",
        "kustomize.toolkit.fluxcd.io/name",
        "helm.toolkit.fluxcd.io/name",
    ),
}


def needs(parameters: Mapping[str, Any]) -> frozenset[Right]:
    """The rights of a step that changes metadata, by what it is on."""
    resources = {
        "owner": _OWNER_RESOURCES,
        "node": ("nodes",),
        "namespace": ("namespaces",),
    }.get(parameters.get("on", "pod"), ())
    rights = {("get", "pods")} | {(v, r) for v in ("get", "patch") for r in resources}
    return frozenset(rights if resources else rights | {("patch", "pods")})


def change_metadata(
    pod: Pod,
    cluster: Cluster,
    part: Literal["labels", "annotations"],
    changes: dict[str, str | None],
    on: On,
    *,
    even_if_managed: bool,
) -> str:
    """Patch ``part`` of the metadata of what the step is on; null removes. Gives the sentence.

    Raises SkippedError where it is gone or another one by now, RefusedError for an owner that Argo CD or
    Flux manages, PermanentError.
    """
    kind, found = _subject(pod, cluster, on)
    metadata = found["metadata"]
    name, namespace = metadata["name"], metadata.get("namespace")
    if on == "owner" and not even_if_managed and _is_managed(metadata):
        raise RefusedError(
            f"{kind.kind} {name} is managed from Git (evenIfManaged: true overrides)"
        )
    body: Object = {"metadata": {part: changes}}
    if metadata.get("uid"):
        body["metadata"]["uid"] = metadata["uid"]
    place = namespace if kind.namespaced else None
    cluster.send(Call("patch", kind.api_version, kind.resource, place, name, body))
    told = ", ".join(k if v is None else f"{k}={v[:60]}" for k, v in changes.items())
    about = str(pod) if on == "pod" else f"{kind.kind.lower()} {name}"
    return f"{part.removesuffix('s')} {told} on {about}"


def _subject(pod: Pod, cluster: Cluster, on: On) -> tuple[Kind, Object]:
    if on == "pod":
        return POD, {"metadata": {**pod.metadata, "uid": pod.uid}}
    if on == "node":
        kind, name = NODE, pod.spec.get("nodeName") or ""
    elif on == "namespace":
        kind, name = NAMESPACE, pod.namespace
    else:
        owner = pod.controller
        if owner is None or owner.get("kind") not in OWNERS:
            raise SkippedError(f"pod {pod} has no controller of a known kind")
        kind, name = OWNERS[owner["kind"]], owner["name"]
    found = cluster.get(kind, name, pod.namespace if kind.namespaced else None) if name else None
    if found is None:
        raise SkippedError(f"pod {pod}: its {on} does not exist")
    return kind, found


def _is_managed(metadata: Mapping[str, Any]) -> bool:
    return any(
        name in (metadata.get(part) or {})
        for part, names in _MANAGED_BY_GIT.items()
        for name in names
    )
