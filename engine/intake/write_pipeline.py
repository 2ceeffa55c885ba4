"""Write planned parts of bodies in one transaction: batch -> journal -> results.

If the transaction fails, each part is tried alone, so that a bad part does not affect the others. A part that
still fails is rolled back. A body that repeats a run of a part fails with that part.
"""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any

from engine.journal.records import AcceptBatch
from engine.model.errors import JournalError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from engine.intake.body_planner import PlannedPart
    from engine.intake.planning_state import IntakeJournal, PlanningState
    from engine.model.throttle_window import ThrottleUse


class WritePipeline:
    """Writes parts. Thread-safe.

    on_decided: called with each part that was written or rolled back, and with the runs that the journal did not
    accept: id -> why.
    """

    def __init__(
        self,
        journal: IntakeJournal,
        state: PlanningState,
        on_decided: Callable[[PlannedPart, Mapping[str, str]], None] = lambda _part, _rejected: (
            None
        ),
    ) -> None:
        self._journal, self._state, self._on_decided = journal, state, on_decided
        self._in_flight: dict[str, tuple[PlannedPart, _Batch]] = {}

    def write(
        self, parts: list[PlannedPart], received: float, *, may_wait: bool = False
    ) -> Future[None]:
        """Start to write parts. Hold ``state.lock``. received: epoch seconds. may_wait: see AcceptBatch.

        Returns a future that resolves when each part is on disk or rolled back. A part that was rolled back
        has the error in its result.
        """
        batch = _Batch(may_wait=may_wait)
        for part in parts:
            part.result.awaits_write = True
            for run in part.repeated:
                if run in self._in_flight:
                    batch.add_repeat(part, *self._in_flight[run])
            for new in part.runs:
                self._in_flight[new.id] = (part, batch)
        to_write = [part for part in parts if part.has_writes]
        batch.expect(len(to_write))
        if to_write:
            self._submit(batch, to_write, received)
        batch.wait_for_repeated()
        batch.done()  # this method's own share, which kept the batch open
        return batch.decided

    def release_throttle_slot(self, run: str) -> None:
        """Return the throttle slot of a run that did nothing, in memory and on disk. run: its id."""
        with contextlib.suppress(JournalError):  # the window ends by itself
            self._state.release_in_journal(run)
        with self._state.lock:
            self._state.release(run)
            changes = self._state.take_unwritten() | self._state.take_changes().after
        if not changes:
            return
        try:
            self._journal.save_throttle_windows(changes)
        except JournalError:  # the next write includes it
            with self._state.lock:
                self._restore_unwritten(changes)

    def _submit(self, batch: _Batch, parts: list[PlannedPart], received: float) -> None:
        """Give parts to the journal as one transaction."""
        unwritten = self._state.take_unwritten()
        windows = dict(unwritten)
        uses: dict[str, ThrottleUse] = {}
        for part in parts:
            windows |= part.changes.after
            uses |= part.changes.uses
        try:
            runs = [run for part in parts for run in part.runs]
            written = self._journal.accept(
                AcceptBatch(runs, windows, uses, batch.may_wait), received
            )
        except Exception as error:  # noqa: BLE001 - a bug; the affected bodies report it
            written = Future()
            written.set_exception(error)
        written.add_done_callback(partial(self._finish, batch, parts, received, unwritten))

    def _finish(
        self,
        batch: _Batch,
        parts: list[PlannedPart],
        received: float,
        unwritten: dict[str, Any],
        written: Future[Mapping[str, str]],
    ) -> None:
        """Commit parts, or try each alone, or roll back the only one. Runs in the journal's thread."""
        error = written.exception()
        if error is not None and len(parts) > 1:
            with self._state.lock:
                self._restore_unwritten(unwritten)
                for part in parts:
                    self._submit(batch, [part], received)
            return
        try:
            if error is None:
                self._commit(parts, written.result())
            else:
                self._roll_back(parts[0], unwritten, error)
        finally:
            batch.done(len(parts))  # otherwise the senders, and later batches, would wait forever

    def _commit(self, parts: list[PlannedPart], rejected: Mapping[str, str]) -> None:
        """Mark parts as written. Does not take the lock: the journal's thread would wait for planning.

        rejected: the runs that the journal did not accept: id -> why.
        """
        for part in parts:
            part.result.partly_written = True
            for run in part.runs:
                self._in_flight.pop(run.id, None)
                self._state.commit(run.id)
            self._on_decided(part, rejected)

    def _roll_back(
        self, part: PlannedPart, unwritten: dict[str, Any], error: BaseException
    ) -> None:
        part.result.error = error
        self._on_decided(part, {})
        with self._state.lock:
            self._restore_unwritten(unwritten)
            for run in part.runs:
                self._in_flight.pop(run.id, None)
            self._state.rollback(part.planned, part.changes)

    def _restore_unwritten(self, changes: dict[str, Any]) -> None:
        """Keep changes that were not written for the next write. Newer changes of a window win."""
        self._state.unwritten = changes | self._state.unwritten


class _Batch:
    """Counts the shares of a batch that are not done, and resolves ``decided`` when the last one is.

    The first share belongs to WritePipeline.write; then there is one for each part to write and one for each
    earlier batch that writes a repeated run.

    may_wait: see AcceptBatch.
    """

    def __init__(self, *, may_wait: bool) -> None:
        self.may_wait = may_wait
        self.decided: Future[None] = Future()
        self.decided.set_running_or_notify_cancel()
        self._repeats: list[tuple[PlannedPart, PlannedPart]] = []
        self._earlier: set[Future[None]] = set()
        self._pending, self._lock = 1, threading.Lock()

    def add_repeat(self, part: PlannedPart, original: PlannedPart, batch: _Batch) -> None:
        """Let a part share the outcome of the part that writes the same run, which may be of this batch."""
        self._repeats.append((part, original))
        if batch is not self:
            self._earlier.add(batch.decided)

    def expect(self, shares: int) -> None:
        """Add shares."""
        with self._lock:
            self._pending += shares

    def wait_for_repeated(self) -> None:
        """Add a share for each earlier batch."""
        self.expect(len(self._earlier))
        for decided in self._earlier:
            decided.add_done_callback(lambda _: self.done())

    def done(self, shares: int = 1) -> None:
        """End shares. The last one sets the outcomes of repeated runs and resolves ``decided``."""
        with self._lock:
            self._pending -= shares
            if self._pending:
                return
        for part, original in self._repeats:
            part.share_outcome(original)
        self.decided.set_result(None)
