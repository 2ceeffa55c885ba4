"""The thread that alone writes: what waits when it wakes is one transaction, one fsync."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from engine.journal.journal import JournalError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


@dataclass(slots=True)
class Job(Generic[T]):
    """Work on the connection, its future and, until the commit, what it gave or raised."""

    work: Callable[[sqlite3.Connection], T]
    future: Future[T] = field(default_factory=Future)
    value: T | None = None
    error: Exception | None = None


class Writer:
    """Takes jobs from any thread and does them in order, each whole or not at all.

    connect: opens a connection that may write; called in the thread, again after every failure.
    """

    def __init__(self, connect: Callable[[], sqlite3.Connection], name: str) -> None:
        self._connect = connect
        self._connection: sqlite3.Connection | None = None
        self._jobs: SimpleQueue[Job[Any] | None] = SimpleQueue()
        self._closing = threading.Lock()
        self._closed = False
        self.trouble: str | None = None
        # a daemon, so that an engine that dies without closing ends instead of hanging; what it has
        # not written by then it has told nobody to be written
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[sqlite3.Connection], T]) -> Future[T]:
        """A future that resolves once the work is on disk, or fails with JournalError.

        It cannot be cancelled: a sender who hangs up must not take his event with him.
        """
        job = Job(work)
        job.future.set_running_or_notify_cancel()
        with self._closing:
            if not self._closed:
                self._jobs.put(job)
                return job.future
        job.future.set_exception(JournalError("the journal is closed"))
        return job.future

    def probe(self) -> str | None:
        """What is wrong, asked anew, with a small write, where something was."""
        if self._closed:
            return "the journal is closed"
        if self.trouble is not None:
            with contextlib.suppress(JournalError):
                self.submit(_touch).result()
        return self.trouble

    def close(self) -> None:
        """Do what waits and end the thread; later jobs fail."""
        with self._closing:
            if not self._closed:
                self._closed = True
                self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        ending = False
        while not ending:
            waiting = [self._jobs.get()]
            with contextlib.suppress(Empty):
                while True:
                    waiting.append(self._jobs.get_nowait())
            ending = None in waiting
            self._commit([job for job in waiting if job is not None])
        self._drop()

    def _commit(self, jobs: list[Job[Any]]) -> None:
        try:
            if self._connection is None:
                self._connection = self._connect()
            connection = self._connection
            before = connection.total_changes
            connection.execute("BEGIN IMMEDIATE")
            for job in jobs:
                _do(connection, job)
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            # reopened before the next write: after a failed fsync nothing cached can be trusted
            self._drop()
            self.trouble = _sentence(error)
            for job in jobs:
                job.future.set_exception(JournalError(self.trouble))
            return
        self._judge(jobs, wrote=connection.total_changes != before)
        for job in jobs:
            if job.error is None:
                job.future.set_result(job.value)
            else:
                job.future.set_exception(_journal_error(job.error))

    def _judge(self, jobs: list[Job[Any]], *, wrote: bool) -> None:
        errors = [job.error for job in jobs if isinstance(job.error, sqlite3.Error)]
        if errors:
            self.trouble = _sentence(errors[0])
        elif wrote:  # a commit of nothing says nothing about the disk
            self.trouble = None

    def _drop(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
        self._connection = None


def _do(connection: sqlite3.Connection, job: Job[Any]) -> None:
    """Do one job so that its failure undoes it alone. Raises where all jobs are undone."""
    connection.execute("SAVEPOINT job")
    try:
        job.value = job.work(connection)
    except (
        Exception
    ) as error:  # the thread must outlive any job; whoever waits for it gets the error
        if not connection.in_transaction:
            if isinstance(error, sqlite3.Error):
                raise
            raise sqlite3.OperationalError(f"the transaction is lost: {error}") from error
        job.error = error
        connection.execute("ROLLBACK TO job")
    connection.execute("RELEASE job")


def _touch(connection: sqlite3.Connection) -> None:
    connection.execute(
        "INSERT INTO probe VALUES (1, 1) ON CONFLICT DO UPDATE SET count = count + 1"
    )


def _journal_error(error: Exception) -> JournalError:
    if isinstance(error, JournalError):
        return error
    wrapped = JournalError(_sentence(error))
    wrapped.__cause__ = error
    return wrapped


def _sentence(error: Exception) -> str:
    return f"the journal cannot be written: {error}"
