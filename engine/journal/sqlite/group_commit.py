"""The writer thread: it writes all waiting jobs in one transaction with one fsync."""

from __future__ import annotations

import contextlib
import math
import sqlite3
import threading
import time
from concurrent.futures import Future, InvalidStateError
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from engine.journal.sqlite.transaction import (
    BatchItem,
    BlockingResult,
    Job,
    T,
    run_all,
    run_one_by_one,
)
from engine.model.errors import JournalError

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

MIN_GATHER_JOBS = 2
"""After a transaction of more jobs than this, the writer waits for more jobs."""
MAX_GATHER_JOBS = 16
"""Waiting jobs at which the writer stops to wait: the default number of workers."""
MAX_TRANSACTION_JOBS = 256
"""Maximum number of jobs in a transaction. Limits the delay of their answers and of the next jobs."""
_POLL_INTERVAL = 0.002
_PROGRESS_INSTRUCTIONS = 10_000
"""SQLite instructions (a few ms) between two updates of ``last_progress``."""
_PROBE_BYTES = 65_536
"""Size of the test write: about forty events, or a large one."""
FLOOD_EVENTS_PER_SECOND = 3_000.0
"""Rate of new events from which accepts have priority over attempts."""
USUAL_DELAY, FLOOD_DELAY = 0.002, 0.03
"""Seconds to gather. In a flood, the long delay increased the accepted events per second by half
(benchmarks/front.py)."""


