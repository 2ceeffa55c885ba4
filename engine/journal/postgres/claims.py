"""Calls of the functions that order and fence the runs of targets (engine.journal.postgres.functions)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, LiteralString

from engine.journal import codec
from engine.model import json_codec

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from engine.journal.postgres.connection import Connection, Connections
    from engine.journal.settlements import ClaimKey, Kind, Settlement


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


_SETTLE: dict[Kind, LiteralString] = {
    "wait": "SELECT wait_run(%s, %s, %s, %s, %s, %s, %s) AS done",
    "advance": "SELECT advance_run(%s, %s, %s, %s, %s, %s, %s, %s) AS done",
    "end": "SELECT end_run(%s, %s, %s, %s, %s, %s) AS done",
}


def settle(connections: Connections, settlement: Settlement) -> bool:
    """Write a settlement. Return whether the claim was the newest."""
    key = settlement.key
    query = _SETTLE[settlement.kind]
    (row,) = connections.call(query, key.id, key.fence, key.target, *settlement.values)
    return bool(row["done"])
