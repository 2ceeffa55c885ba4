"""A clock that never goes back, for leases, retries and expiry. The system clock can be set back."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_SLOWER = 0.5


class SteadyClock:
    """Epoch seconds that always increase. They follow the system clock while that increases.

    After the system clock is set back, this clock runs at half speed until the system clock has reached
    it. Thread-safe.
    """

    def __init__(
        self,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wall, self._monotonic = wall, monotonic
        self._at, self._last = wall(), monotonic()
        self._lock = threading.Lock()

    def __call__(self) -> float:
        """Return the current time in epoch seconds."""
        with self._lock:
            last, self._last = self._last, self._monotonic()
            slow = self._at + (self._last - last) * _SLOWER
            self._at = max(self._wall(), slow)
            return self._at
