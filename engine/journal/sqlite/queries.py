"""Read-only queries about runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
_STATES = {
    "waiting": "state IN ('head', 'queued', 'waiting') AND NOT held",
    "running": "state = 'leased'",
    "held": "held AND state IS NOT NULL",
}


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


def select_runs(connection: sqlite3.Connection, wanted: RunFilter) -> list[sqlite3.Row]:
    """Return the rows that match, newest first."""
    tests = ["undoes IS NULL"]
    values: list[Any] = []
    for column, value in (("playbook", wanted.playbook), ("namespace", wanted.namespace)):
        if value is not None:
            tests.append(f"{column} = ?")
            values.append(value)
    if wanted.since is not None:
        tests.append("received >= ?")
        values.append(wanted.since)
    if wanted.state in _STATES:
        tests.append(_STATES[wanted.state])
    elif wanted.state is not None:
        tests.append("outcome = ?")
        values.append(wanted.state)
    found: list[sqlite3.Row] = connection.execute(
        f"SELECT * FROM runs WHERE {' AND '.join(tests)} ORDER BY seq DESC LIMIT ?",  # noqa: S608 - only constants
        (*values, wanted.limit),
    ).fetchall()
    return found


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
    """Return the number of runs per state: ``waiting``, ``running``, ``held``, ``over``. Undos do not count."""
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
    undos, running_undos, unfinished_undos = connection.execute(
        "SELECT count(*), coalesce(sum(state = 'leased'), 0), coalesce(sum(state IS NOT NULL), 0)"
        " FROM runs INDEXED BY runs_undoes WHERE undoes IS NOT NULL"
    ).fetchone()
    (total,) = connection.execute("SELECT count(*) FROM runs").fetchone()
    unfinished, running = unfinished - unfinished_undos, running - running_undos
    over = max(0, total - undos - unfinished)
    waiting = unfinished - running - held + inbox_rows.count_runs(connection)
    return {"waiting": waiting, "running": running, "held": held, "over": over}


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
