"""Undo intents: the changes of a step, and the scheduled undo that reverts them.

An undo is a row of ``runs`` in the state ``waiting``, so that leases and fences work for it too. It starts
before the ready runs of its target, and pauses do not apply to it. Its changes are rows of ``undo_intents``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.journal import codec
from engine.journal.records import MAX_IN_FORCE, AcceptBatch
from engine.journal.sqlite import claims, inbox, retention
from engine.journal.sqlite.claims import in_slices, placeholders
from engine.journal.sqlite.inbox_rows import inbox_batch
from engine.journal.undo_rules import UndoIntent, add_to_object, with_undo_outcome
from engine.model.calls import ObjectChange
from engine.model.run import undo_id

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Mapping, Sequence

    from engine.journal.settlements import ClaimKey
    from engine.model.run import Run

    _Place = tuple[str, int, float | None, ObjectChange]

_CLAIMABLE = (
    "FROM runs INDEXED BY runs_undos"
    " WHERE state IN ('waiting', 'leased') AND undoes IS NOT NULL AND NOT EXISTS ("
    "SELECT 1 FROM runs AS other INDEXED BY runs_lanes"
    " WHERE other.target = runs.target AND other.state = 'leased' AND other.seq != runs.seq)"
)
"""Undos whose target has no leased run."""
_INSERT_UNDOS = (
    "INSERT INTO runs (id, playbook, digest, blob, event, target, namespace, received,"
    " position, pool, timeout, state, due_at, settled, undoes, revision)"
    " SELECT given.id, playbook, digest, blob, event, target, namespace, received,"
    " given.position, 'cluster', coalesce(timeout, 30), given.state, given.due_at, given.settled,"
    " runs.id, revision FROM given JOIN runs ON runs.id = given.run WHERE true"
    " ON CONFLICT (id) DO UPDATE SET state = excluded.state, due_at = excluded.due_at,"
    " settled = excluded.settled, leased = 0, attempt = 0, outcome = NULL, last = NULL"
)
_DUE_NOW = f"SELECT * {_CLAIMABLE} AND due_at <= ? ORDER BY due_at LIMIT ?"
_DUE_NEXT = f"SELECT due_at {_CLAIMABLE} ORDER BY due_at LIMIT 1"


@dataclass(frozen=True, slots=True)
class Addition:
    """An undo intent that an attempt adds, and values to merge into the attempt state of its run.

    now: epoch seconds from which the retention of an undo on request counts.
    """

    key: ClaimKey
    intent: UndoIntent
    attempt_state: Mapping[str, Any]
    now: float


def add(connection: sqlite3.Connection, additions: Sequence[Addition]) -> list[bool]:
    """Write undo intents and attempt states. Return for each whether its claim is current.

    Nothing is written for a claim that is not the newest or has expired.
    """
    states = claims.attempt_states(connection, [one.key.id for one in additions])
    current = [one for one in additions if one.key in states]
    merged = {one.key: {**states[one.key], **one.attempt_state} for one in current}
    changed = {key: state for key, state in merged.items() if state != states[key]}
    claims.write_attempt_states(connection, changed)
    _write(connection, [(one.intent, one.now) for one in current])
    return [one.key in states for one in additions]


def _write(connection: sqlite3.Connection, intents: Sequence[tuple[UndoIntent, float]]) -> None:
    """Write undos and their changes. Replace those of an earlier attempt of the step."""
    rows, places = [], []
    for intent, now in intents:
        id_, until = undo_id(intent.run, intent.step), intent.until
        state, settled = (None, now) if until is None else ("waiting", None)
        rows.append((id_, intent.run, intent.position, state, until, settled))
        places += [(id_, place, until, change) for place, change in enumerate(intent.changes)]
    for some in in_slices(rows):
        values = [value for row in some for value in row]
        connection.execute(
            "WITH given (id, run, position, state, due_at, settled) AS"
            f" (VALUES {placeholders(len(some), 6)}) {_INSERT_UNDOS}",
            values,
        )
    for distinct in _with_distinct_keys(places):
        _write_changes(connection, distinct)


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
    _write(connection, [(intent, now)])
    return True


def _with_distinct_keys(places: Iterable[_Place]) -> list[dict[str, _Place]]:
    """Divide changes into groups without two changes of the same value, in the order of the changes."""
    groups: list[dict[str, _Place]] = []
    last: dict[str, int] = {}
    for place in places:
        key = place[-1].key
        last[key] = number = last.get(key, -1) + 1
        if number == len(groups):
            groups.append({})
        groups[number][key] = place
    return groups


def _write_changes(connection: sqlite3.Connection, places: Mapping[str, _Place]) -> None:
    """Write changes of different values: key -> change. See ``undo_rules.add_to_object``."""
    others: dict[str, list[sqlite3.Row]] = {}
    for some in in_slices([*places]):
        query = f"SELECT key, undo, place, change FROM undo_intents WHERE key IN ({_marks(some)})"  # noqa: S608 - only placeholders
        for row in connection.execute(query, some):
            others.setdefault(row["key"], []).append(row)
    rows, updates = [], []
    for key, (id_, number, until, change) in places.items():
        encoded, changed = add_to_object(change, others.get(key, ()))
        rows.append((id_, number, key, until, encoded))
        updates += changed
    if updates:
        connection.executemany(
            "UPDATE undo_intents SET change = ? WHERE undo = ? AND place = ?", updates
        )
    for new in in_slices(rows):
        values = [value for row in new for value in row]
        connection.execute(
            f"INSERT INTO undo_intents VALUES {placeholders(len(new), 5)} ON CONFLICT DO UPDATE"  # noqa: S608 - the same
            " SET key = excluded.key, until = excluded.until, change = excluded.change",
            values,
        )


def _marks(values: Sequence[str]) -> str:
    return ", ".join("?" * len(values))


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
    """Write the outcome of an undo into the result of the step.

    If the last claim of the run has ended without an outcome, one that comes late would replace the results. It
    therefore gets an old fence.
    """
    row = connection.execute("SELECT results FROM runs WHERE id = ?", (run,)).fetchone()
    if row is None:  # the run was deleted because of its age
        return
    results = with_undo_outcome(row["results"], step, outcome)
    connection.execute(
        "UPDATE runs SET results = ?, fence = fence + leased WHERE id = ?", (results, run)
    )
