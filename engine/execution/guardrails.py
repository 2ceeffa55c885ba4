"""May this step touch this target now? Protected targets, the event's age, budgets.

What is protected is neither marked nor disrupted; age concerns what disrupts; a budget what it names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.cluster.api import NAMESPACE, NODE
from engine.cluster.pods import Pod
from engine.execution.budgets import BudgetLedger, Charge
from engine.language import duration
from engine.model.errors import RefusedError
from engine.model.event_subject import subject_of as named_in
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

_MIRROR = "kubernetes.io/config.mirror"


class Guard:
    """Guardrails, ready to be asked; the ledger of its budgets is its only memory."""

    def __init__(
        self,
        guardrails: Guardrails | None = None,
        own: OwnIdentity | None = None,
        ledger: BudgetLedger | None = None,
    ) -> None:
        self.guardrails = guardrails or Guardrails()
        self._own = own or OwnIdentity()
        self._ledger = ledger or BudgetLedger()
        self._shut = name_matcher(self.guardrails.namespaces)
        self._trusts = name_matcher(self.guardrails.trust_pods_in)

    def fresh(self) -> Guard:
        """The same, with nothing spent yet."""
        return Guard(self.guardrails, self._own)

    def check(self, claim: Claim, subject: Pod | Object | None, reads: ClusterReader) -> None:
        """Raises RefusedError where the step may not touch the target, whatever was done before."""
        if subject is not None and claim.step.effect in ("mark", "disrupt"):
            self._check_target(claim, subject, reads)
        if claim.step.effect == "disrupt":
            self._check_age(claim)

    def spend(self, claim: Claim, subject: Pod | Object | None, now: float) -> ChargeResult:
        """Charge the budgets that the step falls under, or say which of them is used up."""
        return self._ledger.take(self.guardrails, _charge(claim, subject), now)

    def digest(self, claim: Claim, per: float, now: float) -> bool:
        """Count a message that its budget holds back; whether it is to become the digest of the others."""
        return self._ledger.count(_digest(claim), per, now)

    def digested(self, claim: Claim) -> int:
        """How many messages the step's digest stands for, itself included."""
        return self._ledger.counted(_digest(claim))

    def told(self, claim: Claim, count: int) -> None:
        """The digest went out, and told of so many."""
        self._ledger.told(_digest(claim), count)

    def left(self) -> Iterator[tuple[Budget, int]]:
        """Of each budget, how many targets its fullest window has left."""
        return self._ledger.left(self.guardrails)

    def refund(self, spent: ChargeResult) -> None:
        """Take back what a step was charged that touched nothing."""
        self._ledger.give_back(spent)

    def _check_target(self, claim: Claim, subject: Pod | Object, reads: ClusterReader) -> None:
        if not isinstance(subject, Pod):
            self._check_labels("node", subject)
            name = subject["metadata"].get("name")
            if claim.step.action.startswith("node.") and name == self._own.node:
                raise RefusedError(f"Tiercel itself runs on node {name}, so it is protected")
            return
        if subject.namespace == self._own.namespace:
            raise RefusedError(f"namespace {subject.namespace} is Tiercel's own, so protected")
        if self._shut(subject.namespace):
            raise RefusedError(f"namespace {subject.namespace} is protected")
        if _MIRROR in (subject.metadata.get("annotations") or {}):
            raise RefusedError(f"pod {subject} is a mirror pod: its node's kubelet owns it")
        self._check_labels("namespace", reads.get(NAMESPACE, subject.namespace))
        node = subject.spec.get("nodeName")
        if node:
            self._check_labels("node", reads.get(NODE, node))
        if self._trusts(subject.namespace):
            self._check_labels("pod", subject.object)
            urgency = subject.spec.get("priorityClassName") or ""
            if urgency.startswith("system-") and urgency.endswith("-critical"):
                raise RefusedError(f"pod {subject} is protected by its priority class {urgency}")

    def _check_labels(self, what: str, found: Mapping[str, Any] | None) -> None:
        metadata = (found or {}).get("metadata") or {}
        labels = metadata.get("labels") or {}
        for key, value in self.guardrails.labels:
            if labels.get(key) == value:
                raise RefusedError(f"{what} {metadata.get('name')} is protected by its label {key}")

    def _check_age(self, claim: Claim) -> None:
        age, most = claim.run.received - claim.run.event.time, self.guardrails.max_event_age
        if age > most:
            told = f"the event was {duration.text(age)} old when it came"
            raise RefusedError(f"{told}; maxEventAge is {duration.text(most)}")


def _digest(claim: Claim) -> str:
    playbook = claim.run.playbook
    return f"{playbook.mode}/{playbook.name}/{claim.step.name}"


def _charge(claim: Claim, subject: Pod | Object | None) -> Charge:
    """What the step would cost: of a pod or node once, of a message each time."""
    run, step = claim.run, claim.step
    owner: str | None = None
    namespace: str | None
    if isinstance(subject, Pod):
        controller = subject.controller
        owner = str(controller.get("uid")) if controller else None
        target, namespace = subject.uid, subject.namespace
    elif subject is not None:
        name = str(subject["metadata"].get("name"))
        target = namespace = f"node/{name}"
    else:
        target, namespace = f"{run.id}/{step.name}", named_in(run.event).namespace
    playbook = run.playbook
    return Charge(step.effect, step.action, playbook.name, target, namespace, owner, playbook.mode)
