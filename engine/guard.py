"""May this step touch this target now? Protected targets, the event's age, budgets.

What is protected is neither marked nor disrupted; age concerns what disrupts; a budget what it names.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.budget import Charge, Ledger
from engine.errors import RefusedError
from engine.language import duration
from engine.match import named
from engine.playbook import Guardrails
from engine.pod import Pod
from engine.ports.cluster import NAMESPACE, NODE
from engine.target import named as named_in

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from engine.budget import Spent
    from engine.playbook import Budget
    from engine.ports.cluster import Object, Reads
    from engine.run import Claim

MOUNTED = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where the kubelet mounts a pod's token, unless the pod says not to."""
_MIRROR = "kubernetes.io/config.mirror"


@dataclass(frozen=True, slots=True)
class Own:
    """Where the engine itself runs; None outside a cluster."""

    namespace: str | None = None
    node: str | None = None
    service_account: str | None = None

    @classmethod
    def of(cls, environment: Mapping[str, str], mounted: Path | None = None) -> Own:
        """As the downward API tells it; what that does not, as the folder mounted for its account does."""
        names = ("TIERCEL_POD_NAMESPACE", "TIERCEL_NODE_NAME", "TIERCEL_SERVICE_ACCOUNT")
        namespace, node, account = (environment.get(name) or None for name in names)
        if mounted:
            namespace = namespace or _read(mounted / "namespace")
            account = account or _account(_read(mounted / "token"))
        return cls(namespace, node, account)

    @property
    def user(self) -> str | None:
        """The name by which the API server's audit log knows the engine."""
        if self.namespace is None or self.service_account is None:
            return None
        return f"system:serviceaccount:{self.namespace}:{self.service_account}"


def _read(file: Path) -> str | None:
    """What the file says; None where there is none."""
    try:
        return file.read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def _account(token: str | None) -> str | None:
    """Whose token it is: the name in its claim ``sub``, unverified, for only the kubelet writes it."""
    try:
        claims = (token or "").split(".")[1]
        subject = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["sub"]
        kind, _, name = subject.rpartition(":")
    except (IndexError, KeyError, TypeError, ValueError, AttributeError):
        return None
    return name if kind.startswith("system:serviceaccount:") and name else None


class Guard:
    """Guardrails, ready to be asked; the ledger of its budgets is its only memory."""

    def __init__(
        self,
        guardrails: Guardrails | None = None,
        own: Own | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        self.guardrails = guardrails or Guardrails()
        self._own = own or Own()
        self._ledger = ledger or Ledger()
        self._shut = named(self.guardrails.namespaces)
        self._trusts = named(self.guardrails.trust_pods_in)

    def fresh(self) -> Guard:
        """The same, with nothing spent yet."""
        return Guard(self.guardrails, self._own)

    def check(self, claim: Claim, subject: Pod | Object | None, reads: Reads) -> None:
        """Raises RefusedError where the step may not touch the target, whatever was done before."""
        if subject is not None and claim.step.effect in ("mark", "disrupt"):
            self._check_target(claim, subject, reads)
        if claim.step.effect == "disrupt":
            self._check_age(claim)

    def spend(self, claim: Claim, subject: Pod | Object | None, now: float) -> Spent:
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

    def refund(self, spent: Spent) -> None:
        """Take back what a step was charged that touched nothing."""
        self._ledger.give_back(spent)

    def _check_target(self, claim: Claim, subject: Pod | Object, reads: Reads) -> None:
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
