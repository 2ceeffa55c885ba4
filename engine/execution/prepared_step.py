"""A step that is ready to run: its ``when`` holds, and its target is found again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.actions.registry import load_actions
from engine.cluster.audit_objects import find_object
from engine.cluster.pods import TargetSearch, find_node, find_pod
from engine.execution.attempt_store import require_current_claim
from engine.model.attempt_state import INTERRUPTED, NODE
from engine.model.errors import PermanentError, SkippedError
from engine.model.event_subject import names_pod
from engine.model.playbook import Condition

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from engine.actions.registry import Action
    from engine.artifacts.api import ArtifactRecorder
    from engine.cluster.api import CallRecorder
    from engine.cluster.pods import Pod
    from engine.execution.attempt_store import AttemptStore
    from engine.execution.guardrails import GuardrailChecker
    from engine.model.calls import Object
    from engine.model.run import Claim
    from engine.outbound.api import RequestRecorder


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


@dataclass(frozen=True, slots=True)
class PreparedStep:
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


def prepare_step(
    claim: Claim, clients: Clients, checker: GuardrailChecker, now: float, store: AttemptStore
) -> PreparedStep:
    """Check ``when`` and find the target.

    Raises SkippedError if there is nothing to do, PermanentError if the step may already be done.
    """
    step, action = claim.step, load_actions()[claim.step.action]
    unresolved = check_when(claim, clients)
    if claim.interrupted and not action.repeatable and not clients.dry:
        if not step.retry.unknown:
            raise PermanentError("interrupted, may have run (retry.unknown: true repeats the step)")
        require_current_claim(store.keep(claim, {INTERRUPTED: step.name}))
    target = _find_target(claim, action, clients, now)
    return PreparedStep(claim, clients, checker, now, store, action, target, unresolved)


def check_when(claim: Claim, clients: Clients) -> list[str]:
    """Raise SkippedError if a condition does not hold. Return the conditions that a preview cannot know."""
    unresolved = []
    results = {result.step: result for result in claim.results}
    for condition in claim.step.when:
        if isinstance(condition, Condition):
            truth = condition.holds(claim.run.event)
        elif condition.on_answer is None:
            result = results.get(condition.step)
            truth = result is not None and as_done(result.state) in condition.states
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


def as_done(state: str) -> str:
    """Return the state that later steps see. Previews go on as if all steps were done and approved."""
    return "done" if state in ("planned", "held") else state
