"""The worker pool: claim a step, attempt it, settle the outcome.

Cluster steps have their own threads, so slow steps (messages, HTTP requests) do not delay them.
"""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

import structlog

from engine.execution.attempt import Clients, attempt
from engine.execution.settler import Settler
from engine.execution.worker_threads import WorkerThreads
from engine.journal.protocol import Queue, UndoLog
from engine.model.errors import JournalError, PermanentError, TemporaryError, UnwritableError
from engine.telemetry.fault_log import FaultLog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from engine.execution.guardrails import GuardrailChecker
    from engine.model.calls import ObjectChange
    from engine.model.playbook import Pool
    from engine.model.run import Claim, Notice, Run
    from engine.telemetry.events import Observers

log = structlog.get_logger()
POLL_INTERVAL = 1.0
"""The longest time between two claims, in seconds. Also the wait after a journal error."""
SHARED_POLL_INTERVAL = 0.25
"""The same for a shared journal, into which other replicas write without waking this one."""


class ExecutionJournal(Queue, UndoLog, Protocol):
    """The parts of the journal that execution uses."""


class _JournalStore:
    """The journal as an ``AttemptStore``. Its errors become those of a step: TemporaryError, PermanentError."""

    def __init__(self, journal: ExecutionJournal) -> None:
        self._journal = journal

    def undo_times(self, key: str, exclude: str | None = None) -> list[float | None]:
        """See AttemptStore.undo_times."""
        with _errors_of_steps():
            return self._journal.undo_times(key, exclude)

    def keep(
        self, claim: Claim, attempt_state: Mapping[str, object], notice: Notice | None = None
    ) -> bool:
        """See AttemptStore.keep."""
        with _errors_of_steps():
            return self._journal.keep(claim, attempt_state, notice)

    def add_undo_intent(
        self,
        claim: Claim,
        changes: Sequence[ObjectChange],
        until: float | None,
        attempt_state: Mapping[str, object],
    ) -> bool:
        """See AttemptStore.add_undo_intent."""
        with _errors_of_steps():
            return self._journal.add_undo_intent(claim, changes, until, attempt_state)