class GatherDelay:
    """Returns the seconds for which the outcomes of attempts are gathered before a transaction.

    Each transaction of the worker process delays an accept. now: a monotonic clock.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._last_event, self._last_time = 0, now()

    def __call__(self, connection: sqlite3.Connection) -> float:
        """Compute the rate of new events since the last call, and return the delay for it."""
        (number,) = connection.execute("SELECT max(id) FROM events").fetchone()
        event, now = number or 0, self._now()
        events, seconds = event - self._last_event, now - self._last_time
        self._last_event, self._last_time = event, now
        return FLOOD_DELAY if events > FLOOD_EVENTS_PER_SECOND * seconds else USUAL_DELAY


class GroupCommitWriter:
    """Takes jobs from any thread and writes them in order. Each job is written whole or not at all.

    Args:
        connect: opens a connection that may write. Called in the writer thread, again after each failure.
        name: of the thread.
        sync: syncs commits to disk.
        transaction_ended: called in the writer thread with True (committed) or False (rolled back), before
            the futures of the jobs resolve.
        write_lock: held during each transaction.
        gather_delay: called in each transaction. Returns the seconds to wait for more jobs before the next
            transaction, if this one had several jobs.
        now: a monotonic clock.

    Attributes:
        last_error: the error of the last write, or None after a successful write.
        refusal: the reason why the writer refuses jobs, or None.
        last_progress: time at which the current transaction last made progress; None between transactions.
            It advances while SQLite computes, and stops while the disk does not answer.
    """

    def __init__(
        self,
        connect: Callable[[], sqlite3.Connection],
        name: str,
        sync: Callable[[], None],
        transaction_ended: Callable[[bool], None] = lambda _committed: None,
        write_lock: AbstractContextManager[None] | None = None,
        *,
        gather_delay: Callable[[sqlite3.Connection], float] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connect, self._sync, self._transaction_ended = connect, sync, transaction_ended
        self._write_lock, self._now = write_lock or contextlib.nullcontext(), now
        self._gather_delay, self._delay = gather_delay, 0.0
        self._connection: sqlite3.Connection | None = None
        self._jobs: SimpleQueue[Job[Any] | None] = SimpleQueue()
        self._closing = threading.Lock()
        self._closed = False
        self._current: list[Job[Any]] = []
        self.last_error: str | None = None
        self.refusal: str | None = None
        self.last_progress: float | None = None
        # a daemon thread, so that an engine that fails without a close ends instead of hanging; jobs that
        # are lost this way were not acknowledged
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[sqlite3.Connection], T]) -> Future[T]:
        """Return a future that resolves when the work is on disk, or fails with JournalError.

        The future cannot be cancelled: the event of a sender that disconnects is written all the same.
        """
        return self._submit_later(work, None)

    def submit_batched(
        self, item: BatchItem, work: Callable[[sqlite3.Connection], Any] | None = None
    ) -> Future[Any]:
        """Submit an item that is written together with others of its kind, before all other work.

        work: additional work in the same transaction.
        """
        return self._submit_later(work, item)

    def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Wait until the work is on disk, and return its value. Raises JournalError."""
        result: BlockingResult[T] = BlockingResult()
        self._submit(Job(work, None, result))
        return result.result()

    def begin_batched(self, item: BatchItem) -> BlockingResult[Any]:
        """Submit an item as ``submit_batched`` does, for a thread that waits for its result."""
        result: BlockingResult[Any] = BlockingResult()
        self._submit(Job(None, item, result))
        return result

    def _submit_later(
        self, work: Callable[[sqlite3.Connection], T] | None, item: BatchItem | None
    ) -> Future[T]:
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()
        self._submit(Job(work, item, future))
        return future

    def _submit(self, job: Job[Any]) -> None:
        with self._closing:
            if not self._closed and self.refusal is None:
                self._jobs.put(job)
                return
        job.future.set_exception(JournalError(self.refusal or "the journal is closed"))

    def refuse(self, reason: str | None) -> None:
        """Fail all current, waiting and new jobs with this reason; None to accept jobs again."""
        waiting: list[Job[Any] | None] = []
        with self._closing:
            self.refusal = reason
            if reason is None:
                return
            waiting += self._take_waiting()
            if None in waiting:
                self._jobs.put(None)
        for job in [*self._current, *waiting]:  # a current job may still be written
            if job is not None:
                _resolve(job, JournalError(reason))

    def probe(self) -> str | None:
        """Return the reason why the journal cannot be written, or None.

        If the last write failed, this method tests again with a small write.
        """
        if self._closed:
            return "the journal is closed"
        if self.last_error is not None:
            with contextlib.suppress(JournalError):
                self.write(_write_probe)
        return self.refusal or self.last_error

    def close(self) -> None:
        """Write the waiting jobs and end the thread. Later jobs fail."""
        with self._closing:
            if not self._closed:
                self._closed = True
                self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        ending, several = False, False
        while not ending:
            waiting = [self._jobs.get()]
            if several and waiting[0] is not None:
                self._gather()
            waiting += self._take_waiting(MAX_TRANSACTION_JOBS - 1)
            ending, several = None in waiting, len(waiting) > MIN_GATHER_JOBS
            self._current = [job for job in waiting if job is not None]
            self._note_progress()
            self._commit(self._current)
            self.last_progress, self._current = None, []
        self._disconnect()

    def _gather(self) -> None:
        """Wait for more jobs, until the delay is over or enough jobs wait."""
        until = self._now() + self._delay
        while self._now() < until and self._jobs.qsize() < MAX_GATHER_JOBS - 1:
            time.sleep(min(self._delay, _POLL_INTERVAL))

    def _take_waiting(self, limit: float = math.inf) -> list[Job[Any] | None]:
        """Take waiting jobs from the queue, up to the limit or to the end marker (None)."""
        taken: list[Job[Any] | None] = []
        with contextlib.suppress(Empty):
            while len(taken) < limit and None not in taken[-1:]:
                taken.append(self._jobs.get_nowait())
        return taken

    def _note_progress(self) -> None:
        self.last_progress = self._now()

    def _commit(self, jobs: list[Job[Any]]) -> None:
        try:
            if self._connection is None:
                self._connection = self._connect()
                self._connection.set_progress_handler(self._note_progress, _PROGRESS_INSTRUCTIONS)
            connection = self._connection
            changes = connection.total_changes
            with self._write_lock:
                connection.execute("BEGIN IMMEDIATE")
                if self._gather_delay:
                    self._delay = self._gather_delay(connection)
                if not run_all(connection, jobs):
                    self._transaction_ended(False)
                    run_one_by_one(connection, jobs)
                self._note_progress()
                connection.execute("COMMIT")
            wrote = connection.total_changes != changes
            if wrote:
                self._sync()
        except (sqlite3.Error, OSError) as error:
            # connect again before the next write: after a failed fsync, the caches are not reliable
            self._disconnect()
            self._transaction_ended(False)
            self.last_error = _sentence(error)
            for job in jobs:
                _resolve(job, JournalError(self.last_error))
            return
        self._transaction_ended(True)
        self._update_last_error(jobs, wrote=wrote)
        for job in jobs:
            _resolve(job, None if job.error is None else _journal_error(job.error))

    def _update_last_error(self, jobs: list[Job[Any]], *, wrote: bool) -> None:
        errors = [job.error for job in jobs if isinstance(job.error, sqlite3.Error)]
        if errors:
            self.last_error = _sentence(errors[0])
            self._disconnect()  # a new connection has a higher maximum size if the disk has grown
        elif wrote:  # an empty commit does not test the disk
            self.last_error = None

    def _disconnect(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
        self._connection = None


def _resolve(job: Job[Any], error: JournalError | None) -> None:
    """Resolve the future of a job, unless ``refuse`` has already failed it."""
    try:
        if error is None:
            job.future.set_result(job.value)
        else:
            job.future.set_exception(error)
    except InvalidStateError:
        pass  # not contextlib.suppress, which doubles the cost of this function


def _write_probe(connection: sqlite3.Connection) -> None:
    """Write and delete as many bytes as a large event has. A disk can have space for one page only."""
    connection.execute(
        "INSERT OR REPLACE INTO offsets VALUES ('probe', zeroblob(?))", (_PROBE_BYTES,)
    )
    connection.execute("DELETE FROM offsets WHERE key = 'probe'")


def _journal_error(error: Exception) -> JournalError:
    if isinstance(error, JournalError):
        return error
    wrapped = JournalError(_sentence(error))
    wrapped.__cause__ = error
    return wrapped


def _sentence(error: Exception) -> str:
    return f"the journal cannot be written: {error}"
