"""The rate limit for calls to the API server; the rate is halved when the server is overloaded."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_MIN_RATE = 1.0
_RECOVERY = 0.01
"""The part of the full rate that each response restores after the rate was halved."""


class RateLimiter:
    """Limits the rate of calls. Thread-safe. rate: calls a second."""

    def __init__(
        self,
        rate: float,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._full = self._rate = rate
        self._now, self._sleep = now, sleep
        self._next = 0.0
        self._lock = threading.Lock()

    @property
    def rate(self) -> float:
        """The current rate, in calls a second."""
        return self._rate

    def set_full_rate(self, rate: float) -> None:
        """Change the full rate. A rate that was reduced because of an overload stays reduced."""
        with self._lock:
            self._rate *= rate / self._full
            self._full = rate

    @property
    def max_concurrent(self) -> int:
        """The number of concurrent callers that can each make about one call a second."""
        return max(1, int(self._rate))

    def wait(self, max_seconds: float) -> float | None:
        """Wait until a call is allowed, and return the seconds waited.

        Returns None at once, without using up a call, if the wait would exceed ``max_seconds``.
        """
        with self._lock:
            now = self._now()
            # after a quiet time, the calls of one second may start together
            start = max(self._next, now - 1.0)
            seconds = max(start - now, 0.0)
            if seconds > max_seconds:
                return None
            self._next = start + 1.0 / self._rate
        if seconds > 0:
            self._sleep(seconds)
        return seconds

    def halve(self) -> None:
        """Halve the rate, because the server is overloaded."""
        with self._lock:
            self._rate = max(_MIN_RATE, self._rate / 2)

    def recover(self) -> None:
        """Raise the rate by one step towards the full rate, because the server responded."""
        if self._rate < self._full:
            with self._lock:
                self._rate = min(self._full, self._rate + self._full * _RECOVERY)