@contextlib.contextmanager
def _errors_of_steps() -> Iterator[None]:
    """Raise PermanentError for a value that cannot be stored, TemporaryError for other errors of the journal."""
    try:
        yield
    except UnwritableError as error:
        raise PermanentError(str(error)) from None
    except JournalError as error:
        raise TemporaryError(str(error)) from None


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
        self._sizes, self._now = sizes, now
        self._poll_interval = poll_interval
        self._available_slots = capacity.available_slots
        self._store = _JournalStore(journal)
        self._fault = FaultLog("journal", holding_up="runs")
        self._in_progress: dict[Pool, int] = dict.fromkeys(sizes, 0)
        self._settling: dict[Pool, int] = dict.fromkeys(sizes, 0)
        self._wake = threading.Condition()
        self._woken = False
        self._expected: set[Pool] = set(sizes)
        self._stopping = threading.Event()
        self._threads = {
            pool: WorkerThreads(size, f"tiercel-{pool}") for pool, size in sizes.items()
        }
        self._settler = Settler(
            journal,
            observers,
            now=now,
            settled=lambda pool, number: self._count(pool, settling=-number),
            on_no_effect=on_no_effect,
            fault=self._fault,
        )
        self._dispatcher = threading.Thread(
            target=self._dispatch, name="tiercel-dispatch", daemon=True
        )

    def start(self) -> None:
        """Start claiming steps."""
        self._settler.start()
        for threads in self._threads.values():
            threads.start()
        self._dispatcher.start()

    def ended(self) -> str | None:
        """Return the name of a thread that claims steps or settles outcomes if it has ended, else None."""
        return self._settler.ended() or (
            None if self._dispatcher.is_alive() else self._dispatcher.name
        )

    def wake(self) -> None:
        """Claim now: a step may be due."""
        with self._wake:
            self._woken = True
            self._expected.update(self._sizes)
            self._wake.notify()

    def stop(self, grace: float | None = None) -> bool:
        """Stop claiming, and wait for the attempts in progress. Return whether all of them ended.

        grace: the longest wait, in seconds (None: no limit). An attempt that did not end is made again after
        its lease.
        """
        self._stopping.set()
        self._settler.give_up()
        self.wake()
        if self._dispatcher.is_alive():
            self._dispatcher.join()
        with self._wake:
            ended = self._wake.wait_for(lambda: not self._is_working(), grace)
        for threads in self._threads.values():
            threads.stop(wait=ended)
        if ended:
            self._settler.stop()
        return ended

    def _dispatch(self) -> None:
        while not self._stopping.is_set():
            try:
                wait = min([self._claim(pool) for pool in self._sizes])
                self._fault.clear()
            except JournalError as error:
                self._fault.report(str(error))
                wait = POLL_INTERVAL
            with self._wake:
                if not self._woken:
                    self._wake.wait(wait)
                self._woken = False

    def _claim(self, pool: Pool) -> float:
        """Claim as many steps as the pool can attempt now, and start the attempts.

        Return the seconds after which the pool is to claim again if nothing wakes the dispatcher before. A claim
        is a write, so unless a step is expected, this method first looks whether one is due.
        """
        with self._wake:
            in_progress, free = self._in_progress[pool], self._free_threads(pool)
            expected = pool in self._expected
        slots = self._available_slots(in_progress) if pool == "cluster" and free > 0 else None
        limit = free if slots is None else min(free, slots)
        if limit <= 0:  # polled: the circuit breaker does not wake this thread when it closes
            return self._poll_interval
        if not expected:
            wait = self._until_due(pool)
            if wait > 0:
                return wait
        self._expect(
            pool, expected=False
        )  # first, because a step can become ready during the claim
        claims = self._journal.claim(pool, limit, self._now())
        for claim in claims:
            with self._wake:
                self._in_progress[pool] += 1
            self._threads[pool].run(partial(self._work, pool, claim))
        if len(claims) < limit:
            return self._until_due(pool)
        self._expect(pool, expected=True)
        return self._poll_interval

    def _expect(self, pool: Pool, *, expected: bool) -> None:
        """Remember whether a step of the pool may be due."""
        with self._wake:
            (self._expected.add if expected else self._expected.discard)(pool)

    def _until_due(self, pool: Pool) -> float:
        """Return the seconds until a step of the pool is due, at most the poll interval."""
        due = self._journal.next_due(pool)
        if due is None:
            return self._poll_interval
        return min(max(due - self._now(), 0.0), self._poll_interval)

    def _free_threads(self, pool: Pool) -> int:
        """Return how many attempts can start.

        Outcomes that wait for the disk do not block new attempts until they are as many as the pool's size.
        """
        size = self._sizes[pool]
        return min(size, 2 * size - self._settling[pool]) - self._in_progress[pool]

    def _is_working(self) -> bool:
        return any((*self._in_progress.values(), *self._settling.values()))

    def _work(self, pool: Pool, claim: Claim) -> None:
        """Make one attempt, and begin to settle its outcome."""
        began, settling = time.monotonic(), 0
        try:
            outcome = attempt(
                claim, self._clients(claim), self._checker(), self._now(), self._store
            )
            if outcome.error is not None:
                run, step = claim.run.id, claim.step.name
                log.error("attempt_failed", run=run, step=step, exc_info=outcome.error)
            self._settler.settle(pool, claim, outcome, time.monotonic() - began)
            settling = 1
        finally:  # whatever happened, the slot of the attempt must be free again
            self._count(pool, in_progress=-1, settling=settling)

    def _count(self, pool: Pool, *, in_progress: int = 0, settling: int = 0) -> None:
        """Change the counts of a pool, and wake the dispatcher."""
        with self._wake:
            self._in_progress[pool] += in_progress
            self._settling[pool] += settling
            self._woken = True
            self._wake.notify_all()
