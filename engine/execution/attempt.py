"""One attempt at one step. The engine and every preview run steps only through ``attempt``."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING

from engine.actions.registry import load_actions
from engine.cluster.pods import Pod
from engine.execution.action_call import call_action, render_arguments
from engine.execution.attempt_store import PREVIEW_STORE, undo
from engine.execution.permission import hold_step, step_permission
from engine.execution.prepared_step import Clients, check_when, prepare_step
from engine.execution.retry import MAX_WAIT, retry_outcome, undo_wait
from engine.model.attempt_state import INTERRUPTED
from engine.model.errors import (
    GoneError,
    HeldError,
    PermanentError,
    PostponedError,
    RefusedError,
    SkippedError,
    TemporaryError,
)
from engine.model.run import Outcome

if TYPE_CHECKING:
    from engine.execution.attempt_store import AttemptStore
    from engine.execution.guardrails import GuardrailChecker
    from engine.execution.prepared_step import PreparedStep
    from engine.model.calls import Object
    from engine.model.run import Claim

__all__ = ["Clients", "attempt", "when_holds"]
_DOUBLED = "an interrupted attempt may have run, too"

_ERROR_STATES: dict[type[Exception], str] = {
    HeldError: "held", PostponedError: "waiting", SkippedError: "skipped", RefusedError: "refused",
    PermanentError: "failed",
}  # fmt: skip


def attempt(
    claim: Claim,
    clients: Clients,
    checker: GuardrailChecker,
    now: float,
    store: AttemptStore = PREVIEW_STORE,
) -> Outcome:
    """Attempt the step of a claim, and return the outcome. Never raises. now: epoch seconds."""
    target = None
    try:
        if claim.undo:
            outcome = Outcome("undone", _undo(claim, clients, store))
        else:
            step = prepare_step(claim, clients, checker, now, store)
            target = step.target
            outcome = _run(step)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a bug in an action or a plugin fails this step only
        outcome = _outcome_of_error(claim, error, now)
    if outcome.state in ("done", "failed") and _may_be_doubled(claim):
        outcome = replace(outcome, message=f"{outcome.message}; {_DOUBLED}")
    calls, requests = tuple(clients.cluster.calls), tuple(clients.http.requests)
    return replace(outcome, calls=calls, requests=requests, uid=_target_uid(claim, target))


def when_holds(claim: Claim, clients: Clients) -> bool:
    """Return whether the ``when`` of the step lets it run, as far as a preview can know."""
    try:
        check_when(claim, clients)
    except SkippedError:
        return False
    return True


def _run(step: PreparedStep) -> Outcome:
    """Check the guardrails, then run the action."""
    step.checker.check(step.claim, step.target, step.clients.cluster)
    uid = _unsaved_uid(step)
    if uid and not step.clients.dry and not step.action.undoable:  # else saved with the undo intent
        step.keep(uid)
    arguments = render_arguments(step)
    permission = step_permission(step)
    try:
        result = call_action(step, permission, arguments, uid)
    except HeldError as error:  # the action waits for an approval
        held = hold_step(step, str(error), error.wait)
        return Outcome("held", held, held_because=held)
    if permission.digest_size:
        # if they are not subtracted, the next digest counts them again; a retry would send this one again
        with contextlib.suppress(TemporaryError):
            step.checker.digest_sent(step.claim, permission.digest_size)
    if result.again is not None and not step.clients.dry:
        wait, why = result.again
        raise PostponedError(why, wait)
    message = result.message
    if step.unresolved_conditions:
        message += f" (when {' and '.join(step.unresolved_conditions)})"
    if permission.approved_by and permission.charge.exceeded:
        message += f" (approved by {permission.approved_by})"
    if permission.held:
        message = f"{permission.held}; if approved: {message}"
        return Outcome("held", message, answer=result.answer, held_because=permission.held)
    return Outcome("planned" if step.clients.dry else "done", message, answer=result.answer)


def _unsaved_uid(step: PreparedStep) -> dict[str, str]:
    """Return the uid of the target as attempt state, unless an earlier attempt saved one."""
    is_new = isinstance(step.target, Pod) and "uid" not in step.claim.attempt_state
    return {"uid": step.target.uid} if isinstance(step.target, Pod) and is_new else {}


def _undo(claim: Claim, clients: Clients, store: AttemptStore) -> str:
    """Undo the step. Raises PostponedError in a dry run, TemporaryError, PermanentError."""
    if clients.dry:
        raise PostponedError("a dry run does not undo steps", MAX_WAIT)
    return undo(claim, clients.cluster, store)


def _outcome_of_error(claim: Claim, error: Exception | SystemExit, now: float) -> Outcome:
    """Return the outcome of an attempt that raised."""
    if isinstance(error, TemporaryError):
        return retry_outcome(claim, error, now)
    if isinstance(error, GoneError) and _was_sent(claim) and "uid" in claim.attempt_state:
        return Outcome("done", f"{error}; our own call had been sent")
    for kind, state in _ERROR_STATES.items():
        if isinstance(error, kind):
            return Outcome(state, str(error), retry_in=getattr(error, "wait", None))
    what = f"internal error: {type(error).__name__}"
    if claim.undo:  # an undo is never given up, because its object would stay changed
        wait = undo_wait(claim.attempt)
        return Outcome("waiting", what, retry_in=wait, answered=True, error=error)
    return Outcome("failed", what, error=error)


def _target_uid(claim: Claim, target: Pod | Object | None) -> str | None:
    """Return the uid of the target. If the pod no longer exists, it is the uid that an earlier attempt saved."""
    if target is not None:
        uid = target.uid if isinstance(target, Pod) else target["metadata"].get("uid")
    else:
        action = load_actions().get(claim.step.action)
        has_target = action is not None and action.target(claim.step.effect) is not None
        uid = claim.attempt_state.get("uid") if has_target else None
    return None if uid is None else str(uid)


def _may_be_doubled(claim: Claim) -> bool:
    """Return whether an interrupted attempt may have had the effect of the step, too."""
    if claim.undo or not claim.step.retry.unknown:
        return False
    action = load_actions().get(claim.step.action)
    was_interrupted = claim.interrupted or claim.attempt_state.get(INTERRUPTED) == claim.step.name
    return was_interrupted and action is not None and not action.repeatable


def _was_sent(claim: Claim) -> bool:
    """Return whether an earlier attempt may have sent the call of this step."""
    return bool(claim.attempt_state.get("sent") == claim.step.name)
