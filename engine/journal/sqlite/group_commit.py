"""The thread that alone writes: what waits when it wakes is one transaction, one fsync."""

from __future__ import annotations

import contextlib
import math
import sqlite3
import threading
import time
from concurrent.futures import InvalidStateError
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from engine.journal.sqlite.transaction import Job, T, Together, do, do_one_by_one
from engine.model.errors import JournalError

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from contextlib import AbstractContextManager

FEW = 2
"""Jobs of a commit that are no rush."""
CROWD = 16
"""Jobs of which no more gather: as many as there are workers, unless told."""
LARGEST = 256
"""Jobs of one transaction at most, so that neither their answers nor the next jobs wait long."""
_STEP = 0.002
_PULSE = 10_000
"""Instructions of SQLite between two signs of life: a few milliseconds."""
_PROBE = 65_536
"""Bytes: some forty events, or a large one."""


class GroupCommitWriter:
    """Takes jobs from any thread and does them in order, each whole or not at all.

    connect: opens a connection that may write; called in the thread, again after every failure. flush: puts
    on disk what was committed. ended: is told in the thread of every transaction, before those whose jobs it
    did are. turn: entered for each. gather: gives, in each transaction, the seconds after one of several jobs in
    which more of them come together.
    now: a monotonic clock. waits_since: when the transaction under way last got on, by it; None without one. It
    gets on while SQLite computes, and stays where it is while the disk does not answer. fault: why no work is
    taken, though none has failed.
    """

    def __init__(
        self,
        connect: Callable[[], sqlite3.Connection],
        name: str,
        flush: Callable[[], None],
        ended: Callable[[bool], None] = lambda _committed: None,
        turn: AbstractContextManager[None] | None = None,
        *,
        gather: Callable[[sqlite3.Connection], float] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connect, self._flush, self._ended = connect, flush, ended
        self._turn, self._gather, self._now = turn or contextlib.nullcontext(), gather, now
        self._pause = 0.0
        self._connection: sqlite3.Connection | None = None
        self._jobs: SimpleQueue[Job[Any] | None] = SimpleQueue()
        self._closing = threading.Lock()
        self._closed = False
        self._under_way: list[Job[Any]] = []
        self.trouble: str | None = None
        self.fault: str | None = None
        self.waits_since: float | None = None
        # a daemon, so that an engine that dies without closing ends instead of hanging; what it has
        # not written by then it has told nobody to be written
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[sqlite3.Connection], T]) -> Future[T]:
        """A future that resolves once the work is on disk, or fails with JournalError.

        It cannot be cancelled: a sender who hangs up must not take his event with him.
        """
        return self._submit(Job(work))

    def join(
        self, together: Together, work: Callable[[sqlite3.Connection], Any] | None = None
    ) -> Future[Any]:
        """The same, for what is written together with others before all single work. work: done besides."""
        return self._submit(Job(work, together))

    def _submit(self, job: Job[T]) -> Future[T]:
        job.future.set_running_or_notify_cancel()
        with self._closing:
            if not self._closed and self.fault is None:
                self._jobs.put(job)
                return job.future
        job.future.set_exception(JournalError(self.fault or "the journal is closed"))
        return job.future

    def refuse(self, fault: str | None) -> None:
        """Fail what waits and what comes for this reason; None to take work again."""
        waiting: list[Job[Any] | None] = []
        with self._closing:
            self.fault = fault
            if fault is None:
                return
            waiting += self._taken()
            if None in waiting:
                self._jobs.put(None)
        for job in [*self._under_way, *waiting]:  # what is under way may still be written
            if job is not None:
                _resolve(job, JournalError(fault))

    def probe(self) -> str | None:
        """What is wrong, asked anew, with a small write, where something was."""
        if self._closed:
            return "the journal is closed"
        if self.trouble is not None:
            with contextlib.suppress(JournalError):
                self.submit(_touch).result()
        return self.fault or self.trouble

    def close(self) -> None:
        """Do what waits and end the thread; later jobs fail."""
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
                self._wait()
            waiting += self._taken(LARGEST - 1)
            ending, several = None in waiting, len(waiting) > FEW
            self._under_way = [job for job in waiting if job is not None]
            self._pulse()
            self._commit(self._under_way)
            self.waits_since, self._under_way = None, []
        self._drop()

    def _wait(self) -> None:
        """Let more jobs gather, as long as somebody may come who does not wait already."""
        until = self._now() + self._pause
        while self._now() < until and self._jobs.qsize() < CROWD - 1:
            time.sleep(min(self._pause, _STEP))

    def _taken(self, most: float = math.inf) -> list[Job[Any] | None]:
        """What waits, taken from the queue, up to so many jobs or the end."""
        taken: list[Job[Any] | None] = []
        with contextlib.suppress(Empty):
            while len(taken) < most and None not in taken[-1:]:
                taken.append(self._jobs.get_nowait())
        return taken

    def _pulse(self) -> None:
        """Note that the transaction gets on."""
        self.waits_since = self._now()

    def _commit(self, jobs: list[Job[Any]]) -> None:
        try:
            if self._connection is None:
                self._connection = self._connect()
                self._connection.set_progress_handler(self._pulse, _PULSE)
            connection = self._connection
            before = connection.total_changes
            with self._turn:
                connection.execute("BEGIN IMMEDIATE")
                if self._gather:
                    self._pause = self._gather(connection)
                if not do(connection, jobs):
                    self._ended(False)
                    do_one_by_one(connection, jobs)
                self._pulse()
                connection.execute("COMMIT")
            wrote = connection.total_changes != before
            if wrote:
                self._flush()
        except (sqlite3.Error, OSError) as error:
            # reopened before the next write: after a failed fsync nothing cached can be trusted
            self._drop()
            self._ended(False)
            self.trouble = _sentence(error)
            for job in jobs:
                _resolve(job, JournalError(self.trouble))
            return
        self._ended(True)
        self._judge(jobs, wrote=wrote)
        for job in jobs:
            _resolve(job, None if job.error is None else _journal_error(job.error))

    def _judge(self, jobs: list[Job[Any]], *, wrote: bool) -> None:
        errors = [job.error for job in jobs if isinstance(job.error, sqlite3.Error)]
        if errors:
            self.trouble = _sentence(errors[0])
            self._drop()  # opened again, the file may be larger where its disk has grown
        elif wrote:  # a commit of nothing says nothing about the disk
            self.trouble = None

    def _drop(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
        self._connection = None


def _resolve(job: Job[Any], error: JournalError | None) -> None:
    """Tell whoever waits for it, unless he was told before that it takes too long."""
    try:
        if error is None:
            job.future.set_result(job.value)
        else:
            job.future.set_exception(error)
    except InvalidStateError:
        pass  # not suppress(), which costs as much as the rest


def _touch(connection: sqlite3.Connection) -> None:
    """Write as much as a body of events may be, for a disk may have room for a page and no more."""
    connection.execute("INSERT OR REPLACE INTO memory VALUES ('probe', zeroblob(?))", (_PROBE,))
    connection.execute("DELETE FROM memory WHERE key = 'probe'")


def _journal_error(error: Exception) -> JournalError:
    if isinstance(error, JournalError):
        return error
    wrapped = JournalError(_sentence(error))
    wrapped.__cause__ = error
    return wrapped


def _sentence(error: Exception) -> str:
    return f"the journal cannot be written: {error}"
