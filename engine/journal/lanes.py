"""Who may go next: the scheduler's statements, each a function of the connection that writes.

The runs of one target are a lane. Time alone moves a run from ``waiting`` or ``leased`` to ready,
so a claim first turns what has come due into ``queued`` and puts the earliest of each lane at its
``head`` (unless one of the lane is in flight). Then the heads of a pool, in order of acceptance,
are what may start: one index is read as far as the limit, however long the lanes are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.plan import ALL
from engine.run import outcome_of

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from engine.playbook import Playbook, Step
    from engine.run import Outcome

SLICE = 500
"""Runs that one piece of work moves at most (a few ms), so that no accept waits for thousands."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A run to be written; event: which of the bodies beside it."""

    id: str
    playbook: Playbook
    event: int
    target: str
    namespace: str | None
    received: float


def enter(
    connection: sqlite3.Connection, entries: Sequence[Entry], bodies: Sequence[bytes], now: float
) -> None:
    """Write runs that are not there yet, due at once, with what they need to be made again."""
    events: dict[int, int] = {}
    for entry in entries:
        if connection.execute("SELECT 1 FROM runs WHERE id = ?", (entry.id,)).fetchone():
            continue
        if entry.event not in events:
            made = connection.execute(
                "INSERT INTO events (body, received) VALUES (?, ?)",
                (bodies[entry.event], entry.received),
            )
            events[entry.event] = made.lastrowid or 0
        playbook = entry.playbook
        connection.execute(
            "INSERT INTO snapshots VALUES (?, ?) ON CONFLICT DO NOTHING",
            (playbook.digest, playbook.snapshot),
        )
        if playbook.steps:
            _insert(connection, entry, events[entry.event], now)
        else:
            connection.execute(
                "INSERT INTO runs"
                " (id, playbook, digest, blob, event, target, namespace, received, outcome, settled)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (*_facts(entry, events[entry.event]), outcome_of(()), now),
            )


def _facts(entry: Entry, event: int) -> tuple[Any, ...]:
    made_of = entry.playbook
    return (
        entry.id, made_of.name, made_of.digest, made_of.blob, event, entry.target, entry.namespace,
        entry.received,
    )  # fmt: skip


def _insert(connection: sqlite3.Connection, entry: Entry, event: int, now: float) -> None:
    step = entry.playbook.steps[0]
    connection.execute(
        "INSERT INTO runs (id, playbook, digest, blob, event, target, namespace, received,"
        " position, pool, timeout, due_at, state)"
        " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 0, ?9, ?10, ?11, iif(EXISTS ("
        "SELECT 1 FROM runs INDEXED BY runs_lanes"
        " WHERE target = ?6 AND state IN ('head', 'queued', 'leased'))"
        " OR EXISTS (SELECT 1 FROM paused WHERE playbook = ?2), 'queued', 'head'))",
        (*_facts(entry, event), step.pool, step.timeout, now),
    )


def promote(connection: sqlite3.Connection, now: float) -> bool:
    """Make ready what has come due, a slice at most; whether that was all."""
    due = connection.execute(
        "SELECT seq, target FROM runs INDEXED BY runs_timers WHERE state IN ('waiting', 'leased')"
        " AND undoes IS NULL AND pool IN ('cluster', 'slow') AND due_at <= ? LIMIT ?",
        (now, SLICE),
    ).fetchall()
    connection.executemany(
        "UPDATE runs SET state = 'queued' WHERE seq = ?", [row[:1] for row in due]
    )
    for target in {target for _, target in due}:
        refresh(connection, target)
    return len(due) < SLICE


def refresh(connection: sqlite3.Connection, target: str) -> None:
    """Put the earliest ready run of a lane at its head, or none while one is in flight.

    Those of paused playbooks let the others pass.
    """
    (flying, head, queued) = connection.execute(
        "SELECT"
        " (SELECT 1 FROM runs INDEXED BY runs_lanes WHERE target = ?1 AND state = 'leased'),"
        " (SELECT min(seq) FROM runs INDEXED BY runs_lanes WHERE target = ?1 AND state = 'head'),"
        # the first by the index, since min() would look at every row that is queued
        " (SELECT seq FROM runs INDEXED BY runs_lanes WHERE target = ?1 AND state = 'queued'"
        "  AND playbook NOT IN (SELECT playbook FROM paused) ORDER BY seq LIMIT 1)",
        (target,),
    ).fetchone()
    ready = [seq for seq in (head, queued) if seq is not None]
    first = min(ready) if ready and not flying else None
    if head == first:
        return
    if head is not None:
        connection.execute("UPDATE runs SET state = 'queued' WHERE seq = ?", (head,))
    if first is not None:
        connection.execute("UPDATE runs SET state = 'head' WHERE seq = ?", (first,))


