"""The jobs of one transaction: run all of them, or each alone if one fails."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import Future

T = TypeVar("T")
BatchWrite = Callable[[sqlite3.Connection, list[Any]], Sequence[Any] | None]
"""Writes items of one kind. Returns a value for each item, or None if there are no values."""


@dataclass(frozen=True, slots=True)
class BatchItem:
    """An item that is written together with the other items of its kind in the transaction.

    write: writes them; the same function for all items of the kind.
    """

    write: BatchWrite
    item: Any


class BlockingResult(Generic[T]):
    """The result of a job for one thread, which waits for it. The first result counts.

    To create, set and read a Future takes 8 us more, and an attempt has three jobs.
    """

    __slots__ = ("_results",)

    def __init__(self) -> None:
        self._results: SimpleQueue[tuple[T | None, BaseException | None]] = SimpleQueue()

    def set_result(self, value: T | None) -> None:
        """Let the thread return a value."""
        self._results.put((value, None))

    def set_exception(self, error: BaseException | None) -> None:
        """Let the thread raise an error."""
        self._results.put((None, error))

    def result(self) -> T:
        """Wait for the result. Call it once."""
        value, error = self._results.get()
        if error is not None:
            raise error
        return value  # type: ignore[return-value]


@dataclass(slots=True)
class Job(Generic[T]):
    """Work for one transaction and its future. value, error: the result, kept until the commit."""

    work: Callable[[sqlite3.Connection], T] | None
    batch_item: BatchItem | None
    future: Future[T] | BlockingResult[T]
    value: T | None = None
    error: Exception | None = None


def run_all(connection: sqlite3.Connection, jobs: list[Job[Any]]) -> bool:
    """Run all jobs in a transaction that has just begun.

    Returns False if a job fails; all changes are then rolled back, and a new transaction has begun.

    Uses no savepoints: each would take two more statements, and the interpreter lock is released at each.
    """
    try:
        for write, group in _by_kind(jobs).items():
            _set_values(group, write(connection, _items(group)))
        for job in jobs:
            if job.work:
                _do_work(connection, job, job.work)
    except Exception:  # noqa: BLE001 - a bug in a job must not end the writer thread; each job is retried alone
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        connection.execute("BEGIN IMMEDIATE")
        return False
    return True


def run_one_by_one(connection: sqlite3.Connection, jobs: list[Job[Any]]) -> None:
    """Run the jobs so that a failure rolls back only that job and becomes its error.

    Raises sqlite3.Error if the whole transaction was rolled back.
    """
    for write, group in _by_kind(jobs).items():
        _run_batch(connection, write, group)
    for job in jobs:
        _run_job(connection, job)


def _by_kind(jobs: list[Job[Any]]) -> dict[BatchWrite, list[Job[Any]]]:
    """Group the jobs that have a batch item by the function that writes it."""
    groups: dict[BatchWrite, list[Job[Any]]] = {}
    for job in jobs:
        if job.batch_item:
            groups.setdefault(job.batch_item.write, []).append(job)
    return groups


def _run_batch(connection: sqlite3.Connection, write: BatchWrite, group: list[Job[Any]]) -> None:
    """Write the items of a group together. If that fails, write each item alone."""
    error = _in_savepoint(connection, lambda: _set_values(group, write(connection, _items(group))))
    if error is None:
        return
    if len(group) == 1:
        group[0].error = error
        return
    for job in group:
        _run_batch(connection, write, [job])


def _set_values(group: list[Job[Any]], values: Sequence[Any] | None) -> None:
    for job, value in zip(group, values or [None] * len(group), strict=True):
        job.value = value


def _run_job(connection: sqlite3.Connection, job: Job[Any]) -> None:
    """Run the work of one job in a savepoint."""
    work = job.work
    if work is None or job.error is not None:
        return

    job.error = _in_savepoint(connection, lambda: _do_work(connection, job, work))


def _do_work(
    connection: sqlite3.Connection, job: Job[T], work: Callable[[sqlite3.Connection], T]
) -> None:
    """Do the work of a job. Its value is that of its batch item, if it has one."""
    value = work(connection)
    if job.batch_item is None:
        job.value = value


def _in_savepoint(connection: sqlite3.Connection, run: Callable[[], None]) -> Exception | None:
    """Run a function and roll back its changes if it fails. Return its exception.

    Raises sqlite3.Error if the whole transaction was rolled back.
    """
    connection.execute("SAVEPOINT job")
    error = None
    try:
        run()
    except (
        Exception
    ) as raised:  # a bug in a job must not end the writer thread; its future gets the error
        if not connection.in_transaction:
            if isinstance(raised, sqlite3.Error):
                raise
            raise sqlite3.OperationalError(f"the transaction is lost: {raised}") from raised
        error = raised
        connection.execute("ROLLBACK TO job")
    connection.execute("RELEASE job")
    return error


def _items(group: list[Job[Any]]) -> list[Any]:
    return [job.batch_item.item for job in group if job.batch_item]
