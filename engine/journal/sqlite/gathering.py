"""How long the ends of attempts gather before they are written: each commit of theirs holds up an accept."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

FLOOD = 3_000.0
"""Events a second from which on taking them goes before working them off, which can be done later."""
USUAL, FLOODED = 0.002, 0.03
"""Seconds. In a flood, with the longer ones a half more events a second were taken (benchmarks/front.py)."""


class Gathering:
    """Gives the seconds; asked in each transaction of those who work events off. now: a monotonic clock."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._event, self._time = 0, now()

    def __call__(self, connection: sqlite3.Connection) -> float:
        """By the numbers of events, which grow with each."""
        (last,) = connection.execute("SELECT max(id) FROM events").fetchone()
        event, time_ = last or 0, self._now()
        came, took = event - self._event, time_ - self._time
        self._event, self._time = event, time_
        return FLOODED if came > FLOOD * took else USUAL
