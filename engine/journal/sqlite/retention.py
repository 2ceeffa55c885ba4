"""What keeps the journal small: counters of what was dropped, a few dead letters, an end to what is old."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.journal.protocol import DeadLetter, DroppedRuns

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

SLICE = 500
"""Runs that one piece of work removes at most, so that no accept waits for thousands."""
DEAD = 1_000
"""Dead letters that are kept, the newest."""
DROPS = 20_000
"""Lines about drops that are kept: an attacker can make many keys."""
_HOUR = 3600


def note(
    connection: sqlite3.Connection, dead: Sequence[DeadLetter], drops: Sequence[DroppedRuns]
) -> None:
    """Write dead letters and add to the counters; the oldest make way."""
    connection.executemany(
        "INSERT INTO dead (received, source, error, body) VALUES (?, ?, ?, ?)",
        [(one.received, one.source, one.error, one.body) for one in dead],
    )
    connection.executemany(
        "INSERT INTO drops VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE"
        " SET count = count + excluded.count, last = max(last, excluded.last)",
        [
            (d.playbook, d.reason, d.key, int(d.first) // _HOUR, d.count, d.first, d.last)
            for d in drops
        ],
    )
    connection.execute("DELETE FROM dead WHERE id <= (SELECT max(id) FROM dead) - ?", (DEAD,))
    (many,) = connection.execute("SELECT count(*) FROM drops").fetchone() if drops else (0,)
    if many > DROPS:
        connection.execute(
            "DELETE FROM drops WHERE last <= (SELECT last FROM drops ORDER BY last LIMIT 1 OFFSET ?)",
            (many - DROPS - 1,),
        )


def forget(connection: sqlite3.Connection, before: float) -> int:
    """Remove a slice of the runs that were over before, whole; how many that was."""
    rows = connection.execute(
        "SELECT seq, id, event FROM runs INDEXED BY runs_settled WHERE settled < ? LIMIT ?",
        (before, SLICE),
    ).fetchall()
    connection.executemany("DELETE FROM holds WHERE undo = ?", [(row["id"],) for row in rows])
    connection.executemany("DELETE FROM runs WHERE seq = ?", [(row["seq"],) for row in rows])
    let_go(connection, {row["event"] for row in rows})
    connection.execute("DELETE FROM drops WHERE last < ?", (before,))
    connection.execute("DELETE FROM dead WHERE received < ?", (before,))
    return len(rows)


def strip(connection: sqlite3.Connection, before: float) -> int:
    """Take the bodies from a slice of the runs that were over before; their ids stay known."""
    rows = connection.execute(
        "SELECT seq, event FROM runs INDEXED BY runs_settled"
        " WHERE settled < ? AND event != 0 AND undoes IS NULL LIMIT ?",
        (before, SLICE),
    ).fetchall()
    connection.executemany(
        "UPDATE runs SET event = 0, results = '[]', facts = '{}' WHERE seq = ?",
        [(row["seq"],) for row in rows],
    )
    let_go(connection, {row["event"] for row in rows})
    return len(rows)


def let_go(connection: sqlite3.Connection, events: set[int]) -> None:
    """Remove the bodies that no run needs any more."""
    connection.executemany(
        "DELETE FROM events WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM runs WHERE event = ?1)",
        [(event,) for event in events],
    )


def dead(connection: sqlite3.Connection, limit: int) -> list[DeadLetter]:
    """The dead letters, the newest first."""
    rows = connection.execute(
        "SELECT received, source, error, body FROM dead ORDER BY id DESC LIMIT ?", (limit,)
    )
    return [DeadLetter(*row) for row in rows]


def drops(
    connection: sqlite3.Connection, playbook: str | None, since: float | None, limit: int
) -> list[DroppedRuns]:
    """The counters, the last changed first."""
    rows = connection.execute(
        "SELECT playbook, reason, key, count, first, last FROM drops"
        " WHERE (?1 IS NULL OR playbook = ?1) AND (?2 IS NULL OR last >= ?2)"
        " ORDER BY last DESC LIMIT ?3",
        (playbook, since, limit),
    )
    return [DroppedRuns(*row) for row in rows]
