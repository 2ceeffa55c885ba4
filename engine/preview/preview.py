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
    from collections.abc import Iterator, Mapping

    from engine.cluster.api import Cluster, ClusterReader
    from engine.execution.guardrails import Guard
    from engine.model.event import Event
    from engine.model.run import Run, StepResult
    from engine.planning.matcher import PlaybookIndex
    from engine.planning.planner import PlanningMemory


@dataclass(frozen=True, slots=True)
class PreviewedRun:
    """A run as it would go; ``results`` are its steps', empty where it is suppressed."""

    run: Run
    suppressed: str | None
    results: tuple[StepResult, ...] = ()


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
        results: tuple[StepResult, ...] = ()
        if planned.suppressed is None:
            results = walk(planned.run, guard, world, event.time)
            if not any(result.state in ("planned", "done", "held") for result in results):
                memory.release(planned.run.id)
        runs.append(PreviewedRun(planned.run, planned.suppressed, results))
    return runs


def walk(run: Run, guard: Guard, world: PreviewContext, now: float) -> tuple[StepResult, ...]:
    """The results of all steps of a run; a step that would be tried again counts as failed.

    Raises InternalError.
    """
    return tuple(_walk(run, guard, world, now))


def _walk(run: Run, guard: Guard, world: PreviewContext, now: float) -> Iterator[StepResult]:
    claim: Claim | None = Claim(run, 0)
    told = 0
    while claim:
        clients = world.clients(run.event)
        outcome = attempt(claim, clients, guard, now)
        if outcome.error is not None:
            raise InternalError(outcome.error) from outcome.error
        if outcome.retry_in is not None:
            outcome = Outcome("failed", outcome.message, calls=outcome.calls)
        if claim.step.name in world.outcomes and when_holds(claim, clients):
            outcome = _assumed(world.outcomes[claim.step.name], outcome)
        results, position = advance(claim, outcome)
        yield from results[told:]
        told = len(results)
        claim = None if position is None else replace(claim, position=position, results=results)


def _assumed(ends: Any, outcome: Outcome) -> Outcome:
    """The outcome as a PlaybookTest assumes it. ends: a state, or ``{answer: …}``."""
    if isinstance(ends, dict):
        return replace(outcome, state="done", message="assumed by the test", answer=ends["answer"])
    return replace(outcome, state=ends, message="assumed by the test")
