"""Whether an attempt that did not work is made again, and when: backoff, jitter, what a server asks for."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from engine.model.run import Outcome

if TYPE_CHECKING:
    from engine.model.errors import TemporaryError
    from engine.model.run import Claim

LONGEST = 3600.0
"""Seconds that a server may have us wait at most."""


def wait_before(attempt: int, first: float, most: float) -> float:
    """Seconds to wait before ``attempt``, which counts from 2; doubles each time from ``first``."""
    return float(min(first * 2 ** min(attempt - 2, 60), most))


def retry_outcome(claim: Claim, error: TemporaryError, now: float) -> Outcome:
    """The outcome of an attempt that may work later: a retry, or the end of patience."""
    step, retry = claim.step, claim.step.retry
    answers = claim.answers + error.answered
    out_of_time = step.effect == "notify" and now - claim.began >= retry.give_up and claim.began > 0
    gives_up = answers >= retry.attempts or (out_of_time and not error.answered)
    if gives_up and not claim.undo:  # what is cut off must not stay so
        message = f"gave up after {claim.attempt} attempts: {error}"
        return Outcome("failed", message, answered=error.answered)
    return Outcome("waiting", str(error), retry_in=_wait(claim, error), answered=error.answered)


def _wait(claim: Claim, error: TemporaryError) -> float:
    """Seconds until the next attempt: what the other side asks for, but no less than the step's own wait."""
    if error.again is not None:
        return error.again
    retry = claim.step.retry
    wait = wait_before(claim.attempt + 1, retry.delay, retry.max_delay)
    wait = min(wait * random.uniform(0.8, 1.2), retry.max_delay)  # noqa: S311 - spreads, keeps no secret
    if error.after is not None:  # never earlier than asked, and not all at once
        wait = max(wait, error.after * random.uniform(1.0, 1.2))  # noqa: S311 - the same
    return min(wait, LONGEST)
