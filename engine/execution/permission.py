"""The check whether a step may run now: approvals and budgets. It holds the step if a person must decide."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.execution.attempt_store import require_current_claim
from engine.execution.budgets import ChargeResult
from engine.execution.hold_notification import hold_notification
from engine.language import duration
from engine.model.errors import HeldError, PostponedError, RefusedError, SkippedError

if TYPE_CHECKING:
    from engine.execution.budgets import ExceededBudget
    from engine.execution.prepared_step import PreparedStep
    from engine.model.run import Claim


@dataclass(frozen=True, slots=True)
class Permission:
    """Why the step can run now.

    charge: what the budgets counted, or the budget that is used up. approved_by: who approved the step.
    digest_size: the number of messages in the digest, 0 if the step is not a digest. held: in a preview, why
    the step would be held.
    """

    charge: ChargeResult
    approved_by: str | None = None
    digest_size: int = 0
    held: str = ""


def step_permission(step: PreparedStep) -> Permission:
    """Check the approval and the budgets of the step.

    Raises RefusedError if it was denied, and the errors of ``_check_exceeded`` if a budget is used up.
    """
    claim, checker = step.claim, step.checker
    approved_by = _approved_by(claim)
    if claim.attempt_state.get("digest") == claim.step.name and checker.digest_size(claim):
        return Permission(ChargeResult(""), approved_by, checker.digest_size(claim))
    charge = checker.charge(claim, step.target, step.now)
    exceeded = charge.exceeded
    held = _check_exceeded(step, exceeded) if exceeded and not approved_by else ""
    return Permission(charge, approved_by, held=held)


def _approved_by(claim: Claim) -> str | None:
    """Return who approved the step, or None. Raises RefusedError if it was denied."""
    approval = claim.approval
    if approval is not None and approval.verdict == "deny":
        why = f": {approval.reason}" if approval.reason else ""
        raise RefusedError(f"denied by {approval.by}{why}")
    return None if approval is None else approval.by


def _check_exceeded(step: PreparedStep, exceeded: ExceededBudget) -> str:
    """Return why the step is held, in a preview. A preview goes on as if the step were approved.

    Raises RefusedError (dropped, or not approved in time), HeldError, SkippedError (a digest counts the
    message), or PostponedError (the message becomes the digest).
    """
    claim, dry, now = step.claim, step.clients.dry, step.now
    if exceeded.on_exceeded == "digest":
        if not dry and step.checker.add_to_digest(claim, exceeded.per, now):
            step.keep({"digest": claim.step.name})
            raise PostponedError(
                f"{exceeded.message}: this message becomes the digest", exceeded.per
            )
        raise SkippedError(f"{exceeded.message}: a digest counts this message")
    if exceeded.on_exceeded == "drop":
        raise RefusedError(exceeded.message)
    return hold_step(step, exceeded.message, step.checker.guardrails.hold_for)


def hold_step(step: PreparedStep, reason: str, hold_for: float) -> str:
    """Return why the step is held, in a preview. hold_for: seconds after which it is denied.

    Otherwise raises HeldError, or RefusedError if it was not approved in time.
    """
    claim, guardrails, now = step.claim, step.checker.guardrails, step.now
    if step.clients.dry:
        return reason + ("; the steps of onHeld notify" if guardrails.on_held else "")
    held_step, since, *_ = claim.attempt_state.get("held") or (None, 0.0)
    if held_step != claim.step.name:
        notice = hold_notification(claim, guardrails, (now, now + hold_for), reason)
        state = {"held": [claim.step.name, now, notice.run.id if notice else ""]}
        require_current_claim(step.store.keep(claim, state, notice))
        raise HeldError(reason, hold_for)
    if now < since + hold_for:  # claimed again after a crash
        raise HeldError(reason, since + hold_for - now)
    raise RefusedError(f"denied: no approval within {duration.text(hold_for)} ({reason})")
