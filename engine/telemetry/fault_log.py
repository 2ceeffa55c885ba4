"""Log a recurring fault once when it starts and once when it is over."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable

log = structlog.get_logger()


class FaultLog:
    """The fault of one component. Thread-safe.

    Logs ``{component}_unavailable`` at the first report and ``{component}_available`` when it is over.

    calm: seconds without a report after which the fault is over. A component that fails every few seconds
    stays unavailable. fields: further keys of both lines.
    """

    def __init__(
        self,
        component: str,
        *,
        calm: float = 5.0,
        now: Callable[[], float] = time.monotonic,
        **fields: str,
    ) -> None:
        self._unavailable, self._available = f"{component}_unavailable", f"{component}_available"
        self._calm, self._now, self._fields = calm, now, fields
        self._lock = threading.Lock()
        self._last: float | None = None

    def report(self, error: str) -> None:
        """Report that the component failed."""
        with self._lock:
            is_first, self._last = self._last is None, self._now()
        if is_first:
            log.error(self._unavailable, error=error, **self._fields)

    def clear(self) -> None:
        """Report that the component works. Ends the fault if the last report is ``calm`` seconds old."""
        with self._lock:
            if self._last is None or self._now() - self._last < self._calm:
                return
            self._last = None
        log.info(self._available, **self._fields)
