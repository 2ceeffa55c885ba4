"""The thread that writes accepted batches. Everything that arrives during a commit is in the next one."""

from __future__ import annotations

import contextlib
import threading
import time
from concurrent.futures import Future, InvalidStateError
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

import psycopg

from engine.journal.postgres.accept import BatchWriter, EncodedBatch
from engine.journal.postgres.connection import STALL_TIMEOUT, disconnect, sentence
from engine.model.errors import JournalError, JournalUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.journal.postgres.connection import Connection

MAX_BATCHES = 256
"""Batches in one transaction. Limits the delay of their answers and of the next ones."""
_RECONNECT_INTERVAL = 0.25
"""Seconds in which the thread answers with the last error before it connects again."""

_PROBE = EncodedBatch({}, {}, {}, {}, {"probe": {"until": 0.0}})
"""A small write, which tests the server again."""
Verdicts = dict[str, str]
_Job = tuple["EncodedBatch", "Future[Verdicts]"]


class AcceptWriter:
    """Takes batches from any thread and writes them in order, each whole or not at all.

    connect: opens a connection. Called in the writer thread, again after each failure.

    Attributes:
        last_error: the error of the last write, or None after a successful write.

    """

    def __init__(self, connect: Callable[[], Connection]) -> None:
        self._connect = connect
        self._connection: Connection | None = None
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._batches = BatchWriter()
        self._closing = threading.Lock()
        self._closed = False
        self._since: float | None = None
        self._failed_at = float("-inf")
        self.last_error: str | None = None
        self._thread = threading.Thread(target=self._run, name="journal writer", daemon=True)
        self._thread.start()

    def submit(self, batch: EncodedBatch) -> Future[Verdicts]:
        """Return a future that resolves when the batch is on disk, or fails with JournalError."""
        future: Future[Verdicts] = Future()
        future.set_running_or_notify_cancel()
        with self._closing:
            if not self._closed:
                self._jobs.put((batch, future))
                return future
        future.set_exception(JournalError("the journal is closed"))
        return future

    def end_stalled(self) -> None:
        """Give up a transaction without progress. Its batches fail, although they may be written later."""
        since, connection = self._since, self._connection
        if since is not None and connection and time.monotonic() - since > STALL_TIMEOUT:
            disconnect(connection)

    def close(self) -> None:
        """Write the waiting batches and end the thread. Later batches fail."""
        with self._closing:
            if not self._closed:
                self._closed = True
                self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        ending = False
        while not ending:
            waiting = [self._jobs.get()]
            while len(waiting) < MAX_BATCHES and waiting[-1] is not None:
                try:
                    waiting.append(self._jobs.get_nowait())
                except Empty:
                    break
            ending = None in waiting
            self._commit([job for job in waiting if job is not None])
        if self._connection is not None:
            self._connection.close()

    def _commit(self, jobs: list[_Job]) -> None:
        if not jobs:
            return
        if self.last_error and time.monotonic() - self._failed_at < _RECONNECT_INTERVAL:
            _fail(jobs, JournalUnavailableError(self.last_error))
            return
        try:
            verdicts = self._write([batch for batch, _ in jobs])
        except psycopg.DataError as error:
            if len(jobs) == 1:
                _fail(jobs, JournalError(f"the journal cannot be written: {sentence(error)}"))
                return
            for job in jobs:  # so that a bad batch does not affect the others
                self._commit([job])
        except (psycopg.Error, OSError) as error:
            self.last_error = f"the journal cannot be written: {sentence(error)}"
            self._failed_at = time.monotonic()
            _fail(jobs, JournalUnavailableError(self.last_error))
        except Exception as error:  # noqa: BLE001 - a bug must not end the thread; the senders get it
            _fail(jobs, JournalError(f"the journal cannot be written: {error}"))
        else:
            for (_, future), verdict in zip(jobs, verdicts, strict=True):
                with contextlib.suppress(InvalidStateError):
                    future.set_result(verdict)

    def _write(self, batches: list[EncodedBatch]) -> list[Verdicts]:
        """Write batches in one transaction. Raises psycopg.Error: then nothing, or all of it, is written."""
        if not any(batch.runs or batch.throttle_windows for batch in batches):
            return [{} for _ in batches]
        self._since = time.monotonic()
        try:
            if self._connection is None:
                self._connection = self._connect()
            several = self._batches.needs_transaction(batches)
            with self._connection.transaction() if several else contextlib.nullcontext():
                verdicts = self._batches.write(self._connection, batches)
        except (psycopg.Error, OSError):
            if self._connection is not None and self._connection.closed:
                self._connection = None
            raise
        finally:
            self._since = None
        self._batches.committed(batches)
        self.last_error = None
        return verdicts

    def probe(self) -> str | None:
        """Return the reason why the journal cannot be written, or None. Tests again after a failure."""
        if self._closed:
            return "the journal is closed"
        if self.last_error is not None:
            with contextlib.suppress(JournalError):
                self.submit(_PROBE).result()
        return self.last_error


def _fail(jobs: list[_Job], error: JournalError) -> None:
    for _, future in jobs:
        with contextlib.suppress(InvalidStateError):
            future.set_exception(error)
