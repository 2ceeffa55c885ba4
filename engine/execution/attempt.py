"""One attempt at one step. The engine and every preview run steps only through ``attempt``."""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from engine.actions.registry import ActionResult, StepContext, load_actions
from engine.artifacts.api import ArtifactRecorder
from engine.cluster.audit_objects import find_object
from engine.cluster.pods import Pod, TargetSearch, find_node, find_pod
from engine.execution.attempt_store import (
    PREVIEW_STORE,
    add_undo_intent,
    require_current_claim,
    undo,
)
from engine.execution.budgets import ChargeResult
from engine.execution.hold_notification import hold_notification
from engine.execution.retry import MAX_WAIT, retry_outcome
from engine.language import duration
from engine.language.template import HELD_WORDS, TemplateContext
from engine.model.attempt_state import NODE
from engine.model.errors import (
    GoneError,
    HeldError,
    PermanentError,
    PostponedError,
    RefusedError,
    SkippedError,
    TemporaryError,
)
from engine.model.event_subject import names_pod
from engine.model.playbook import Condition
from engine.model.run import Outcome, run_outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from engine.actions.registry import Action
    from engine.cluster.api import CallRecorder
    from engine.execution.attempt_store import AttemptStore
    from engine.execution.budgets import ExceededBudget
    from engine.execution.guardrails import GuardrailChecker
    from engine.model.calls import Object
    from engine.model.run import Claim
    from engine.outbound.api import RequestRecorder

