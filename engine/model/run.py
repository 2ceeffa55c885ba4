"""What outlives the playbook file: a run, a claim on its next step, the outcome of an attempt.

How a run goes from step to step is decided here, once, for the engine and for every preview.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from engine.model.calls import Call, ObjectChange, OutboundRequest
    from engine.model.event import Event
    from engine.model.playbook import Playbook, Step


RETRIED = "retried"
"""The fact of a run that a person had begin again."""


def run_id(identity: str, playbook: str) -> str:
    """The id of the run of that playbook on the event of that identity: 32 hex digits."""
    return hashlib.sha256(f"{identity}\0{playbook}".encode()).hexdigest()[:32]


def undo_id(run: str, step: str) -> str:
    """The id of the undoing of a run's step: 32 hex digits."""
    return hashlib.sha256(f"undo\0{run}\0{step}".encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended.

    retry_in: seconds until the next attempt, or None where this was the last. answered: whether it used one
    of the step's attempts up. calls, requests: what was sent, or would have been. answer: what a later
    step's ``when`` may look at; JSON. uid: of the pod or node that was found to be the target. error: a fault
    of the program itself, which ended the attempt. held_because: in a preview, why the step would be held.
    """

    state: str
    message: str
    retry_in: float | None = None
    answered: bool = False
    calls: tuple[Call, ...] = ()
    requests: tuple[OutboundRequest, ...] = ()
    answer: Any = None
    uid: str | None = None
    error: Exception | None = None
    held_because: str = ""


@dataclass(frozen=True, slots=True)
class StepResult:
    """How a step of a run stands: its name and its last outcome, as kept in the journal."""

    step: str
    state: str
    message: str = ""
    attempts: int = 0
    calls: tuple[Call, ...] = ()
    requests: tuple[OutboundRequest, ...] = ()
    answer: Any = None


class Run(msgspec.Struct, frozen=True):
    """One playbook's work on one event. A struct, for a frozen dataclass takes eight times as long to make.

    target: what no two attempts may touch at once. received: epoch seconds of the event's receipt.
    trace: the ``traceparent`` of the span that it came with, where there is one.
    """

    id: str
    playbook: Playbook
    event: Event
    received: float
    target: str
    trace: str = ""

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps, those of ``finally`` last."""
        return self.playbook.steps


@dataclass(frozen=True, slots=True)
class Notice:
    """A run that notifies people of a held step. attempt_state: its initial state, which describes the hold."""

    run: Run
    attempt_state: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Approval:
    """What a person answered about a held step. verdict: approve or deny."""

    verdict: str
    by: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to make one attempt at one step.

    attempt: counts from 1 over all claims of the step. answers: attempts used up before this one.
    began: epoch seconds of the step's first attempt. interrupted: the attempt before this one never
    reported its end. attempt_state: what earlier attempts of the run kept (``uid``: of the target; ``sent``:
    the steps whose call may have gone out). results: of the steps before this one. fence: grows with
    every claim of the run, so that a late attempt is told from the newest. undo: where the step is to be
    undone, the id of the undoing; changes: what it puts back.
    """

    run: Run
    position: int
    attempt: int = 1
    answers: int = 0
    began: float = 0.0
    interrupted: bool = False
    attempt_state: Mapping[str, Any] = field(default_factory=dict)
    results: tuple[StepResult, ...] = ()
    fence: int = 0
    undo: str | None = None
    changes: tuple[ObjectChange, ...] = ()

    @property
    def step(self) -> Step:
        """The step to attempt."""
        return self.run.steps[self.position]

    @property
    def approval(self) -> Approval | None:
        """What a person answered about the step, if it was held."""
        step, *answer = self.attempt_state.get("verdict") or (None,)
        return Approval(*answer) if step == self.step.name else None


def advance(claim: Claim, outcome: Outcome) -> tuple[tuple[StepResult, ...], int | None]:
    """The results once the step has ended so, and the position of the next step (None: the run is over).

    After a step that failed or was refused, with ``onFailure: stop``, the rest of ``actions`` is skipped;
    ``finally`` runs however the actions ended.
    """
    step, steps = claim.step, claim.run.steps
    ended = StepResult(
        step=step.name,
        state=outcome.state,
        message=outcome.message,
        attempts=claim.attempt,
        calls=outcome.calls,
        requests=outcome.requests,
        answer=outcome.answer,
    )
    results = [*claim.results, ended]
    stops = outcome.state in ("failed", "refused") and step.on_failure == "stop"
    position = claim.position + 1
    if stops and step.phase == "actions":
        while position < len(steps) and steps[position].phase == "actions":
            results.append(
                StepResult(steps[position].name, "skipped", f"{step.name} {outcome.state}")
            )
            position += 1
    return tuple(results), position if position < len(steps) else None


def run_outcome(results: Sequence[StepResult]) -> str:
    """The outcome of a run with these results: failed, refused, done (or planned) or skipped.

    A dry run waits for nobody. A step that it shows as held is therefore planned.
    """
    states = {"planned" if result.state == "held" else result.state for result in results}
    for state in ("failed", "refused", "done", "planned"):
        if state in states:
            return state
    return "skipped"
