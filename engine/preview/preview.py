"""Preview: plan and attempt with clients that send nothing. Used by plan, test, replay and dry run."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from engine.artifacts.api import ArtifactRecorder
from engine.cluster.api import CallRecorder
from engine.cluster.simulated import AssumedCluster
from engine.execution.attempt import Clients, attempt, when_holds
from engine.model.errors import InternalError
from engine.model.run import Claim, Outcome, advance
from engine.outbound.api import RequestRecorder
from engine.planning.planner import plan

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from engine.artifacts.url import ArtifactUrl
    from engine.cluster.api import Cluster, ClusterReader
    from engine.execution.guardrails import GuardrailChecker
    from engine.model.event import Event
    from engine.model.run import Run, StepResult
    from engine.planning.matcher import PlaybookIndex
    from engine.planning.planner import PlanningMemory


@dataclass(frozen=True, slots=True)
class PreviewedRun:
    """A run as it would go, with the results of its steps (empty if it is suppressed).

    holds: the steps that would be held -> why.
    """

    run: Run
    suppressed: str | None
    results: tuple[StepResult, ...] = ()
    holds: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PreviewContext:
    """The world in which a preview runs.

    Attributes:
        reads: the objects that exist, or None to assume the pod that each event names.
        forward: a cluster that checks each call and changes nothing (``dryRun=All``), or None.
        accounts: returns both for the ServiceAccount of ``runAs``, or None if the objects are given.
        hosts: hosts that http.request may call; None for all.
        stores: stores that artifacts may go to; None for all.
        outcomes: assumed outcomes: step -> state, or ``{answer: …}`` for done with that answer.

    """

    reads: ClusterReader | None = None
    forward: Cluster | None = None
    hosts: frozenset[str] | None = None
    stores: tuple[ArtifactUrl, ...] | None = None
    outcomes: Mapping[str, Any] = field(default_factory=dict)
    accounts: Callable[[str], tuple[ClusterReader, Cluster]] | None = None

    def clients(self, run: Run) -> Clients:
        """Return the clients for one attempt of a step of the run."""
        reads, forward = self.reads or AssumedCluster(run.event), self.forward
        if self.accounts and run.playbook.run_as:
            reads, forward = self.accounts(run.playbook.run_as)
        http = RequestRecorder(None, self.hosts)
        artifacts = ArtifactRecorder(http.requests, None, self.stores)
        return Clients(CallRecorder(reads, forward), http, dry=True, artifacts=artifacts)


def preview(
    event: Event,
    playbooks: PlaybookIndex,
    memory: PlanningMemory,
    checker: GuardrailChecker,
    context: PreviewContext,
) -> list[PreviewedRun]:
    """Return the runs of an event with all their steps. The clock is the event's time."""
    runs = []
    for planned in plan(event, playbooks, memory):
        if planned.suppressed is not None:
            runs.append(PreviewedRun(planned.run, planned.suppressed))
            continue
        previewed = _walk(planned.run, checker, context, event.time)
        if not any(result.state in ("planned", "done", "held") for result in previewed.results):
            memory.release(planned.run.id)
        runs.append(previewed)
    return runs


def _walk(run: Run, checker: GuardrailChecker, context: PreviewContext, now: float) -> PreviewedRun:
    """Attempt all steps of a run. A step that would be retried counts as failed. Raises InternalError."""
    claim: Claim | None = Claim(run, 0)
    results: tuple[StepResult, ...] = ()
    holds: dict[str, str] = {}
    while claim:
        clients = context.clients(run)
        outcome = attempt(claim, clients, checker, now)
        if outcome.error is not None:
            raise InternalError(outcome.error) from outcome.error
        if outcome.retry_in is not None:
            outcome = Outcome("failed", outcome.message, calls=outcome.calls)
        if claim.step.name in context.outcomes and when_holds(claim, clients):
            outcome = _assumed(context.outcomes[claim.step.name], outcome)
        if outcome.state == "held":
            holds[claim.step.name] = outcome.held_because
        results, position = advance(claim, outcome)
        claim = None if position is None else replace(claim, position=position, results=results)
    return PreviewedRun(run, None, results, holds)


def _assumed(ends: Any, outcome: Outcome) -> Outcome:
    """Return the outcome that a PlaybookTest assumes. ends: a state, or ``{answer: …}``."""
    if isinstance(ends, dict):
        return replace(outcome, state="done", message="assumed by the test", answer=ends["answer"])
    return replace(outcome, state=ends, message="assumed by the test")
