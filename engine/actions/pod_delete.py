"""pod.delete: delete the pod, so that its controller replaces it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

from engine.actions.composite_parameters import ListOf
from engine.actions.metadata import OWNERS
from engine.actions.parameters import Integer, Text
from engine.actions.registry import StepContext, action
from engine.cluster.api import POD, Cluster
from engine.cluster.pods import Pod
from engine.model.calls import Call
from engine.model.errors import SkippedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.actions.registry import Right
    from engine.model.calls import Object

_APPS = ("replicasets", "deployments", "statefulsets", "daemonsets")


def _needs(parameters: Mapping[str, Any]) -> frozenset[Right]:
    rights = {("get", "pods"), ("delete", "pods")}
    if parameters.get("minReady") is not None or parameters.get("skipKinds"):
        rights |= {("get", f"{resource}.apps") for resource in _APPS}
        rights |= {("get", "jobs.batch"), ("get", "cronjobs.batch")}
    return frozenset(rights)


@action(
    "pod.delete",
    effect="disrupt",
    needs=_needs,
    example={"grace": 5, "minReady": 1, "skipKinds": ["DaemonSet"]},
)
def delete_pod(
    pod: Pod,
    cluster: Cluster,
    context: StepContext,
    *,
    grace: Annotated[int | None, Integer()] = None,
    only_if_owned: bool = True,
    min_ready: Annotated[int | str | None, Integer(percent=True)] = None,
    skip_kinds: Annotated[list[str] | None, ListOf(Text())] = None,
) -> str:
    """Delete the pod. Its controller replaces it.

    grace: the grace period in seconds. The default is the grace period of the pod.
    only_if_owned: skip a pod that has no controller, because nothing would replace it.
    min_ready: skip the pod if fewer pods of its owner would stay ready without it. Give a number, or a
        percentage of the replicas that the owner wants (rounded up).
    skip_kinds: skip the pod if its controller, or an owner above it, is of one of these kinds, for example
        DaemonSet.
    """
    if only_if_owned and pod.controller is None:
        raise SkippedError(f"pod {pod} has no controller to replace it (onlyIfOwned)")
    if min_ready is not None or skip_kinds:
        owners = _owners(pod, cluster)
        _check_kinds(pod, owners, skip_kinds or [])
        if min_ready is not None:
            _check_ready(pod, owners, min_ready)
    body: Object = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": pod.uid}}
    if grace is not None:
        body["gracePeriodSeconds"] = grace
    # A second attempt needs this to know whether we deleted the pod or it was deleted by something else.
    context.keep({"uid": pod.uid, "sent": context.step})
    cluster.send(Call("delete", POD.api_version, POD.resource, pod.namespace, pod.name, body))
    return f"delete {pod}"


def _owners(pod: Pod, cluster: Cluster) -> list[tuple[str, Object | None]]:
    """Return the kind and object of the controller of the pod, and of the owners above it."""
    owners: list[tuple[str, Object | None]] = []
    reference = pod.controller
    while reference is not None and len(owners) < 4:  # noqa: PLR2004 - longer than any chain of controllers
        kind = OWNERS.get(reference["kind"])
        found = cluster.get(kind, reference["name"], pod.namespace) if kind else None
        owners.append((reference["kind"], found))
        above = ((found or {}).get("metadata") or {}).get("ownerReferences") or []
        reference = next((owner for owner in above if owner.get("controller")), None)
    return owners


def _check_kinds(pod: Pod, owners: list[tuple[str, Object | None]], skip_kinds: list[str]) -> None:
    for kind, _ in owners:
        if kind in skip_kinds:
            raise SkippedError(f"pod {pod} belongs to a {kind} (skipKinds)")


def _check_ready(pod: Pod, owners: list[tuple[str, Object | None]], min_ready: int | str) -> None:
    owner = next((found for _, found in owners if found), None)
    if owner is None:
        raise SkippedError(f"pod {pod}: the replicas of its owner are not known (minReady)")
    spec, status = owner.get("spec") or {}, owner.get("status") or {}
    scheduled = _number(1, status, "desiredNumberScheduled")  # of a DaemonSet
    wanted = _number(scheduled, spec, "replicas", "parallelism")
    ready = _number(0, status, "readyReplicas", "ready", "numberReady")
    conditions = (pod.object.get("status") or {}).get("conditions") or []
    counted = any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions)
    left = ready - 1 if counted else ready
    least = (
        min_ready if isinstance(min_ready, int) else math.ceil(wanted * int(min_ready[:-1]) / 100)
    )
    if left < least:
        raise SkippedError(
            f"pod {pod}: {left} of {wanted} would stay ready, minReady is {min_ready}"
        )


def _number(default: int, fields: Mapping[str, Any], *names: str) -> int:
    """Return the first field that is set, or the default. Manifests can omit fields that the API server sets."""
    return next((fields[name] for name in names if isinstance(fields.get(name), int)), default)
