"""pod.evict: remove the pod through the Eviction API, so that PodDisruptionBudgets apply."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.actions.registry import StepContext, action
from engine.actions.removal import (
    Grace,
    MinReady,
    SkipKinds,
    check_removal,
    evict,
    removal_needs,
)
from engine.cluster.api import Cluster
from engine.cluster.pods import Pod

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.actions.registry import Right


def _needs(parameters: Mapping[str, Any]) -> frozenset[Right]:
    return removal_needs(parameters) | {("create", "pods/eviction")}


@action(
    "pod.evict",
    effect="disrupt",
    needs=_needs,
    example={"grace": 5, "minReady": 1, "skipKinds": ["DaemonSet"]},
)
def evict_pod(
    pod: Pod,
    cluster: Cluster,
    context: StepContext,
    *,
    grace: Grace = None,
    only_if_owned: bool = True,
    min_ready: MinReady = None,
    skip_kinds: SkipKinds = None,
) -> str:
    """Evict the pod. Its controller replaces it.

    A PodDisruptionBudget can refuse the eviction. The step is then attempted again, up to its `attempts`.

    grace: the grace period in seconds. The default is the grace period of the pod.
    only_if_owned: skip a pod that has no controller, because nothing would replace it.
    min_ready: skip the pod if fewer pods of its owner would stay ready without it. Give a number, or a
        percentage of the replicas that the owner wants (rounded up).
    skip_kinds: skip the pod if its controller, or an owner above it, is of one of these kinds, for example
        DaemonSet.
    """
    check_removal(
        pod, cluster, only_if_owned=only_if_owned, min_ready=min_ready, skip_kinds=skip_kinds
    )
    # A second attempt needs this to know whether we evicted the pod or it was deleted by something else.
    context.keep({"uid": pod.uid, "sent": context.step})
    evict(pod, cluster, grace)
    return f"evict {pod}"
