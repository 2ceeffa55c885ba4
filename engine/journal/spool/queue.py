"""Pass accepted runs to a shared journal: directly, or through the spool while the journal is unavailable.

As long as the spool holds runs, new ones are written behind them. The runs of a target therefore reach the
journal in the order of acceptance. The journal decides about duplicates and throttles when it gets the runs.
"""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import structlog

from engine.journal.records import AcceptBatch, DeadLetter, ForwardedRuns, SavedSet
from engine.journal.spool.schema import of_another_journal
from engine.model.errors import JournalError, JournalUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from engine.journal.records import Pause
    from engine.journal.spool.file import SpooledRun, SpoolFile
    from engine.model.run import Run

_MAX_LETTER_BYTES = 16_384
"""Bytes of the event that a dead letter keeps."""
RETRY_INTERVAL = 0.5
"""Seconds between two attempts to forward runs to a journal that is unavailable."""
DELETE_INTERVAL = 10.0
"""Seconds between two attempts to delete forwarded runs from a disk that is full."""
log = structlog.get_logger()


class SharedJournal(Protocol):
    """The parts of a shared journal that a spool uses. See engine.journal.protocol."""

    def accept(self, accepted: AcceptBatch, now: float) -> Future[Mapping[str, str]]: ...  # noqa: D102
    def release_throttle(self, run: str) -> None: ...  # noqa: D102
    def known(self, ids: Collection[str]) -> set[str]: ...  # noqa: D102
    def throttle_windows(self) -> dict[str, Any]: ...  # noqa: D102
    def write_error(self) -> str | None: ...  # noqa: D102
    def save_throttle_windows(self, changes: Mapping[str, Any]) -> None: ...  # noqa: D102
    def paused(self) -> Mapping[str, Pause]: ...  # noqa: D102
    def last_set(self) -> SavedSet | None: ...  # noqa: D102
    def save_set(self, digest: str, files: Mapping[str, bytes], revision: str = "") -> None: ...  # noqa: D102
    def id(self) -> str: ...  # noqa: D102
    def forward(self, forwarded: ForwardedRuns) -> Mapping[str, str]: ...  # noqa: D102


