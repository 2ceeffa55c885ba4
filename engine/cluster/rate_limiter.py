"""How fast we may ask the API server: a rate with a small burst, halved when it says that it is too much."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_LEAST = 1.0
_RECOVERY = 0.01
"""Of the full rate, what each answered call gives back after a halving."""


class RateLimiter:
    """Lets calls pass at a rate; thread-safe. rate: calls a second at most."""

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
        """Calls a second that pass now."""
        return self._rate

    @property
    def max_concurrent(self) -> int:
        """How many may ask side by side so that each has a turn a second or so; more would only queue."""
        return max(1, int(self._rate))

    def wait(self, most: float) -> float | None:
        """Wait for one's turn; the seconds. None, at once and without a turn, where it is over ``most`` off."""
        with self._lock:
            now = self._now()
            # a second's worth may pass at once after a quiet time
            turn = max(self._next, now - 1.0)
            wait = max(turn - now, 0.0)
            if wait > most:
                return None
            self._next = turn + 1.0 / self._rate
        if wait > 0:
            self._sleep(wait)
        return wait

    def halve(self) -> None:
        """The server said that it is too much."""
        with self._lock:
            self._rate = max(_LEAST, self._rate / 2)

    def recover(self) -> None:
        """The server answered: back to the full rate, step by step."""
        if self._rate < self._full:
            with self._lock:
                self._rate = min(self._full, self._rate + self._full * _RECOVERY)
