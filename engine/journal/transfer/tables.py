"""What both backends have in common: the columns that are copied as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

RUN_COLUMNS = (
    "seq", "id", "playbook", "digest", "blob", "target", "namespace", "received", "state", "leased", "held",
    "fence", "position", "pool", "timeout", "attempt", "answers", "began", "due_at", "results", "last", "facts",
    "outcome", "settled", "undoes", "revision",
)  # fmt: skip
"""The columns of a run or an undo, without its event, in one order."""
PLAIN_TABLES = {
    "snapshots": ("digest", "snapshot"),
    "undo_intents": ("undo", "place", "key", "until", "change"),
    "pauses": ("playbook", "by", "since", "until", "reason"),
    "playbook_sets": ("id", "digest", "files", "revision"),
    "dead_letters": ("received", "source", "error", "body"),
    "drops": ("playbook", "reason", "key", "hour", "count", "first", "last"),
}
"""Tables with the same rows in both backends, and their columns."""
JSON_TABLES: tuple[Literal["throttle_windows", "budget_windows", "offsets"], ...] = (
    "throttle_windows",
    "budget_windows",
    "offsets",
)
"""Tables of JSON by key."""
NOT_COPIED = ("journal id", "journal clock", "probe")
"""Keys of ``offsets`` that belong to one journal."""
ORDER = {"dead_letters": "id", "runs": "seq"}
"""Columns that give the order of rows, where it has a meaning."""


class Counter:
    """Counts the copied rows of each table, and reports their sum.

    on_progress: called with the sum, after each ``STEP`` rows.
    """

    STEP = 1_000

    def __init__(self, on_progress: Callable[[int], None]) -> None:
        self._on_progress, self.total = on_progress, 0
        self.rows: dict[str, int] = {}

    def add(self, table: str, rows: int = 1) -> None:
        """Count rows of a table."""
        self.rows[table] = self.rows.get(table, 0) + rows
        before, self.total = self.total, self.total + rows
        if before // self.STEP != self.total // self.STEP:
            self._on_progress(self.total)
