"""The threads that write accepted batches and settlements. The next commit writes what arrives during one."""

from __future__ import annotations

import contextlib
import threading
import time
from abc import ABC, abstractmethod
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Generic, TypeVar

import psycopg
from psycopg import errors

from engine.journal.postgres import claims
from engine.journal.postgres.accept import BatchWriter, EncodedBatch
from engine.journal.postgres.connection import (
    STALL_TIMEOUT,
    check_no_commit_waits,
    close_after,
    disconnect,
    is_of_content,
    is_stale,
    sentence,
)
from engine.model.errors import JournalError, JournalUnavailableError, UnwritableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.journal.postgres.connection import Connection
    from engine.journal.settlements import Settlement

MAX_ITEMS = 256
"""Items in one transaction. Limits the delay of their answers and of the next ones."""
_ATTEMPTS = 3
"""Attempts of a transaction that PostgreSQL ends because of a deadlock."""
_RECONNECT_INTERVAL = 0.25
"""Seconds in which the thread answers with the last error before it connects again."""

_PROBE = EncodedBatch({}, {}, {"probe": {"until": 0.0}})
"""A small write, which tests the server again."""
Verdicts = dict[str, str]
Item = TypeVar("Item")
Result = TypeVar("Result")


class GroupWriter(ABC, Generic[Item, Result]):
    """Takes items from any thread and writes them in order, each completely or not at all.

    connect: opens a connection. Called in the writer thread, again after each failure. name: of the thread.

    Attributes:
        last_error: the error of the last write, or None after a successful write.

    """

    def __init__(self, connect: Callable[[], Connection], name: str) -> None:
        self._connect = connect
        self._connection: Connection | None = None
        self._jobs: SimpleQueue[tuple[Item, Future[Result]] | None] = SimpleQueue()
        self._closing = threading.Lock()
        self._closed = False
        self._since: float | None = None
        self._stalled: int | None = None
        self._failed_at = float("-inf")
        self.last_error: str | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, item: Item) -> Future[Result]:
        """Return a future that resolves when the item is on disk, or fails with JournalError."""
        future: Future[Result] = Future()
        future.set_running_or_notify_cancel()
        with self._closing:
            if not self._closed:
                self._jobs.put((item, future))
                return future
        future.set_exception(JournalError("the journal is closed"))
        return future

    def end_stalled(self) -> None:
        """Abort a transaction without progress. Its items fail, although they may be written later."""
        since, connection = self._since, self._connection
        if since is not None and connection and time.monotonic() - since > STALL_TIMEOUT:
            self._stalled = disconnect(connection) or self._stalled

    def close(self) -> None:
        """Write the waiting items and end the thread. Later items fail."""
        with self._closing:
            if not self._closed:
                self._closed = True
                self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        ending = False
        while not ending:
            waiting = [self._jobs.get()]
            while len(waiting) < MAX_ITEMS and waiting[-1] is not None:
                try:
                    waiting.append(self._jobs.get_nowait())
                except Empty:
                    break
            ending = None in waiting
            self._commit([job for job in waiting if job is not None])
        if self._connection is not None:
            self._connection.close()

    def _commit(self, jobs: list[tuple[Item, Future[Result]]]) -> None:
        if not jobs:
            return
        if self.last_error and time.monotonic() - self._failed_at < _RECONNECT_INTERVAL:
            _fail(jobs, JournalUnavailableError(self.last_error))
            return
        try:
            results = self._write([item for item, _ in jobs])
        except Exception as error:  # noqa: BLE001 - a bug must not end the thread; the senders get it
            why = f"the journal cannot be written: {sentence(error)}"
            if not is_of_content(error):
                self.last_error, self._failed_at = why, time.monotonic()
                _fail(jobs, JournalUnavailableError(why))
            elif len(jobs) == 1:
                _fail(jobs, UnwritableError(why))
            else:
                for job in jobs:  # so that a bad item does not affect the others
                    self._commit([job])
        else:
            for (_, future), result in zip(jobs, results, strict=True):
                future.set_result(result)

    def _write(self, items: list[Item]) -> list[Result]:
        """Write items in one transaction. Raises psycopg.Error: then nothing, or all of it, is written."""
        self._since = time.monotonic()
        try:
            if self._connection is not None and is_stale(self._connection):
                self._connection.close()
                self._connection = None
            if self._connection is None:
                self._connection = self._connect()
            if self._stalled is not None:
                check_no_commit_waits(self._connection, self._stalled)
                self._stalled = None
            results = self._write_again_after_deadlock(self._connection, items)
        except (psycopg.Error, OSError) as error:
            if self._connection is not None and close_after(error, self._connection):
                self._connection = None
            raise
        finally:
            self._since = None
        self.last_error = None
        return results

    def _write_again_after_deadlock(
        self, connection: Connection, items: list[Item]
    ) -> list[Result]:
        for attempt in range(_ATTEMPTS):
            try:
                return self._transact(connection, items)
            except errors.DeadlockDetected:
                if attempt == _ATTEMPTS - 1:
                    raise
        raise AssertionError

    @abstractmethod
    def _transact(self, connection: Connection, items: list[Item]) -> list[Result]:
        """Write items in one transaction. Return a result for each."""


class SettlementWriter(GroupWriter["Settlement", bool]):
    """Writes settlements. The result: whether the claim was the newest."""

    def _transact(self, connection: Connection, items: list[Settlement]) -> list[bool]:
        return claims.settle(connection, items)


class AcceptWriter(GroupWriter[EncodedBatch, Verdicts]):
    """Writes accepted batches. The result: the runs that were not accepted."""

    def __init__(self, connect: Callable[[], Connection]) -> None:
        self._batches = BatchWriter()
        self._connect_to_server = connect
        super().__init__(self._connect_again, "journal writer")

    def _connect_again(self) -> Connection:
        self._batches.connected()
        return self._connect_to_server()

    def _transact(self, connection: Connection, items: list[EncodedBatch]) -> list[Verdicts]:
        merged = self._batches.merge(items)
        with connection.transaction() if merged.needs_transaction else contextlib.nullcontext():
            verdicts = self._batches.write(connection, merged)
        self._batches.committed(merged)
        return verdicts

    def _write(self, items: list[EncodedBatch]) -> list[Verdicts]:
        """Write batches, except if there is nothing to write."""
        if any(batch.runs or batch.throttle_windows for batch in items):
            return super()._write(items)
        return [{} for _ in items]

    def probe(self) -> str | None:
        """Return the reason why the journal cannot be written, or None. Tests again after a failure."""
        if self._closed:
            return "the journal is closed"
        if self.last_error is not None:
            with contextlib.suppress(JournalError):
                self.submit(_PROBE).result()
        return self.last_error


def _fail(jobs: list[tuple[Item, Future[Result]]], error: JournalError) -> None:
    for _, future in jobs:
        future.set_exception(error)
