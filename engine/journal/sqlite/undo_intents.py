"""What steps have changed and how long that is held: the statements that undo them at their hour.

An undoing is a row of its own among the runs, ``waiting`` for its hour, so that leases and fences hold
for it, too. It goes before what is ready on its target, and no pause concerns it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import msgspec

from engine.journal import codec
from engine.journal.sqlite import inbox, retention, scheduler
from engine.model import json_codec
from engine.model.calls import ObjectChange
from engine.model.run import undo_id

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping, Sequence

    from engine.journal.sqlite.inbox_rows import InboxBatch
    from engine.journal.sqlite.scheduler import Holder

_DUE = (
    "FROM runs INDEXED BY runs_undos"
    " WHERE state IN ('waiting', 'leased') AND undoes IS NOT NULL AND NOT EXISTS ("
    "SELECT 1 FROM runs AS other INDEXED BY runs_lanes"
    " WHERE other.target = runs.target AND other.state = 'leased' AND other.seq != runs.seq)"
)
"""Undoings on whose target nothing is in flight."""
_DUE_NOW = f"SELECT * {_DUE} AND due_at <= ? ORDER BY due_at LIMIT ?"
_DUE_NEXT = f"SELECT due_at {_DUE} ORDER BY due_at LIMIT 1"


@dataclass(frozen=True, slots=True)
class Held:
    """What a step of a run holds, and until when (epoch seconds, None: until somebody asks)."""

    run: str
    step: str
    position: int
    changes: Sequence[ObjectChange]
    until: float | None


def hold(
    connection: sqlite3.Connection,
    holder: Holder,
    held: Held,
    facts: Mapping[str, Any],
    now: float,
) -> bool:
    """Keep facts of the run, and its undoing; False where the attempt is not in flight any more."""
    had = connection.execute("SELECT facts FROM runs WHERE id = ?", (holder.id,)).fetchone()
    if had is None:
        return False
    merged = json_codec.encode_json({**codec.decode(had["facts"]), **facts})
    if not scheduler.keep(connection, holder, merged):
        return False
    write(connection, held, now)
    return True


def write(connection: sqlite3.Connection, held: Held, now: float) -> None:
    """Write the undoing of a step and what it puts back; again, where the step is tried again."""
    id_ = undo_id(held.run, held.step)
    connection.execute(
        "INSERT INTO runs (id, playbook, digest, blob, event, target, namespace, received,"
        " position, pool, timeout, state, due_at, settled, undoes)"
        " SELECT ?1, playbook, digest, blob, event, target, namespace, received, ?2, 'cluster',"
        " coalesce(timeout, 30), iif(?3 IS NULL, NULL, 'waiting'), ?3, iif(?3 IS NULL, ?4, NULL), id"
        " FROM runs WHERE id = ?5"
        " ON CONFLICT (id) DO UPDATE SET state = excluded.state, due_at = excluded.due_at,"
        " settled = excluded.settled, leased = 0, attempt = 0, outcome = NULL, last = NULL",
        (id_, held.position, held.until, now, held.run),
    )
    for place, change in enumerate(held.changes):
        _take(connection, (id_, place, held.until), change)


def adopt(
    connection: sqlite3.Connection,
    held: Held,
    arrival: InboxBatch,
    done: bytes,
    now: float,
) -> bool:
    """Write what was found to be held, and its run, as over, where that is not there."""
    if ends(connection, held.changes[0].key, None):
        return False
    if not connection.execute("SELECT 1 FROM runs WHERE id = ?", (held.run,)).fetchone():
        inbox.keep_snapshots(connection, arrival.snapshots)
        (event,) = inbox.insert_events(connection, [arrival])
        inbox.insert_runs(connection, [(event, arrival.rows[0][0])])
        connection.execute(
            "UPDATE runs SET state = NULL, due_at = NULL, position = NULL, outcome = 'done',"
            " results = ?, settled = ? WHERE id = ?",
            (done, now, held.run),
        )
    write(connection, held, now)
    return True


def _take(
    connection: sqlite3.Connection, undo: tuple[str, int, float | None], change: ObjectChange
) -> None:
    """Hold one thing: what was there before the first hold stays known, and all know what is put now."""
    id_, place, until = undo
    others = connection.execute(
        "SELECT undo, place, change FROM holds WHERE key = ?", (change.key,)
    ).fetchall()
    for other in others:
        before = ObjectChange.of(codec.decode(other["change"]))
        change = replace(change, before=before.before)
        connection.execute(
            "UPDATE holds SET change = ? WHERE undo = ? AND place = ?",
            (_encoded(replace(before, put=change.put)), other["undo"], other["place"]),
        )
    connection.execute(
        "INSERT INTO holds VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE"
        " SET key = excluded.key, until = excluded.until, change = excluded.change",
        (id_, place, change.key, until, _encoded(change)),
    )


def ends(connection: sqlite3.Connection, key: str, but: str | None) -> list[float | None]:
    """When the holds on a key end, but that of one undoing."""
    found = connection.execute(
        "SELECT until FROM holds WHERE key = ? AND undo IS NOT ?", (key, but)
    ).fetchall()
    return [row["until"] for row in found]


def changes(connection: sqlite3.Connection, undo: str) -> tuple[ObjectChange, ...]:
    """What an undoing puts back, in the order in which it was changed."""
    found = connection.execute(
        "SELECT change FROM holds WHERE undo = ? ORDER BY place", (undo,)
    ).fetchall()
    return tuple(ObjectChange.of(codec.decode(row["change"])) for row in found)


def ask(connection: sqlite3.Connection, run: str, now: float) -> list[int]:
    """Have the undoings of a run be due now, unless they are under way; their steps' positions."""
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
    """When the earliest undoing may be claimed."""
    row = connection.execute(_DUE_NEXT).fetchone()
    return float(row[0]) if row else None


