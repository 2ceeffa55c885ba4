"""Postpone the runs of a live engine while a dry run uses its journal.

A dry run would end these runs as ``planned``, although a live engine acknowledged their events. They wait
until the dry run is over. A dry run works on the runs that it accepts itself. Those that are unfinished when it
stops continue in the next live engine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.journal.sqlite import claims

if TYPE_CHECKING:
    import sqlite3

POSTPONED_DUE_AT = 1e11
"""``due_at`` of postponed runs: the year 5138, later than every other ``due_at``."""


def in_progress(connection: sqlite3.Connection) -> bool:
    """Return whether the last engine that used the journal was a dry run."""
    return connection.execute("SELECT 1 FROM dry_run").fetchone() is not None


def postpone_runs(connection: sqlite3.Connection) -> int:
    """Start or continue a dry run: postpone the runs from before it. Return their number."""
    connection.execute("INSERT OR IGNORE INTO dry_run SELECT 1, coalesce(max(seq), 0) FROM runs")
    (last,) = connection.execute("SELECT last FROM dry_run").fetchone()
    postponed = connection.execute(
        "UPDATE runs SET state = 'waiting', due_at = ?"
        " WHERE state IS NOT NULL AND undoes IS NULL AND seq <= ? RETURNING target",
        (POSTPONED_DUE_AT, last),
    ).fetchall()
    claims.update_heads(connection, *{row["target"] for row in postponed})
    return len(postponed)


def end(connection: sqlite3.Connection) -> None:
    """End the dry run: make the postponed runs due."""
    connection.execute("DELETE FROM dry_run")
    connection.execute(
        "UPDATE runs SET due_at = 0 WHERE state = 'waiting' AND undoes IS NULL AND due_at >= ?",
        (POSTPONED_DUE_AT,),
    )
