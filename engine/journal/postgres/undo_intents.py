"""Undo intents: the changes of a step, and the scheduled undo that reverts them.

An undo is a row of ``runs``, as in the SQLite journal. Its changes are rows of ``undo_intents``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import msgspec

from engine.journal import codec
from engine.journal.postgres import accept, claims
from engine.journal.postgres.connection import index_key
from engine.journal.records import AcceptBatch
from engine.model import json_codec
from engine.model.calls import ObjectChange
from engine.model.run import undo_id

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from engine.journal.postgres.claims import ClaimKey
    from engine.journal.postgres.connection import Connection
    from engine.model.run import Run

_LOCK_CLASS = 0x756E646F
"""Class of the advisory locks on changed objects."""


@dataclass(frozen=True, slots=True)
class UndoIntent:
    """The changes of a step and the time of their undo: epoch seconds, or None (only on request)."""

    run: str
    step: str
    position: int
    changes: Sequence[ObjectChange]
    until: float | None


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
    stored = connection.execute(
        "SELECT facts FROM runs WHERE id = %s FOR UPDATE", (key.id,), binary=True
    ).fetchone()
    if stored is None:
        return False
    merged = json_codec.encode_json({**codec.decode(stored["facts"]), **attempt_state})
    if not claims.write_attempt_state(connection, key, merged):
        return False
    _write(connection, intent, now)
    return True


def _write(connection: Connection, intent: UndoIntent, now: float) -> None:
    """Write the undo and its changes. Replace those of an earlier attempt of the step."""
    id_, until = undo_id(intent.run, intent.step), intent.until
    connection.execute(
        "INSERT INTO runs (id, playbook, digest, blob, day, event, target, namespace, received, position,"
        " pool, timeout, state, due_at, settled, undoes, revision)"
        " SELECT %s, playbook, digest, blob, day, event, target, namespace, received, %s, 'cluster',"
        " coalesce(timeout, 30), %s, %s, %s, id, revision FROM all_runs WHERE id = %s"
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
    """Write an undo intent for changes that were found in the cluster. The run is written if it does not exist.

    results: its encoded results. Returns False if the first change already has an undo intent.
    """
    target = index_key(run.target)
    claims.ensure_targets(connection, [target])
    if undo_times(connection, intent.changes[0].key, None):
        return False
    encoded = accept.encode_batch(AcceptBatch([run]), run.received)
    (rejected,) = accept.BatchWriter().write(connection, [encoded])
    if not rejected:
        connection.execute(
            "SELECT end_run(%s, NULL, %s, %s, 'done', %s)", (run.id, target, results, now)
        )
    _write(connection, intent, now)
    return True


def _write_change(
    connection: Connection, undo: tuple[str, int, float | None], change: ObjectChange
) -> None:
    """Write one change of an undo: (id of the undo, place, until).

    All undo intents for an object keep the value from before the first change. All of them get the newest value.
    """
    id_, place, until = undo
    key = index_key(change.key)
    others = connection.execute(
        "SELECT undo, place, change FROM undo_intents WHERE key = %s", (key,), binary=True
    ).fetchall()
    for other in others:
        earlier = ObjectChange.of(codec.decode(other["change"]))
        change = replace(change, before=earlier.before)
        connection.execute(
            "UPDATE undo_intents SET change = %s WHERE undo = %s AND place = %s",
            (msgspec.json.encode(replace(earlier, put=change.put)), other["undo"], other["place"]),
        )
    connection.execute(
        "INSERT INTO undo_intents VALUES (%s, %s, %s, %s, %s) ON CONFLICT (undo, place) DO UPDATE"
        " SET key = excluded.key, until = excluded.until, change = excluded.change",
        (id_, place, key, until, msgspec.json.encode(change)),
    )


def undo_times(connection: Connection, key: str, exclude: str | None) -> list[float | None]:
    """Return the times of the undo intents for an object. exclude: the id of one undo to ignore."""
    found = connection.execute(
        "SELECT until FROM undo_intents WHERE key = %s AND undo IS DISTINCT FROM %s",
        (index_key(key), exclude),
    ).fetchall()
    return [row["until"] for row in found]


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
    """Write the outcome of an undo into the result of the step."""
    state, message = outcome
    for table in ("runs", "history"):
        row = connection.execute(
            f"SELECT results FROM {table} WHERE id = %s FOR UPDATE",
            (run,),
            binary=True,
        ).fetchone()
        if row is None:  # in the other table, or deleted because of its age
            continue
        results = codec.decode(row["results"])
        for result in results:
            if result["step"] == step and state == "undone":
                result |= {"state": state, "message": message}
            elif result["step"] == step:
                result["message"] = f"{result['message']} (not undone: {message})"
        connection.execute(
            f"UPDATE {table} SET results = %s WHERE id = %s",
            (json_codec.encode_json(results), run),
        )
