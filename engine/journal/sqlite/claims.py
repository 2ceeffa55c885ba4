"""Claims and leases: statements that order the runs of each target, claim them and lease them.

Each function takes the connection of the writer.

The unfinished runs of one target form a target queue. Only time turns a run from ``waiting`` or ``leased`` into
a ready run. A claim therefore first marks the due runs as ``queued``. Then it marks the earliest ready run of
each target queue as ``head``, unless a run of that queue is leased. The heads of a pool, in the order of
acceptance, can start. A claim reads one index up to its limit, however long the queues are.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from engine.journal import codec
from engine.journal.settlements import ClaimKey
from engine.model import json_codec
from engine.model.playbook import ALL_PLAYBOOKS

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Mapping, Sequence

T = TypeVar("T")
ROWS_PER_STATEMENT = 100
"""SQLite accepts 32,766 values in a statement. More rows per statement save no time."""
MAX_DUE_RUNS = 500
"""Runs that one transaction makes ready (a few ms), so that accepts do not wait for thousands of runs."""

# A head goes back to queued if an earlier run is ready or a run of its queue is leased.
_DEMOTE_HEADS = (
    "UPDATE runs SET state = 'queued' WHERE state = 'head' AND target IN (SELECT target FROM given)"
    " AND (EXISTS (SELECT 1 FROM runs AS other INDEXED BY runs_lanes"
    " WHERE other.target = runs.target AND other.state = 'leased')"
    # the first row of the index, because min() would read every queued row
    " OR seq > (SELECT seq FROM runs AS other INDEXED BY runs_lanes"
    " WHERE other.target = runs.target AND other.state = 'queued'"
    " AND other.playbook NOT IN (SELECT playbook FROM pauses) ORDER BY seq LIMIT 1))"
)
_PROMOTE_HEADS = (
    "UPDATE runs SET state = 'head' WHERE seq IN (SELECT (SELECT seq FROM runs INDEXED BY runs_lanes"
    " WHERE runs.target = given.target AND state = 'queued'"
    " AND playbook NOT IN (SELECT playbook FROM pauses) ORDER BY seq LIMIT 1) FROM given"
    " WHERE NOT EXISTS (SELECT 1 FROM runs INDEXED BY runs_lanes"
    " WHERE runs.target = given.target AND state IN ('leased', 'head')))"
)
_LEASE = (
    "UPDATE runs SET state = 'leased', leased = 1, held = 0, fence = fence + 1, attempt = attempt + 1,"
    " began = coalesce(began, ?), due_at = ? + timeout + ? WHERE seq IN "
)
_WRITE_STATES = " UPDATE runs SET facts = given.facts FROM given WHERE runs.id = given.id"


def in_slices(rows: Sequence[T]) -> Iterator[Sequence[T]]:
    """Split rows into slices for one statement each."""
    for start in range(0, len(rows), ROWS_PER_STATEMENT):
        yield rows[start : start + ROWS_PER_STATEMENT]


@lru_cache(1_000)
def placeholders(rows: int, columns: int) -> str:
    """Return the placeholders of a VALUES clause."""
    return ", ".join([f"({', '.join('?' * columns)})"] * rows)


def queue_due_runs(connection: sqlite3.Connection, now: float) -> bool:
    """Mark up to ``MAX_DUE_RUNS`` due runs as queued. Return whether these were all due runs."""
    due = connection.execute(
        "SELECT seq, target FROM runs INDEXED BY runs_timers WHERE state IN ('waiting', 'leased')"
        " AND undoes IS NULL AND pool IN ('cluster', 'slow') AND due_at <= ? LIMIT ?",
        (now, MAX_DUE_RUNS),
    ).fetchall()
    connection.executemany("UPDATE runs SET state = 'queued' WHERE seq = ?", [r[:1] for r in due])
    update_heads(connection, *{target for _, target in due})
    return len(due) < MAX_DUE_RUNS


def update_heads(connection: sqlite3.Connection, *targets: str) -> None:
    """Mark the earliest ready run of each target queue as its head; none while a run is leased.

    Runs of paused playbooks let later runs pass.
    """
    for some in in_slices(targets):
        given = f"WITH given (target) AS (VALUES {placeholders(len(some), 1)})"
        for statement in (_DEMOTE_HEADS, _PROMOTE_HEADS):
            connection.execute(f"{given} {statement}", some)


def claim_heads(
    connection: sqlite3.Connection, pool: str, limit: int, now: float, margin: float
) -> list[sqlite3.Row]:
    """Lease up to ``limit`` heads of a pool. Return the rows from before the lease.

    A head is ready even if ``now`` is before its ``due_at``, because the clock may have been set back.
    """
    heads: list[sqlite3.Row] = connection.execute(
        "SELECT * FROM runs INDEXED BY runs_heads WHERE state = 'head' AND pool = ?"
        " AND NOT EXISTS (SELECT 1 FROM pauses WHERE playbook = ?) ORDER BY seq LIMIT ?",
        (pool, ALL_PLAYBOOKS, max(0, limit)),
    ).fetchall()
    lease(connection, [row["seq"] for row in heads], now, margin)
    return heads


def lease(connection: sqlite3.Connection, seqs: Sequence[int], now: float, margin: float) -> None:
    """Start an attempt of each run. margin: seconds that the lease lasts beyond the timeout of the step."""
    for some in in_slices(seqs):
        connection.execute(_LEASE + f"({', '.join('?' * len(some))})", (now, now, margin, *some))


def merge_attempt_state(
    connection: sqlite3.Connection, key: ClaimKey, attempt_state: Mapping[str, Any]
) -> bool:
    """Merge values into the attempt state of a run.

    Return False if the claim is not the newest, or has expired.
    """
    stored = attempt_states(connection, [key.id]).get(key)
    if stored is None:
        return False
    write_attempt_states(connection, {key: {**stored, **attempt_state}})
    return True


def attempt_states(
    connection: sqlite3.Connection, ids: Sequence[str]
) -> dict[ClaimKey, dict[str, Any]]:
    """Return the attempt states of runs, each with its newest claim. Without runs whose claim has expired."""
    states = {}
    for some in in_slices(ids):
        marks = ", ".join("?" * len(some))
        rows = connection.execute(
            f"SELECT id, fence, target, facts FROM runs WHERE id IN ({marks}) AND state = 'leased'",  # noqa: S608 - only placeholders
            some,
        )
        for id_, fence, target, state in rows:
            states[ClaimKey(id_, fence, target)] = codec.decode(state)
    return states


def write_attempt_states(
    connection: sqlite3.Connection, states: Mapping[ClaimKey, Mapping[str, Any]]
) -> None:
    """Write attempt states of runs, by their newest claims."""
    for some in in_slices([*states.items()]):
        values: list[Any] = []
        for key, state in some:
            values += (key.id, json_codec.encode_json(state))
        given = f"WITH given (id, facts) AS (VALUES {placeholders(len(some), 2)})"
        connection.execute(given + _WRITE_STATES, values)
