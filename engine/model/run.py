"""A run, a claim on its next step, and the outcome of an attempt.

``advance`` decides which step follows. The engine and the previews share it.
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


def run_id(identity: str, playbook: str) -> str:
    """Return the id of a playbook's run on an event: 32 hex digits. identity: of the event."""
    return hashlib.sha256(f"{identity}\0{playbook}".encode()).hexdigest()[:32]


def undo_id(run: str, step: str) -> str:
    """Return the id of the run that undoes a step: 32 hex digits. run: id of the run with the step."""
    return hashlib.sha256(f"undo\0{run}\0{step}".encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended.

    Attributes:
        state: ``done``, ``failed``, ``held``, …
        retry_in: seconds until the next attempt, or None if this was the last.
        answered: whether it used one of the step's attempts.
        calls: calls to the API server that were sent, or in a preview would be sent.
        requests: HTTP requests, in the same way.
        answer: JSON that the ``when`` of a later step can test.
        uid: uid of the pod or node that was the target.
        error: a bug of the engine that ended the attempt.
        held_because: in a preview, why the step would be held.

    """

    state: str
    message: str
    retry_in: float | None = None
    answered: bool = False
    calls: tuple[Call, ...] = ()
    requests: tuple[OutboundRequest, ...] = ()
    answer: Any = None
    uid: str | None = None
    error: BaseException | None = None
    held_because: str = ""


@dataclass(frozen=True, slots=True)
class StepResult:
    """The last outcome of a step, as the journal stores it."""

    step: str
    state: str
    message: str = ""
    attempts: int = 0
    calls: tuple[Call, ...] = ()
    requests: tuple[OutboundRequest, ...] = ()
    answer: Any = None


class Run(msgspec.Struct, frozen=True):
    """The work of one playbook on one event.

    It is a struct because a frozen dataclass takes eight times as long to create.

    Attributes:
        received: epoch seconds at which the event was received.
        target: key of the target queue; attempts of one key run one at a time.
        trace: ``traceparent`` of the span of the event, or "".
        revision: of the set of playbooks that the run was planned with, "" if unknown.

    """

    id: str
    playbook: Playbook
    event: Event
    received: float
    target: str
    trace: str = ""
    revision: str = ""

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps; those of ``finally`` are last."""
        return self.playbook.steps


@dataclass(frozen=True, slots=True)
class Notice:
    """A run that notifies people of a held step. attempt_state: its first state, which describes the hold."""

    run: Run
    attempt_state: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Approval:
    """The answer of a person about a held step. verdict: ``approve`` or ``deny``."""

    verdict: str
    by: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to make one attempt of one step.

    Attributes:
        position: index of the step in the run.
        attempt: number of the attempt over all claims of the step, from 1.
        answers: attempts that were used before this one.
        began: epoch seconds of the step's first attempt.
        interrupted: whether the previous attempt did not report its outcome.
        attempt_state: data that earlier attempts of the run saved. ``uid``: uid of the target.
            ``sent``: the step whose call may have been sent.
        results: results of the earlier steps.
        fence: increases with every claim of the run, so that a late attempt can be recognised.
        replica: identity under which a replica made the claim in a shared journal, otherwise None.
        undo: id of the undo run if the step is to be undone, otherwise None.
        changes: the changes that the undo reverts.

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
    replica: int | None = None
    undo: str | None = None
    changes: tuple[ObjectChange, ...] = ()

    @property
    def step(self) -> Step:
        """The step to attempt."""
        return self.run.steps[self.position]

    @property
    def approval(self) -> Approval | None:
        """The approval or denial of the step, or None."""
        step, *answer = self.attempt_state.get("verdict") or (None,)
        return Approval(*answer) if step == self.step.name else None


def advance(claim: Claim, outcome: Outcome) -> tuple[tuple[StepResult, ...], int | None]:
    """Return the results with the outcome of the claimed step, and the position of the next step.

    The position is None if the run is over. If a step with ``onFailure: stop`` fails or is refused, the
    other steps of ``actions`` are skipped. The steps of ``finally`` always run.
    """
    step, steps = claim.step, claim.run.steps
    result = StepResult(
        step=step.name,
        state=outcome.state,
        message=outcome.message,
        attempts=claim.attempt,
        calls=outcome.calls,
        requests=outcome.requests,
        answer=outcome.answer,
    )
    results = [*claim.results, result]
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
    """Return the outcome of a run: failed, refused, done (or planned) or skipped.

    A dry run does not wait for an approval, so a held step counts as planned.
    """
    states = {"planned" if result.state == "held" else result.state for result in results}
    for state in ("failed", "refused", "done", "planned"):
        if state in states:
            return state
    return "skipped"
