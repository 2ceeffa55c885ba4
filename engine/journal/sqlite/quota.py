"""How much a journal may still take, so that what it has taken can always be worked off.

A file at its cap could let no run into the lanes, settle none and thus prune none. So accepts end earlier: each
run is promised, beside the bytes that it takes at once, those that it takes until it is over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.journal.sqlite import inbox
from engine.journal.sqlite.inbox_rows import PROMISED
from engine.model.errors import JournalError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

SHARE = 0.95
"""Of the file's bytes, what accepts may fill; the rest is for notes, undoings, and pages that are half full."""
_LEAST = 65_536
"""Bytes without which the journal is as good as full: some forty events, or a large one."""
FULL = "the journal is full: the rest of its room is for the runs that it has already"


class Quota:
    """What may still be accepted, reckoned along with every accept, and looked at anew by whoever asks.

    most: gives the bytes of the file at most, which grow with its disk. ``take`` and ``ended`` are for the
    thread that writes.
    """

    def __init__(self, most: Callable[[], int]) -> None:
        self._most = most
        self._until = self._taken = self._taking = 0.0

    def has(self, need: float) -> bool:
        """Whether so many bytes may be accepted; nothing at all may always be."""
        return not need or need <= self._until - self._taken - self._taking

    @property
    def trouble(self) -> str | None:
        """That it is full, where it is."""
        return None if self.has(_LEAST) else FULL

    def take(self, need: float) -> None:
        """Spend room on what is being written. Raises JournalError where there is not as much."""
        if not self.has(need):
            raise JournalError(FULL)
        self._taking += need

    def ended(self, committed: bool) -> None:  # noqa: FBT001 - what a writer tells
        """What was taken since the last time is on disk, or none of it."""
        if committed:
            self._taken += self._taking
        self._taking = 0.0

    def look(self, connection: sqlite3.Connection) -> float:
        """See what there is; which part of it is in use or promised, 0 to 1.

        It reads an index through, some 20 ms for a million runs that are not over.
        """
        # before the rest, so that what is committed meanwhile counts twice rather than not at all
        taken = self._taken
        connection.execute("BEGIN")
        try:
            used = _used(connection) + PROMISED * _live(connection)
        finally:
            connection.execute("COMMIT")
        most = self._most() * SHARE
        self._until = taken + most - used
        return min(1.0, used / most)


def _used(connection: sqlite3.Connection) -> int:
    """Bytes of the file; pages that are free again do not count."""
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    (free,) = connection.execute("PRAGMA freelist_count").fetchone()
    (size,) = connection.execute("PRAGMA page_size").fetchone()
    return int(pages - free) * int(size)


def _live(connection: sqlite3.Connection) -> int:
    """How many runs are not over; undoings leave room with their end, for what they hold goes."""
    (live,) = connection.execute(
        "SELECT count(*) FROM runs INDEXED BY runs_lanes WHERE state IS NOT NULL"
    ).fetchone()
    (undoings,) = connection.execute(
        "SELECT count(*) FROM runs INDEXED BY runs_undos"
        " WHERE state IN ('waiting', 'leased') AND undoes IS NOT NULL"
    ).fetchone()
    return int(live) - int(undoings) + inbox.count(connection)
