"""Who may go next: the scheduler's statements, each a function of the connection that writes.

The runs of one target are a lane. Time alone moves a run from ``waiting`` or ``leased`` to ready,
so a claim first turns what has come due into ``queued`` and puts the earliest of each lane at its
``head`` (unless one of the lane is in flight). Then the heads of a pool, in order of acceptance,
are what may start: one index is read as far as the limit, however long the lanes are.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

from engine.model.playbook import ALL_PLAYBOOKS

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Sequence

T = TypeVar("T")
AT_ONCE = 100
"""Rows of one statement; SQLite takes 32,766 values, and the time is in the statements before that."""
# what stands at the heads of these lanes makes way for what is earlier, or for what is in flight
_BEHIND = (
    "UPDATE runs SET state = 'queued' WHERE state = 'head' AND target IN (SELECT target FROM given)"
    " AND (EXISTS (SELECT 1 FROM runs AS other INDEXED BY runs_lanes"
    " WHERE other.target = runs.target AND other.state = 'leased')"
    # the first by the index, since min() would look at every row that is queued
    " OR seq > (SELECT seq FROM runs AS other INDEXED BY runs_lanes"
    " WHERE other.target = runs.target AND other.state = 'queued'"
    " AND other.playbook NOT IN (SELECT playbook FROM paused) ORDER BY seq LIMIT 1))"
)
_AHEAD = (
    "UPDATE runs SET state = 'head' WHERE seq IN (SELECT (SELECT seq FROM runs INDEXED BY runs_lanes"
    " WHERE runs.target = given.target AND state = 'queued'"
    " AND playbook NOT IN (SELECT playbook FROM paused) ORDER BY seq LIMIT 1) FROM given"
    " WHERE NOT EXISTS (SELECT 1 FROM runs INDEXED BY runs_lanes"
    " WHERE runs.target = given.target AND state IN ('leased', 'head')))"
)
_LEASE = (
    "UPDATE runs SET state = 'leased', leased = 1, held = 0, fence = fence + 1, attempt = attempt + 1,"
    " began = coalesce(began, ?), due_at = ? + timeout + ? WHERE seq IN "
)
SLICE = 500
"""Runs that one piece of work moves at most (a few ms), so that no accept waits for thousands."""


def in_slices(rows: Sequence[T]) -> Iterator[Sequence[T]]:
    """So many at a time as one statement takes."""
    for start in range(0, len(rows), AT_ONCE):
        yield rows[start : start + AT_ONCE]


@lru_cache(1_000)
def places(rows: int, columns: int) -> str:
    """The marks of so many rows."""
    return ", ".join([f"({', '.join('?' * columns)})"] * rows)


def promote(connection: sqlite3.Connection, now: float) -> bool:
    """Make ready what has come due, a slice at most; whether that was all."""
    due = connection.execute(
        "SELECT seq, target FROM runs INDEXED BY runs_timers WHERE state IN ('waiting', 'leased')"
        " AND undoes IS NULL AND pool IN ('cluster', 'slow') AND due_at <= ? LIMIT ?",
        (now, SLICE),
    ).fetchall()
    connection.executemany("UPDATE runs SET state = 'queued' WHERE seq = ?", [r[:1] for r in due])
    refresh(connection, *{target for _, target in due})
    return len(due) < SLICE


def refresh(connection: sqlite3.Connection, *targets: str) -> None:
    """Put the earliest ready run of each lane at its head, or none while one is in flight.

    Those of paused playbooks let the others pass.
    """
    for some in in_slices(targets):
        given = f"WITH given (target) AS (VALUES {places(len(some), 1)})"
        for statement in (_BEHIND, _AHEAD):
            connection.execute(f"{given} {statement}", some)


def take(
    connection: sqlite3.Connection, pool: str, limit: int, now: float, margin: float
) -> list[sqlite3.Row]:
    """Lease the first heads of a pool; the rows as they were before.

    A head is ready whatever the clock says, which may have been stepped back since.
    """
    heads: list[sqlite3.Row] = connection.execute(
        "SELECT * FROM runs INDEXED BY runs_heads WHERE state = 'head' AND pool = ?"
        " AND NOT EXISTS (SELECT 1 FROM paused WHERE playbook = ?) ORDER BY seq LIMIT ?",
        (pool, ALL_PLAYBOOKS, max(0, limit)),
    ).fetchall()
    lease(connection, [row["seq"] for row in heads], now, margin)
    return heads


def lease(connection: sqlite3.Connection, seqs: Sequence[int], now: float, margin: float) -> None:
    """Begin an attempt at each of these."""
    for some in in_slices(seqs):
        connection.execute(_LEASE + f"({', '.join('?' * len(some))})", (now, now, margin, *some))


@dataclass(frozen=True, slots=True)
class Holder:
    """Which attempt writes: its run and fence, and the lane to look after."""

    id: str
    fence: int
    target: str


def keep(connection: sqlite3.Connection, holder: Holder, facts: bytes) -> bool:
    """Write the facts of a run; False where the attempt is not in flight any more."""
    changed = connection.execute(
        "UPDATE runs SET facts = ? WHERE id = ? AND fence = ? AND state = 'leased'",
        (facts, holder.id, holder.fence),
    )
    return changed.rowcount == 1
