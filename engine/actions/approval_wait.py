"""approval.wait: hold the run until operators approve or deny it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from engine.actions.composite_parameters import ListOf
from engine.actions.parameters import Duration, Integer, OperatorName
from engine.actions.registry import StepContext, action
from engine.model.errors import HeldError
from engine.model.operator_identity import canonical_operator

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_APPROVALS = 10
"""Largest number of operators that a step can ask for."""


def _check(given: Mapping[str, Any]) -> str | None:
    names, approvals = given.get("from"), given.get("approvals", 1)
    if not isinstance(names, list) or not isinstance(approvals, int):
        return None
    people = {canonical_operator(name) for name in names if isinstance(name, str)}
    if len(people) >= approvals:
        return None
    return f"`approvals: {approvals}` needs {approvals} different operators in `from`"


@action(
    "approval.wait",
    effect="observe",
    example={"timeout": "30m", "from": ["alice", "bob"], "approvals": 2},
    check=_check,
)
def wait_for_approval(
    context: StepContext,
    *,
    timeout: Annotated[float, Duration()] = 900.0,
    from_: Annotated[list[str] | None, ListOf(OperatorName())] = None,
    approvals: Annotated[int, Integer(1, MAX_APPROVALS)] = 1,
) -> str:
    """Hold the run until operators decide: `tiercel approve RUN`, `tiercel deny RUN`, or a Slack button.

    The steps of `onHeld` in the Guardrails notify the operators. If one operator denies, the step is refused.
    The other steps are then skipped, except those of `finally`. With `onFailure: continue`, they run.

    timeout: how long the run waits. Then the step is denied.
    from_: the operators who can decide. The default is every operator.
    approvals: the number of different operators who must approve. The same operator counts once.
    """
    if context.approved_by is None:
        who = f" from {' or '.join(from_)}" if from_ else ""
        what = "an approval" if approvals == 1 else f"{approvals} approvals"
        raise HeldError(f"waits for {what}{who}", timeout)
    return f"approved by {context.approved_by}"
