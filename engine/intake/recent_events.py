"""The last events and their results, in memory: the answer to "why did nothing happen?"."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

import msgspec

MAX_EVENTS = 1_000
MAX_BYTES = 16 * 2**20
"""Bytes that are kept at most. The newest events are the most useful, and an attacker can send long ones."""
_SUPPRESSED_BYTES = 80
"""Bytes of one entry of ``suppressed``."""


class RecentEvent(msgspec.Struct, frozen=True, eq=False):
    """An event and its result.

    content: the redacted alert as JSON. It is decoded only on request, because decoded empty lists take about
    27 times the memory of their JSON.
    received: epoch seconds. result: ``run``, ``unmatched``, ``throttle``… suppressed: playbooks that matched
    and did not run, each with the reason.

    A struct, because one is made for each event and a frozen dataclass takes longer to make.
    """

    content: bytes
    received: float
    result: str
    suppressed: tuple[tuple[str, str], ...] = ()

    @property
    def alert(self) -> dict[str, Any]:
        """The alert as its sender sent it, redacted."""
        alert: dict[str, Any] = msgspec.json.decode(self.content)
        return alert

    @property
    def size(self) -> int:
        """Bytes that the event takes in memory, without its fixed part."""
        return len(self.content) + _SUPPRESSED_BYTES * len(self.suppressed)


class RecentEvents:
    """Keeps the last MAX_EVENTS events, up to MAX_BYTES. Thread-safe."""

    def __init__(self) -> None:
        self._events: deque[RecentEvent] = deque()
        self._size = 0
        self._lock = threading.Lock()

    def add(self, event: RecentEvent) -> None:
        """Add an event, and remove the oldest ones that exceed the bounds."""
        with self._lock:
            self._events.append(event)
            self._size += event.size
            while len(self._events) > MAX_EVENTS or self._size > MAX_BYTES:
                self._size -= self._events.popleft().size

    def all(self) -> list[RecentEvent]:
        """Return the kept events, oldest first."""
        with self._lock:
            return list(self._events)
