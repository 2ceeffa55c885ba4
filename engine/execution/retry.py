"""Retries: whether a failed attempt is repeated, and when (backoff, jitter, Retry-After)."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from engine.model.run import Outcome

if TYPE_CHECKING:
    from engine.model.errors import TemporaryError
    from engine.model.run import Claim

MAX_WAIT = 3600.0
"""The longest wait that a server can ask for, in seconds."""


UNDO_MAX_WAIT = 600.0
"""The longest wait, in seconds, between two attempts of an undo that the API server refuses."""


def undo_wait(attempt: int) -> float:
    """Return the seconds until the next attempt of an undo. attempt: the number of the last one, from 1.

    The API server may refuse an undo for days, for example because a right is missing. It is attempted until a
    person removes the cause. Until then, its object stays changed.
    """
    return wait_before(attempt + 1, 5.0, UNDO_MAX_WAIT)


def wait_before(attempt: int, first: float, most: float) -> float:
    """Return the seconds to wait before ``attempt`` (2 or more). Doubles from ``first`` up to ``most``."""
    return float(min(first * 2 ** min(attempt - 2, 60), most))


def retry_outcome(claim: Claim, error: TemporaryError, now: float) -> Outcome:
    """Return the outcome of an attempt that raised TemporaryError: ``waiting``, or ``failed`` after the last.

    The undo of a step never gives up: otherwise its pod would stay isolated.
    """
    step, retry = claim.step, claim.step.retry
    answers = claim.answers + error.answered
    out_of_time = step.effect == "notify" and now - claim.began >= retry.give_up and claim.began > 0
    gives_up = answers >= retry.attempts or (out_of_time and not error.answered)
    if gives_up and not claim.undo:
        message = f"gave up after {claim.attempt} attempts: {error}"
        return Outcome("failed", message, answered=error.answered)
    return Outcome("waiting", str(error), retry_in=_wait(claim, error), answered=error.answered)


def _wait(claim: Claim, error: TemporaryError) -> float:
    """Return the seconds until the next attempt.

    This is the longer of the wait of the step and the wait that the server asks for, with jitter.
    """
    if error.again is not None:
        return error.again
    retry = claim.step.retry
    wait = wait_before(claim.attempt + 1, retry.delay, retry.max_delay)
    wait = min(wait * random.uniform(0.8, 1.2), retry.max_delay)  # noqa: S311 - jitter, not a secret
    if error.after is not None:  # never earlier than asked, and not all attempts at once
        wait = max(wait, error.after * random.uniform(1.0, 1.2))  # noqa: S311 - jitter, not a secret
    return min(wait, MAX_WAIT)
