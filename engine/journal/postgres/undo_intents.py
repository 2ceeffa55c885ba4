"""Undo intents: the changes of a step, and the scheduled undo that reverts them.

An undo is a row of ``runs``, as in the SQLite journal. Its changes are rows of ``undo_intents``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.journal.postgres import accept, claims
from engine.journal.postgres.connection import index_key
from engine.journal.records import MAX_IN_FORCE
from engine.journal.undo_rules import UndoIntent, add_to_object, with_undo_outcome
from engine.model.run import undo_id

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.journal.postgres.connection import Connection, Row
    from engine.journal.settlements import ClaimKey
    from engine.model.calls import ObjectChange
    from engine.model.run import Run

_LOCK_CLASS = 0x756E646F
"""Class of the advisory locks on changed objects."""


def add(
    connection: Connection,
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


def _write(connection: Connection, intent: UndoIntent, now: float) -> None:
    """Write the undo and its changes. Replace those of an earlier attempt of the step."""
    id_, until = undo_id(intent.run, intent.step), intent.until
    connection.execute(
        "INSERT INTO runs (id, playbook, digest, blob, day, event, event_start, event_length, target,"
        " namespace, received, position, pool, timeout, state, due_at, settled, undoes, revision)"
        " SELECT %s, playbook, digest, blob, day, event, event_start, event_length, target, namespace,"
        " received, %s, 'cluster', coalesce(timeout, 30), %s, %s, %s, id, revision FROM all_runs WHERE id = %s"
        " ON CONFLICT (id) DO UPDATE SET state = excluded.state, due_at = excluded.due_at,"
        " settled = excluded.settled, leased = false, attempt = 0, outcome = NULL, last = NULL",
        (
            id_, intent.position, None if until is None else "waiting", until,
            now if until is None else None, intent.run,
        ),
    )  # fmt: skip
    # the intents for one object can belong to several targets, so the lock of the target is not enough
    connection.execute(
        "SELECT pg_advisory_xact_lock(%s, hashtext(key)) FROM"
        " (SELECT DISTINCT unnest(%s::text[]) AS key ORDER BY key) AS keys",
        (_LOCK_CLASS, [change.key for change in intent.changes]),
    )
    for place, change in enumerate(intent.changes):
        _write_change(connection, (id_, place, until), change)


def adopt(connection: Connection, intent: UndoIntent, run: Run, results: bytes, now: float) -> bool:
    """Write an undo intent for changes that were found in the cluster.

    run: written as finished if it does not exist. results: its encoded results. Returns False if the first
    change already has an undo intent.
    """
    claims.ensure_targets(connection, [index_key(run.target)])
    if undo_times(connection, intent.changes[0].key, None):
        return False
    accept.insert_finished(connection, run, results, now)
    _write(connection, intent, now)
    return True


def _write_change(
    connection: Connection, undo: tuple[str, int, float | None], change: ObjectChange
) -> None:
    """Write one change of an undo: (id of the undo, place, until). See ``undo_rules.add_to_object``."""
    id_, place, until = undo
    key = index_key(change.key)
    others = connection.execute(
        "SELECT undo, place, change FROM undo_intents WHERE key = %s", (key,), binary=True
    ).fetchall()
    encoded, updates = add_to_object(change, others)
    for update in updates:
        connection.execute(
            "UPDATE undo_intents SET change = %s WHERE undo = %s AND place = %s", update
        )
    connection.execute(
        "INSERT INTO undo_intents VALUES (%s, %s, %s, %s, %s) ON CONFLICT (undo, place) DO UPDATE"
        " SET key = excluded.key, until = excluded.until, change = excluded.change",
        (id_, place, key, until, encoded),
    )


def undo_times(connection: Connection, key: str, exclude: str | None) -> list[float | None]:
    """Return the times of the undo intents for an object. exclude: the id of one undo to ignore."""
    found = connection.execute(
        "SELECT until FROM undo_intents WHERE key = %s AND undo IS DISTINCT FROM %s",
        (index_key(key), exclude),
    ).fetchall()
    return [row["until"] for row in found]


def in_force(connection: Connection) -> list[Row]:
    """Return the rows of the undos, each with one of its changes (see ``Hydrator.change_in_force``)."""
    return connection.execute(
        "SELECT runs.*, undo_intents.change, undo_intents.until, of.results AS ended FROM undo_intents"
        " JOIN runs ON runs.id = undo_intents.undo LEFT JOIN all_runs AS of ON of.id = runs.undoes"
        " ORDER BY runs.seq, undo_intents.place LIMIT %s",
        (MAX_IN_FORCE,),
        binary=True,
    ).fetchall()


def make_due(connection: Connection, run: str, now: float) -> list[int]:
    """Make all undos of a run due now, except those that are leased. Return the positions of their steps."""
    found = connection.execute(
        "SELECT position, target FROM runs WHERE undoes = %s ORDER BY position", (run,)
    ).fetchall()
    if found:
        claims.ensure_targets(connection, [*{row["target"] for row in found}])
    connection.execute(
        "UPDATE runs SET state = 'waiting', due_at = %s, attempt = 0, outcome = NULL, settled = NULL"
        " WHERE undoes = %s AND state IS DISTINCT FROM 'leased'",
        (now, run),
    )
    return [row["position"] for row in found]


def settle(
    connection: Connection, key: ClaimKey, step: str, outcome: tuple[str, str], now: float
) -> bool:
    """Delete an undo that is done, or keep one that failed for another request.

    outcome: state and message, for the result of the step. Returns False if the claim is not the newest.
    """
    claims.lock_targets(connection, [key.target])
    row = connection.execute(
        "SELECT undoes, day FROM runs WHERE id = %s AND fence = %s AND leased FOR UPDATE",
        (key.id, key.fence),
    ).fetchone()
    if row is None:
        return False
    if outcome[0] == "undone":
        connection.execute("DELETE FROM undo_intents WHERE undo = %s", (key.id,))
        connection.execute("DELETE FROM runs WHERE id = %s", (key.id,))
    else:
        connection.execute(
            "UPDATE runs SET state = NULL, leased = false, due_at = NULL, outcome = %s, settled = %s"
            " WHERE id = %s",
            (outcome[0], now, key.id),
        )
    _update_step_result(connection, row["undoes"], step, outcome)
    claims.update_heads(connection, [key.target])
    return True


def _update_step_result(
    connection: Connection, run: str, step: str, outcome: tuple[str, str]
) -> None:
    """Write the outcome of an undo into the result of the step.

    If the last claim of the run has ended without an outcome, one that comes late would replace the results. It
    therefore gets an old fence.
    """
    for table, also in (("runs", ", fence = fence + leased::integer"), ("history", "")):
        row = connection.execute(
            f"SELECT results FROM {table} WHERE id = %s FOR UPDATE",
            (run,),
            binary=True,
        ).fetchone()
        if row is None:  # in the other table, or deleted because of its age
            continue
        results = with_undo_outcome(row["results"], step, outcome)
        connection.execute(f"UPDATE {table} SET results = %s{also} WHERE id = %s", (results, run))
