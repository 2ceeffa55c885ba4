"""node.drain: cordon the node of the event, and evict its pods.

A drain can take an hour, so it consists of many attempts. Each evicts some pods and ends; the run then waits in
the journal, not in a thread.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from engine.actions.composite_parameters import ListOf, Ttl
from engine.actions.node_cordon import cordon, cordon_change
from engine.actions.owners import OWNER_RESOURCES, Owner, owner_chain
from engine.actions.parameters import KIND, Duration
from engine.actions.registry import ActionResult, StepContext, action
from engine.actions.removal import Grace, MinReady, check_ready, evict
from engine.cluster.api import POD, Cluster
from engine.cluster.pods import MIRROR, Pod
from engine.language import duration
from engine.model.attempt_state import NODE
from engine.model.errors import (
    GoneError,
    PermanentError,
    RefusedError,
    SkippedError,
    TemporaryError,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from engine.actions.registry import Right
    from engine.model.calls import Object

MAX_EVICTIONS = 20
"""Evictions of one attempt, so that it ends long before its timeout."""
SOON, LATER = 0.2, 5.0
"""Seconds until the next attempt: if there are more pods to evict, and if pods have to end first."""
_CONTROLLERS = frozenset({"DaemonSet", "ReplicaSet", "StatefulSet", "Job"})
"""The kinds that are direct controllers of pods."""
_SHOWN = 3
"""Pods that a message names."""
_STATE = "drain"
"""Key of the attempt state: {step, since, cordoned, evicted}."""


def _needs(parameters: Mapping[str, Any]) -> frozenset[Right]:
    rights = {("list", "pods"), ("create", "pods/eviction"), ("get", "nodes"), ("patch", "nodes")}
    if _reads_owners(parameters.get("skipKinds") or (), parameters.get("minReady")):
        rights |= {("get", one) for one in OWNER_RESOURCES if one != "daemonsets.apps"}
    return frozenset(rights | {("get", "pods"), ("get", "namespaces")})


@action(
    "node.drain",
    effect="disrupt",
    needs=_needs,
    example={"grace": 30, "timeout": "10m", "minReady": "50%"},
)
def drain_node(
    node: dict[str, Any],
    cluster: Cluster,
    context: StepContext,
    *,
    grace: Grace = None,
    skip_kinds: Annotated[list[str] | None, ListOf(KIND)] = None,
    timeout: Annotated[float, Duration()] = 900.0,
    min_ready: MinReady = None,
    ttl: Ttl = None,
) -> ActionResult:
    """Cordon the node of the pod, or the node that the event names, and evict its pods.

    These pods stay: mirror pods, pods of a DaemonSet, the pods of Tiercel, and pods that the guardrails
    protect, for example those in kube-system. Pods without a controller are evicted, too; nothing replaces
    them.

    The evictions respect PodDisruptionBudgets. An eviction that a budget does not allow is attempted again until
    `timeout`. It does not use up an attempt of the step. The step is done when the evicted pods have ended. To
    stop a drain, uncordon the node: the step then fails. The undo uncordons the node, unless it was cordoned
    before. It does not move pods back.

    grace: the grace period of each pod in seconds. The default is the grace period of the pod.
    skip_kinds: pods stay if their controller, or an owner above it, is of one of these kinds. The default is
      DaemonSet.
    timeout: how long the drain can take. Then the step fails, and the node stays cordoned.
    min_ready: a pod waits if fewer pods of its owner would stay ready without it. Give a number, or a
      percentage of the replicas that the owner wants (rounded up).
    ttl: how long the node stays cordoned. Without it, until `tiercel undo`.
    """
    state, name = _State.of(context), node["metadata"]["name"]
    _cordon(node, cluster, context, state, ttl)
    one_pass = _Pass(
        cluster, context, _Limits(grace, {"DaemonSet", *(skip_kinds or ())}, min_ready)
    )
    one_pass.run(name)
    state.evicted += one_pass.evicted
    context.keep({_STATE: state.json(context.step)})
    message = _summary(name, state.evicted, one_pass.stays)
    if not one_pass.pending:
        return ActionResult(message)
    since = context.now - state.since
    why = f"node {name}: {_pending_text(one_pass.pending)} after {duration.text(float(int(since)))}"
    if since >= timeout:
        raise PermanentError(f"{why}; the node stays cordoned")
    return ActionResult(message, again=(SOON if one_pass.more else LATER, why))


class _State(msgspec.Struct):
    """What earlier attempts of the step did. since: epoch seconds. cordoned: the cordon was sent."""

    since: float
    cordoned: bool = False
    evicted: int = 0

    @classmethod
    def of(cls, context: StepContext) -> _State:
        saved = context.attempt_state.get(_STATE) or {}
        if saved.get("step") != context.step:
            return cls(context.now)
        return cls(saved["since"], saved["cordoned"], saved["evicted"])

    def json(self, step: str) -> Object:
        return {
            "step": step, "since": self.since, "cordoned": self.cordoned, "evicted": self.evicted
        }  # fmt: skip


def _cordon(
    node: Object, cluster: Cluster, context: StepContext, state: _State, ttl: float | None
) -> None:
    """Cordon the node, unless an earlier attempt did. Raises PermanentError if it was uncordoned since."""
    metadata = node["metadata"]
    if state.cordoned:
        if not (node.get("spec") or {}).get("unschedulable"):
            raise PermanentError(f"node {metadata['name']} was uncordoned: the drain ends")
        return
    context.add_undo_intent([cordon_change(node)], ttl)
    context.keep({NODE: [context.step, metadata["name"], metadata.get("uid")]})
    cordon(node, cluster)
    state.cordoned = True
    context.keep({_STATE: state.json(context.step)})


class _Limits(msgspec.Struct, frozen=True):
    """The parameters of the step. skip_kinds: with DaemonSet."""

    grace: int | None
    skip_kinds: set[str]
    min_ready: int | str | None


class _Pass(msgspec.Struct):
    """One pass over the pods of the node.

    evicted: number of pods. stays: reason -> number of pods that stay. pending: the pods that must end before
    the drain is done, each with the reason why it has not. more: whether there are more pods than one attempt
    evicts.
    """

    cluster: Cluster
    context: StepContext
    limits: _Limits
    evicted: int = 0
    stays: Counter[str] = msgspec.field(default_factory=Counter)
    pending: list[str] = msgspec.field(default_factory=list)
    more: bool = False
    _owners: dict[str, list[Owner]] = msgspec.field(default_factory=dict)
    _reduced: set[str] = msgspec.field(default_factory=set)

    def run(self, node: str) -> None:
        """Evict up to ``MAX_EVICTIONS`` pods of the node.

        Raises TemporaryError if the server does not answer, PermanentError if a right is missing.
        """
        for item in self.cluster.list(POD, node=node):
            metadata = item["metadata"]
            pod = Pod(metadata["namespace"], metadata["name"], str(metadata.get("uid")), item)
            owners = self._owners_of(pod)
            reason = self._reason_to_stay(pod, owners)
            if reason:
                self.stays[reason] += 1
            elif metadata.get("deletionTimestamp"):
                self.pending.append(f"{pod} is terminating")
            else:
                self.pending.append(self._remove(pod, owners))

    def _owners_of(self, pod: Pod) -> list[Owner]:
        """Return the controllers above a pod, as far as the limits need them."""
        controller, limits = pod.controller, self.limits
        if controller is None:
            return []
        if controller["kind"] == "DaemonSet" or not _reads_owners(
            limits.skip_kinds, limits.min_ready
        ):
            return [Owner(controller["kind"], None)]
        key = str(controller.get("uid"))
        if key not in self._owners:
            self._owners[key] = owner_chain(pod, self.cluster)
        return self._owners[key]

    def _reason_to_stay(self, pod: Pod, owners: list[Owner]) -> str:
        """Return why the drain must not evict the pod, or ""."""
        if MIRROR in (pod.metadata.get("annotations") or {}):
            return "mirror"
        skipped = next((one.kind for one in owners if one.kind in self.limits.skip_kinds), "")
        if skipped:
            return skipped
        try:
            self.context.check_guardrails(pod)
        except RefusedError:
            return "protected"
        return ""

    def _remove(self, pod: Pod, owners: list[Owner]) -> str:
        """Evict the pod, if it can be evicted now. Return why it is still there."""
        owner = str((pod.controller or {}).get("uid"))
        if self.limits.min_ready is not None and owners:
            if (
                owner in self._reduced
            ):  # the status of the owner does not show the last eviction yet
                return f"{pod} waits for another pod of its owner"
            try:
                check_ready(pod, owners, self.limits.min_ready)
            except SkippedError as error:
                return str(error)
        if self.evicted >= MAX_EVICTIONS:
            self.more = True
            return f"{pod} is next"
        try:
            evict(pod, self.cluster, self.limits.grace)
        except TemporaryError as error:
            if not error.answered:
                raise
            return f"{pod} stays: {error}"
        except GoneError:
            return f"{pod} is gone"
        self._reduced.add(owner)
        self.evicted += 1
        return f"{pod} is terminating"


def _reads_owners(skip_kinds: Collection[str], min_ready: int | str | None) -> bool:
    """Return whether the drain reads the owners of pods. A pod itself names only its controller."""
    return min_ready is not None or not _CONTROLLERS.issuperset(skip_kinds)


def _pending_text(pending: list[str]) -> str:
    more = len(pending) - _SHOWN
    shown = "; ".join(pending[:_SHOWN]) + (f"; {more:,} more" if more > 0 else "")
    return f"{_pods(len(pending))} left ({shown})"


def _pods(number: int) -> str:
    return "1 pod" if number == 1 else f"{number:,} pods"


def _summary(node: str, evicted: int, stays: Counter[str]) -> str:
    left = ", ".join(f"{number} {reason}" for reason, number in sorted(stays.items()))
    return f"drain node {node}: evict {_pods(evicted)}{f'; stay: {left}' if left else ''}"
