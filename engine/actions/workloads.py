"""The workload of a pod: the topmost controller that owns it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from engine.actions.gitops import refuse_managed
from engine.actions.owners import owner_chain
from engine.model.errors import SkippedError

if TYPE_CHECKING:
    from collections.abc import Collection

    from engine.cluster.api import Cluster
    from engine.cluster.pods import Pod
    from engine.model.calls import Kind, Object


class Workload(msgspec.Struct, frozen=True):
    """A controller: its kind and the object as read."""

    kind: Kind
    object: Object

    @property
    def name(self) -> str:
        """The name of the controller."""
        return str(self.object["metadata"]["name"])

    @property
    def uid(self) -> str | None:
        """The uid of the controller. It is None in some files of objects."""
        uid = self.object["metadata"].get("uid")
        return None if uid is None else str(uid)

    def __str__(self) -> str:
        return f"{self.kind.kind} {self.name}"


def find_workload(
    pod: Pod, cluster: Cluster, kinds: Collection[str], *, even_if_managed: bool
) -> Workload:
    """Return the topmost controller of the pod.

    Raises SkippedError if the pod has none, or if it is not one of the kinds. Raises RefusedError if Argo CD or
    Flux manages it.
    """
    owners = owner_chain(pod, cluster)
    top = owners[-1] if owners else None
    if top is None or top.known is None or top.object is None:
        raise SkippedError(f"pod {pod} has no controller of a known kind")
    workload = Workload(top.known, top.object)
    if top.kind not in kinds:
        raise SkippedError(f"pod {pod} belongs to {workload}, which is none of {', '.join(kinds)}")
    refuse_managed(workload.object["metadata"], str(workload), even_if_managed=even_if_managed)
    return workload