def take(
    connection: sqlite3.Connection, limit: int, now: float, margin: float
) -> list[sqlite3.Row]:
    """Lease the undoings whose hour has come and whose target is free; the rows as they were before."""
    found = connection.execute(_DUE_NOW, (now, max(0, limit))).fetchall()
    taken: dict[str, sqlite3.Row] = {}
    for row in found:  # of one target one at a time
        taken.setdefault(row["target"], row)
    for target, row in taken.items():
        scheduler.lease(connection, [row["seq"]], now, margin)
        scheduler.refresh(connection, target)
    return list(taken.values())


def end(
    connection: sqlite3.Connection, holder: Holder, step: str, said: tuple[str, str], now: float
) -> bool:
    """Let go of what was undone, or keep it for another try; False where the attempt is not the newest.

    said: how the undoing ended and what it said, for the run's result of the step.
    """
    state = said[0]
    row = connection.execute(
        "SELECT undoes, event FROM runs WHERE id = ? AND fence = ? AND leased",
        (holder.id, holder.fence),
    ).fetchone()
    if row is None:
        return False
    if state == "undone":
        forget(connection, holder.id)
        connection.execute("DELETE FROM runs WHERE id = ?", (holder.id,))
        retention.let_go(connection, {row["event"]})
    else:
        connection.execute(
            "UPDATE runs SET state = NULL, leased = 0, due_at = NULL, outcome = ?, settled = ?"
            " WHERE id = ?",
            (state, now, holder.id),
        )
    _tell(connection, row["undoes"], step, said)
    scheduler.refresh(connection, holder.target)
    return True


def forget(connection: sqlite3.Connection, undo: str) -> None:
    """Let go of what an undoing holds."""
    connection.execute("DELETE FROM holds WHERE undo = ?", (undo,))


def _tell(connection: sqlite3.Connection, run: str, step: str, said: tuple[str, str]) -> None:
    """Write into the run's result of the step what became of it."""
    state, message = said
    row = connection.execute("SELECT results FROM runs WHERE id = ?", (run,)).fetchone()
    if row is None:  # it was old, and is forgotten
        return
    results = codec.decode(row["results"])
    for result in results:
        if result["step"] == step and state == "undone":
            result |= {"state": state, "message": message}
        elif result["step"] == step:
            result["message"] = f"{result['message']} (not undone: {message})"
    connection.execute(
        "UPDATE runs SET results = ? WHERE id = ?", (json_codec.encode_json(results), run)
    )


def _encoded(change: ObjectChange) -> bytes:
    return msgspec.json.encode(change)
