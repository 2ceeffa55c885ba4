"""The rule by which decisions of operators end a hold. Shared by the backends."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from engine.journal.records import DecisionResult
from engine.model.attempt_state import RETRIED
from engine.model.operator_identity import may_be_same_person

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.journal.records import Decision
    from engine.model.playbook import Step
    from engine.model.run import StepResult

MAX_DECISIONS = 20
"""Decisions that a run keeps, the newest."""


def decide(
    attempt_state: Mapping[str, Any], decision: Decision, approvals: int
) -> tuple[dict[str, Any], DecisionResult] | None:
    """Return the attempt state with the decision of a held run, and what it does.

    approvals: the number of different operators who must approve. One denial always ends the hold.
    None if the run is held at another step than that of the decision.
    """
    step = (attempt_state.get("held") or [None])[0]
    if decision.step and step is not None and step != decision.step:
        return None
    approved = _approvals(attempt_state, step)
    if decision.what == "approve":
        if any(may_be_same_person(decision.by, by) for by, _ in approved):
            names = tuple(by for by, _ in approved)
            return dict(attempt_state), DecisionResult(
                approvals - len(approved), names, counts=False
            )
        approved = [*approved, [decision.by, decision.reason]]
    names = tuple(by for by, _ in approved)
    state = {**with_decision(attempt_state, decision), "approvals": [step, approved]}
    if decision.what == "approve" and len(approved) < approvals:
        return state, DecisionResult(approvals - len(approved), names)
    by, reason = decision.by, decision.reason
    if decision.what == "approve":
        by = " and ".join(names)
        reason = "; ".join(why for _, why in approved if why)
    return {**state, "verdict": [step, decision.what, by, reason]}, DecisionResult(0, names)


def with_decision(attempt_state: Mapping[str, Any], decision: Decision) -> dict[str, Any]:
    """Return the attempt state with one more decision in its list."""
    decisions = [*attempt_state.get("decisions", ()), dataclasses.asdict(decision)]
    return {**attempt_state, "decisions": decisions[-MAX_DECISIONS:]}


@dataclasses.dataclass(frozen=True, slots=True)
class Retry:
    """Where a finished run starts again. results: of the steps before that step."""

    run: str
    target: str
    position: int
    step: Step
    results: tuple[StepResult, ...]


def retried(attempt_state: Mapping[str, Any], decision: Decision) -> dict[str, Any]:
    """Return the attempt state of a run that starts again: without a hold, and without its decision."""
    gone = ("held", "verdict", "approvals")
    kept = {key: value for key, value in attempt_state.items() if key not in gone}
    return {**with_decision(kept, decision), RETRIED: True}


def _approvals(attempt_state: Mapping[str, Any], step: str | None) -> list[list[str]]:
    """Return who approved the held step, each with the reason."""
    held, approved = attempt_state.get("approvals") or (None, [])
    return list(approved) if held == step else []
