"""The call of an action: its arguments, with templates rendered, and the context it gets."""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Any

from engine.actions.registry import ActionResult, StepContext
from engine.artifacts.api import ArtifactRecorder
from engine.execution.attempt_store import PREVIEW_STORE, add_undo_intent
from engine.execution.prepared_step import as_done
from engine.language.template import HELD_WORDS, TemplateContext
from engine.model.errors import RefusedError, SkippedError, TemporaryError
from engine.model.run import run_outcome

if TYPE_CHECKING:
    from engine.execution.permission import Permission
    from engine.execution.prepared_step import PreparedStep
    from engine.model.run import Claim


def render_arguments(step: PreparedStep) -> dict[str, Any]:
    """Return the arguments of the action. Raises RefusedError for a value that a parameter does not allow.

    A preview renders planned steps as done. In a message that is sent, they are planned.
    """
    claim, dry = step.claim, step.clients.dry
    run = claim.run
    states = [as_done(r.state) if dry else r.state for r in claim.results]
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


def _outcome_so_far(step: PreparedStep) -> str:
    """Return the outcome of the run up to this step, as templates show it."""
    results = step.claim.results
    outcome = run_outcome(results)
    if step.clients.dry:
        return as_done(outcome)
    only_planned = outcome == "done" and any(r.state == "planned" for r in results)
    return "planned" if only_planned else outcome  # only its messages are done


def call_action(
    step: PreparedStep, permission: Permission, arguments: dict[str, Any], uid: dict[str, str]
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
