"""A spell of dry run over a journal that has work: what a live engine accepted is put aside, and done after it.

It would end as planned for good, though it was acknowledged. What a dry run accepts is planned in it; what
then still waits is acknowledged, too, and done by the next engine that acts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.journal import codec
from engine.journal.sqlite import scheduler
from engine.journal.sqlite.key_value import kept, remember

if TYPE_CHECKING:
    import sqlite3

FAR = 1e11
"""When what is put aside comes due: some year 5138, which no wait reaches."""
KEY = "dry-run"
"""In the memory's table, the last run that was accepted before the dry run; no engine's to see."""


def under_way(connection: sqlite3.Connection) -> bool:
    """Whether the last engine here was a dry run."""
    return connection.execute("SELECT 1 FROM memory WHERE key = ?", (KEY,)).fetchone() is not None


def put(connection: sqlite3.Connection) -> int:
    """Begin a dry run, or go on with one: put aside what was accepted before it; how many runs that are."""
    found = connection.execute("SELECT value FROM memory WHERE key = ?", (KEY,)).fetchone()
    if found:
        last = int(codec.decode(found["value"]))
    else:
        last = connection.execute("SELECT coalesce(max(seq), 0) FROM runs").fetchone()[0]
        remember(connection, kept({KEY: last}))
    found = connection.execute(
        "UPDATE runs SET state = 'waiting', due_at = ?"
        " WHERE state IS NOT NULL AND undoes IS NULL AND seq <= ? RETURNING target",
        (FAR, last),
    ).fetchall()
    scheduler.refresh(connection, *{row["target"] for row in found})
    return len(found)


def take_back(connection: sqlite3.Connection) -> None:
    """End a dry run: what was put aside is due."""
    remember(connection, kept({KEY: None}))
    connection.execute(
        "UPDATE runs SET due_at = 0 WHERE state = 'waiting' AND undoes IS NULL AND due_at >= ?",
        (FAR,),
    )
