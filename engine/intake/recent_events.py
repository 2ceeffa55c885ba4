"""The last events that the engine got, in memory: the answer to "why did nothing happen?"."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from engine.model.event import Event

EVENTS = 1_000
"""How many are kept."""
BYTES = 16 * 2**20
"""How much, as JSON: an attacker may write long ones, and the newest matter most."""


class RecentEvent(msgspec.Struct, frozen=True, eq=False):
    """An event, when it came (epoch seconds), how it ended (run, unmatched, throttle …), its bytes.

    suppressed: the playbooks that matched and ran nothing, each with the reason.

    A struct, for there is one at every event, and a frozen dataclass takes longer to make.
    """

    event: Event
    received: float
    ended: str
    size: int
    suppressed: tuple[tuple[str, str], ...] = ()


class RecentEvents:
    """Keeps the last events; thread-safe."""

    def __init__(self) -> None:
        self._got: deque[RecentEvent] = deque()
        self._size = 0
        self._lock = threading.Lock()

    def add(self, got: RecentEvent) -> None:
        """Keep one, and forget what is too much."""
        with self._lock:
            self._got.append(got)
            self._size += got.size
            while len(self._got) > EVENTS or self._size > BYTES:
                self._size -= self._got.popleft().size

    def all(self) -> list[RecentEvent]:
        """Those kept, the oldest first."""
        with self._lock:
            return list(self._got)
