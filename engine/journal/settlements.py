"""The settlement of an attempt: what its outcome changes in the row of the run. Shared by the backends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from engine.journal import codec
from engine.model import json_codec
from engine.model.run import StepResult, advance, run_outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.journal.hydrate import Row
    from engine.model.run import Claim, Outcome

Kind = Literal["wait", "advance", "end"]


@dataclass(frozen=True, slots=True)
class ClaimKey:
    """The claim that a statement acts for. id: of the run or of the undo. target: names the target queue."""

    id: str
    fence: int
    target: str


@dataclass(frozen=True, slots=True)
class Settlement:
    """The settlement of one attempt. values: in the order of the functions below."""

    key: ClaimKey
    kind: Kind
    values: tuple[Any, ...]


def of_outcome(key: ClaimKey, claim: Claim, outcome: Outcome, now: float) -> tuple[Settlement, str]:
    """Return the settlement of an attempt, and the answer of ``Queue.settle`` if it is written.

    Not for the end of an undo.
    """
    if outcome.retry_in is not None:
        return _wait(key, claim, outcome, now + outcome.retry_in), "waiting"
    results, position = advance(claim, outcome)
    if position is None:
        over = run_outcome(results)
        return end(key, results, over, now), over
    step = claim.run.steps[position]
    values = (now, codec.from_results(results), position, step.pool, step.timeout)
    return Settlement(key, "advance", values), "next"


def end(key: ClaimKey, results: Sequence[StepResult], outcome: str, now: float) -> Settlement:
    """Return the settlement that ends a run. Values: results, outcome, time."""
    return Settlement(key, "end", (codec.from_results(results), outcome, now))


def of_unreadable(row: Row, target: str, why: str, now: float) -> Settlement:
    """Return the settlement that ends a run that this engine cannot read. It would be claimed again forever.

    row: the row from before the claim.
    """
    try:
        results = codec.to_results(row["results"])
    except (KeyError, TypeError, ValueError):
        results = ()
    results += (StepResult(f"step {row['position'] + 1}", "failed", why),)
    return end(ClaimKey(row["id"], row["fence"] + 1, target), results, "failed", now)


def _wait(key: ClaimKey, claim: Claim, outcome: Outcome, due_at: float) -> Settlement:
    """Return the settlement of a step that waits. Values: due_at, last result, attempts used, held."""
    last = json_codec.encode_json(codec.attempted(claim, outcome))
    values = (due_at, last, int(outcome.answered), outcome.state == "held")
    return Settlement(key, "wait", values)
