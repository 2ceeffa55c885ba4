"""The guardrails of a step: protected targets, the age of the event, budgets.

Protected targets cannot be marked or disrupted. The age limit applies to steps that disrupt. A budget applies
to the effect that it names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.cluster.api import NAMESPACE, NODE
from engine.cluster.pods import MIRROR, Pod
from engine.cluster.role_bindings import binding_users
from engine.execution.budgets import BudgetLedger, Charge
from engine.language import duration
from engine.model.errors import RefusedError
from engine.model.event_subject import subject_of
from engine.model.name_patterns import name_matcher
from engine.model.own_identity import OwnIdentity
from engine.model.playbook import Guardrails

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from engine.cluster.api import ClusterReader
    from engine.execution.budgets import ChargeResult
    from engine.model.calls import Object
    from engine.model.playbook import Budget
    from engine.model.run import Claim


class GuardrailChecker:
    """Checks steps against the Guardrails. The ledger of the budgets is its only state."""

    def __init__(
        self,
        guardrails: Guardrails | None = None,
        own: OwnIdentity | None = None,
        ledger: BudgetLedger | None = None,
    ) -> None:
        self.guardrails = guardrails or Guardrails()
        self._own = own or OwnIdentity()
        self._ledger = ledger or BudgetLedger()
        self._is_protected = name_matcher(self.guardrails.namespaces)
        self._trusts_pods_in = name_matcher(self.guardrails.trust_pods_in)

    def check(self, claim: Claim, target: Pod | Object | None, cluster: ClusterReader) -> None:
        """Raise RefusedError if the step must not touch the target. Budgets are not checked here."""
        if target is not None and claim.step.effect in ("mark", "disrupt"):
            self._check_target(claim, target, cluster)
        if claim.step.effect == "disrupt":
            self._check_age(claim)

    def charge(self, claim: Claim, target: Pod | Object | None, now: float) -> ChargeResult:
        """Charge the budgets that apply to the step, or return the budget that is used up."""
        return self._ledger.charge(self.guardrails, _charge(claim, target), now)

    def refund(self, result: ChargeResult) -> None:
        """Refund the charge of a step that did not touch its target."""
        self._ledger.refund(result)

    def remaining_budgets(self) -> Iterator[tuple[Budget, int]]:
        """Yield each budget and how many targets its fullest window has left."""
        return self._ledger.remaining(self.guardrails)

    def add_to_digest(self, claim: Claim, per: float, now: float) -> bool:
        """Count a message that exceeds its budget. Return whether it becomes the digest of the others."""
        return self._ledger.add_to_digest(_digest_key(claim), per, now)

    def digest_size(self, claim: Claim) -> int:
        """Return the number of messages in the digest of the step, this one included."""
        return self._ledger.digest_size(_digest_key(claim))

    def digest_sent(self, claim: Claim, size: int) -> None:
        """Subtract the messages that the sent digest stood for."""
        self._ledger.digest_sent(_digest_key(claim), size)

    def _check_target(self, claim: Claim, target: Pod | Object, cluster: ClusterReader) -> None:
        if not isinstance(target, Pod):
            self._check_object(claim, target, cluster)
            return
        self._check_namespace(target.namespace, cluster)
        if MIRROR in (target.metadata.get("annotations") or {}):
            raise RefusedError(f"pod {target} is a mirror pod: the kubelet of its node owns it")
        node = target.spec.get("nodeName")
        if node:
            self._check_labels("node", cluster.get(NODE, node))
        if self._trusts_pods_in(target.namespace):
            self._check_labels("pod", target.object)
            priority_class = target.spec.get("priorityClassName") or ""
            if priority_class.startswith("system-") and priority_class.endswith("-critical"):
                what = f"pod {target} is protected by its priority class {priority_class}"
                raise RefusedError(what)

    def _check_object(self, claim: Claim, target: Object, cluster: ClusterReader) -> None:
        """Check a target that is not the pod of the event: a node, or the object of an audit event."""
        metadata = target["metadata"]
        kind, name = target.get("kind"), metadata.get("name")
        if kind == NODE.kind:
            self._check_labels("node", target)
            is_changed = claim.step.action.startswith(("node.", "resource."))
            if is_changed and name == self._own.node:
                raise RefusedError(f"node {name} is protected: Tiercel itself runs on it")
            return
        if (kind or "").endswith("RoleBinding") and self._own.user in binding_users(target):
            raise RefusedError(f"{kind} {name} is protected: it grants rights to Tiercel itself")
        namespace = name if kind == NAMESPACE.kind else metadata.get("namespace")
        if namespace:
            self._check_namespace(namespace, cluster)
        if MIRROR in (metadata.get("annotations") or {}):
            raise RefusedError(
                f"{namespace}/{name} is a mirror pod: the kubelet of its node owns it"
            )

    def _check_namespace(self, namespace: str, cluster: ClusterReader) -> None:
        if namespace == self._own.namespace:
            raise RefusedError(f"namespace {namespace} is protected: it is Tiercel's own")
        if self._is_protected(namespace):
            raise RefusedError(f"namespace {namespace} is protected")
        self._check_labels("namespace", cluster.get(NAMESPACE, namespace))

    def _check_labels(self, kind: str, found: Mapping[str, Any] | None) -> None:
        metadata = (found or {}).get("metadata") or {}
        labels = metadata.get("labels") or {}
        for key, value in self.guardrails.labels:
            if labels.get(key) == value:
                raise RefusedError(f"{kind} {metadata.get('name')} is protected by its label {key}")

    def _check_age(self, claim: Claim) -> None:
        age, limit = claim.run.received - claim.run.event.time, self.guardrails.max_event_age
        if age > limit:
            what = f"the event was already {duration.text(age)} old when it was received"
            raise RefusedError(f"{what}; maxEventAge is {duration.text(limit)}")


def _digest_key(claim: Claim) -> str:
    playbook = claim.run.playbook
    return f"{playbook.mode}/{playbook.name}/{claim.step.name}"


def _charge(claim: Claim, target: Pod | Object | None) -> Charge:
    """Return the charge of the step. A pod or node counts once, a message each time."""
    run, step = claim.run, claim.step
    owner: str | None = None
    namespace: str | None
    if isinstance(target, Pod):
        controller = target.controller
        owner = str(controller.get("uid")) if controller else None
        key, namespace = target.uid, target.namespace
    elif target is not None:
        metadata = target["metadata"]
        name = f"{(target.get('kind') or 'node').lower()}/{metadata.get('name')}"
        namespace = metadata.get("namespace") or name
        key = name if namespace == name else f"{namespace}/{name}"
    else:
        key, namespace = f"{run.id}/{step.name}", subject_of(run.event).namespace
    playbook = run.playbook
    return Charge(step.effect, step.action, playbook.name, key, namespace, owner, playbook.mode)
