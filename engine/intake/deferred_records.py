"""Records that are written a second later: dead letters, counts of dropped runs, and recorded events.

Senders do not wait for them. A crash loses those of the last second.
"""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING

from engine.journal.records import DeadLetter, DroppedRuns

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.intake.event_recorder import EventRecorder
    from engine.telemetry.metrics import Series

_MAX_KEY = 200
"""Characters of a throttle key that are kept."""
_MAX_DEAD_LETTERS, _MAX_DROPPED_RUNS = 1_000, 10_000
"""Records that wait at most. Further dead letters are discarded; further dropped runs only reach the metrics."""

_Key = tuple[str, str, str, int]
"""Playbook, reason, throttle key and hour of a count of dropped runs."""


class DeferredRecords:
    """Collects records until ``drain`` takes them. Thread-safe.

    event_recorder: receives every event, or None.
    """

    def __init__(self, event_recorder: EventRecorder | None = None) -> None:
        self.event_recorder = event_recorder
        self._lock = threading.Lock()
        self._dead_letters: list[DeadLetter] = []
        self._dropped_runs: dict[_Key, DroppedRuns] = {}
        self._totals: Counter[tuple[str, str]] = Counter()

    def record_event(self, alert: bytes) -> None:
        """Add a redacted alert, as JSON, to the event recording if there is one."""
        if self.event_recorder:
            self.event_recorder.add(alert)

    def count_dropped_run(self, playbook: str, reason: str, key: str, at: float) -> None:
        """Count a suppressed run. key: what the throttle counts by, or empty. at: epoch seconds."""
        key = key[:_MAX_KEY]
        with self._lock:
            self._totals[playbook, reason.partition(":")[0]] += 1
            self._add(DroppedRuns(playbook, reason, key, 1, at, at))

    def add_dead_letter(self, letter: DeadLetter) -> None:
        """Add a body, or an element of one, that is not an event."""
        with self._lock:
            if len(self._dead_letters) < _MAX_DEAD_LETTERS:
                self._dead_letters.append(letter)

    def series(self) -> Iterator[Series]:
        """Yield the metric of suppressed runs, also of those that were not kept as records."""
        with self._lock:
            totals = [*self._totals.items()]
        for (playbook, reason), count in totals:
            yield "suppressed_runs_total", {"playbook": playbook, "reason": reason}, count

    def drain(self) -> tuple[list[DeadLetter], list[DroppedRuns]]:
        """Return the records that were added since the last call."""
        with self._lock:
            letters, self._dead_letters = self._dead_letters, []
            dropped, self._dropped_runs = self._dropped_runs, {}
        return letters, list(dropped.values())

    def restore(self, letters: list[DeadLetter], dropped: list[DroppedRuns]) -> None:
        """Put records back that could not be written, up to the bounds."""
        with self._lock:
            self._dead_letters = [*letters, *self._dead_letters][:_MAX_DEAD_LETTERS]
            for count in dropped:
                self._add(count)

    def _add(self, new: DroppedRuns) -> None:
        """Add a count to that of the same hour."""
        key = (new.playbook, new.reason, new.key, int(new.first) // 3600)
        old = self._dropped_runs.get(key)
        if old is not None:
            count = old.count + new.count
            first, last = min(old.first, new.first), max(old.last, new.last)
            self._dropped_runs[key] = DroppedRuns(*key[:3], count, first, last)
        elif len(self._dropped_runs) < _MAX_DROPPED_RUNS:
            self._dropped_runs[key] = new
