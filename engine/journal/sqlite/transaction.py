"""The work of one transaction: all of it as one, or where that fails, each piece so that it fails alone."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

T = TypeVar("T")
Write = Callable[[sqlite3.Connection, list[Any]], Sequence[Any] | None]
"""Writes items of a kind; gives a value for each, or None where there is nothing to give."""


@dataclass(frozen=True, slots=True)
class Together:
    """An item that is written together with others of its kind.

    write: gives a value for each item; the same function for all that go together.
    """

    write: Write
    item: Any


@dataclass(slots=True)
class Job(Generic[T]):
    """Work on the connection, its future and, until the commit, what it gave or raised."""

    work: Callable[[sqlite3.Connection], T] | None
    together: Together | None = None
    future: Future[T] = field(default_factory=Future)
    value: T | None = None
    error: Exception | None = None


def do(connection: sqlite3.Connection, jobs: list[Job[Any]]) -> bool:
    """Do all jobs of a transaction that has just begun; False where one fails, and then nothing was done.

    Without savepoints: each takes two statements more, at which the interpreter's lock is given away.
    """
    try:
        for write, group in _groups(jobs).items():
            _give(group, write(connection, _items(group)))
        for job in jobs:
            if job.work:
                job.value = job.work(connection)
    except Exception:  # noqa: BLE001 - the thread must outlive any job; each is tried alone now
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        connection.execute("BEGIN IMMEDIATE")
        return False
    return True


def do_one_by_one(connection: sqlite3.Connection, jobs: list[Job[Any]]) -> None:
    """The same, each so that its failure undoes it alone, and is its error. Raises where all are undone."""
    for write, group in _groups(jobs).items():
        _do_together(connection, write, group)
    for job in jobs:
        _do(connection, job)


def _groups(jobs: list[Job[Any]]) -> dict[Write, list[Job[Any]]]:
    """The jobs that are written together, by what writes them."""
    groups: dict[Write, list[Job[Any]]] = {}
    for job in jobs:
        if job.together:
            groups.setdefault(job.together.write, []).append(job)
    return groups


def _do_together(connection: sqlite3.Connection, write: Write, group: list[Job[Any]]) -> None:
    """Write what goes together; where that fails, one by one, so that each fails alone."""
    error = _alone(connection, lambda: _give(group, write(connection, _items(group))))
    if error is None:
        return
    if len(group) == 1:
        group[0].error = error
        return
    for job in group:
        _do_together(connection, write, [job])


def _give(group: list[Job[Any]], values: Sequence[Any] | None) -> None:
    for job, value in zip(group, values or [None] * len(group), strict=True):
        job.value = value


def _do(connection: sqlite3.Connection, job: Job[Any]) -> None:
    """Do one job so that its failure undoes it alone. Raises where all jobs are undone."""
    work = job.work
    if work is None or job.error is not None:
        return

    def do() -> None:
        job.value = work(connection)

    job.error = _alone(connection, do)


def _alone(connection: sqlite3.Connection, do: Callable[[], None]) -> Exception | None:
    """Do something so that its failure undoes it alone; the failure. Raises where all jobs are undone."""
    connection.execute("SAVEPOINT job")
    error = None
    try:
        do()
    except Exception as raised:  # the thread must outlive any job; whoever waits gets the error
        if not connection.in_transaction:
            if isinstance(raised, sqlite3.Error):
                raise
            raise sqlite3.OperationalError(f"the transaction is lost: {raised}") from raised
        error = raised
        connection.execute("ROLLBACK TO job")
    connection.execute("RELEASE job")
    return error


def _items(group: list[Job[Any]]) -> list[Any]:
    return [job.together.item for job in group if job.together]
