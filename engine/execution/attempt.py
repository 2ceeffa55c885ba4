"""One attempt at one step: the only way a step runs, in the engine and in every preview. It never raises."""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from engine.actions.registry import ActionResult, StepContext, load_actions
from engine.cluster.pods import Pod, TargetSearch, find_node, find_pod
from engine.execution.attempt_store import PREVIEW_STORE, hold, require_current_claim, undo
from engine.execution.budgets import ChargeResult
from engine.execution.hold_notification import notice
from engine.execution.retry import LONGEST, retry_outcome
from engine.language import duration
from engine.language.template import HELD_WORDS, TemplateContext
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
    from engine.actions.registry import Action
    from engine.cluster.api import CallRecorder
    from engine.execution.attempt_store import AttemptStore
    from engine.execution.budgets import ExceededBudget
    from engine.execution.guardrails import Guard
    from engine.model.calls import Object
    from engine.model.run import Claim
    from engine.outbound.api import RequestRecorder

_ENDS: dict[type[Exception], str] = {
    HeldError: "held", PostponedError: "waiting", SkippedError: "skipped", RefusedError: "refused",
    PermanentError: "failed",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Clients:
    """What an attempt acts through. dry: nothing is passed on, so that steps end ``planned``."""

    cluster: CallRecorder
    http: RequestRecorder
    dry: bool = True


def attempt(
    claim: Claim, clients: Clients, guard: Guard, now: float, store: AttemptStore = PREVIEW_STORE
) -> Outcome:
    """How the attempt ended. now: epoch seconds."""
    subject = None
    try:
        if claim.undo:
            outcome = Outcome("undone", _undo(claim, clients, store))
        else:
            begun = _begin(claim, clients, now)
            subject = begun.subject
            outcome = _act(begun, guard, store)
    except Exception as error:  # noqa: BLE001 - an unforeseen error is kept in the outcome
        outcome = _judged(claim, error, now)
    calls, requests = tuple(clients.cluster.calls), tuple(clients.http.requests)
    return replace(outcome, calls=calls, requests=requests, uid=_uid(claim, subject))


@dataclass(frozen=True, slots=True)
class _Begun:
    """An attempt whose target is found. untold: the conditions that only an answer could tell."""

    claim: Claim
    clients: Clients
    now: float
    action: Action
    untold: list[str]
    subject: Pod | Object | None


def _begin(claim: Claim, clients: Clients, now: float) -> _Begun:
    """Raises SkippedError where there is nothing to do, PermanentError where it may be done already."""
    step, action = claim.step, load_actions()[claim.step.action]
    untold = _check_when(claim, clients)
    if claim.interrupted and not action.repeatable and not step.retry.unknown:
        raise PermanentError("interrupted, may have run (retry.unknown: true does it again)")
    return _Begun(claim, clients, now, action, untold, _subject(claim, action, clients, now))


def _act(begun: _Begun, guard: Guard, store: AttemptStore) -> Outcome:
    claim, clients, now, subject = begun.claim, begun.clients, begun.now, begun.subject
    step, event, action = claim.step, claim.run.event, begun.action
    context = StepContext(
        run=claim.run.id, playbook=claim.run.playbook.name, step=step.name, event=event, now=now,
        saved=claim.attempt_state,
        save=lambda values: require_current_claim(store.keep(claim, values)),
    )  # fmt: skip
    given: dict[str, Any] = {"cluster": clients.cluster, "http": clients.http, "context": context}
    guard.check(claim, subject, clients.cluster)
    if subject is not None:
        given |= {"pod": subject, "subject": subject}
    found = (
        {"uid": subject.uid}
        if isinstance(subject, Pod) and "uid" not in claim.attempt_state
        else {}
    )
    if found and not clients.dry and not action.undoable:  # else it is kept with what is held
        context.save(found)
    arguments = _render(claim, action, dry=clients.dry)
    leave = _leave(claim)
    carried = guard.digested(claim) if claim.attempt_state.get("digest") == step.name else 0
    spent = ChargeResult("") if carried else guard.spend(claim, subject, now)
    held = _over(spent.over, begun, guard, store) if spent.over and not leave else None
    given["context"] = replace(
        context,
        note=_note(claim, carried),
        save_undo_intent=functools.partial(
            hold, claim, PREVIEW_STORE if clients.dry else store, (now, found)
        ),
    )
    try:
        done = action.run(*(given[name] for name in action.acts_with), **arguments)
    except (SkippedError, RefusedError):
        if not clients.cluster.calls and not clients.http.requests:
            with contextlib.suppress(TemporaryError):  # spent, then: the step is over all the same
                guard.refund(spent)
        raise
    if carried:
        guard.told(claim, carried)
    done = done if isinstance(done, ActionResult) else ActionResult(done)
    said = done.message + (f" (when {' and '.join(begun.untold)})" if begun.untold else "")
    said = f"{said} (with the leave of {leave})" if leave and spent.over else said
    if held:
        return Outcome("held", f"{held}; with a person's leave: {said}", answer=done.answer)
    return Outcome("planned" if clients.dry else "done", said, answer=done.answer)


def _judged(claim: Claim, error: Exception, now: float) -> Outcome:
    """How an attempt ended that raised."""
    if isinstance(error, TemporaryError):
        return retry_outcome(claim, error, now)
    if isinstance(error, GoneError) and _sent(claim) and "uid" in claim.attempt_state:
        return Outcome("done", f"{error}; our own call had been sent")
    for kind, state in _ENDS.items():
        if isinstance(error, kind):
            return Outcome(state, str(error), retry_in=getattr(error, "wait", None))
    return Outcome("failed", f"internal error: {type(error).__name__}", error=error)


def _uid(claim: Claim, subject: Pod | Object | None) -> str | None:
    """The uid of what the attempt was about; of a pod that is not there any more, as it was found before."""
    if subject is not None:
        uid = subject.uid if isinstance(subject, Pod) else subject["metadata"].get("uid")
    else:
        action = load_actions().get(claim.step.action)
        has_target = action is not None and action.target(claim.step.effect) is not None
        uid = claim.attempt_state.get("uid") if has_target else None
    return None if uid is None else str(uid)


def _undo(claim: Claim, clients: Clients, store: AttemptStore) -> str:
    """Put back what the step has changed. Raises PostponedError in a dry run, TemporaryError, PermanentError."""
    if clients.dry:
        raise PostponedError("a dry run undoes nothing", LONGEST)
    return undo(claim, clients.cluster, store)


def _leave(claim: Claim) -> str | None:
    """Who approved the step, if somebody did. Raises RefusedError if it was denied."""
    approval = claim.approval
    if approval is not None and approval.verdict == "deny":
        why = f": {approval.reason}" if approval.reason else ""
        raise RefusedError(f"denied by {approval.by}{why}")
    return None if approval is None else approval.by


def _note(claim: Claim, carried: int) -> str:
    """What a message must say besides: how many it stands for, and what its playbook does not do."""
    parts = [f"and {carried - 1:,} more like it"] if carried > 1 else []
    if claim.run.playbook.mode == "notify":
        would = [f"{r.step}: {r.message}" for r in claim.results if r.state == "planned"]
        parts.append("Not done, for the playbook only notifies: " + ("; ".join(would) or "nothing"))
    return "\n".join(parts)


def _over(over: ExceededBudget, begun: _Begun, guard: Guard, store: AttemptStore) -> str:
    """Why the step is held, in previews, which go on as if a person gave leave.

    Raises RefusedError, SkippedError (a digest tells of the message), PostponedError (it is that digest),
    HeldError.
    """
    claim, dry, now = begun.claim, begun.clients.dry, begun.now
    if over.then == "digest":
        if not dry and guard.digest(claim, over.per, now):
            require_current_claim(store.keep(claim, {"digest": claim.step.name}))
            raise PostponedError(f"{over.text}: this one becomes the digest", over.per)
        raise SkippedError(f"{over.text}: a digest tells of it")
    if over.then == "drop":
        raise RefusedError(over.text)
    if dry:
        return over.text + ("; the steps of onHeld notify" if guard.guardrails.on_held else "")
    hold_for = guard.guardrails.hold_for
    step, since = claim.attempt_state.get("held") or (None, 0.0)
    if step != claim.step.name:
        told = notice(claim, guard.guardrails, now, over.text)
        require_current_claim(store.keep(claim, {"held": [claim.step.name, now]}, told))
        raise HeldError(over.text, hold_for)
    if now < since + hold_for:  # claimed again after a crash
        raise HeldError(over.text, since + hold_for - now)
    waited = duration.text(hold_for)
    raise RefusedError(f"denied: nobody gave leave within {waited} ({over.text})")


def _subject(claim: Claim, action: Action, clients: Clients, now: float) -> Pod | Object | None:
    """The target of the step, found again. Raises SkippedError."""
    target = action.target(claim.step.effect)
    search = TargetSearch(
        now=now,
        received=claim.run.received,
        uid=claim.attempt_state.get("uid"),
        wait_for_status=not clients.dry,
        allow_terminating=target == "subject",
    )
    if target == "pod":
        return find_pod(claim.run.event, clients.cluster, search)
    if target == "subject":
        find = find_pod if names_pod(claim.run.event) else find_node
        return find(claim.run.event, clients.cluster, search)
    return None


def _render(claim: Claim, action: Action, *, dry: bool) -> dict[str, Any]:
    """The arguments of the action. Raises RefusedError for a value that a parameter does not allow.

    A preview renders as if all were done; what goes out must not say so of what was only planned.
    """
    run = claim.run
    states = [_as_done(r.state) if dry else r.state for r in claim.results]
    steps = {r.step: (state, r.message) for r, state in zip(claim.results, states, strict=True)}
    outcome = run_outcome(claim.results)
    only_planned = outcome == "done" and "planned" in states  # its messages alone are done
    outcome = _as_done(outcome) if dry else "planned" if only_planned else outcome
    about = claim.attempt_state.get("about") or {}
    held = {word: str(about[word.removeprefix("held.")]) for word in HELD_WORDS if about}
    context = TemplateContext(run.playbook.name, about.get("run", run.id), outcome, steps, held)
    return {
        action.parameters[name].argument: action.parameters[name].type.render(
            value, run.event, context
        )
        for name, value in claim.step.parameters.items()
        if value is not None
    }


def _check_when(claim: Claim, clients: Clients) -> list[str]:
    """Raises SkippedError where a condition does not hold; gives those that only an answer can tell."""
    untold = []
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
                untold.append(condition.text)
                continue
            truth = condition.on_answer(result.answer if result else None)
        if truth is not True:
            raise SkippedError(
                f"when: {condition.text} is {'false' if truth is False else 'unknown'}"
            )
    return untold


def when_holds(claim: Claim, clients: Clients) -> bool:
    """Whether the step's ``when`` lets it run, as far as a preview can tell."""
    try:
        _check_when(claim, clients)
    except SkippedError:
        return False
    return True


def _sent(claim: Claim) -> bool:
    return bool(claim.attempt_state.get("sent") == claim.step.name)


def _as_done(state: str) -> str:
    """What later steps are told: previews go on as if all were done, and a person gave leave."""
    return "done" if state in ("planned", "held") else state
