"""The circuit breaker of the API server: while the server does not respond, only one probe at a time is sent."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_FAILURES_TO_OPEN = 5
"""Consecutive calls without a response after which the breaker opens."""
_MIN_PROBE_INTERVAL, _MAX_PROBE_INTERVAL = 1.0, 30.0
"""Seconds between two probes; each interval is twice the previous one, up to the maximum."""
_UNCERTAIN_AFTER_OUTAGE = 60.0
"""Seconds after a failure in which a 403 is treated as temporary.

An API server that has just started responds before its authorizer has read the roles.
"""


class CircuitBreaker:
    """Tracks whether the API server responds, and decides which calls may be sent. Thread-safe.

    now: a monotonic clock in seconds. error: the last failure; None after a response.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._failures = 0
        self._failed_at: float | None = None
        self._probe_at = 0.0
        self._interval = _MIN_PROBE_INTERVAL
        self.error: str | None = None

    def record_response(self) -> None:
        """Record a response of any status; it closes the breaker."""
        if self._failures:
            with self._lock:
                self._failures, self._interval, self.error = 0, _MIN_PROBE_INTERVAL, None

    def record_failure(self, error: str) -> None:
        """Record a call without a usable response: refused, reset, timed out, or the server was overloaded."""
        with self._lock:
            self._failures += 1
            self._failed_at = self._now()
            self.error = error
            if self._failures == _FAILURES_TO_OPEN:
                self._probe_at = self._now() + self._interval

    @property
    def recently_unavailable(self) -> bool:
        """Whether a call failed in the last 60 seconds, so that a 403 may be wrong."""
        return (
            self._failed_at is not None and self._now() - self._failed_at < _UNCERTAIN_AFTER_OUTAGE
        )

    @property
    def open(self) -> bool:
        """Whether calls other than probes are held back."""
        return self._failures >= _FAILURES_TO_OPEN

    def available_slots(self) -> int | None:
        """Return how many attempts may start: None for any number; while open, 1 if a probe is due, else 0."""
        with self._lock:
            if not self.open:
                return None
            return 1 if self._now() >= self._probe_at else 0

    def try_acquire(self) -> bool:
        """Return whether a call may be sent now. While open, this is the next probe, and only if it is due."""
        with self._lock:
            if self._failures < _FAILURES_TO_OPEN:
                return True
            if self._now() < self._probe_at:
                return False
            self._probe_at = self._now() + self._interval
            self._interval = min(self._interval * 2, _MAX_PROBE_INTERVAL)
            return True
