"""The limits of deletions and of the tables of dead letters and dropped runs. Shared by the backends."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.journal.records import DroppedRuns

MAX_DELETED_RUNS = 500
"""Runs that one transaction deletes or strips, so that accepts do not wait for thousands of runs."""
MAX_DEAD_LETTERS = 1_000
"""Dead letters to keep, the newest."""
MAX_DROP_COUNTERS = 20_000
"""Counters of dropped runs to keep. An attacker can create many keys."""
_HOUR = 3600

CounterRow = tuple[str, str, str, int, int, float, float]


def counter_rows(dropped_runs: Sequence[DroppedRuns]) -> list[CounterRow]:
    """Return one row for each counter, sorted: playbook, reason, key, hour, count, first, last."""
    counts: dict[tuple[str, str, str, int], tuple[int, float, float]] = {}
    for d in dropped_runs:
        key = d.playbook, d.reason, d.key, int(d.first) // _HOUR
        count, first, last = counts.get(key, (0, d.first, d.last))
        counts[key] = count + d.count, min(first, d.first), max(last, d.last)
    return sorted((*key, *value) for key, value in counts.items())
