"""Undo intents: the changes of a step, and the scheduled undo that reverts them.

An undo is a row of ``runs`` in the state ``waiting``, so that leases and fences work for it too. It starts
before the ready runs of its target, and pauses do not apply to it. Its changes are rows of ``undo_intents``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.journal import codec
from engine.journal.records import MAX_IN_FORCE, AcceptBatch
from engine.journal.sqlite import claims, inbox, retention
from engine.journal.sqlite.inbox_rows import inbox_batch
from engine.journal.undo_rules import UndoIntent, add_to_object, with_undo_outcome
from engine.model.calls import ObjectChange
from engine.model.run import undo_id

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping

    from engine.journal.settlements import ClaimKey
    from engine.model.run import Run

_CLAIMABLE = (
    "FROM runs INDEXED BY runs_undos"
    " WHERE state IN ('waiting', 'leased') AND undoes IS NOT NULL AND NOT EXISTS ("
    "SELECT 1 FROM runs AS other INDEXED BY runs_lanes"
    " WHERE other.target = runs.target AND other.state = 'leased' AND other.seq != runs.seq)"
)
"""Undos whose target has no leased run."""
_DUE_NOW = f"SELECT * {_CLAIMABLE} AND due_at <= ? ORDER BY due_at LIMIT ?"
_DUE_NEXT = f"SELECT due_at {_CLAIMABLE} ORDER BY due_at LIMIT 1"


def add(
    connection: sqlite3.Connection,
    key: ClaimKey,
    intent: UndoIntent,
    attempt_state: Mapping[str, Any],
    now: float,
) -> bool:
    """Write an undo intent and merge values into the attempt state.

    now: epoch seconds from which the retention of an undo on request counts. Returns False if the claim is
    not the newest or has expired.
    """
    if not claims.merge_attempt_state(connection, key, attempt_state):
        return False
    _write(connection, intent, now)
    return True


def _write(connection: sqlite3.Connection, intent: UndoIntent, now: float) -> None:
    """Write the undo and its changes. Replace those of an earlier attempt of the step."""
    id_ = undo_id(intent.run, intent.step)
    connection.execute(
        "INSERT INTO runs (id, playbook, digest, blob, event, target, namespace, received,"
        " position, pool, timeout, state, due_at, settled, undoes, revision)"
        " SELECT ?1, playbook, digest, blob, event, target, namespace, received, ?2, 'cluster',"
        " coalesce(timeout, 30), iif(?3 IS NULL, NULL, 'waiting'), ?3, iif(?3 IS NULL, ?4, NULL), id,"
        " revision"
        " FROM runs WHERE id = ?5"
        " ON CONFLICT (id) DO UPDATE SET state = excluded.state, due_at = excluded.due_at,"
        " settled = excluded.settled, leased = 0, attempt = 0, outcome = NULL, last = NULL",
        (id_, intent.position, intent.until, now, intent.run),
    )
    for place, change in enumerate(intent.changes):
        _write_change(connection, (id_, place, intent.until), change)


def adopt(
    connection: sqlite3.Connection, intent: UndoIntent, run: Run, results: bytes, now: float
) -> bool:
    """Write an undo intent for changes that were found in the cluster.

    run: written as finished if it does not exist. results: its encoded results. Returns False if the first
    change already has an undo intent.
    """
    if undo_times(connection, intent.changes[0].key, None):
        return False
    if not connection.execute("SELECT 1 FROM runs WHERE id = ?", (intent.run,)).fetchone():
        batch = inbox_batch(AcceptBatch([run]), run.received)
        inbox.insert_snapshots(connection, batch.snapshots)
        (event,) = inbox.insert_events(connection, [batch])
        inbox.insert_runs(connection, [(event, batch.rows[0][0])])
        connection.execute(
            "UPDATE runs SET state = NULL, due_at = NULL, position = NULL, outcome = 'done',"
            " results = ?, settled = ? WHERE id = ?",
            (results, now, intent.run),
        )
    _write(connection, intent, now)
    return True


def _write_change(
    connection: sqlite3.Connection, undo: tuple[str, int, float | None], change: ObjectChange
) -> None:
    """Write one change of an undo: (id of the undo, place, until). See ``undo_rules.add_to_object``."""
    id_, place, until = undo
    others = connection.execute(
        "SELECT undo, place, change FROM undo_intents WHERE key = ?", (change.key,)
    ).fetchall()
    encoded, updates = add_to_object(change, others)
    connection.executemany(
        "UPDATE undo_intents SET change = ? WHERE undo = ? AND place = ?", updates
    )
    connection.execute(
        "INSERT INTO undo_intents VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE"
        " SET key = excluded.key, until = excluded.until, change = excluded.change",
        (id_, place, change.key, until, encoded),
    )


def undo_times(connection: sqlite3.Connection, key: str, exclude: str | None) -> list[float | None]:
    """Return the times of the undo intents for an object. exclude: the id of one undo to ignore."""
    found = connection.execute(
        "SELECT until FROM undo_intents WHERE key = ? AND undo IS NOT ?", (key, exclude)
    ).fetchall()
    return [row["until"] for row in found]


def changes(connection: sqlite3.Connection, undo: str) -> tuple[ObjectChange, ...]:
    """Return the changes of an undo, in the order in which they were made."""
    found = connection.execute(
        "SELECT change FROM undo_intents WHERE undo = ? ORDER BY place", (undo,)
    ).fetchall()
    return tuple(ObjectChange.of(codec.decode(row["change"])) for row in found)


def in_force(connection: sqlite3.Connection) -> list[sqlite3.Row]:
    """Return the rows of the undos, each with one of its changes (see ``Hydrator.change_in_force``)."""
    found: list[sqlite3.Row] = connection.execute(
        "SELECT runs.*, undo_intents.change, undo_intents.until, of.results AS ended FROM undo_intents"
        " JOIN runs ON runs.id = undo_intents.undo LEFT JOIN runs AS of ON of.id = runs.undoes"
        " ORDER BY runs.seq, undo_intents.place LIMIT ?",
        (MAX_IN_FORCE,),
    ).fetchall()
    return found


def make_due(connection: sqlite3.Connection, run: str, now: float) -> list[int]:
    """Make all undos of a run due now, except those that are leased. Return the positions of their steps."""
    found = connection.execute(
        "SELECT position FROM runs INDEXED BY runs_undoes WHERE undoes = ? ORDER BY position",
        (run,),
    ).fetchall()
    connection.execute(
        "UPDATE runs SET state = 'waiting', due_at = ?, attempt = 0, outcome = NULL, settled = NULL"
        " WHERE undoes = ? AND state IS NOT 'leased'",
        (now, run),
    )
    return [row["position"] for row in found]


def next_due(connection: sqlite3.Connection) -> float | None:
    """Return the time at which the next undo can be claimed, or None."""
    row = connection.execute(_DUE_NEXT).fetchone()
    return float(row[0]) if row else None


def claim_due(
    connection: sqlite3.Connection, limit: int, now: float, margin: float
) -> list[sqlite3.Row]:
    """Lease due undos, at most one for each target. Return the rows from before the lease.

    margin: seconds that the lease lasts beyond the timeout of the step.
    """
    found = connection.execute(_DUE_NOW, (now, max(0, limit))).fetchall()
    claimed: dict[str, sqlite3.Row] = {}
    for row in found:
        claimed.setdefault(row["target"], row)
    for target, row in claimed.items():
        claims.lease(connection, [row["seq"]], now, margin)
        claims.update_heads(connection, target)
    return list(claimed.values())


def settle(
    connection: sqlite3.Connection,
    key: ClaimKey,
    step: str,
    outcome: tuple[str, str],
    now: float,
) -> bool:
    """Delete an undo that is done, or keep one that failed for another request.

    outcome: state and message, for the result of the step. Returns False if the claim is not the newest.
    """
    state = outcome[0]
    row = connection.execute(
        "SELECT undoes, event FROM runs WHERE id = ? AND fence = ? AND leased",
        (key.id, key.fence),
    ).fetchone()
    if row is None:
        return False
    if state == "undone":
        connection.execute("DELETE FROM undo_intents WHERE undo = ?", (key.id,))
        connection.execute("DELETE FROM runs WHERE id = ?", (key.id,))
        retention.delete_unused_events(connection, {row["event"]})
    else:
        connection.execute(
            "UPDATE runs SET state = NULL, leased = 0, due_at = NULL, outcome = ?, settled = ?"
            " WHERE id = ?",
            (state, now, key.id),
        )
    _update_step_result(connection, row["undoes"], step, outcome)
    claims.update_heads(connection, key.target)
    return True


def _update_step_result(
    connection: sqlite3.Connection, run: str, step: str, outcome: tuple[str, str]
) -> None:
    """Write the outcome of an undo into the result of the step."""
    row = connection.execute("SELECT results FROM runs WHERE id = ?", (run,)).fetchone()
    if row is None:  # the run was deleted because of its age
        return
    results = with_undo_outcome(row["results"], step, outcome)
    connection.execute("UPDATE runs SET results = ? WHERE id = ?", (results, run))
