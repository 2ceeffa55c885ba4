"""approval.wait: hold the run until an operator approves or denies it."""

from __future__ import annotations

from typing import Annotated

from engine.actions.composite_parameters import ListOf
from engine.actions.parameters import Duration, OperatorName
from engine.actions.registry import StepContext, action
from engine.model.errors import HeldError


@action("approval.wait", effect="observe", example={"timeout": "30m", "from": ["alice", "bob"]})
def wait_for_approval(
    context: StepContext,
    *,
    timeout: Annotated[float, Duration()] = 900.0,
    from_: Annotated[list[str] | None, ListOf(OperatorName())] = None,
) -> str:
    """Hold the run until an operator approves or denies it: `tiercel approve RUN`, `tiercel deny RUN`.

    The steps of `onHeld` in the Guardrails notify the operators. A denied step is refused, and the run does not
    continue with its next step.

    timeout: how long the run waits. Then the step is denied.
    from_: the operators who can decide. The default is every operator.
    """
    if context.approved_by is None:
        who = f" from {' or '.join(from_)}" if from_ else ""
        raise HeldError(f"waits for an approval{who}", timeout)
    return f"approved by {context.approved_by}"
