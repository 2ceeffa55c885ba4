"""One breaker before the API server: while it gives no answers, one probe asks at a time, and nobody else."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_OPENS = 5
"""Calls in a row without an answer after which it opens."""
_FIRST, _LONGEST = 1.0, 30.0
"""Seconds between probes: the first, doubled up to the longest."""
_SHAKEN = 60.0
"""Seconds after a silence in which a 403 is not believed: an API server that has just started answers before
its authorizer has read the roles."""


class CircuitBreaker:
    """Whether the server answers; thread-safe. now: a clock in seconds that does not go back."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._failures = 0
        self._silent_at: float | None = None
        self._probe_at = 0.0
        self._wait = _FIRST
        self.error: str | None = None

    def record_response(self) -> None:
        """A call got an answer, whatever it says: the server is there."""
        if self._failures:
            with self._lock:
                self._failures, self._wait, self.error = 0, _FIRST, None

    def record_failure(self, why: str) -> None:
        """A call got none: refused, reset, timed out, or the server said that it is overloaded."""
        with self._lock:
            self._failures += 1
            self._silent_at = self._now()
            self.error = why
            if self._failures == _OPENS:
                self._probe_at = self._now() + self._wait

    @property
    def recently_unavailable(self) -> bool:
        """Whether the server was silent a moment ago, so that it may not know everything again yet."""
        return self._silent_at is not None and self._now() - self._silent_at < _SHAKEN

    @property
    def open(self) -> bool:
        """Whether calls are held back."""
        return self._failures >= _OPENS

    def acquire_slots(self) -> int | None:
        """How many attempts may start now: None is any number; while it is open one at each probe's time."""
        with self._lock:
            if self._failures < _OPENS:
                return None
            if self._now() < self._probe_at:
                return 0
            self._probe_at = self._now() + self._wait
            self._wait = min(self._wait * 2, _LONGEST)
            return 1
