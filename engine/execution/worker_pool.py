"""Claim, attempt, settle: runs are worked off by two pools of threads.

Cluster writes have a pool of their own, so that nothing slow (messages, requests to others) holds them up.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import structlog

from engine.execution.attempt import Clients, attempt
from engine.journal.protocol import Queue, UndoLog
from engine.model.errors import JournalError, TemporaryError, UnwritableError
from engine.model.run import advance
from engine.telemetry.events import UNWRITTEN, Settled
from engine.telemetry.fault_log import FaultLog

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from engine.execution.guardrails import Guard
    from engine.model.calls import ObjectChange
    from engine.model.playbook import Pool
    from engine.model.run import Claim, Notice, Outcome, Run
    from engine.telemetry.events import Observers

log = structlog.get_logger()
IDLE = 1.0
"""Seconds after which the journal is asked again, whatever was due."""


class ExecutionJournal(Queue, UndoLog, Protocol):
    """The parts of the journal that execution uses."""


class _Kept:
    """Keeps what attempts write down in the journal; what that does not take is as good as taken over."""

    def __init__(self, journal: ExecutionJournal) -> None:
        self._journal = journal

    def undo_times(self, key: str, exclude: str | None = None) -> list[float | None]:
        """See AttemptStore.undo_times. Raises TemporaryError while the journal cannot be read."""
        try:
            return self._journal.undo_times(key, exclude)
        except JournalError as error:
            raise TemporaryError(str(error)) from None

    def keep(self, claim: Claim, facts: Mapping[str, object], notice: Notice | None = None) -> bool:
        """See AttemptStore.keep."""
        try:
            return self._journal.keep(claim, facts, notice)
        except JournalError:
            return False

    def add_undo_intent(
        self,
        claim: Claim,
        changes: Sequence[ObjectChange],
        until: float | None,
        facts: Mapping[str, object],
    ) -> bool:
        """See AttemptStore.add_undo_intent."""
        try:
            return self._journal.add_undo_intent(claim, changes, until, facts)
        except JournalError:
            return False


class WorkerPool:
    """The threads that work runs off.

    guard: that of the set in force. sizes: attempts at once in each pool. over: is told of each run that ended
    without any step done. available_slots: how many more cluster steps may begin, given those under way;
    None for any number.
    """

    def __init__(
        self,
        journal: ExecutionJournal,
        clients: Callable[[Claim], Clients],
        guard: Callable[[], Guard],
        observers: Observers,
        *,
        sizes: Mapping[Pool, int],
        now: Callable[[], float],
        over: Callable[[Run], None],
        available_slots: Callable[[int], int | None] = lambda _: None,
    ) -> None:
        self._journal, self._clients, self._guard = journal, clients, guard
        self._observers, self._sizes, self._now, self._over = observers, sizes, now, over
        self._available_slots = available_slots
        self._store = _Kept(journal)
        self._fault = FaultLog("journal", holding_up="runs")
        self._shut = False
        self._busy: dict[Pool, int] = dict.fromkeys(sizes, 0)
        self._settling: dict[Pool, int] = dict.fromkeys(sizes, 0)
        self._wake = threading.Condition()
        self._woken = False
        self._stopping = threading.Event()
        self._pools = {
            pool: ThreadPoolExecutor(2 * size, thread_name_prefix=f"tiercel-{pool}")
            for pool, size in sizes.items()
        }
        self._dispatcher = threading.Thread(
            target=self._dispatch, name="tiercel-dispatch", daemon=True
        )

    def start(self) -> None:
        """Begin to work."""
        self._dispatcher.start()

    def ended(self) -> str | None:
        """The name of the thread that claims, where it has ended."""
        return None if self._dispatcher.is_alive() else self._dispatcher.name

    def wake(self) -> None:
        """Something may be due now."""
        with self._wake:
            self._woken = True
            self._wake.notify()

    def stop(self, grace: float | None = None) -> bool:
        """Claim nothing more, and wait for the attempts that are under way; whether all have ended.

        grace: seconds to wait at most; what has not ended by then is made again once its lease is over.
        """
        self._stopping.set()
        self.wake()
        if self._dispatcher.is_alive():
            self._dispatcher.join()
        with self._wake:
            ended = self._wake.wait_for(lambda: not any(self._under_way()), grace)
        for pool in self._pools.values():
            pool.shutdown(wait=ended)
        return ended

    def _dispatch(self) -> None:
        while not self._stopping.is_set():
            try:
                for pool in self._pools:
                    self._claim(pool)
                wait = self._until_due()
                self._fault.gone()
            except JournalError as error:
                self._fault.seen(str(error))
                wait = IDLE
            with self._wake:
                if not self._woken:
                    self._wake.wait(wait)
                self._woken = False

    def _claim(self, pool: Pool) -> None:
        with self._wake:
            busy = self._busy[pool]
            free = self._free(pool)
        if pool == "cluster" and free > 0:
            slots = self._available_slots(busy)
            self._shut = slots is not None and slots < free
            free = min(free, free if slots is None else slots)
        if free <= 0:
            return
        for claim in self._journal.claim(pool, free, self._now()):
            with self._wake:
                self._busy[pool] += 1
            self._pools[pool].submit(self._work, pool, claim)

    def _until_due(self) -> float:
        due = [self._journal.next_due(pool) for pool in self._pools if self._has_room(pool)]
        first = min((at for at in due if at is not None), default=None)
        return IDLE if first is None else min(max(first - self._now(), 0.0), IDLE)

    def _has_room(self, pool: Pool) -> bool:
        if pool == "cluster" and self._shut:
            return False  # asked again once IDLE is over, for no clock of the breaker's wakes us
        with self._wake:
            return self._free(pool) > 0

    def _free(self, pool: Pool) -> int:
        """How many attempts may begin: an end that is being written holds up none, as long as those are few."""
        size, busy = self._sizes[pool], self._busy[pool]
        return min(size, 2 * size - self._settling[pool]) - busy

    def _under_way(self) -> list[int]:
        return [*self._busy.values(), *self._settling.values()]

    def _work(self, pool: Pool, claim: Claim) -> None:
        began = time.monotonic()
        try:
            outcome = attempt(claim, self._clients(claim), self._guard(), self._now(), self._store)
        except BaseException:
            self._count(pool, busy=-1)
            raise
        if outcome.error is not None:
            log.error("attempt", run=claim.run.id, step=claim.step.name, exc_info=outcome.error)
        self._count(pool, busy=-1, settling=1)
        try:
            self._settle(claim, outcome, time.monotonic() - began)
        finally:
            self._count(pool, settling=-1)

    def _count(self, pool: Pool, *, busy: int = 0, settling: int = 0) -> None:
        """An attempt has ended, or is settled: another may begin."""
        with self._wake:
            self._busy[pool] += busy
            self._settling[pool] += settling
            self._woken = True
            self._wake.notify_all()

    def _settle(self, claim: Claim, outcome: Outcome, seconds: float) -> None:
        """Write how it ended, in how many seconds; while the journal takes none, try until the engine stops."""
        became: str | None = None
        while True:
            try:
                became = self._journal.settle(claim, outcome, self._now())
                if became is None:
                    late = "late attempt, its end is not written"
                    log.warning(late, run=claim.run.id, step=claim.step.name)
                break
            except UnwritableError as error:
                if outcome.answer is None and not outcome.calls and not outcome.requests:
                    log.error("journal", unwritable=claim.run.id, error=str(error))
                    break
                outcome = replace(outcome, answer=None, calls=(), requests=())
            except JournalError as error:
                self._fault.seen(str(error))
                if self._stopping.wait(IDLE):
                    break
        became = became or UNWRITTEN
        over = became not in ("waiting", "next", UNWRITTEN) and not claim.undo
        results = advance(claim, outcome)[0] if over else ()
        self._observers.tell(Settled(claim, outcome, became, self._now(), results, seconds))
        if over and not any(result.state in ("done", "planned") for result in results):
            self._over(claim.run)
