"""Calls of the functions that order and fence the runs of targets (engine.journal.postgres.functions)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.journal import codec
from engine.journal.postgres import arrays
from engine.journal.postgres.arrays import (
    BytesArray,
    FloatArray,
    IntArray,
    LongArray,
    TextArray,
)
from engine.model import json_codec

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from engine.journal.postgres.connection import Connection, Connections
    from engine.journal.settlements import ClaimKey, Settlement


def lock_targets(connection: Connection, targets: Collection[str]) -> None:
    """Lock the queues of targets that have a run, in one order for all transactions."""
    connection.execute("SELECT lock_targets(%s)", (list(targets),))


def ensure_targets(connection: Connection, targets: Collection[str]) -> None:
    """Create and lock the queues of targets, in the same order."""
    connection.execute("SELECT ensure_targets(%s)", (list(targets),))


def update_heads(connection: Connection, targets: Collection[str]) -> None:
    """Choose the run of each locked queue that can be claimed."""
    connection.execute("SELECT update_heads(%s)", (list(targets),))


def merge_attempt_state(
    connection: Connection, key: ClaimKey, attempt_state: Mapping[str, Any]
) -> bool:
    """Merge values into the attempt state of a run.

    Return False if the claim is not the newest, or has expired.
    """
    stored = connection.execute(
        "SELECT facts FROM runs WHERE id = %s FOR UPDATE", (key.id,), binary=True
    ).fetchone()
    if stored is None:
        return False
    merged = json_codec.encode_json({**codec.decode(stored["facts"]), **attempt_state})
    changed = connection.execute(
        "UPDATE runs SET facts = %s WHERE id = %s AND fence = %s AND state = 'leased'",
        (merged, key.id, key.fence),
    )
    return changed.rowcount == 1


def move_arrived_runs(connections: Connections, *, wait: bool = False) -> bool:
    """Move some of the accepted runs to the target queues. Return whether more may wait.

    wait: wait for another replica that moves some.
    """
    (row,) = connections.call("SELECT move_arrived_runs(%s) AS more", wait)
    return bool(row["more"])


def settle(connection: Connection, settlements: Sequence[Settlement]) -> list[bool]:
    """Write settlements in one statement. Return for each whether its claim was the newest."""
    keys = [one.key for one in settlements]
    times, bodies, numbers, texts, others = zip(*map(_columns, settlements), strict=True)
    row = connection.execute(
        "SELECT settle_runs(%b, %b, %b, %b, %b, %b, %b, %b, %b) AS done",
        (
            TextArray([arrays.text(key.id) for key in keys]),
            LongArray([arrays.int8(key.fence) for key in keys]),
            TextArray([arrays.text(key.target) for key in keys]),
            TextArray([arrays.text(one.kind) for one in settlements]),
            FloatArray([arrays.float8(value) for value in times]),
            BytesArray([arrays.raw_bytes(value) for value in bodies]),
            IntArray([arrays.int4(value) for value in numbers]),
            TextArray([arrays.text(value) for value in texts]),
            FloatArray([arrays.float8(value) for value in others]),
        ),
    ).fetchone()
    return list(row["done"]) if row else []


def _columns(settlement: Settlement) -> tuple[float, bytes, int, str, float]:
    """Return the values of a settlement in the order of ``settle_runs``."""
    if settlement.kind == "end":
        results, outcome, now = settlement.values
        return now, results, 0, outcome, 0.0
    if settlement.kind == "wait":
        due_at, last, answered, held = settlement.values
        return due_at, last, answered, "", float(held)
    now, results, position, pool, timeout = settlement.values
    return now, results, position, pool, timeout
