"""The thread that keeps house: writes notes and the record, ends what is old, and watches the journal's size."""

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

EVERY = 1.0
"""Seconds between two rounds."""
_LOOKED_EVERY, _PRUNED_EVERY = 10, 60
"""Rounds between two looks how full the journal is, and for what is old."""
_HALF = 0.5
"""From how full it is looked at every round: a flood fills 4 GiB in two minutes."""
_NOTES = 1_000
"""Notes of a kind in one transaction, so that accepting events does not wait long for it."""
_SLICES = 20
"""Slices that one look for what is old removes at most; the rest waits for the next one."""
IDENTITIES = 7 * 86_400.0
"""Seconds for which the id of a run stays known at least, so that a repeated event runs nothing."""
_EARLY = 3_600.0
"""Seconds after which, in a journal that is nearly full, bodies go before their time."""
_FULL = 0.9
SHED = ((0.98, 2), (0.95, 4), (0.9, 5))
"""From how full a journal only events down to which priority are taken (2 Critical, 4 Warning, 5 Notice)."""

log = structlog.get_logger()


class Maintenance:
    """Keeps house every second. retention: seconds that runs are kept once they are over.

    fault: the journal's, which is over once that takes writes again.
    """

    def __init__(
        self,
        journal: protocol.Maintenance,
        notes: DeferredRecords,
        retention: float,
        now: Callable[[], float],
        fault: FaultLog,
    ) -> None:
        self._journal, self._notes, self._fault = journal, notes, fault
        self._retention, self._now = retention, now
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tiercel-upkeep", daemon=True)
        self._tasks: tuple[Callable[[], None], ...] = ()
        self._rounds = 0
        self._fill = 0.0

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def add(self, task: Callable[[], None]) -> None:
        """Have a task done in every round. It may raise JournalError."""
        self._tasks = (*self._tasks, task)

    def stop(self) -> None:
        """End, after a last round."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def ended(self) -> str | None:
        """The name of the thread, where it has ended."""
        return None if self._thread.is_alive() else self._thread.name

    def least(self) -> int | None:
        """The least severe priority that is taken while the journal is nearly full; None is any."""
        return next((priority for fill, priority in SHED if self._fill >= fill), None)

    def round(self) -> None:
        """Write what waits; now and then remove what is old."""
        if self._notes.event_recorder:
            self._notes.event_recorder.flush()
        dead, drops = self._notes.drain()
        try:
            while dead or drops:
                self._journal.save_dropped(dead[:_NOTES], drops[:_NOTES])
                dead, drops = dead[_NOTES:], drops[_NOTES:]
            self._watch()
            for task in self._tasks:
                task()
        except JournalError as error:
            self._notes.restore(dead, drops)
            self._fault.report(str(error))
        if self._journal.write_error() is None:
            self._fault.clear()
        self._rounds += 1

    def _watch(self) -> None:
        """Look how full the journal is, and for what is old, each as often as it is time."""
        was = self.least()
        if self._fill >= _HALF or self._rounds % _LOOKED_EVERY == 0:
            self._fill = self._journal.fill_ratio()
        if self._rounds % (_LOOKED_EVERY if self._fill >= _FULL else _PRUNED_EVERY) == 0:
            self._prune()
            self._fill = self._journal.fill_ratio()
        if self.least() != was:
            log.warning("journal", full=f"{self._fill:.0%}", least_priority=self.least())

    def _prune(self) -> None:
        now = self._now()
        kept = min(self._retention, _EARLY) if self._fill >= _FULL else self._retention
        for _ in range(_SLICES):
            gone = self._journal.delete_runs(now - max(self._retention, IDENTITIES))
            if kept < IDENTITIES:
                gone += self._journal.strip_runs(now - kept)
            if not gone:
                break

    def _run(self) -> None:
        while not self._stopping.wait(EVERY):
            self.round()
        self.round()
