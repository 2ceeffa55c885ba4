"""Shared code of the actions that remove pods: check whether a pod may be removed, and evict it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

from engine.actions.composite_parameters import ListOf
from engine.actions.owners import OWNER_RESOURCES, Owner, owner_chain
from engine.actions.parameters import Integer, Text
from engine.cluster.api import POD
from engine.model.calls import Call
from engine.model.errors import SkippedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.actions.registry import Right
    from engine.cluster.api import Cluster
    from engine.cluster.pods import Pod
    from engine.model.calls import Object

Grace = Annotated[int | None, Integer()]
MinReady = Annotated[int | str | None, Integer(percent=True)]
SkipKinds = Annotated[list[str] | None, ListOf(Text())]


def removal_needs(parameters: Mapping[str, Any]) -> frozenset[Right]:
    """Return the rights of the checks, from the parameters of the step."""
    reads_owners = parameters.get("minReady") is not None or bool(parameters.get("skipKinds"))
    resources = ("pods", *OWNER_RESOURCES) if reads_owners else ("pods",)
    return frozenset(("get", resource) for resource in resources)


def check_removal(
    pod: Pod,
    cluster: Cluster,
    *,
    only_if_owned: bool,
    min_ready: int | str | None,
    skip_kinds: list[str] | None,
) -> None:
    """Raise SkippedError if the pod must stay. The parameters are those of the actions."""
    if only_if_owned and pod.controller is None:
        raise SkippedError(f"pod {pod} has no controller to replace it (onlyIfOwned)")
    if min_ready is None and not skip_kinds:
        return
    owners = owner_chain(pod, cluster)
    for owner in owners:
        if owner.kind in (skip_kinds or []):
            raise SkippedError(f"pod {pod} belongs to a {owner.kind} (skipKinds)")
    if min_ready is not None:
        check_ready(pod, owners, min_ready)


def evict(pod: Pod, cluster: Cluster, grace: int | None) -> None:
    """Evict a pod. grace: seconds, None for the pod's own. Raises GoneError, TemporaryError, PermanentError.

    A TemporaryError is ``answered`` if a PodDisruptionBudget does not allow the eviction.
    """
    body = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": pod.name, "namespace": pod.namespace},
        "deleteOptions": delete_options(pod, grace),
    }
    resource = f"{POD.resource}/eviction"
    cluster.send(Call("create", POD.api_version, resource, pod.namespace, pod.name, body))


def delete_options(pod: Pod, grace: int | None) -> Object:
    """Return DeleteOptions for this pod and no other pod of its name. grace: seconds, None for the pod's own."""
    options: Object = {"preconditions": {"uid": pod.uid}}
    return options if grace is None else {**options, "gracePeriodSeconds": grace}


def check_ready(pod: Pod, owners: list[Owner], min_ready: int | str) -> None:
    """Raise SkippedError if fewer pods of the owner than ``min_ready`` would stay ready without the pod."""
    owner = next((one.object for one in owners if one.object), None)
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
