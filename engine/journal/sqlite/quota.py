"""The number of bytes that the journal can still accept.

A file that has reached its maximum size cannot write the outcome of a run, and therefore cannot delete runs.
Accepts are refused before that. Each accepted run counts with the bytes that it needs at once, plus the bytes
that it can still need until it is over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.journal.sqlite import inbox_rows
from engine.model.errors import JournalError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

_ACCEPT_SHARE = 0.95
"""Share of the maximum size that accepts can fill. The rest is for other records, undos and half-full pages."""
_MIN_FREE_BYTES = 65_536
"""Free bytes below which the journal counts as full: about forty events, or a large one."""
FULL = "the journal is full: the remaining space is reserved for its unfinished runs"


class Quota:
    """Counts the free bytes: measures them on request, and subtracts each accept.

    max_bytes: returns the maximum size of the file, which grows with its disk. Only the writer thread calls
    ``reserve`` and ``transaction_ended``.
    """

    def __init__(self, max_bytes: Callable[[], int]) -> None:
        self._max_bytes = max_bytes
        self._limit = self._reserved = self._uncommitted = 0.0

    def fits(self, expected_bytes: float) -> bool:
        """Return whether an accept of this size fits. An empty accept always does."""
        return (
            not expected_bytes or expected_bytes <= self._limit - self._reserved - self._uncommitted
        )

    @property
    def error(self) -> str | None:
        """The sentence that the journal is full, or None."""
        return None if self.fits(_MIN_FREE_BYTES) else FULL

    def reserve(self, expected_bytes: float) -> None:
        """Subtract the bytes of an accept. A negative number gives bytes back.

        Raises JournalError if they do not fit.
        """
        if not self.fits(expected_bytes):
            raise JournalError(FULL)
        self._uncommitted += expected_bytes

    def transaction_ended(self, committed: bool) -> None:  # noqa: FBT001 - a callback of the writer
        """Keep the reservations of the transaction, or drop them if it was rolled back."""
        if committed:
            self._reserved += self._uncommitted
        self._uncommitted = 0.0

    def measure(self, connection: sqlite3.Connection) -> float:
        """Measure the free bytes. Return the share that is in use or reserved, 0 to 1.

        Reads a whole index: about 20 ms for a million unfinished runs.
        """
        # first, so that a commit during the measurement counts twice rather than not at all
        reserved = self._reserved
        connection.execute("BEGIN")
        try:
            used = _used_bytes(connection) + inbox_rows.RESERVED_BYTES * _unfinished(connection)
        finally:
            connection.execute("COMMIT")
        limit = self._max_bytes() * _ACCEPT_SHARE
        self._limit = reserved + limit - used
        return min(1.0, used / limit)


def _used_bytes(connection: sqlite3.Connection) -> int:
    """Return the size of the file without its free pages."""
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    (free,) = connection.execute("PRAGMA freelist_count").fetchone()
    (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
    return int(pages - free) * int(page_bytes)


def _unfinished(connection: sqlite3.Connection) -> int:
    """Return the number of unfinished runs. Undos do not count: their end frees space."""
    (unfinished,) = connection.execute(
        "SELECT count(*) FROM runs INDEXED BY runs_lanes WHERE state IS NOT NULL"
    ).fetchone()
    (undos,) = connection.execute(
        "SELECT count(*) FROM runs INDEXED BY runs_undos"
        " WHERE state IN ('waiting', 'leased') AND undoes IS NOT NULL"
    ).fetchone()
    return int(unfinished) - int(undos) + inbox_rows.count_runs(connection)
