"""A fault in the log: a line when it begins and one when it is over, however often it shows in between."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable

log = structlog.get_logger()


class FaultLog:
    """One kind of fault; thread-safe.

    what: has it. calm: seconds without it after which it is over, for what fails by turns is not well. about:
    is told with it.
    """

    def __init__(
        self,
        what: str,
        *,
        calm: float = 5.0,
        now: Callable[[], float] = time.monotonic,
        **about: str,
    ) -> None:
        self._what, self._calm, self._now, self._about = what, calm, now, about
        self._lock = threading.Lock()
        self._last: float | None = None

    def seen(self, why: str) -> None:
        """It showed."""
        with self._lock:
            first, self._last = self._last is None, self._now()
        if first:
            log.error(self._what, error=why, **self._about)

    def gone(self) -> None:
        """It does not show now."""
        with self._lock:
            if self._last is None or self._now() - self._last < self._calm:
                return
            self._last = None
        over = f"{self._what} is back"
        log.info(over, **self._about)