_ERROR_STATES: dict[type[Exception], str] = {
    HeldError: "held", PostponedError: "waiting", SkippedError: "skipped", RefusedError: "refused",
    PermanentError: "failed",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Clients:
    """The clients that an attempt uses. dry: they send nothing, and a step that succeeds is ``planned``.

    artifacts: None allows every store and stores nothing. redact: masks what ``--redact`` finds in a text.
    announce: see ``StepContext.announce``.
    """

    cluster: CallRecorder
    http: RequestRecorder
    dry: bool = True
    artifacts: ArtifactRecorder | None = None
    redact: Callable[[str], str] = lambda text: text
    announce: Callable[[str, float | None], None] = lambda _container, _seconds: None


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
            step = _prepare(claim, clients, checker, now, store)
            target = step.target
            outcome = _run(step)
    except Exception as error:  # noqa: BLE001 - a bug in an action fails this step only; the outcome has the error
        outcome = _outcome_of_error(claim, error, now)
    calls, requests = tuple(clients.cluster.calls), tuple(clients.http.requests)
    return replace(outcome, calls=calls, requests=requests, uid=_target_uid(claim, target))


def when_holds(claim: Claim, clients: Clients) -> bool:
    """Return whether the ``when`` of the step lets it run, as far as a preview can know."""
    try:
        _check_when(claim, clients)
    except SkippedError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class _Step:
    """A step that is ready to run: its ``when`` holds and its target is found.

    unresolved_conditions: the conditions that need an answer that a preview does not have.
    """

    claim: Claim
    clients: Clients
    checker: GuardrailChecker
    now: float
    store: AttemptStore
    action: Action
    target: Pod | Object | None
    unresolved_conditions: list[str]

    def keep(self, values: Mapping[str, Any]) -> None:
        """Add to the attempt state of the run. Raises TemporaryError if it was not written."""
        require_current_claim(self.store.keep(self.claim, values))


@dataclass(frozen=True, slots=True)
class _Permission:
    """Why the step can run now.

    charge: what the budgets counted, or the budget that is used up. approved_by: who approved the step.
    digest_size: the messages that this one stands for, 0 if it is not a digest. held: in a preview, why the
    step would be held.
    """

    charge: ChargeResult
    approved_by: str | None = None
    digest_size: int = 0
    held: str = ""


def _prepare(
    claim: Claim, clients: Clients, checker: GuardrailChecker, now: float, store: AttemptStore
) -> _Step:
    """Check ``when`` and find the target.

    Raises SkippedError if there is nothing to do, PermanentError if the step may already be done.
    """
    step, action = claim.step, load_actions()[claim.step.action]
    unresolved = _check_when(claim, clients)
    if claim.interrupted and not action.repeatable and not step.retry.unknown:
        raise PermanentError("interrupted, may have run (retry.unknown: true repeats the step)")
    target = _find_target(claim, action, clients, now)
    return _Step(claim, clients, checker, now, store, action, target, unresolved)


def _check_when(claim: Claim, clients: Clients) -> list[str]:
    """Raise SkippedError if a condition does not hold. Return the conditions that a preview cannot know."""
    unresolved = []
    results = {result.step: result for result in claim.results}
    for condition in claim.step.when:
        if isinstance(condition, Condition):
            truth = condition.holds(claim.run.event)
        elif condition.on_answer is None:
            result = results.get(condition.step)
            truth = result is not None and _as_done(result.state) in condition.states
        else:
            result = results.get(condition.step)
            if clients.dry and result is not None and result.state == "planned":
                unresolved.append(condition.text)
                continue
            truth = condition.on_answer(result.answer if result else None)
        if truth is not True:
            raise SkippedError(
                f"when: {condition.text} is {'false' if truth is False else 'unknown'}"
            )
    return unresolved


def _find_target(claim: Claim, action: Action, clients: Clients, now: float) -> Pod | Object | None:
    """Find the target of the step again. Raises SkippedError if it is gone or replaced."""
    event, target = claim.run.event, action.target(claim.step.effect)
    step, *node = claim.attempt_state.get(NODE) or (None,)
    search = TargetSearch(
        now=now,
        received=claim.run.received,
        uid=claim.attempt_state.get("uid"),
        wait_for_status=not clients.dry,
        allow_terminating=target == "subject",
        node=tuple(node) if step == claim.step.name else None,
    )
    if target is None:
        return None
    if target == "resource":
        return find_object(event, clients.cluster, claim.step.parameters["kinds"], search)[1]
    if target == "node" or (target == "subject" and not names_pod(event)):
        return find_node(event, clients.cluster, search)
    return find_pod(event, clients.cluster, search)


def _run(step: _Step) -> Outcome:
    """Check the guardrails, then run the action."""
    step.checker.check(step.claim, step.target, step.clients.cluster)
    uid = _unsaved_uid(step)
    if uid and not step.clients.dry and not step.action.undoable:  # else saved with the undo intent
        step.keep(uid)
    arguments = _render(step)
    permission = _permission(step)
    try:
        result = _call_action(step, permission, arguments, uid)
    except HeldError as error:  # the action waits for an approval
        held = _hold(step, str(error), error.wait)
        return Outcome("held", held, held_because=held)
    if permission.digest_size:
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


def _unsaved_uid(step: _Step) -> dict[str, str]:
    """Return the uid of the target as attempt state, unless an earlier attempt saved one."""
    is_new = isinstance(step.target, Pod) and "uid" not in step.claim.attempt_state
    return {"uid": step.target.uid} if isinstance(step.target, Pod) and is_new else {}


def _render(step: _Step) -> dict[str, Any]:
    """Return the arguments of the action. Raises RefusedError for a value that a parameter does not allow.

    A preview renders planned steps as done. A message that is sent must not.
    """
    claim, dry = step.claim, step.clients.dry
    run = claim.run
    states = [_as_done(r.state) if dry else r.state for r in claim.results]
    steps = {r.step: (state, r.message) for r, state in zip(claim.results, states, strict=True)}
    outcome = _outcome_so_far(step)
    about = claim.attempt_state.get("about") or {}
    held = {word: str(about[word.removeprefix("held.")]) for word in HELD_WORDS if about}
    context = TemplateContext(
        run.playbook.name, about.get("run", run.id), outcome, steps, held,
        answers={r.step: r.answer for r in claim.results},
        planned={r.step for r in claim.results if dry and r.state in ("planned", "held")},
    )  # fmt: skip
    parameters = step.action.parameters
    return {
        parameters[name].argument: parameters[name].type.render(value, run.event, context)
        for name, value in claim.step.parameters.items()
        if value is not None
    }


def _outcome_so_far(step: _Step) -> str:
    """Return the outcome of the run up to this step, as templates show it."""
    results = step.claim.results
    outcome = run_outcome(results)
    if step.clients.dry:
        return _as_done(outcome)
    only_planned = outcome == "done" and any(r.state == "planned" for r in results)
    return "planned" if only_planned else outcome  # only its messages are done


def _permission(step: _Step) -> _Permission:
    """Check the approval and the budgets of the step.

    Raises RefusedError if it was denied, and the errors of ``_check_exceeded`` if a budget is used up.
    """
    claim, checker = step.claim, step.checker
    approved_by = _approved_by(claim)
    if claim.attempt_state.get("digest") == claim.step.name and checker.digest_size(claim):
        return _Permission(ChargeResult(""), approved_by, checker.digest_size(claim))
    charge = checker.charge(claim, step.target, step.now)
    exceeded = charge.exceeded
    held = _check_exceeded(step, exceeded) if exceeded and not approved_by else ""
    return _Permission(charge, approved_by, held=held)


def _approved_by(claim: Claim) -> str | None:
    """Return who approved the step, or None. Raises RefusedError if it was denied."""
    approval = claim.approval
    if approval is not None and approval.verdict == "deny":
        why = f": {approval.reason}" if approval.reason else ""
        raise RefusedError(f"denied by {approval.by}{why}")
    return None if approval is None else approval.by


def _check_exceeded(step: _Step, exceeded: ExceededBudget) -> str:
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
    return _hold(step, exceeded.message, step.checker.guardrails.hold_for)


def _hold(step: _Step, reason: str, hold_for: float) -> str:
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


def _call_action(
    step: _Step, permission: _Permission, arguments: dict[str, Any], uid: dict[str, str]
) -> ActionResult:
    """Call the action. If it did nothing, refund what the budgets counted."""
    claim, clients = step.claim, step.clients
    store = PREVIEW_STORE if clients.dry else step.store
    context = StepContext(
        run=claim.run.id, playbook=claim.run.playbook.name, step=claim.step.name,
        event=claim.run.event, now=step.now, received=claim.run.received,
        keep=(lambda _: None) if clients.dry else step.keep, attempt_state=claim.attempt_state,
        outcome=_outcome_so_far(step) if claim.results else "",
        note=_note(claim, permission.digest_size), approved_by=permission.approved_by,
        add_undo_intent=functools.partial(add_undo_intent, claim, store, (step.now, uid)),
        blob=claim.run.playbook.blob, revision=claim.run.revision,
        run_as=claim.run.playbook.run_as, redact=clients.redact,
        announce=clients.announce,
        check_guardrails=lambda one: step.checker.check(claim, one, clients.cluster),
    )  # fmt: skip
    available = {
        "pod": step.target, "node": step.target, "subject": step.target, "resource": step.target,
        "cluster": clients.cluster, "http": clients.http, "context": context,
        "artifacts": clients.artifacts or ArtifactRecorder(clients.http.requests),
    }  # fmt: skip
    try:
        result = step.action.run(*(available[name] for name in step.action.acts_with), **arguments)
    except (SkippedError, RefusedError):
        if not clients.cluster.calls and not clients.http.requests:
            with contextlib.suppress(TemporaryError):  # not refunded; the step is over anyway
                step.checker.refund(permission.charge)
        raise
    return result if isinstance(result, ActionResult) else ActionResult(result)


def _note(claim: Claim, digest_size: int) -> str:
    """Return what a message adds to its text: the size of the digest, and what ``mode: notify`` did not do."""
    parts = [f"and {digest_size - 1:,} more like it"] if digest_size > 1 else []
    if claim.run.playbook.mode == "notify":
        planned = [f"{r.step}: {r.message}" for r in claim.results if r.state == "planned"]
        text = "; ".join(planned) or "nothing"
        parts.append(f"Not done, because the playbook only notifies: {text}")
    return "\n".join(parts)


def _undo(claim: Claim, clients: Clients, store: AttemptStore) -> str:
    """Undo the step. Raises PostponedError in a dry run, TemporaryError, PermanentError."""
    if clients.dry:
        raise PostponedError("a dry run does not undo steps", MAX_WAIT)
    return undo(claim, clients.cluster, store)


def _outcome_of_error(claim: Claim, error: Exception, now: float) -> Outcome:
    """Return the outcome of an attempt that raised."""
    if isinstance(error, TemporaryError):
        return retry_outcome(claim, error, now)
    if isinstance(error, GoneError) and _was_sent(claim) and "uid" in claim.attempt_state:
        return Outcome("done", f"{error}; our own call had been sent")
    for kind, state in _ERROR_STATES.items():
        if isinstance(error, kind):
            return Outcome(state, str(error), retry_in=getattr(error, "wait", None))
    return Outcome("failed", f"internal error: {type(error).__name__}", error=error)


def _target_uid(claim: Claim, target: Pod | Object | None) -> str | None:
    """Return the uid of the target. If the pod no longer exists, it is the uid that an earlier attempt saved."""
    if target is not None:
        uid = target.uid if isinstance(target, Pod) else target["metadata"].get("uid")
    else:
        action = load_actions().get(claim.step.action)
        has_target = action is not None and action.target(claim.step.effect) is not None
        uid = claim.attempt_state.get("uid") if has_target else None
    return None if uid is None else str(uid)


def _was_sent(claim: Claim) -> bool:
    """Return whether an earlier attempt may have sent the call of this step."""
    return bool(claim.attempt_state.get("sent") == claim.step.name)


def _as_done(state: str) -> str:
    """Return the state that later steps see. Previews go on as if all steps were done and approved."""
    return "done" if state in ("planned", "held") else state