def take(
    connection: sqlite3.Connection, pool: str, limit: int, now: float, margin: float
) -> list[sqlite3.Row]:
    """Lease the first heads of a pool; the rows as they were before."""
    heads: list[sqlite3.Row] = connection.execute(
        "SELECT * FROM runs INDEXED BY runs_heads WHERE state = 'head' AND pool = ? AND due_at <= ?"
        " AND NOT EXISTS (SELECT 1 FROM paused WHERE playbook = ?) ORDER BY seq LIMIT ?",
        (pool, now, ALL, max(0, limit)),
    ).fetchall()
    lease(connection, [row["seq"] for row in heads], now, margin)
    return heads


def lease(connection: sqlite3.Connection, seqs: Sequence[int], now: float, margin: float) -> None:
    """Begin an attempt at each of these."""
    connection.executemany(
        "UPDATE runs SET state = 'leased', leased = 1, held = 0, fence = fence + 1, attempt = attempt + 1,"
        " began = coalesce(began, ?1), due_at = ?1 + timeout + ?2 WHERE seq = ?3",
        [(now, margin, seq) for seq in seqs],
    )


@dataclass(frozen=True, slots=True)
class Holder:
    """Which attempt writes: its run and fence, and the lane to look after."""

    id: str
    fence: int
    target: str


def wait(
    connection: sqlite3.Connection, holder: Holder, due_at: float, last: bytes, outcome: Outcome
) -> bool:
    """Put the run back until ``due_at``; False where the attempt is not the newest."""
    answers, held = int(outcome.answered), int(outcome.state == "held")
    changed = connection.execute(
        "UPDATE runs SET state = 'waiting', leased = 0, due_at = ?, last = ?, answers = answers + ?,"
        " held = ? WHERE id = ? AND fence = ? AND leased",
        (due_at, last, answers, held, holder.id, holder.fence),
    )
    return _moved(connection, holder, changed)


def advance(
    connection: sqlite3.Connection, holder: Holder, to: tuple[int, Step], results: bytes, now: float
) -> bool:
    """Go on to the step at that position, due now; False where the attempt is not the newest."""
    position, step = to
    changed = connection.execute(
        "UPDATE runs SET state = 'queued', leased = 0, due_at = ?, last = NULL, results = ?,"
        " position = ?, pool = ?, timeout = ?, attempt = 0, answers = 0, began = NULL"
        " WHERE id = ? AND fence = ? AND leased",
        (now, results, position, step.pool, step.timeout, holder.id, holder.fence),
    )
    return _moved(connection, holder, changed)


def end(
    connection: sqlite3.Connection, holder: Holder, outcome: str, results: bytes, now: float
) -> bool:
    """Take the run out of the queue; False where the attempt is not the newest."""
    changed = connection.execute(
        "UPDATE runs SET state = NULL, leased = 0, due_at = NULL, last = NULL, results = ?,"
        " position = NULL, pool = NULL, outcome = ?, settled = ?"
        " WHERE id = ? AND fence = ? AND leased",
        (results, outcome, now, holder.id, holder.fence),
    )
    return _moved(connection, holder, changed)


def keep(connection: sqlite3.Connection, holder: Holder, facts: bytes) -> bool:
    """Write the facts of a run; False where the attempt is not in flight any more."""
    changed = connection.execute(
        "UPDATE runs SET facts = ? WHERE id = ? AND fence = ? AND state = 'leased'",
        (facts, holder.id, holder.fence),
    )
    return changed.rowcount == 1


def _moved(connection: sqlite3.Connection, holder: Holder, changed: sqlite3.Cursor) -> bool:
    if changed.rowcount != 1:
        return False
    refresh(connection, holder.target)
    return True
