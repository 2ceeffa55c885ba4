"""The runs read: what has been, what is under way, and what is due next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.journal.sqlite import inbox, undo_intents
from engine.journal.sqlite.bloom_filter import BloomFilter, brief
from engine.model.playbook import ALL_PLAYBOOKS

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Collection

    from engine.journal.protocol import RunFilter

SIEVED = 100_000
"""Runs of which a sieve is made at the start, in 0.3 s."""
_STATES = {
    "waiting": "state IN ('head', 'queued', 'waiting') AND NOT held",
    "running": "state = 'leased'",
    "held": "held AND state IS NOT NULL",
}


def select(connection: sqlite3.Connection, wanted: RunFilter) -> list[sqlite3.Row]:
    """The rows, the newest first."""
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
        f"SELECT * FROM runs WHERE {' AND '.join(tests)} ORDER BY seq DESC LIMIT ?",  # noqa: S608 - made of our own words
        (*values, wanted.limit),
    ).fetchall()
    return found


def sieve(connection: sqlite3.Connection, waiting: Collection[int]) -> BloomFilter | None:
    """A sieve of the ids of all runs; None where they are so many that a start would wait for it.

    waiting: those that are not in the lanes yet, in brief.
    """
    (many,) = connection.execute("SELECT count(*) FROM runs").fetchone()
    many += len(waiting)
    if many > SIEVED:
        return None
    made = BloomFilter(max(SIEVED, 2 * many))
    made.add(*waiting, *(brief(row["id"]) for row in connection.execute("SELECT id FROM runs")))
    return made


def undoings(connection: sqlite3.Connection, run: str) -> dict[int, float | None]:
    """The positions of the steps of a run that can be undone, with when that is due."""
    found = connection.execute(
        "SELECT position, due_at FROM runs INDEXED BY runs_undoes WHERE undoes = ? ORDER BY position",
        (run,),
    )
    return {row["position"]: row["due_at"] for row in found}


def counts(connection: sqlite3.Connection) -> dict[str, int]:
    """How many runs are ``waiting``, ``running``, ``held`` and ``over``; undoings are none."""
    connection.execute("BEGIN")  # all of it as of one moment, for runs go from there to here
    try:
        return _counts(connection)
    finally:
        connection.execute("COMMIT")


def _counts(connection: sqlite3.Connection) -> dict[str, int]:
    live, running, held = connection.execute(
        "SELECT count(*), coalesce(sum(state = 'leased'), 0), coalesce(sum(held), 0)"
        " FROM runs INDEXED BY runs_lanes WHERE state IS NOT NULL"
    ).fetchone()
    undone, undoing, scheduled = connection.execute(
        "SELECT count(*), coalesce(sum(state = 'leased'), 0), coalesce(sum(state IS NOT NULL), 0)"
        " FROM runs INDEXED BY runs_undoes WHERE undoes IS NOT NULL"
    ).fetchone()
    (total,) = connection.execute("SELECT count(*) FROM runs").fetchone()
    live, running, total = live - scheduled, running - undoing, total - undone
    over = max(0, total - live)
    waiting = live - running - held + inbox.count(connection)
    return {"waiting": waiting, "running": running, "held": held, "over": over}


def next_due(connection: sqlite3.Connection, pool: str, *, undo: bool) -> float | None:
    """When the pool's earliest run may be claimed, or undoing, if asked; while all is paused, only those."""
    paused = connection.execute(
        "SELECT 1 FROM paused WHERE playbook = ?", (ALL_PLAYBOOKS,)
    ).fetchone()
    due = [undo_intents.next_due(connection) if undo else None]
    if not paused:
        due.append(inbox.first(connection, pool))
        found = connection.execute(
            "SELECT min(due_at) FROM runs INDEXED BY runs_timers"
            " WHERE state IN ('waiting', 'leased') AND undoes IS NULL AND pool = ?1 UNION ALL "
            "SELECT min(due_at) FROM runs INDEXED BY runs_heads WHERE state = 'head' AND pool = ?1",
            (pool,),
        )
        due += [row[0] for row in found]
    return min((at for at in due if at is not None), default=None)
