"""Limit the size of the journal: delete old runs, and keep bounded tables of dead letters and dropped runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.journal.dropped import (
    MAX_DEAD_LETTERS,
    MAX_DELETED_RUNS,
    MAX_DROP_COUNTERS,
    counter_rows,
)
from engine.journal.records import DeadLetter, DroppedRuns

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from engine.journal.records import RunFilter


def save_dropped(
    connection: sqlite3.Connection,
    dead_letters: Sequence[DeadLetter],
    dropped_runs: Sequence[DroppedRuns],
) -> None:
    """Write dead letters, add to the counters, and delete the oldest rows of both."""
    connection.executemany(
        "INSERT INTO dead_letters (received, source, error, body) VALUES (?, ?, ?, ?)",
        [(one.received, one.source, one.error, one.body) for one in dead_letters],
    )
    connection.executemany(
        "INSERT INTO drops VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE"
        " SET count = count + excluded.count, last = max(last, excluded.last)",
        counter_rows(dropped_runs),
    )
    connection.execute(
        "DELETE FROM dead_letters WHERE id <= (SELECT max(id) FROM dead_letters) - ?",
        (MAX_DEAD_LETTERS,),
    )
    counted = connection.execute("SELECT count(*) FROM drops").fetchone() if dropped_runs else (0,)
    if counted[0] > MAX_DROP_COUNTERS:
        connection.execute(
            "DELETE FROM drops WHERE last <= (SELECT last FROM drops ORDER BY last LIMIT 1 OFFSET ?)",
            (counted[0] - MAX_DROP_COUNTERS - 1,),
        )


def delete_runs(connection: sqlite3.Connection, before: float) -> int:
    """Delete up to ``MAX_DELETED_RUNS`` runs that ended before this time. Return their number."""
    rows = connection.execute(
        "SELECT seq, id, event FROM runs INDEXED BY runs_settled WHERE settled < ? LIMIT ?",
        (before, MAX_DELETED_RUNS),
    ).fetchall()
    connection.executemany(
        "DELETE FROM undo_intents WHERE undo = ?", [(row["id"],) for row in rows]
    )
    connection.executemany("DELETE FROM runs WHERE seq = ?", [(row["seq"],) for row in rows])
    delete_unused_events(connection, {row["event"] for row in rows})
    connection.execute("DELETE FROM drops WHERE last < ?", (before,))
    connection.execute("DELETE FROM dead_letters WHERE received < ?", (before,))
    return len(rows)


def strip_runs(connection: sqlite3.Connection, before: float) -> int:
    """Delete the data of up to ``MAX_DELETED_RUNS`` runs that ended before this time. Keep their ids.

    Returns the number of runs.
    """
    rows = connection.execute(
        "SELECT seq, event FROM runs INDEXED BY runs_settled"
        " WHERE settled < ? AND event != 0 AND undoes IS NULL LIMIT ?",
        (before, MAX_DELETED_RUNS),
    ).fetchall()
    connection.executemany(
        "UPDATE runs SET event = 0, results = '[]', facts = '{}' WHERE seq = ?",
        [(row["seq"],) for row in rows],
    )
    delete_unused_events(connection, {row["event"] for row in rows})
    return len(rows)


def delete_unused_events(connection: sqlite3.Connection, events: set[int]) -> None:
    """Delete those of the events to which no run refers any longer."""
    connection.executemany(
        "DELETE FROM events WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM runs WHERE event = ?1)",
        [(event,) for event in events],
    )


def dead_letters(connection: sqlite3.Connection, limit: int) -> list[DeadLetter]:
    """Return the dead letters, newest first."""
    rows = connection.execute(
        "SELECT received, source, error, body FROM dead_letters ORDER BY id DESC LIMIT ?", (limit,)
    )
    return [DeadLetter(*row) for row in rows]


def dropped_runs(connection: sqlite3.Connection, wanted: RunFilter) -> list[DroppedRuns]:
    """Return the counters that match the playbook and the time, last changed first."""
    rows = connection.execute(
        "SELECT playbook, reason, key, count, first, last FROM drops"
        " WHERE (?1 IS NULL OR playbook = ?1) AND (?2 IS NULL OR last >= ?2)"
        " ORDER BY last DESC LIMIT ?3",
        (wanted.playbook, wanted.since, wanted.limit),
    )
    return [DroppedRuns(*row) for row in rows]
