"""A clock for leases, retries and ends: a machine's own may be stepped back, and they must come all the same."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_SLOWER = 0.5


class SteadyClock:
    """Epoch seconds, the machine's as long as those go on; never back and never standing still.

    Behind a step back it goes on at half speed until the machine's has caught up. Thread-safe.
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
        """The time now."""
        with self._lock:
            last, self._last = self._last, self._monotonic()
            slow = self._at + (self._last - last) * _SLOWER
            self._at = max(self._wall(), slow)
            return self._at
