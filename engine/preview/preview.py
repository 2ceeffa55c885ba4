"""What would happen: plan and attempt over clients that pass nothing on. For plan, tests, replay, dry-run."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from engine.cluster.api import CallRecorder
from engine.cluster.simulated import AssumedCluster
from engine.execution.attempt import Clients, attempt, when_holds
from engine.model.errors import InternalError
from engine.model.run import Claim, Outcome, advance
from engine.outbound.api import RequestRecorder
from engine.planning.planner import plan

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.cluster.api import Cluster, ClusterReader
    from engine.execution.guardrails import Guard
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
    """What previews see.

    reads: the objects that exist, or None for those that each event makes one assume. forward: a cluster
    that is asked about each call and changes nothing. hosts: those that http.request may call; None is all.
    outcomes: how steps are assumed to end: step -> a state, or ``{answer: …}`` for done with that answer.
    """

    reads: ClusterReader | None = None
    forward: Cluster | None = None
    hosts: frozenset[str] | None = None
    outcomes: Mapping[str, Any] = field(default_factory=dict)

    def clients(self, event: Event) -> Clients:
        """The clients for one attempt on the event."""
        reads = self.reads or AssumedCluster(event)
        return Clients(
            CallRecorder(reads, self.forward), RequestRecorder(None, self.hosts), dry=True
        )


def preview(
    event: Event,
    playbooks: PlaybookIndex,
    memory: PlanningMemory,
    guard: Guard,
    world: PreviewContext,
) -> list[PreviewedRun]:
    """The runs of the event, each walked to its end; the clock is the event's time."""
    runs = []
    for planned in plan(event, playbooks, memory):
        if planned.suppressed is not None:
            runs.append(PreviewedRun(planned.run, planned.suppressed))
            continue
        previewed = _walk(planned.run, guard, world, event.time)
        if not any(result.state in ("planned", "done", "held") for result in previewed.results):
            memory.release(planned.run.id)
        runs.append(previewed)
    return runs


def _walk(run: Run, guard: Guard, world: PreviewContext, now: float) -> PreviewedRun:
    """Attempt all steps of a run. A step that would be retried counts as failed. Raises InternalError."""
    claim: Claim | None = Claim(run, 0)
    results: tuple[StepResult, ...] = ()
    holds: dict[str, str] = {}
    while claim:
        clients = world.clients(run.event)
        outcome = attempt(claim, clients, guard, now)
        if outcome.error is not None:
            raise InternalError(outcome.error) from outcome.error
        if outcome.retry_in is not None:
            outcome = Outcome("failed", outcome.message, calls=outcome.calls)
        if claim.step.name in world.outcomes and when_holds(claim, clients):
            outcome = _assumed(world.outcomes[claim.step.name], outcome)
        if outcome.state == "held":
            holds[claim.step.name] = outcome.held_because
        results, position = advance(claim, outcome)
        claim = None if position is None else replace(claim, position=position, results=results)
    return PreviewedRun(run, None, results, holds)


def _assumed(ends: Any, outcome: Outcome) -> Outcome:
    """The outcome as a PlaybookTest assumes it. ends: a state, or ``{answer: …}``."""
    if isinstance(ends, dict):
        return replace(outcome, state="done", message="assumed by the test", answer=ends["answer"])
    return replace(outcome, state=ends, message="assumed by the test")
