"""The settler: write the outcomes of attempts to the journal, then notify the observers."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from dataclasses import replace
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, NamedTuple, Protocol

import structlog

from engine.model.errors import JournalError, UnwritableError
from engine.model.run import advance
from engine.telemetry.events import UNWRITTEN, AttemptEnded

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.model.playbook import Pool
    from engine.model.run import Claim, Outcome, Run
    from engine.telemetry.events import Observers
    from engine.telemetry.fault_log import FaultLog

log = structlog.get_logger()
RETRY_INTERVAL = 1.0
"""Seconds after which outcomes are written again that the journal did not accept."""


class OutcomeJournal(Protocol):
    """The part of the journal that the settler uses."""

    def begin_settle(self, claim: Claim, outcome: Outcome, now: float) -> Callable[[], str | None]:
        """See Queue.begin_settle."""
        ...


class _Settling(NamedTuple):
    """An outcome on its way to disk. seconds: the duration of the attempt. wait: see Queue.begin_settle."""

    pool: Pool
    claim: Claim
    outcome: Outcome
    seconds: float
    wait: Callable[[], str | None] = partial(str, UNWRITTEN)


class Settler:
    """Takes outcomes from the workers, which do not wait for the disk. One thread waits for all of them.

    An outcome that the journal does not accept does not delay the others.

    now: epoch seconds. settled: called with the pool and the number of its outcomes that are settled.
    on_no_effect: called with each run that ended and has no step that is done or planned.
    """

    def __init__(
        self,
        journal: OutcomeJournal,
        observers: Observers,
        *,
        now: Callable[[], float],
        settled: Callable[[Pool, int], None],
        on_no_effect: Callable[[Run], None],
        fault: FaultLog,
    ) -> None:
        self._journal, self._observers, self._now = journal, observers, now
        self._settled, self._on_no_effect, self._fault = settled, on_no_effect, fault
        self._waiting: SimpleQueue[_Settling | None] = SimpleQueue()
        self._giving_up = self._stopping = False
        self._thread = threading.Thread(target=self._run, name="tiercel-settle", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def ended(self) -> str | None:
        """Return the name of the thread if it has ended, else None."""
        return None if self._thread.is_alive() else self._thread.name

    def settle(self, pool: Pool, claim: Claim, outcome: Outcome, seconds: float) -> None:
        """Begin to write an outcome. seconds: the duration of the attempt."""
        self._waiting.put(self._begin(_Settling(pool, claim, outcome, seconds)))

    def give_up(self) -> None:
        """Do not write outcomes again that the journal does not accept."""
        self._giving_up = True
        self._waiting.put(None)

    def stop(self) -> None:
        """Wait until all outcomes are written or given up, and end the thread."""
        self._stopping = True
        self._waiting.put(None)
        if self._thread.is_alive():
            self._thread.join()

    def _begin(self, settling: _Settling) -> _Settling:
        """Give an outcome to the journal."""
        try:
            wait = self._journal.begin_settle(settling.claim, settling.outcome, self._now())
        except JournalError as error:
            wait = partial(_raise, error)
        return settling._replace(wait=wait)

    def _run(self) -> None:
        failed: list[_Settling] = []
        again = 0.0
        while failed or not (self._stopping and self._waiting.empty()):
            some = self._take(again - time.monotonic() if failed else None)
            if failed and (self._giving_up or time.monotonic() >= again):
                some, failed = [*map(self._begin, failed), *some], []
            refused = self._finish(some)
            if refused and not failed:
                again = time.monotonic() + RETRY_INTERVAL
            failed += refused

    def _take(self, timeout: float | None) -> list[_Settling]:
        """Return all outcomes that wait. If there are none, wait for one, at most ``timeout`` seconds."""
        some = []
        with contextlib.suppress(Empty):
            some.append(self._waiting.get(timeout=None if timeout is None else max(0.0, timeout)))
            while True:
                some.append(self._waiting.get_nowait())
        return [one for one in some if one is not None]

    def _finish(self, some: list[_Settling]) -> list[_Settling]:
        """Wait until outcomes are on disk, and notify the observers. Return those to write again."""
        failed = [one for one in some if not self._finish_one(one)]
        if self._giving_up:
            for one in failed:
                self._end(one, UNWRITTEN)
            failed = []
        pools = Counter(one.pool for one in some)
        pools.subtract(one.pool for one in failed)
        for pool, number in pools.items():
            self._settled(pool, number)
        return failed

    def _finish_one(self, settling: _Settling) -> bool:
        """Wait until an outcome is on disk, and notify. Return False if the journal did not accept it."""
        claim, outcome = settling.claim, settling.outcome
        try:
            became = settling.wait()
        except UnwritableError as error:
            if outcome.answer is not None or outcome.calls or outcome.requests:
                bare = replace(outcome, answer=None, calls=(), requests=())
                return self._finish_one(self._begin(settling._replace(outcome=bare)))
            log.error("outcome_unwritable", run=claim.run.id, error=str(error))
            became = UNWRITTEN
        except JournalError as error:
            self._fault.report(str(error))
            return False
        if became is None:
            log.warning("late_outcome_ignored", run=claim.run.id, step=claim.step.name)
        self._end(settling, became or UNWRITTEN)
        return True

    def _end(self, settling: _Settling, became: str) -> None:
        """Notify the observers of an outcome."""
        claim, outcome = settling.claim, settling.outcome
        over = became not in ("waiting", "next", UNWRITTEN) and not claim.undo
        results = advance(claim, outcome)[0] if over else ()
        ended = AttemptEnded(claim, outcome, became, self._now(), results, settling.seconds)
        self._observers.notify(ended)
        if over and not any(result.state in ("done", "planned") for result in results):
            self._on_no_effect(claim.run)


def _raise(error: JournalError) -> str | None:
    raise error
