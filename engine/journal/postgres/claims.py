"""Calls of the functions that order and fence the runs of targets (engine.journal.postgres.functions)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from engine.journal.postgres.connection import Connection


@dataclass(frozen=True, slots=True)
class ClaimKey:
    """The claim that a statement acts for. id: of the run or of the undo."""

    id: str
    fence: int
    target: str


def lock_targets(connection: Connection, targets: Collection[str]) -> None:
    """Lock the queues of targets that have a run, in one order for all transactions."""
    connection.execute("SELECT lock_targets(%s)", (list(targets),))


def ensure_targets(connection: Connection, targets: Collection[str]) -> None:
    """Create and lock the queues of targets, in the same order."""
    connection.execute("SELECT ensure_targets(%s)", (list(targets),))


def update_heads(connection: Connection, targets: Collection[str]) -> None:
    """Choose the run of each locked queue that can be claimed."""
    connection.execute("SELECT update_heads(%s)", (list(targets),))


def write_attempt_state(connection: Connection, key: ClaimKey, attempt_state: bytes) -> bool:
    """Replace the attempt state of a run. Return False if the claim is not the newest or has expired."""
    changed = connection.execute(
        "UPDATE runs SET facts = %s WHERE id = %s AND fence = %s AND state = 'leased'",
        (attempt_state, key.id, key.fence),
    )
    return changed.rowcount == 1
