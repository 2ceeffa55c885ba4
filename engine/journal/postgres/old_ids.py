"""Delete the ids of runs that are too old, without reading the whole table for it more than once a day.

The ids of one day are all over the table, and an index by day would make each accept slower. The table is
therefore read part by part, by the places of its rows. The day of an id decides whether it is too old, so the
next pass begins with the next day.
"""

from __future__ import annotations

import datetime as dt
from functools import partial
from typing import TYPE_CHECKING, Any

from engine.journal.postgres.schema import day_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.journal.postgres.connection import Connection

MAX_DELETED_IDS = 10_000
"""Ids that one transaction deletes."""
BLOCKS = 16_384
"""Blocks of the table that one transaction reads: 128 MiB, about two million ids."""
KEPT_LONGER = dt.timedelta(days=2)
"""Time for which an id is kept longer than its run, which can end a day after its receipt."""


class OldIds:
    """The next part of the table to read. For one thread."""

    def __init__(self) -> None:
        self._day = dt.date.min
        self._block: int | None = None

    def delete(self, write: Callable[[Callable[[Connection], Any]], Any], before: float) -> int:
        """Delete some of the ids of runs that were received days before this time. Return their number.

        write: runs a function in a transaction. Raises JournalError.
        """
        day = day_of(before) - KEPT_LONGER
        if day != self._day:
            self._day, self._block = day, 0
        if self._block is None:
            return 0
        deleted: int
        deleted, self._block = write(partial(_delete, day=day, block=self._block))
        return deleted


def _delete(connection: Connection, day: dt.date, block: int) -> tuple[int, int | None]:
    """Delete old ids in a part of the table. Return their number, and the block to continue with.

    An id stays as long as its run is not over.
    """
    end = block + BLOCKS
    deleted = connection.execute(
        "DELETE FROM run_ids WHERE ctid = ANY(ARRAY(SELECT ctid FROM run_ids WHERE ctid >= %s::tid"
        " AND ctid < %s::tid AND day < %s AND NOT EXISTS"
        " (SELECT FROM runs WHERE runs.id = replace(run_ids.id::text, '-', '')) LIMIT %s"
        " FOR UPDATE SKIP LOCKED))",
        (f"({block},0)", f"({end},0)", day, MAX_DELETED_IDS),
    ).rowcount
    if deleted == MAX_DELETED_IDS:
        return deleted, block
    row = connection.execute(
        "SELECT pg_relation_size('run_ids') / current_setting('block_size')::bigint AS blocks"
    ).fetchone()
    return deleted, end if row and end < row["blocks"] else None