class SpooledQueue:
    """A shared journal with a spool, for the intake. Thread-safe.

    on_throttled: called with each run that a throttle suppressed when it was forwarded.

    Attributes:
        spooling: whether new runs are written to the spool.

    """

    shared = True

    def __init__(
        self,
        journal: SharedJournal,
        spool: SpoolFile,
        on_throttled: Callable[[Run], None] = lambda _run: None,
    ) -> None:
        self._journal, self._spool = journal, spool
        self.on_throttled = on_throttled
        self.release_throttle, self.known = journal.release_throttle, journal.known
        self.throttle_windows = journal.throttle_windows
        self.save_throttle_windows = journal.save_throttle_windows
        self._lock = threading.Lock()
        self._writing = 0
        self._checked, self._delete_failed = False, False
        self._forwarded = 0
        self._pending_set: tuple[str, Mapping[str, bytes], str] | None = None
        self.spooling = spool.runs > 0
        self._spooled, self._stopping = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="spool forwarder", daemon=True)

    def start(self) -> None:
        """Start forwarding. Runs that an earlier process left are forwarded first."""
        if self.spooling:
            log.warning("spool_not_empty", runs=self._spool.runs, file=str(self._spool.path))
            self._spooled.set()
        self._thread.start()

    def accept(self, accepted: AcceptBatch, now: float) -> Future[Mapping[str, str]]:
        """See Queue.accept. The future resolves when the batch is in the journal or in the spool."""
        with self._lock:
            spools = self.spooling and accepted.may_wait
            self._writing += spools
        answered: Future[Mapping[str, str]] = Future()
        if spools:
            self._write(accepted, answered)
        elif accepted.may_wait:
            self._journal.accept(accepted, now).add_done_callback(
                partial(self._fall_back, accepted, answered)
            )
        elif self.spooling:
            answered.set_exception(
                JournalError("the events in the spool are forwarded first; this source waits")
            )
        else:
            return self._journal.accept(accepted, now)
        return answered

    def paused(self) -> Mapping[str, Pause]:
        """See State.paused. Return no pauses while the journal cannot be read. Claims apply them later."""
        try:
            return self._journal.paused()
        except JournalError:
            return {}

    def last_set(self) -> SavedSet | None:
        """See State.last_set. Return a set without files while the journal cannot be read."""
        try:
            return self._journal.last_set()
        except JournalError:
            return SavedSet("", {})

    def save_set(self, digest: str, files: Mapping[str, bytes], revision: str = "") -> None:
        """See State.save_set. While the journal cannot be written, ``save_pending`` tries again."""
        self._pending_set = digest, files, revision
        with contextlib.suppress(JournalError):
            self.save_pending()

    def save_pending(self) -> None:
        """Save the last set of playbooks if that has failed. Raises JournalError."""
        pending = self._pending_set
        if pending is not None:
            self._journal.save_set(*pending)
            if self._pending_set is pending:
                self._pending_set = None

    def write_error(self) -> str | None:
        """Return why neither the journal nor the spool accepts runs, as a sentence, or None."""
        error = self._spool.full() or self._spool.write_error()
        if error and not self.spooling and self._journal.write_error() is None:
            return None
        return error

    def status(self) -> dict[str, Any]:
        """Return what ``/status`` shows of the spool."""
        return {
            "file": str(self._spool.path),
            "runs": self._spool.runs,
            "fillRatio": round(self._spool.fill_ratio(), 3),
            "error": self.write_error(),
        }

    def close(self) -> None:
        """Stop forwarding. The runs that are left stay in the spool."""
        self._stopping.set()
        self._spooled.set()
        if self._thread.is_alive():
            self._thread.join()
        self._spool.close()

    def ended_thread(self) -> str | None:
        """Return the name of the thread if it has ended, else None."""
        return None if self._thread.is_alive() else self._thread.name

    def _fall_back(
        self,
        accepted: AcceptBatch,
        answered: Future[Mapping[str, str]],
        written: Future[Mapping[str, str]],
    ) -> None:
        """Pass on the answer of the journal, or write the batch to the spool. Runs in the journal's thread."""
        error = written.exception()
        if error is None:
            answered.set_result(written.result())
        elif not isinstance(error, JournalUnavailableError):
            answered.set_exception(error)
        else:
            with self._lock:
                begins, self.spooling = not self.spooling, True
                self._writing += 1
            if begins:
                log.warning("spooling", reason=str(error), file=str(self._spool.path))
            self._write(accepted, answered)

    def _write(self, accepted: AcceptBatch, answered: Future[Mapping[str, str]]) -> None:
        """Write a batch to the spool, which ``_writing`` counts already."""
        self._spool.write(accepted).add_done_callback(partial(self._written, answered))

    def _written(
        self, answered: Future[Mapping[str, str]], written: Future[Mapping[str, str]]
    ) -> None:
        with self._lock:
            self._writing -= 1
        self._spooled.set()
        error = written.exception()
        if error is None:
            answered.set_result(written.result())
        else:
            answered.set_exception(error)

    def _run(self) -> None:
        forwarded, failing = 0, False
        while not self._stopping.is_set():
            if not self.spooling:
                self._spooled.wait(DELETE_INTERVAL if self._delete_failed else None)
                self._spooled.clear()
                if self._delete_failed:
                    self._delete_forwarded()
                continue
            try:
                runs = self._spool.read(after=self._forwarded)
                self._forward(runs)
            except JournalError as error:
                if not failing:
                    log.warning("spool_waits", runs=self._spool.runs, reason=str(error))
                failing = True
                self._stopping.wait(RETRY_INTERVAL)
                continue
            failing = False
            forwarded += len(runs)
            if not runs and self._is_drained():
                log.info("spool_forwarded", runs=forwarded)
                forwarded = 0

    def _is_drained(self) -> bool:
        """Stop spooling if no run waits. Otherwise wait for the next write to the spool."""
        with self._lock:
            self.spooling = self._writing > 0 or self._spool.holds_after(self._forwarded)
            if not self.spooling:
                return True
        self._spooled.wait(RETRY_INTERVAL)
        self._spooled.clear()
        return False

    def _forward(self, runs: list[SpooledRun]) -> None:
        """Forward runs to the journal, and delete them from the spool. Raises JournalError."""
        if not runs:
            return
        try:
            self._check_journal()
            rejected = self._journal.forward(self._forwarded_runs(runs))
        except JournalUnavailableError:
            self._checked = False
            raise
        except JournalError as error:
            if len(runs) > 1:  # so that a run that the journal refuses does not stop the others
                for run in runs:
                    self._forward([run])
                return
            rejected = self._journal.forward(self._forwarded_runs(runs, str(error)))
        self._forwarded = runs[-1].number
        for one in runs:
            if one.run and rejected.get(one.id) == "throttle":
                self.on_throttled(one.run)
        self._delete_forwarded()

    def _check_journal(self) -> None:
        """Refuse a database that is not that of the spool. Raises JournalUnavailableError."""
        if self._checked:
            return
        try:
            if self._journal.id() != self._spool.journal:
                raise JournalError(of_another_journal(self._spool.path, self._spool.runs))
        except JournalError as error:
            raise JournalUnavailableError(str(error)) from error
        self._checked = True

    def _forwarded_runs(self, runs: list[SpooledRun], refused: str = "") -> ForwardedRuns:
        """Return what the journal gets. A run that it, or this engine, cannot store or read is a dead letter.

        refused: why the journal refuses the only run.
        """
        letters = []
        for run in runs:
            why = refused or run.error
            if why:
                log.error("spooled_run_refused", run=run.id, error=why)
                body = run.body[:_MAX_LETTER_BYTES]
                letters.append((run.number, DeadLetter(run.received, "spool", why, body)))
        return ForwardedRuns(
            self._spool.id,
            runs[-1].number,
            [(one.number, one.run) for one in runs if one.run and not refused],
            {one.id: one.throttle for one in runs if one.throttle},
            letters,
        )

    def _delete_forwarded(self) -> None:
        """Delete the forwarded runs. A full disk can prevent it, and they must not stop the others."""
        try:
            self._spool.delete(self._forwarded)
        except JournalError as error:
            if not self._delete_failed:
                log.warning("spool_keeps_forwarded_runs", reason=str(error))
            self._delete_failed = True
        else:
            self._delete_failed = False
