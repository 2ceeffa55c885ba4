"""The controllers that own a pod: its ReplicaSet, the Deployment above it, and so on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from engine.cluster.api import (
    CRON_JOB,
    DAEMON_SET,
    DEPLOYMENT,
    JOB,
    REPLICA_SET,
    STATEFUL_SET,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.cluster.api import ClusterReader
    from engine.cluster.pods import Pod
    from engine.model.calls import Kind, Object

OWNERS = {k.kind: k for k in (REPLICA_SET, DEPLOYMENT, STATEFUL_SET, DAEMON_SET, JOB, CRON_JOB)}
"""The kinds of controllers that actions know."""
OWNER_RESOURCES = (
    "replicasets.apps", "statefulsets.apps", "daemonsets.apps", "deployments.apps",
    "jobs.batch", "cronjobs.batch",
)  # fmt: skip
"""Their resources, as RBAC names them."""
_MAX_OWNERS = 4
"""Owners that are read. The longest chain of Kubernetes has two: ReplicaSet and Deployment."""


class Owner(msgspec.Struct, frozen=True):
    """A controller in the chain above a pod.

    kind: as the owner reference gives it. object: the controller as read; None if its kind is not in ``OWNERS``
    or it does not exist.
    """

    kind: str
    object: Object | None

    @property
    def known(self) -> Kind | None:
        """The kind, if actions know it."""
        return OWNERS.get(self.kind)


def _kind_of(reference: Mapping[str, Any]) -> Kind | None:
    """Return the kind of an owner reference, if actions know it. Other groups have kinds of the same names."""
    kind = OWNERS.get(reference["kind"])
    group = str(reference.get("apiVersion") or "").partition("/")[0]
    is_other = kind is not None and group not in ("", kind.api_version.partition("/")[0])
    return None if is_other else kind


def owner_chain(pod: Pod, cluster: ClusterReader) -> list[Owner]:
    """Return the controller of the pod and the controllers above it, the nearest first."""
    owners: list[Owner] = []
    reference = pod.controller
    while reference is not None and len(owners) < _MAX_OWNERS:
        kind = _kind_of(reference)
        found = cluster.get(kind, reference["name"], pod.namespace) if kind else None
        uid = reference.get("uid")
        if found is not None and found["metadata"].get("uid", uid) != uid:
            found = None  # another controller has the name now
        owners.append(Owner(reference["kind"], found))
        above = ((found or {}).get("metadata") or {}).get("ownerReferences") or []
        reference = next((owner for owner in above if owner.get("controller")), None)
    return owners
