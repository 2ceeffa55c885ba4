"""What is written down a little later: what was dropped and why, and bodies that are no events.

Neither is worth a sender's waiting for the disk; a crash loses the last second of it.
"""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING

from engine.journal.protocol import DeadLetter, DroppedRuns

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.intake.event_recorder import EventRecorder
    from engine.model.event import Event
    from engine.telemetry.metrics import Series

LONGEST = 16_384
"""Bytes that are kept of a body that is no event."""
_LONGEST_KEY = 200
_DEAD, _DROPS = 1_000, 10_000
"""Notes that wait at most; what comes on top is only in the metrics."""


class DeferredRecords:
    """Collects notes until they are taken; thread-safe. record: is given every event."""

    def __init__(self, record: EventRecorder | None = None) -> None:
        self.record = record
        self._lock = threading.Lock()
        self._dead: list[DeadLetter] = []
        self._drops: dict[tuple[str, str, str, int], DroppedRuns] = {}
        self._dropped: Counter[tuple[str, str]] = Counter()

    def event(self, event: Event) -> None:
        """An event came, as far as it may be read."""
        if self.record:
            self.record.add(event)

    def drop(self, playbook: str, reason: str, key: str, at: float) -> None:
        """A playbook's run was suppressed. key: of the throttle, or empty. at: epoch seconds."""
        key = key[:_LONGEST_KEY]
        place = (playbook, reason, key, int(at) // 3600)
        with self._lock:
            self._dropped[playbook, reason.partition(":")[0]] += 1
            had = self._drops.get(place)
            if had is not None:
                self._drops[place] = DroppedRuns(
                    playbook, reason, key, had.count + 1, had.first, at
                )
            elif len(self._drops) < _DROPS:
                self._drops[place] = DroppedRuns(playbook, reason, key, 1, at, at)

    def dropped(self) -> Iterator[Series]:
        """What a scrape asks: how many runs were suppressed, also those of which no note had room."""
        with self._lock:
            counts = [*self._dropped.items()]
        for (playbook, reason), count in counts:
            yield "suppressed_runs_total", {"playbook": playbook, "reason": reason}, count

    def bury(self, dead: DeadLetter) -> None:
        """A body, or an element of one, was no event."""
        with self._lock:
            if len(self._dead) < _DEAD:
                self._dead.append(dead)

    def take(self) -> tuple[list[DeadLetter], list[DroppedRuns]]:
        """What was noted since it was last taken."""
        with self._lock:
            dead, self._dead = self._dead, []
            drops, self._drops = self._drops, {}
        return dead, list(drops.values())

    def give_back(self, dead: list[DeadLetter], drops: list[DroppedRuns]) -> None:
        """Have what could not be written taken again, as far as there is room."""
        with self._lock:
            self._dead = [*dead, *self._dead][:_DEAD]
            for drop in drops:
                place = (drop.playbook, drop.reason, drop.key, int(drop.first) // 3600)
                had = self._drops.get(place)
                if had is not None:
                    last, count = max(had.last, drop.last), had.count + drop.count
                    first = min(had.first, drop.first)
                    self._drops[place] = DroppedRuns(*place[:3], count, first, last)
                elif len(self._drops) < _DROPS:
                    self._drops[place] = drop
