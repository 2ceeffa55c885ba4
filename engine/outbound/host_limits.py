"""How many requests are under way with each host: one that hangs must not hold every slow worker up."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from typing import TYPE_CHECKING

from engine.model.errors import TemporaryError

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST = 4
AGAIN = 1.0
"""Seconds until a request that was one too many is tried again."""


class HostLimits:
    """Lets so many requests go to a host at once; thread-safe."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._under_way: Counter[str] = Counter()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def one(self, host: str) -> Iterator[None]:
        """Have one request under way. Raises TemporaryError where there are enough; it uses no attempt up."""
        with self._lock:
            if self._under_way[host] >= self._most:
                raise TemporaryError(f"{host}: {self._most} requests are under way", again=AGAIN)
            self._under_way[host] += 1
        try:
            yield
        finally:
            with self._lock:
                self._under_way[host] -= 1
                if not self._under_way[host]:
                    del self._under_way[host]
