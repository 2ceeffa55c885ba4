"""The worker pool: claim a step, attempt it, settle the outcome.

Cluster steps have their own threads, so slow steps (messages, HTTP requests) do not delay them.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import structlog

from engine.execution.attempt import Clients, attempt
from engine.journal.protocol import Queue, UndoLog
from engine.model.errors import JournalError, TemporaryError, UnwritableError
from engine.model.run import advance
from engine.telemetry.events import UNWRITTEN, AttemptEnded
from engine.telemetry.fault_log import FaultLog

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from engine.execution.guardrails import GuardrailChecker
    from engine.model.calls import ObjectChange
    from engine.model.playbook import Pool
    from engine.model.run import Claim, Notice, Outcome, Run
    from engine.telemetry.events import Observers

log = structlog.get_logger()
POLL_INTERVAL = 1.0
"""The longest time between two claims, in seconds. Also the wait after a journal error."""
SHARED_POLL_INTERVAL = 0.25
"""The same for a shared journal, into which other replicas write without waking this one."""


class ExecutionJournal(Queue, UndoLog, Protocol):
    """The parts of the journal that execution uses."""


class _JournalStore:
    """The journal as an ``AttemptStore``. If a write fails, the attempt ends as if another had taken over."""

    def __init__(self, journal: ExecutionJournal) -> None:
        self._journal = journal

    def undo_times(self, key: str, exclude: str | None = None) -> list[float | None]:
        """See AttemptStore.undo_times. Raises TemporaryError if the journal cannot be read."""
        try:
            return self._journal.undo_times(key, exclude)
        except JournalError as error:
            raise TemporaryError(str(error)) from None

    def keep(
        self, claim: Claim, attempt_state: Mapping[str, object], notice: Notice | None = None
    ) -> bool:
        """See AttemptStore.keep."""
        try:
            return self._journal.keep(claim, attempt_state, notice)
        except JournalError:
            return False

    def add_undo_intent(
        self,
        claim: Claim,
        changes: Sequence[ObjectChange],
        until: float | None,
        attempt_state: Mapping[str, object],
    ) -> bool:
        """See AttemptStore.add_undo_intent."""
        try:
            return self._journal.add_undo_intent(claim, changes, until, attempt_state)
        except JournalError:
            return False


@dataclass(frozen=True, slots=True)
class Capacity:
    """The limits of concurrent attempts.

    sizes: the attempts that each pool makes at once. available_slots: returns how many more cluster steps can
    start now, from the number of those in progress (None: no limit).
    """

    sizes: Mapping[Pool, int]
    available_slots: Callable[[int], int | None] = lambda _: None


class WorkerPool:
    """The threads that run claimed steps.

    clients: returns the clients for an attempt. checker: returns the checker of the guardrails in force.
    on_no_effect: called with each run that ended and has no step that is done or planned. poll_interval: the
    longest time between two claims, in seconds.
    """

    def __init__(
        self,
        journal: ExecutionJournal,
        clients: Callable[[Claim], Clients],
        checker: Callable[[], GuardrailChecker],
        observers: Observers,
        *,
        capacity: Capacity,
        now: Callable[[], float],
        on_no_effect: Callable[[Run], None],
        poll_interval: float = POLL_INTERVAL,
    ) -> None:
        self._journal, self._clients, self._checker = journal, clients, checker
        sizes = capacity.sizes
        self._observers, self._sizes, self._now = observers, sizes, now
        self._poll_interval = poll_interval
        self._on_no_effect, self._available_slots = on_no_effect, capacity.available_slots
        self._store = _JournalStore(journal)
        self._fault = FaultLog("journal", holding_up="runs")
        self._cluster_is_full = False
        self._in_progress: dict[Pool, int] = dict.fromkeys(sizes, 0)
        self._settling: dict[Pool, int] = dict.fromkeys(sizes, 0)
        self._wake = threading.Condition()
        self._woken = False
        self._stopping = threading.Event()
        self._executors = {
            pool: ThreadPoolExecutor(2 * size, thread_name_prefix=f"tiercel-{pool}")
            for pool, size in sizes.items()
        }
        self._dispatcher = threading.Thread(
            target=self._dispatch, name="tiercel-dispatch", daemon=True
        )

    def start(self) -> None:
        """Start claiming steps."""
        self._dispatcher.start()

    def ended(self) -> str | None:
        """Return the name of the thread that claims steps if it has ended, else None."""
        return None if self._dispatcher.is_alive() else self._dispatcher.name

    def wake(self) -> None:
        """Claim now: a step may be due."""
        with self._wake:
            self._woken = True
            self._wake.notify()

    def stop(self, grace: float | None = None) -> bool:
        """Stop claiming, and wait for the attempts in progress. Return whether all of them ended.

        grace: the longest wait, in seconds (None: no limit). An attempt that did not end is made again after
        its lease.
        """
        self._stopping.set()
        self.wake()
        if self._dispatcher.is_alive():
            self._dispatcher.join()
        with self._wake:
            ended = self._wake.wait_for(lambda: not self._is_working(), grace)
        for executor in self._executors.values():
            executor.shutdown(wait=ended)
        return ended

    def _dispatch(self) -> None:
        while not self._stopping.is_set():
            try:
                for pool in self._executors:
                    self._claim(pool)
                wait = self._until_due()
                self._fault.clear()
            except JournalError as error:
                self._fault.report(str(error))
                wait = POLL_INTERVAL
            with self._wake:
                if not self._woken:
                    self._wake.wait(wait)
                self._woken = False

    def _claim(self, pool: Pool) -> None:
        """Claim as many steps as the pool can attempt now, and start the attempts."""
        with self._wake:
            in_progress = self._in_progress[pool]
            free = self._free_threads(pool)
        if pool == "cluster" and free > 0:
            slots = self._available_slots(in_progress)
            self._cluster_is_full = slots is not None and slots < free
            free = min(free, free if slots is None else slots)
        if free <= 0:
            return
        for claim in self._journal.claim(pool, free, self._now()):
            with self._wake:
                self._in_progress[pool] += 1
            self._executors[pool].submit(self._work, pool, claim)

    def _until_due(self) -> float:
        """Return the seconds until a step is due that a pool can attempt, at most the poll interval."""
        due = [self._journal.next_due(pool) for pool in self._executors if self._can_start(pool)]
        first = min((at for at in due if at is not None), default=None)
        if first is None:
            return self._poll_interval
        return min(max(first - self._now(), 0.0), self._poll_interval)

    def _can_start(self, pool: Pool) -> bool:
        if pool == "cluster" and self._cluster_is_full:
            return False  # polled: the circuit breaker does not wake this thread when it closes
        with self._wake:
            return self._free_threads(pool) > 0

    def _free_threads(self, pool: Pool) -> int:
        """Return how many attempts can start.

        Outcomes that wait for the disk do not block new attempts until they are as many as the pool's size.
        """
        size = self._sizes[pool]
        return min(size, 2 * size - self._settling[pool]) - self._in_progress[pool]

    def _is_working(self) -> bool:
        return any((*self._in_progress.values(), *self._settling.values()))

    def _work(self, pool: Pool, claim: Claim) -> None:
        """Make one attempt, and settle its outcome."""
        began = time.monotonic()
        try:
            outcome = attempt(
                claim, self._clients(claim), self._checker(), self._now(), self._store
            )
        except BaseException:  # whatever it is, the slot of the attempt must be free again
            self._count(pool, in_progress=-1)
            raise
        if outcome.error is not None:
            run, step = claim.run.id, claim.step.name
            log.error("attempt_failed", run=run, step=step, exc_info=outcome.error)
        self._count(pool, in_progress=-1, settling=1)
        try:
            self._settle(claim, outcome, time.monotonic() - began)
        finally:
            self._count(pool, settling=-1)

    def _count(self, pool: Pool, *, in_progress: int = 0, settling: int = 0) -> None:
        """Change the counts of a pool, and wake the dispatcher."""
        with self._wake:
            self._in_progress[pool] += in_progress
            self._settling[pool] += settling
            self._woken = True
            self._wake.notify_all()

    def _settle(self, claim: Claim, outcome: Outcome, seconds: float) -> None:
        """Write the outcome to the journal. If the journal fails, retry until the engine stops.

        seconds: the duration of the attempt.
        """
        became: str | None = None
        while True:
            try:
                became = self._journal.settle(claim, outcome, self._now())
                if became is None:
                    log.warning("late_outcome_ignored", run=claim.run.id, step=claim.step.name)
                break
            except UnwritableError as error:
                if outcome.answer is None and not outcome.calls and not outcome.requests:
                    log.error("outcome_unwritable", run=claim.run.id, error=str(error))
                    break
                outcome = replace(outcome, answer=None, calls=(), requests=())
            except JournalError as error:
                self._fault.report(str(error))
                if self._stopping.wait(POLL_INTERVAL):
                    break
        became = became or UNWRITTEN
        over = became not in ("waiting", "next", UNWRITTEN) and not claim.undo
        results = advance(claim, outcome)[0] if over else ()
        self._observers.notify(AttemptEnded(claim, outcome, became, self._now(), results, seconds))
        if over and not any(result.state in ("done", "planned") for result in results):
            self._on_no_effect(claim.run)
