"""A limit on concurrent requests per host, so that one slow host cannot occupy every worker."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from typing import TYPE_CHECKING

from engine.model.errors import TemporaryError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_CONCURRENT = 4
"""Requests to one host at the same time."""
RETRY_SECONDS = 1.0
"""Seconds until a request over the limit is tried again."""


class HostLimits:
    """Limits the concurrent requests to each host. Thread-safe."""

    def __init__(self, max_concurrent: int = MAX_CONCURRENT) -> None:
        self._max_concurrent = max_concurrent
        self._active: Counter[str] = Counter()
        self._lock = threading.Lock()

    def set_max_concurrent(self, number: int) -> None:
        """Change the limit. Requests in progress continue."""
        self._max_concurrent = number

    @contextlib.contextmanager
    def slot(self, host: str) -> Iterator[None]:
        """Occupy one of the host's slots. Raises TemporaryError if none is free, which uses up no attempt."""
        with self._lock:
            if self._active[host] >= self._max_concurrent:
                raise TemporaryError(
                    f"{host}: {self._max_concurrent} requests are already in progress",
                    again=RETRY_SECONDS,
                )
            self._active[host] += 1
        try:
            yield
        finally:
            with self._lock:
                self._active[host] -= 1
                if not self._active[host]:
                    del self._active[host]
