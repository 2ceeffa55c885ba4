"""Read-only queries about runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.journal.run_filter import conditions
from engine.journal.sqlite import inbox_rows, undo_intents
from engine.journal.sqlite.bloom_filter import BloomFilter, short_id
from engine.model.playbook import ALL_PLAYBOOKS

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Collection

    from engine.journal.records import RunFilter
    from engine.journal.sqlite.read_pool import ReadPool
    from engine.model.calls import ObjectChange

MAX_FILTERED_RUNS = 100_000
"""Number of runs up to which a Bloom filter is built at the start. That takes 0.3 s."""


class RunLookups:
    """The queries for the Hydrator (see engine.journal.hydrate.Lookups)."""

    def __init__(self, readers: ReadPool) -> None:
        self._readers = readers

    def event(self, number: int) -> bytes | None:
        """Return the encoded event with this number, or None."""
        row = self._readers.row("SELECT body FROM events WHERE id = ?", number)
        return None if row is None else row["body"]

    def snapshot(self, digest: str) -> bytes | None:
        """Return the snapshot of the playbook with this digest, or None."""
        row = self._readers.row("SELECT snapshot FROM snapshots WHERE digest = ?", digest)
        return None if row is None else row["snapshot"]

    def undo_changes(self, undo: str) -> tuple[ObjectChange, ...]:
        """Return the changes that an undo reverts, in the order in which they were made."""
        with self._readers.connection() as connection:
            return undo_intents.changes(connection, undo)

    def undo_steps(self, run: str) -> dict[int, float | None]:
        """Return the steps of a run that can be undone: position -> epoch seconds, or None (on request)."""
        with self._readers.connection() as connection:
            found = connection.execute(
                "SELECT position, due_at FROM runs INDEXED BY runs_undoes WHERE undoes = ?"
                " ORDER BY position",
                (run,),
            )
            return {row["position"]: row["due_at"] for row in found}


def find(connection: sqlite3.Connection, run_id: str) -> sqlite3.Row | None:
    """Return the row of a run, or None."""
    found: sqlite3.Row | None = connection.execute(
        "SELECT * FROM runs WHERE id = ?", (run_id,)
    ).fetchone()
    return found


def find_ids(connection: sqlite3.Connection, prefix: str) -> list[str]:
    """Return the ids of up to three runs that start with the prefix."""
    found = connection.execute(
        "SELECT id FROM runs WHERE id >= ? AND id < ? AND undoes IS NULL LIMIT 3",
        (prefix, prefix + "g"),
    ).fetchall()
    return [row["id"] for row in found]


def select_runs(connection: sqlite3.Connection, wanted: RunFilter) -> list[sqlite3.Row]:
    """Return the rows that match, newest first."""
    tests, values = conditions(wanted, "?")
    return connection.execute(
        f"SELECT * FROM runs WHERE {tests} ORDER BY seq DESC LIMIT ?",  # noqa: S608 - only constants
        (*values, wanted.limit),
    ).fetchall()


def known_filter(connection: sqlite3.Connection, waiting: Collection[int]) -> BloomFilter | None:
    """Build a Bloom filter of all run ids. Return None if there are too many runs.

    waiting: the short ids of the runs in the inbox.
    """
    (runs,) = connection.execute("SELECT count(*) FROM runs").fetchone()
    runs += len(waiting)
    if runs > MAX_FILTERED_RUNS:
        return None
    made = BloomFilter(expected_items=max(MAX_FILTERED_RUNS, 2 * runs))
    made.add(*waiting, *(short_id(row["id"]) for row in connection.execute("SELECT id FROM runs")))
    return made


def counts(connection: sqlite3.Connection) -> dict[str, int]:
    """Return the number of unfinished runs per state; undos do not count."""
    connection.execute("BEGIN")  # one snapshot, because runs change their state between the queries
    try:
        return _counts(connection)
    finally:
        connection.execute("COMMIT")


def _counts(connection: sqlite3.Connection) -> dict[str, int]:
    unfinished, running, held = connection.execute(
        "SELECT count(*), coalesce(sum(state = 'leased'), 0), coalesce(sum(held), 0)"
        " FROM runs INDEXED BY runs_lanes WHERE state IS NOT NULL"
    ).fetchone()
    running_undos, unfinished_undos = connection.execute(
        "SELECT coalesce(sum(state = 'leased'), 0), coalesce(sum(state IS NOT NULL), 0)"
        " FROM runs INDEXED BY runs_undoes WHERE undoes IS NOT NULL"
    ).fetchone()
    unfinished, running = unfinished - unfinished_undos, running - running_undos
    waiting = unfinished - running - held + inbox_rows.count_runs(connection)
    return {"waiting": waiting, "running": running, "held": held}


def next_due(connection: sqlite3.Connection, pool: str, *, undo: bool) -> float | None:
    """Return the time at which the next run of the pool can be claimed, or None.

    undo: whether undos count. While all playbooks are paused, only undos count.
    """
    paused = connection.execute(
        "SELECT 1 FROM pauses WHERE playbook = ?", (ALL_PLAYBOOKS,)
    ).fetchone()
    due = [undo_intents.next_due(connection) if undo else None]
    if not paused:
        due.append(inbox_rows.first_received(connection, pool))
        found = connection.execute(
            "SELECT min(due_at) FROM runs INDEXED BY runs_timers"
            " WHERE state IN ('waiting', 'leased') AND undoes IS NULL AND pool = ?1 UNION ALL "
            "SELECT min(due_at) FROM runs INDEXED BY runs_heads WHERE state = 'head' AND pool = ?1",
            (pool,),
        )
        due += [row[0] for row in found]
    return min((at for at in due if at is not None), default=None)
