"""Accept the runs of a spool, each once: the number of the last one is written with them in one transaction.

The row with this number is locked first. A transaction whose answer was lost can still be in progress when the
spool sends its runs again. The second one then waits for the first one, and finds its number. Ids alone are not
enough: a run that a throttle suppressed has none, and would be counted twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.journal.postgres import accept, retention, windows
from engine.journal.records import AcceptBatch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.journal.postgres.connection import Connection
    from engine.journal.records import ForwardedRuns

MARK_SECONDS = 30 * 86_400.0
"""Seconds for which the number of a spool is kept after its last runs."""


def mark_key(spool: str) -> str:
    """Return the key of the number of a spool in the table ``throttle_windows``."""
    return f"spool {spool}"


def forward(connection: Connection, forwarded: ForwardedRuns, now: float) -> Mapping[str, str]:
    """Write the runs and dead letters that the journal does not have yet. Return the runs that do not act.

    The result: id -> ``duplicate`` or ``throttle``, as of an accept.
    """
    key = mark_key(forwarded.spool)
    mark = last_forwarded(windows.lock(connection, "throttle_windows", [key]).get(key))
    if mark >= forwarded.last:
        return {}
    runs = [run for number, run in forwarded.runs if number > mark]
    batch = accept.encode_batch(AcceptBatch(runs, throttles=forwarded.throttles), now)
    rejected = accept.write_batch(connection, batch)
    letters = [letter for number, letter in forwarded.letters if number > mark]
    retention.save_dropped(connection, letters, ())
    new = {"run": forwarded.last, "until": now + MARK_SECONDS}
    windows.write(connection, "throttle_windows", {key: new})
    return rejected


def last_forwarded(window: Mapping[str, int] | None) -> int:
    """Return the number of the last run that a spool has forwarded, 0 if there is none."""
    return int((window or {}).get("run", 0))
