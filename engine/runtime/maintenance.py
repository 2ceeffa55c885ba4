"""The maintenance thread: writes deferred records, deletes old runs and watches the size of the journal."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import structlog

from engine.model.errors import JournalError

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.intake.deferred_records import DeferredRecords
    from engine.journal import protocol
    from engine.telemetry.fault_log import FaultLog

INTERVAL = 1.0
"""Seconds between two rounds."""
_CHECK_ROUNDS, _PRUNE_ROUNDS = 10, 60
"""Rounds between two checks of the fill ratio, and between two deletions of old runs."""
_CHECK_ALWAYS_FROM = 0.5
"""Fill ratio from which each round checks it: a flood of events fills 4 GiB in two minutes."""
_RECORDS_PER_WRITE = 1_000
"""Records of a kind in one transaction, so that accepting events does not wait long for it."""
_SLICES_PER_PRUNE = 20
"""Largest number of slices that one deletion removes. The next deletion continues."""
IDENTITY_RETENTION = 7 * 86_400.0
"""Seconds for which the id of a run is kept at least, so that a repeated event starts no new run."""
_FULL = 0.9
"""Fill ratio from which a journal counts as nearly full."""
_RETENTION_IF_FULL = 3_600.0
"""Retention of the content of runs in seconds, if the journal is nearly full."""
MIN_PRIORITIES = ((0.98, 2), (0.95, 4), (0.9, 5))
"""Fill ratio -> least severe priority that is accepted (2 Critical, 4 Warning, 5 Notice)."""

log = structlog.get_logger()


class Maintenance:
    """Maintains the journal once per second.

    retention: seconds for which completed runs are kept.
    now: returns epoch seconds.
    fault: the fault log of the journal. It is cleared when the journal accepts writes again.
    """

    def __init__(
        self,
        journal: protocol.Maintenance,
        deferred_records: DeferredRecords,
        retention: float,
        now: Callable[[], float],
        fault: FaultLog,
    ) -> None:
        self._journal, self._deferred_records, self._fault = journal, deferred_records, fault
        self._retention, self._now = retention, now
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tiercel-maintenance", daemon=True)
        self._tasks: dict[str, Callable[[], None]] = {
            "save dropped events and runs": self._save_records,
            "check the size of the journal": self._check_size,
        }
        self._failing: set[str] = set()
        self._rounds = 0
        self._fill_ratio = 0.0

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def add_task(self, name: str, task: Callable[[], None]) -> None:
        """Run a task in each round. It may raise JournalError. name: for the log."""
        self._tasks = {**self._tasks, name: task}

    def stop(self) -> None:
        """Stop the thread after a last round."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def ended_thread(self) -> str | None:
        """Return the name of the thread if it has ended, else None."""
        return None if self._thread.is_alive() else self._thread.name

    def min_priority(self) -> int | None:
        """Return the least severe priority that a nearly full journal accepts, None for any."""
        return next(
            (priority for fill, priority in MIN_PRIORITIES if self._fill_ratio >= fill), None
        )

    def run_round(self) -> None:
        """Run each task. One that fails does not stop the others, and is logged once until it works again."""
        if self._deferred_records.event_recorder:
            self._deferred_records.event_recorder.flush()
        for name, task in self._tasks.items():
            try:
                task()
            except JournalError as error:
                self._fault.report(str(error))
                if name not in self._failing:
                    log.error("maintenance_failed", task=name, error=str(error))
                self._failing.add(name)
            else:
                self._failing.discard(name)
        if self._journal.write_error() is None:
            self._fault.clear()
        self._rounds += 1

    def _save_records(self) -> None:
        """Write the deferred records. Those of a failed write are written in a later round."""
        dead, drops = self._deferred_records.drain()
        try:
            while dead or drops:
                self._journal.save_dropped(dead[:_RECORDS_PER_WRITE], drops[:_RECORDS_PER_WRITE])
                dead, drops = dead[_RECORDS_PER_WRITE:], drops[_RECORDS_PER_WRITE:]
        except JournalError:
            self._deferred_records.restore(dead, drops)
            raise

    def _check_size(self) -> None:
        """Update the fill ratio and delete old runs, each at its interval."""
        previous = self.min_priority()
        if self._fill_ratio >= _CHECK_ALWAYS_FROM or self._rounds % _CHECK_ROUNDS == 0:
            self._fill_ratio = self._journal.fill_ratio()
        interval = _CHECK_ROUNDS if self._fill_ratio >= _FULL else _PRUNE_ROUNDS
        if self._rounds % interval == 0:
            self._prune()
            self._fill_ratio = self._journal.fill_ratio()
        if self.min_priority() != previous:
            fill, priority = f"{self._fill_ratio:.0%}", self.min_priority()
            log.warning("journal_fill_changed", fill=fill, min_priority=priority)

    def _prune(self) -> None:
        """Delete old runs, and the content of runs whose id must be kept longer."""
        now = self._now()
        full = self._fill_ratio >= _FULL
        retention = min(self._retention, _RETENTION_IF_FULL) if full else self._retention
        for _ in range(_SLICES_PER_PRUNE):
            removed = self._journal.delete_runs(now - max(self._retention, IDENTITY_RETENTION))
            if retention < IDENTITY_RETENTION:
                removed += self._journal.strip_runs(now - retention)
            if not removed:
                break

    def _run(self) -> None:
        while not self._stopping.wait(INTERVAL):
            self.run_round()
        self.run_round()
